//! The owner of a path in the file system: a lock decides, and a file there is replaced only with
//! the proof that no process serves it.

mod proof;

use std::fs::{File, TryLockError};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, renameat};
use nix::sys::stat::Mode;
use nix::unistd::{geteuid, mkfifoat};

use crate::error::ErrorContext;
use crate::{Error, FoundFile, PathRights, Result, TrustedDir};

/// The kinds of special file that listeners make.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum FileKind {
    /// A Unix-domain socket.
    Socket,
    /// A named pipe that its owner reads.
    FifoToRead,
    /// A named pipe that its owner writes.
    FifoToWrite,
}

impl FileKind {
    fn matches(self, found: &FoundFile) -> bool {
        match self {
            Self::Socket => found.is_socket(),
            Self::FifoToRead | Self::FifoToWrite => found.is_fifo(),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Socket => "a socket",
            Self::FifoToRead | Self::FifoToWrite => "a FIFO",
        }
    }
}

/// A path that this process owns. Dropping it removes the path, if it is still the same file, and
/// is not [to stay](PathClaim::keep).
///
/// The lock file beside it (`PATH.lock`) decides between daemons; one that was left behind by a
/// dead process locks nothing. A forked child must close the lock and never drop the claim.
#[derive(Debug)]
pub struct PathClaim {
    directory: TrustedDir,
    name: PathBuf,
    path: PathBuf,
    kind: FileKind,
    lock_name: PathBuf,
    lock: File,
    /// The file that was made there, held: no other file gets its number meanwhile.
    published: Option<FoundFile>,
    stays: bool,
}

impl PathClaim {
    /// Claims the path. What stands there must be of the same kind and a leftover, or nothing; and
    /// no other user may be able to change the directory.
    ///
    /// # Errors
    /// Of the kind `AddrInUse` if another process serves it, or that cannot be told.
    pub fn acquire(path: &Path, kind: FileKind) -> Result<Self> {
        let (directory, name) = TrustedDir::of(path)?;
        // Beside the path, not on it: the path itself is replaced, and a lock would go with it.
        let mut lock_name = name.as_os_str().to_owned();
        lock_name.push(".lock");
        let lock_name = PathBuf::from(lock_name);
        let lock = lock_file(&directory, &lock_name, path)?;
        let (path, published, stays) = (path.to_owned(), None, false);
        let claim = Self { directory, name, path, kind, lock_name, lock, published, stays };
        if let Some(found) = claim.found()? {
            claim.prove_stale(&found)?;
        }
        Ok(claim)
    }

    /// Leaves the file there when the claim is dropped.
    pub fn keep(&mut self) {
        self.stays = true;
    }

    /// It does not stay, after all.
    pub fn let_go(&mut self) {
        self.stays = false;
    }

    /// Has a socket made at the path, in the place of a leftover. It is to be made with no more
    /// rights than for its owner; then it gets those asked for.
    pub fn publish_socket<T>(
        &mut self,
        access: &PathRights,
        bind: impl FnOnce(&Path) -> Result<T>,
    ) -> Result<T> {
        let what = || format!("remove what is left at {}", self.path.display());
        // bind(2) refuses a name that exists, and the lock has proved that this one is a leftover.
        match self.directory.remove(&self.name) {
            Err(Errno::ENOENT) => {}
            removed => removed.context(what)?,
        }
        let made = bind(&self.path)?;
        let found = self.directory.find(&self.name);
        let found = found.context(|| format!("look at {}", self.path.display()))?;
        if !found.is_socket() || found.owner() != geteuid() {
            return Err(self.in_use("another process was faster"));
        }
        let applied = access.apply(&found, &self.path);
        self.published = Some(found);
        applied.map(|()| made)
    }

