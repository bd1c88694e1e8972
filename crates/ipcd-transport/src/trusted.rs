//! Directories that no other user can change, as `StrictModes` of sshd(8) has it.
//!
//! A user who can change a directory can replace its entries: a socket, a lock, the directories below.
//! So the way to a path is walked from the root on, directory by directory, each held by a
//! descriptor; and what is done in the last one is done by that descriptor.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use ipcd_sys::again;
use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, openat, openat2, readlinkat};
use nix::sys::stat::Mode;
use nix::unistd::{Group, Uid, UnlinkatFlags, User, geteuid, unlinkat};

use crate::error::ErrorContext;
use crate::found_file::HOLD;
use crate::{Endpoint, Error, FoundFile, PathRights, Result};

/// Symlinks on the way to a directory, as many as the kernel follows (path_resolution(7)).
const MOST_SYMLINKS: usize = 40;
/// Rights by which others change a directory.
const OTHERS_WRITE: u32 = 0o002;
const GROUP_WRITE: u32 = 0o020;
/// In such a directory only a file's owner renames or removes it.
const STICKY: u32 = 0o1000;

/// A directory, held open, which only root and this process' user can change, and so are all that
/// lead there. Only in a sticky one, such as `/tmp`, others may have files of their own.
#[derive(Debug)]
pub struct TrustedDir {
    directory: FoundFile,
    path: PathBuf,
}

impl TrustedDir {
    /// The directory at an absolute path.
    ///
    /// # Errors
    /// If it is none, or others can change it or one that leads there; the error names that one.
    pub fn open(path: &Path) -> Result<Self> {
        let mut walk = DirectoryWalk::begin(path)?;
        while let Some(next) = walk.left.pop_front() {
            walk.step(&next)?;
        }
        Ok(Self { directory: walk.at, path: path.to_owned() })
    }

    /// The directory that a path is in, and the path's last part.
    pub fn of(path: &Path) -> Result<(Self, PathBuf)> {
        let bad = || Error::Endpoint(format!("{}: that is no path of a file", path.display()));
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(bad());
        };
        Ok((Self::open(parent)?, name.into()))
    }

    /// The path by which it was found.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The directory itself.
    pub fn found(&self) -> &FoundFile {
        &self.directory
    }

    /// Whether no other user can put files into it either.
    pub fn is_private(&self) -> bool {
        !is_written_by_others(&self.directory)
    }

    /// The entry of this name.
    pub fn find(&self, name: &Path) -> nix::Result<FoundFile> {
        FoundFile::inside(self, name)
    }

    /// Makes a regular file, for its owner only, where nothing stands; opened for reading and
    /// writing.
    pub fn create(&self, name: &Path) -> nix::Result<File> {
        let flags = OFlag::O_RDWR
            | OFlag::O_CREAT
            | OFlag::O_EXCL
            | OFlag::O_NOFOLLOW
            | OFlag::O_NONBLOCK
            | OFlag::O_CLOEXEC;
        let mode = Mode::S_IRUSR | Mode::S_IWUSR;
        again(|| openat(self, name, flags, mode)).map(File::from)
    }

    /// Removes a file.
    pub fn remove(&self, name: &Path) -> nix::Result<()> {
        unlinkat(self, name, UnlinkatFlags::NoRemoveDir)
    }
}

impl AsFd for TrustedDir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.directory.fd().as_fd()
    }
}

/// The part of the way to a directory that has been walked.
struct DirectoryWalk {
    at: FoundFile,
    /// Its path, for errors.
    shown: PathBuf,
    left: VecDeque<OsString>,
    symlinks: usize,
}

impl DirectoryWalk {
    fn begin(path: &Path) -> Result<Self> {
        let at = FoundFile::at(Path::new("/")).context(|| "look at /".into())?;
        let mut walk = Self { at, shown: "/".into(), left: VecDeque::new(), symlinks: 0 };
        walk.check(&walk.at)?;
        if !path.is_absolute() {
            return Err(walk.refused(path, "an absolute path is needed"));
        }
        walk.lead(path);
        Ok(walk)
    }

