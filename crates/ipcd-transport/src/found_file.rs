//! A file that is examined before it is opened.
//!
//! Another user's file under a name may be a device, which does things as soon as it is opened, or
//! may be swapped between a look and the opening. `O_PATH` (open(2)) holds a file without opening
//! it; `/proc/self/fd` then opens that very file.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use ipcd_sys::again;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat};
use nix::unistd::{Gid, Uid, fchownat};

/// A file, held but not opened.
#[derive(Debug)]
pub struct FoundFile {
    fd: OwnedFd,
    stat: FileStat,
}

/// Opens the file of a descriptor once more, without blocking, as a description of its own.
pub fn reopen(fd: &OwnedFd, access: OFlag) -> nix::Result<OwnedFd> {
    let flags = access | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    again(|| open(link(fd).as_str(), flags, Mode::empty()))
}

/// Holds whatever stands there, a symlink too.
pub(crate) const HOLD: OFlag = OFlag::O_PATH.union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);

impl FoundFile {
    /// The file that the path names; a symlink itself, if the path names one.
    pub fn at(path: &Path) -> nix::Result<Self> {
        Self::examine(again(|| open(path, HOLD, Mode::empty()))?)
    }

    /// The entry of this name in the directory, and in no other.
    pub fn inside(directory: impl AsFd, name: &Path) -> nix::Result<Self> {
        let resolve = ResolveFlag::RESOLVE_BENEATH
            | ResolveFlag::RESOLVE_NO_SYMLINKS
            | ResolveFlag::RESOLVE_NO_XDEV;
        let (directory, how) = (directory.as_fd(), OpenHow::new().flags(HOLD).resolve(resolve));
        match again(|| openat2(directory, name, how)) {
            // A symlink itself is held by the name alone; it leads nowhere then.
            Err(nix::errno::Errno::ELOOP) => {
                Self::examine(again(|| openat2(directory, name, OpenHow::new().flags(HOLD)))?)
            }
            held => Self::examine(held?),
        }
    }

    /// The file's descriptor, good for `*at` calls only.
    pub fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    /// Whether it is a FIFO.
    pub fn is_fifo(&self) -> bool {
        self.kind() == SFlag::S_IFIFO
    }

    /// Whether it is a socket.
    pub fn is_socket(&self) -> bool {
        self.kind() == SFlag::S_IFSOCK
    }

    /// Whether it is a directory.
    pub fn is_directory(&self) -> bool {
        self.kind() == SFlag::S_IFDIR
    }

    /// Whether it is a symlink.
    pub fn is_symlink(&self) -> bool {
        self.kind() == SFlag::S_IFLNK
    }

    /// Whether it is a regular file.
    pub fn is_regular(&self) -> bool {
        self.kind() == SFlag::S_IFREG
    }

    /// Its owner when it was looked at.
    pub fn owner(&self) -> Uid {
        Uid::from_raw(self.stat.st_uid)
    }

    /// Its group.
    pub fn group(&self) -> Gid {
        Gid::from_raw(self.stat.st_gid)
    }

    /// Its mode, without its kind.
    pub fn mode(&self) -> u32 {
        self.stat.st_mode & 0o7777
    }

    /// The numbers that distinguish it from all other files.
    pub fn id(&self) -> (u64, u64) {
        (self.stat.st_dev, self.stat.st_ino)
    }

    /// Whether it has another name.
    pub fn has_other_names(&self) -> bool {
        self.stat.st_nlink != 1
    }

    /// Whether a user other than the owner can reach it: by its mode, or by a second name.
    pub fn is_reachable_by_others(&self) -> bool {
        self.mode() & 0o077 != 0 || self.has_other_names()
    }

    /// Opens it, without blocking.
    pub fn open(&self, access: OFlag) -> nix::Result<OwnedFd> {
        reopen(&self.fd, access)
    }

    /// Sets its mode, whatever the umask.
    pub fn set_mode(&self, mode: u32) -> io::Result<()> {
        std::fs::set_permissions(link(&self.fd), PermissionsExt::from_mode(mode))
    }

    /// Sets owner and group, as far as they are given.
    pub fn set_owner(&self, owner: Option<Uid>, group: Option<Gid>) -> nix::Result<()> {
        fchownat(&self.fd, "", owner, group, AtFlags::AT_EMPTY_PATH)
    }

    /// The names in it, if it is a directory.
    pub fn names(&self) -> io::Result<Vec<String>> {
        let entries = std::fs::read_dir(link(&self.fd))?;
        entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
    }

    /// The magic link that leads to this very file (proc_pid_fd(5)).
    pub fn link(&self) -> String {
        link(&self.fd)
    }

    pub(crate) fn examine(fd: OwnedFd) -> nix::Result<Self> {
        let stat = fstat(&fd)?;
        Ok(Self { fd, stat })
    }

    fn kind(&self) -> SFlag {
        SFlag::from_bits_truncate(self.stat.st_mode) & SFlag::S_IFMT
    }
}

fn link(fd: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}