    /// Puts a new FIFO at the path, in the place of what is there, and opens it. It is there with
    /// its rights or not at all.
    pub fn publish_fifo(
        &mut self,
        access: &PathRights,
        open: impl FnOnce(&FoundFile) -> nix::Result<OwnedFd>,
    ) -> Result<OwnedFd> {
        // A client that opens the path must never see a FIFO with other rights, so it gets them
        // under another name and is renamed.
        let aside = PathBuf::from(format!(".ipcd-{:08x}", random()?));
        let what = || format!("make a FIFO in {}", self.directory.path().display());
        mkfifoat(&self.directory, &aside, Mode::S_IRUSR | Mode::S_IWUSR).context(what)?;
        let made = || {
            let found = self.directory.find(&aside).context(what)?;
            if !found.is_fifo() || found.owner() != geteuid() {
                return Err(Error::system(what(), Errno::EEXIST));
            }
            // The umask may have taken our own rights away.
            found.set_mode(PathRights::PRIVATE).context(what)?;
            let fifo = open(&found).context(what)?;
            access.apply(&found, &self.path)?;
            renameat(&self.directory, &aside, &self.directory, &self.name)
                .context(|| format!("rename to {}", self.path.display()))?;
            Ok((fifo, found))
        };
        let outcome = made();
        match outcome {
            Ok((fifo, found)) => {
                self.published = Some(found);
                Ok(fifo)
            }
            Err(error) => {
                let _ = self.directory.remove(&aside);
                Err(error)
            }
        }
    }

    /// Opens the FIFO that stands there already, with its rights as asked for: who waits at it goes
    /// on. Without one, makes it.
    pub fn adopt_fifo(
        &mut self,
        access: &PathRights,
        open: impl FnOnce(&FoundFile) -> nix::Result<OwnedFd>,
    ) -> Result<OwnedFd> {
        let Some(found) = self.found()? else { return self.publish_fifo(access, open) };
        let path = self.path.display();
        if !access.may_be_of(found.owner()) || found.has_other_names() {
            let owner = found.owner();
            return Err(Error::Endpoint(format!(
                "{path} is a FIFO of uid {owner}, or has a second name: remove it, or choose \
                 another path"
            )));
        }
        access.apply(&found, &self.path)?;
        // A process that came by its former rights has opened it by now.
        self.prove_stale(&found)?;
        let fifo = open(&found).context(|| format!("open {path}"))?;
        self.published = Some(found);
        Ok(fifo)
    }

    /// Gives what was made at the path other rights.
    pub fn set_access(&self, access: &PathRights) -> Result<()> {
        let published = self.published.as_ref().map(FoundFile::id);
        let found = self.found()?.filter(|found| Some(found.id()) == published);
        let gone = || Error::Endpoint(format!("{} was replaced by another", self.path.display()));
        access.apply(&found.ok_or_else(gone)?, &self.path)
    }

    fn found(&self) -> Result<Option<FoundFile>> {
        match self.directory.find(&self.name) {
            Err(Errno::ENOENT) => Ok(None),
            found => found.map(Some).context(|| format!("look at {}", self.path.display())),
        }
    }

    fn prove_stale(&self, found: &FoundFile) -> Result<()> {
        if !self.kind.matches(found) {
            return Err(Error::Endpoint(format!(
                "{} exists and is not {}: remove it, or choose another path",
                self.path.display(),
                self.kind.name()
            )));
        }
        proof::is_stale(found, self.kind).map_err(|why| self.in_use(&why))
    }

    fn in_use(&self, why: &str) -> Error {
        in_use(&self.path, why)
    }
}

impl Drop for PathClaim {
    fn drop(&mut self) {
        let published = self.published.as_ref().map(FoundFile::id);
        let ours = |found: &FoundFile| Some(found.id()) == published;
        if !self.stays && self.directory.find(&self.name).is_ok_and(|found| ours(&found)) {
            // Nothing can be done about a failure here; the next start replaces the file.
            let _ = self.directory.remove(&self.name);
        }
        // Only our own lock file: the next owner may have made another already.
        if is_at(&self.lock, &self.directory, &self.lock_name) {
            let _ = self.directory.remove(&self.lock_name);
        }
    }
}

