//! The directory in which clients leave their pairs of FIFOs.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use ipcd_transport::{Endpoint, Error, FoundFile, Result, TrustedDir, check_server};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::{Mode, mkdirat};
use nix::unistd::{Uid, UnlinkatFlags, geteuid, mkfifoat, unlinkat};

use crate::record::PairName;

/// For the daemon's own user only.
const PRIVATE: u32 = 0o700;

/// Others may put files in but not list them, nor touch those of another user (sticky bit).
const SHARED: u32 = 0o1733;

/// A drop box, held open.
pub(crate) struct DropBox {
    path: PathBuf,
    directory: FoundFile,
    /// Its directory and name, for the process that has made it.
    place: Option<(TrustedDir, PathBuf)>,
}

/// The pair that a daemon takes from a drop box.
pub(crate) struct FifoPair {
    pub(crate) up: OwnedFd,
    pub(crate) down: OwnedFd,
    pub(crate) owner: Uid,
}

impl DropBox {
    /// The daemon's drop box for this well-known FIFO: made if it is missing, and emptied of what
    /// a daemon before us left behind.
    pub(crate) fn make(fifo: &Path, shared: bool) -> Result<Self> {
        let path = path_for(fifo);
        let named = |error: io::Error| Error::system(format!("make {}", path.display()), error);
        let (parent, name) = TrustedDir::of(&path)?;
        match mkdirat(&parent, &name, Mode::S_IRWXU) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(error) => return Err(named(error.into())),
        }
        let directory = parent.find(&name).map_err(|error| named(error.into()))?;
        let directory = examine(&path, directory, |owner| owner == geteuid())?;
        let found = Self { path, directory, place: Some((parent, name)) };
        found.share(shared)?;
        found.sweep()?;
        Ok(found)
    }

    /// The directory.
    pub(crate) fn directory(&self) -> &FoundFile {
        &self.directory
    }

    /// Lets other users leave FIFOs there, or not.
    pub(crate) fn share(&self, shared: bool) -> Result<()> {
        let set = self.directory.set_mode(if shared { SHARED } else { PRIVATE });
        set.map_err(|error| self.failed("change the mode", error))
    }

    /// The drop box of the daemon that listens at this well-known FIFO.
    pub(crate) fn find(to: &Endpoint) -> Result<Self> {
        let path = path_for(to.path()?);
        let directory = FoundFile::at(&path)
            .map_err(|error| Error::system(format!("open {}", path.display()), error))?;
        let is_theirs = |owner: Uid| check_server(to, Some(owner.as_raw())).is_ok();
        let directory = examine(&path, directory, is_theirs)?;
        Ok(Self { path, directory, place: None })
    }

    /// The user that made it.
    pub(crate) fn owner(&self) -> Uid {
        self.directory.owner()
    }

    /// Makes one FIFO of our own, for us only, and holds it.
    pub(crate) fn add(&self, name: &str) -> Result<FoundFile> {
        let made = || -> io::Result<FoundFile> {
            mkfifoat(self.directory.fd(), name, Mode::S_IRUSR | Mode::S_IWUSR)?;
            let fifo = FoundFile::inside(self.directory.fd(), Path::new(name))?;
            // The umask may have taken our own rights away.
            fifo.set_mode(0o600)?;
            Ok(fifo)
        };
        made().map_err(|error| self.failed("make a FIFO", error))
    }

    /// Opens a peer's pair, provided that it is one that only its owner can have made, and only its
    /// owner can use.
    pub(crate) fn open(&self, name: PairName) -> Result<FifoPair> {
        // Both are held by O_PATH first. Opening a name would let its owner swap the file between
        // the check and the use, and opening a device can have effects.
        let (up, down) = (self.inspect(&name.up())?, self.inspect(&name.down())?);
        if up.owner() != down.owner() {
            return Err(Error::Protocol(format!("{name}: two FIFOs of different owners")));
        }
        let failed = |error| match error {
            Errno::ENXIO => self.failed("open a FIFO", io::ErrorKind::ConnectionReset),
            error => self.failed("open a FIFO", error),
        };
        // Without a reader this fails with ENXIO (fifo(7)): the peer is gone.
        let writer = down.open(OFlag::O_WRONLY).map_err(failed)?;
        let reader = up.open(OFlag::O_RDONLY).map_err(failed)?;
        Ok(FifoPair { up: reader, down: writer, owner: up.owner() })
    }

    /// Removes a pair's names; what does not exist need not be removed.
    pub(crate) fn remove(&self, name: PairName) {
        for name in [name.up(), name.down()] {
            self.unlink(&name);
        }
    }

    /// Removes the directory, unless a client is about to use it.
    pub(crate) fn remove_directory(&self) {
        if let Some((parent, name)) = &self.place {
            let _ = unlinkat(parent, name, UnlinkatFlags::RemoveDir);
        }
    }

    fn inspect(&self, name: &str) -> Result<FoundFile> {
        let found = FoundFile::inside(self.directory.fd(), Path::new(name))
            .map_err(|error| self.failed("look at a FIFO", error))?;
        let refused = |why| Err(Error::Protocol(format!("{name}: {why}")));
        if !found.is_fifo() {
            return refused("a rendezvous record names it, but it is no FIFO");
        }
        if found.is_reachable_by_others() {
            return refused("others than its owner could reach that FIFO");
        }
        Ok(found)
    }

    /// FIFOs from before can only be leftovers: records die with the well-known FIFO's last reader.
    fn sweep(&self) -> Result<()> {
        let names = self.directory.names().map_err(|error| self.failed("list the files", error))?;
        for name in names.iter().filter(|name| PairName::is_of_pair(name)) {
            if FoundFile::inside(self.directory.fd(), Path::new(name))
                .is_ok_and(|found| found.is_fifo())
            {
                self.unlink(name);
            }
        }
        Ok(())
    }

    fn unlink(&self, name: &str) {
        let _ = unlinkat(self.directory.fd(), name, UnlinkatFlags::NoRemoveDir);
    }

    fn failed(&self, what: &str, error: impl Into<io::Error>) -> Error {
        Error::system(format!("{what} in {}", self.path.display()), error)
    }
}

fn path_for(fifo: &Path) -> PathBuf {
    if fifo.file_name().is_some_and(|name| name == "ipcd.fifo") {
        return fifo.with_file_name("fifo");
    }
    let mut path = fifo.as_os_str().to_owned();
    path.push(".d");
    PathBuf::from(path)
}

fn examine(path: &Path, found: FoundFile, may_own: impl Fn(Uid) -> bool) -> Result<FoundFile> {
    let refused = |why| Err(Error::Endpoint(format!("{}: {why}", path.display())));
    if !found.is_directory() {
        return refused("the drop box is no directory: remove it, or choose another path".into());
    }
    if !may_own(found.owner()) {
        return refused(format!("the drop box belongs to uid {}", found.owner()));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gives_each_fifo_a_drop_box_of_its_own() {
        let drop_box = |fifo| path_for(Path::new(fifo)).display().to_string();
        assert_eq!(drop_box("/run/ipcd/ipcd.fifo"), "/run/ipcd/fifo");
        assert_eq!(drop_box("/a/b.fifo"), "/a/b.fifo.d");
        assert_eq!(drop_box("/a/fifo"), "/a/fifo.d");
    }
}
