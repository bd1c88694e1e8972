//! A file that is examined before it is opened.
//!
//! What others can put under a name may be a device, which does things as soon as it is opened, or
//! may be swapped between a look and the opening. `O_PATH` (open(2)) holds a file without opening
//! it; `/proc/self/fd` then opens that very file.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use ipcd_sys::again;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat};
use nix::unistd::Uid;

/// A file, held but not opened.
pub(crate) struct Found {
    fd: OwnedFd,
    stat: FileStat,
}

/// Opens the file of a descriptor once more, without blocking, as a description of its own.
pub(crate) fn reopen(fd: &OwnedFd, access: OFlag) -> nix::Result<OwnedFd> {
    let flags = access | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    again(|| open(link(fd).as_str(), flags, Mode::empty()))
}

const HOLD: OFlag = OFlag::O_PATH.union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);

impl Found {
    /// What the path names; a symlink itself, if that is what stands there.
    pub(crate) fn at(path: &Path) -> nix::Result<Self> {
        Self::examine(again(|| open(path, HOLD, Mode::empty()))?)
    }

    /// What stands in the directory under this name, and nowhere else.
    pub(crate) fn inside(directory: impl AsFd, name: &str) -> nix::Result<Self> {
        let resolve = ResolveFlag::RESOLVE_BENEATH
            | ResolveFlag::RESOLVE_NO_SYMLINKS
            | ResolveFlag::RESOLVE_NO_XDEV;
        let (directory, how) = (directory.as_fd(), OpenHow::new().flags(HOLD).resolve(resolve));
        Self::examine(again(|| openat2(directory, name, how))?)
    }

    /// The file's descriptor, good for `*at` calls only.
    pub(crate) fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    pub(crate) fn is_fifo(&self) -> bool {
        self.kind() == SFlag::S_IFIFO
    }

    pub(crate) fn is_directory(&self) -> bool {
        self.kind() == SFlag::S_IFDIR
    }

    pub(crate) fn owner(&self) -> Uid {
        Uid::from_raw(self.stat.st_uid)
    }

    /// Whether a user other than the owner can reach it: by its mode, or by a second name.
    pub(crate) fn is_reachable_by_others(&self) -> bool {
        self.stat.st_mode & 0o077 != 0 || self.stat.st_nlink != 1
    }

    /// Opens it, without blocking.
    pub(crate) fn open(&self, access: OFlag) -> nix::Result<OwnedFd> {
        reopen(&self.fd, access)
    }

    /// Sets its mode, whatever the umask.
    pub(crate) fn set_mode(&self, mode: u32) -> io::Result<()> {
        std::fs::set_permissions(link(&self.fd), PermissionsExt::from_mode(mode))
    }

    /// The names in it, if it is a directory.
    pub(crate) fn names(&self) -> io::Result<Vec<String>> {
        let entries = std::fs::read_dir(link(&self.fd))?;
        entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
    }

    fn examine(fd: OwnedFd) -> nix::Result<Self> {
        let stat = fstat(&fd)?;
        Ok(Self { fd, stat })
    }

    fn kind(&self) -> SFlag {
        SFlag::from_bits_truncate(self.stat.st_mode) & SFlag::S_IFMT
    }
}

/// The magic link that leads to this very file (proc_pid_fd(5)).
fn link(fd: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}