/// Opens a lock file, or makes it: a regular file of this user or root, for its owner only, with
/// one name, and with what is in it. Whatever else stands there is not opened.
pub fn open_lock(directory: &TrustedDir, name: &Path) -> Result<File> {
    let path = directory.path().join(name);
    let what = || format!("open {}", path.display());
    loop {
        match directory.find(name) {
            // Exclusive: between the look and this, another daemon may have made it. Then look again.
            Err(Errno::ENOENT) => match directory.create(name) {
                Err(Errno::EEXIST) => {}
                created => return created.context(what),
            },
            Err(error) => return Err(Error::system(what(), error)),
            Ok(found) => {
                let is_ours = found.owner() == geteuid() || found.owner().is_root();
                if !found.is_regular() || !is_ours || found.has_other_names() {
                    return Err(Error::Endpoint(format!(
                        "{} is no lock file of this user: remove it, or choose another path",
                        path.display()
                    )));
                }
                return found.open(OFlag::O_RDWR).map(File::from).context(what);
            }
        }
    }
}

/// Opens and locks the file. The previous owner may remove it between the two, which leaves us
/// with a lock on a file that no other process will ever see: then the new one is tried.
fn lock_file(directory: &TrustedDir, name: &Path, path: &Path) -> Result<File> {
    loop {
        let file = open_lock(directory, name)?;
        match file.try_lock() {
            Ok(()) if is_at(&file, directory, name) => {
                // The umask may have taken our own rights away, and the next one who opens the
                // file would be told so instead of who has the lock.
                file.set_permissions(PermissionsExt::from_mode(PathRights::PRIVATE))
                    .context(|| format!("change the mode of {}", path.display()))?;
                return Ok(file);
            }
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(in_use(path, "another process serves it"));
            }
            Err(TryLockError::Error(error)) => {
                return Err(Error::system(format!("lock {}.lock", path.display()), error));
            }
        }
    }
}

fn in_use(path: &Path, why: &str) -> Error {
    let in_use = std::io::Error::from(std::io::ErrorKind::AddrInUse);
    Error::system(format!("{}: {why}", path.display()), in_use)
}

fn is_at(file: &File, directory: &TrustedDir, name: &Path) -> bool {
    match (file.metadata(), directory.find(name)) {
        (Ok(open), Ok(found)) => (open.dev(), open.ino()) == found.id(),
        _ => false,
    }
}