    /// Puts the parts of a path in front of those that are left.
    fn lead(&mut self, path: &Path) {
        for part in path.components().rev() {
            match part {
                Component::Normal(name) => self.left.push_front(name.to_owned()),
                Component::ParentDir => self.left.push_front("..".into()),
                Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
            }
        }
    }

    fn step(&mut self, name: &OsStr) -> Result<()> {
        let shown = self.shown.join(name);
        let next = again(|| openat2(self.at.fd(), name, OpenHow::new().flags(HOLD)))
            // With O_NOFOLLOW a symlink is opened itself, so that its owner can be checked.
            .and_then(FoundFile::examine)
            .context(|| format!("open {}", shown.display()))?;
        if next.is_symlink() {
            return self.follow(&next, &shown);
        }
        if !next.is_directory() {
            return Err(self.refused(&shown, "that is no directory"));
        }
        self.shown = shown;
        self.check(&next)?;
        self.at = next;
        Ok(())
    }

    /// The owner of a symlink in a sticky directory can put another in its place.
    fn follow(&mut self, link: &FoundFile, shown: &Path) -> Result<()> {
        self.symlinks += 1;
        if self.symlinks > MOST_SYMLINKS {
            return Err(Error::system(format!("open {}", shown.display()), Errno::ELOOP));
        }
        if !is_trusted(link.owner()) {
            return Err(self.foreign(shown, "the symlink", link.owner()));
        }
        let target = readlinkat(link.fd(), "").context(|| format!("read {}", shown.display()))?;
        let target = PathBuf::from(target);
        if target.is_absolute() {
            // The target begins at the root again, and each directory on the way is checked anew.
            self.at = FoundFile::at(Path::new("/")).context(|| "look at /".into())?;
            self.shown = "/".into();
        }
        self.lead(&target);
        Ok(())
    }

    fn check(&self, directory: &FoundFile) -> Result<()> {
        if !is_trusted(directory.owner()) {
            return Err(self.foreign(&self.shown, "the directory", directory.owner()));
        }
        // In a sticky directory others can add files, but neither rename nor remove ours.
        if is_written_by_others(directory) && directory.mode() & STICKY == 0 {
            let why = format!(
                "other users can change this directory (mode {:04o}), and so replace what is in \
                 it: chmod go-w it, or choose another",
                directory.mode()
            );
            return Err(self.refused(&self.shown, &why));
        }
        Ok(())
    }

    fn foreign(&self, shown: &Path, what: &str, owner: Uid) -> Error {
        let us = geteuid();
        let why = format!(
            "{what} belongs to uid {owner}, who can replace what is in it: choose one of root's or \
             of uid {us}"
        );
        self.refused(shown, &why)
    }

    fn refused(&self, shown: &Path, why: &str) -> Error {
        Error::Endpoint(format!("{}: {why}", shown.display()))
    }
}

/// Whether we may rely on what this user made: root, ourselves, or who owns the root directory,
/// which in a user namespace is a number that stands for all whom it does not know.
pub fn is_trusted(owner: Uid) -> bool {
    let rules_all = || FoundFile::at(Path::new("/")).is_ok_and(|root| root.owner() == owner);
    owner.is_root() || owner == geteuid() || rules_all()
}

/// Refuses to rely on who serves an endpoint of this machine, unless that is root, this process'
/// user, the owner of the directory that its path is in, or whom `owner=` names. Anybody can serve a
/// path in a directory such as `/tmp`, or an abstract name, before the one who is meant does.
pub fn check_server(to: &Endpoint, serves: Option<u32>) -> Result<()> {
    let Some(serves) = serves.map(Uid::from_raw) else { return Ok(()) };
    if let Some(owner) = PathRights::owner_of(to)? {
        return match owner == serves {
            true => Ok(()),
            false => Err(Error::Protocol(format!("{to}: uid {serves} serves it, not {owner}"))),
        };
    }
    let parent = to.path().ok().and_then(Path::parent);
    let is_owner =
        |parent: &Path| std::fs::metadata(parent).is_ok_and(|found| found.uid() == serves.as_raw());
    match is_trusted(serves) || parent.is_some_and(is_owner) {
        true => Ok(()),
        false => Err(Error::Protocol(format!(
            "{to}: uid {serves} serves it, who is neither root nor you, nor owns the directory: \
             add owner={serves} if that is who is meant"
        ))),
    }
}