fn random() -> Result<u32> {
    getrandom::u32().map_err(|error| Error::Endpoint(format!("no random number: {error}")))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::{ErrorKind, Read, Write};
    use std::os::unix::fs::symlink;
    use std::os::unix::net::{UnixDatagram, UnixListener};

    use nix::unistd::mkfifo;

    use super::*;

    fn access(mode: u32) -> PathRights {
        PathRights::of(&"unix:///x".parse().unwrap(), mode).unwrap()
    }

    fn bind(path: &Path) -> Result<UnixListener> {
        UnixListener::bind(path).context(|| "bind".into())
    }

    fn is_in_use(claim: Result<PathClaim>) -> bool {
        matches!(claim, Err(Error::System { source, .. }) if source.kind() == ErrorKind::AddrInUse)
    }

    fn both_ways(found: &FoundFile) -> nix::Result<OwnedFd> {
        found.open(OFlag::O_RDWR)
    }

    #[test]
    fn publishes_with_the_mode_asked_for_and_cleans_up() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let mut claim = PathClaim::acquire(&path, FileKind::Socket).unwrap();
        let _socket = claim.publish_socket(&access(0o640), bind).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o640);
        let second = PathClaim::acquire(&path, FileKind::Socket).unwrap_err().to_string();
        assert!(second.contains("another process serves it"), "{second}");
        drop(claim);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn replaces_only_leftovers_of_its_own_kind() {
        let dir = tempfile::tempdir().unwrap();
        let (path, other) = (dir.path().join("s"), dir.path().join("other"));
        drop(bind(&path).unwrap());
        drop(PathClaim::acquire(&path, FileKind::Socket).unwrap());
        assert!(PathClaim::acquire(&path, FileKind::FifoToRead).is_err());
        fs::write(&other, "precious").unwrap();
        assert!(PathClaim::acquire(&other, FileKind::Socket).is_err());
        fs::remove_file(&path).unwrap();
        symlink(&other, &path).unwrap();
        assert!(PathClaim::acquire(&path, FileKind::Socket).is_err());
        assert_eq!(fs::read(&other).unwrap(), b"precious");
    }

    /// Of whatever type, and without a connection to it.
    #[test]
    fn a_socket_that_lives_is_in_use() {
        let dir = tempfile::tempdir().unwrap();
        let (stream, datagram) = (dir.path().join("s"), dir.path().join("d"));
        let listener = bind(&stream).unwrap();
        listener.set_nonblocking(true).unwrap();
        let waits = UnixDatagram::bind(&datagram).unwrap();
        for path in [&stream, &datagram] {
            assert!(is_in_use(PathClaim::acquire(path, FileKind::Socket)), "{}", path.display());
        }
        assert_eq!(listener.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
        drop((listener, waits));
        for path in [&stream, &datagram] {
            PathClaim::acquire(path, FileKind::Socket).unwrap();
        }
    }

    #[test]
    fn a_fifo_that_is_served_is_in_use_and_one_that_is_waited_at_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        mkfifo(&path, Mode::S_IRWXU).unwrap();
        let other = File::options().read(true).write(true).open(&path).unwrap();
        for kind in [FileKind::FifoToRead, FileKind::FifoToWrite] {
            assert!(is_in_use(PathClaim::acquire(&path, kind)), "{kind:?}");
        }
        drop(other);
        let waiting = {
            let path = path.clone();
            std::thread::spawn(move || fs::write(path, "waited").unwrap())
        };
        let mut claim = PathClaim::acquire(&path, FileKind::FifoToRead).unwrap();
        claim.keep();
        let fifo = claim.adopt_fifo(&access(0o620), both_ways).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o620);
        waiting.join().unwrap();
        let mut said = [0; 6];
        File::from(fifo).read_exact(&mut said).unwrap();
        assert_eq!(&said, b"waited");
        drop(claim);
        assert!(path.exists(), "who writes there waits for the next start");
    }

    #[test]
    fn a_fifo_with_two_names_is_not_adopted() {
        let dir = tempfile::tempdir().unwrap();
        let (path, other) = (dir.path().join("f"), dir.path().join("g"));
        mkfifo(&path, Mode::S_IRWXU).unwrap();
        fs::hard_link(&path, &other).unwrap();
        let mut claim = PathClaim::acquire(&path, FileKind::FifoToRead).unwrap();
        let why = claim.adopt_fifo(&access(0o600), both_ways).unwrap_err().to_string();
        assert!(why.contains("second name"), "{why}");
    }

    #[test]
    fn a_lock_that_is_none_is_not_opened() {
        let dir = tempfile::tempdir().unwrap();
        let (path, lock) = (dir.path().join("s"), dir.path().join("s.lock"));
        let precious = dir.path().join("precious");
        fs::write(&precious, "precious").unwrap();
        let check = |what: &str| {
            let why = PathClaim::acquire(&path, FileKind::Socket).unwrap_err().to_string();
            assert!(why.contains("s.lock is no lock file"), "{what}: {why}");
            fs::remove_file(&lock).unwrap();
        };
        mkfifo(&lock, Mode::S_IRWXU).unwrap();
        check("a FIFO");
        symlink(&precious, &lock).unwrap();
        check("a symlink");
        fs::hard_link(&precious, &lock).unwrap();
        check("a second name of another file");
        assert_eq!(fs::read(&precious).unwrap(), b"precious");
        PathClaim::acquire(&path, FileKind::Socket).unwrap();
    }

    #[test]
    fn leaves_a_file_alone_that_replaced_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let mut claim = PathClaim::acquire(&path, FileKind::Socket).unwrap();
        let _socket = claim.publish_socket(&access(0o600), bind).unwrap();
        fs::remove_file(&path).unwrap();
        File::create(&path).unwrap().write_all(b"somebody else's").unwrap();
        drop(claim);
        assert!(path.exists());
    }
}