/// Whether a user other than its owner has the right to write. A group that is the owner's own, as
/// many systems give one to each user, is no other user.
fn is_written_by_others(directory: &FoundFile) -> bool {
    let mode = directory.mode();
    let is_shared = || !is_own_group(directory);
    mode & OTHERS_WRITE != 0 || mode & GROUP_WRITE != 0 && is_shared()
}

/// Whether the group is that of the owner alone: it has the user's name, is the user's first, and
/// lists no other member.
fn is_own_group(file: &FoundFile) -> bool {
    let group = Group::from_gid(file.group()).ok().flatten();
    let owner = User::from_uid(file.owner()).ok().flatten();
    let (Some(group), Some(owner)) = (group, owner) else { return false };
    let lists_others = group.mem.iter().any(|name| *name != owner.name);
    owner.gid == group.gid && owner.name == group.name && !lists_others
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, chown, symlink};

    use super::*;

    const NOBODY: u32 = 65533;

    fn refused(path: &Path) -> String {
        TrustedDir::open(path).unwrap_err().to_string()
    }

    fn chmod(path: &Path, mode: u32) {
        fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
    }

    #[test]
    fn others_cannot_change_what_is_trusted_nor_what_leads_there() {
        let dir = tempfile::tempdir().unwrap();
        let (above, leaf) = (dir.path().join("above"), dir.path().join("above/leaf"));
        fs::create_dir_all(&leaf).unwrap();
        assert!(TrustedDir::open(&leaf).unwrap().is_private());
        chmod(&above, 0o757);
        let why = refused(&leaf);
        assert!(why.starts_with(&format!("{}: other users", above.display())), "{why}");
        chmod(&above, 0o1777);
        TrustedDir::open(&leaf).unwrap();
        assert!(!TrustedDir::open(&above).unwrap().is_private());
        assert!(refused(&dir.path().join("nowhere")).contains("nowhere"));
        assert!(refused(Path::new("relative")).contains("absolute"));
    }

    #[test]
    fn a_symlink_leads_to_what_is_checked_too() {
        let dir = tempfile::tempdir().unwrap();
        let (open, link) = (dir.path().join("open"), dir.path().join("link"));
        fs::create_dir_all(open.join("in")).unwrap();
        symlink("open/in/../in", &link).unwrap();
        let found = TrustedDir::open(&link).unwrap();
        assert_eq!(found.found().id(), FoundFile::at(&open.join("in")).unwrap().id());
        chmod(&open, 0o777);
        let why = refused(&link);
        assert!(why.starts_with(&open.display().to_string()), "{why}");
        let circle = dir.path().join("circle");
        symlink("circle", &circle).unwrap();
        assert!(refused(&circle).contains("symbolic links"));
    }

    #[test]
    fn another_users_directory_or_symlink_is_named() {
        if !geteuid().is_root() {
            return eprintln!("skipped: only root can give a directory away");
        }
        let dir = tempfile::tempdir().unwrap();
        let (theirs, link) = (dir.path().join("theirs"), dir.path().join("link"));
        fs::create_dir_all(theirs.join("ours")).unwrap();
        chown(&theirs, Some(NOBODY), None).unwrap();
        let why = refused(&theirs.join("ours"));
        assert!(why.starts_with(&format!("{}: the directory", theirs.display())), "{why}");
        symlink("/", &link).unwrap();
        std::os::unix::fs::lchown(&link, Some(NOBODY), None).unwrap();
        assert!(refused(&link).contains("the symlink belongs to uid 65533"));
    }
}
