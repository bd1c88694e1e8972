//! Who owns a path in the file system: a lock decides, and a rename makes it appear.

use std::fs::{self, File, Metadata, OpenOptions, TryLockError};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::error::Context;
use crate::{Access, Error, Result};

/// The kinds of special file that listeners make.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum FileKind {
    /// A Unix-domain socket.
    Socket,
    /// A named pipe.
    Fifo,
}

impl FileKind {
    fn matches(self, metadata: &Metadata) -> bool {
        match self {
            Self::Socket => metadata.file_type().is_socket(),
            Self::Fifo => metadata.file_type().is_fifo(),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Socket => "a socket",
            Self::Fifo => "a FIFO",
        }
    }
}

/// A path that this process owns. Dropping it removes the path, if it is still the same file.
///
/// The lock file beside it (`PATH.lock`) decides between daemons; one that was left behind by a
/// dead process locks nothing. A forked child must close the lock and never drop the claim.
#[derive(Debug)]
pub struct PathClaim {
    path: PathBuf,
    lock_path: PathBuf,
    lock: File,
    published: Option<(u64, u64)>,
}

impl PathClaim {
    /// Claims the path. What stands there must be of the same kind, a leftover, or nothing.
    pub fn acquire(path: &Path, kind: FileKind) -> Result<Self> {
        let mut lock_name = path.as_os_str().to_owned();
        lock_name.push(".lock");
        let lock_path = PathBuf::from(lock_name);
        let lock = lock_file(&lock_path, path)?;
        let claim = Self { path: path.to_owned(), lock_path, lock, published: None };
        match fs::symlink_metadata(path) {
            Ok(found) if !kind.matches(&found) => Err(Error::Endpoint(format!(
                "{} exists and is not {}: remove it, or choose another path",
                path.display(),
                kind.name()
            ))),
            _ => Ok(claim),
        }
    }

    /// Makes the file in a private directory, gives it its mode and owner, and moves it to the
    /// path: whatever the umask, nobody can open it earlier or with other rights.
    pub fn publish<T>(
        &mut self,
        access: &Access,
        make: impl FnOnce(&Path) -> Result<T>,
    ) -> Result<T> {
        let path = self.path.clone();
        let parent = path.parent().unwrap_or(Path::new("/"));
        let name = path.file_name().expect("an endpoint's path has a last part");
        let stage = tempfile::Builder::new()
            .prefix(".")
            .rand_bytes(6)
            .tempdir_in(parent)
            .context(|| format!("make a directory in {}", parent.display()))?;
        fs::set_permissions(stage.path(), PermissionsExt::from_mode(0o700))
            .context(|| format!("change the mode of {}", stage.path().display()))?;
        let staged = stage.path().join(name);
        let made = make(&staged)?;
        access.apply(&staged)?;
        let metadata =
            fs::symlink_metadata(&staged).context(|| format!("look at {}", staged.display()))?;
        fs::rename(&staged, &path).context(|| format!("rename to {}", path.display()))?;
        self.published = Some((metadata.dev(), metadata.ino()));
        Ok(made)
    }
}

impl Drop for PathClaim {
    fn drop(&mut self) {
        let ours = |found: &Metadata| Some((found.dev(), found.ino())) == self.published;
        if fs::symlink_metadata(&self.path).is_ok_and(|found| ours(&found)) {
            // Nothing can be done about a failure here; the next start replaces the file.
            let _ = fs::remove_file(&self.path);
        }
        if is_at(&self.lock, &self.lock_path) {
            let _ = fs::remove_file(&self.lock_path);
        }
    }
}

/// Opens a lock file, or makes it: no symlink, for its owner only, and with what is in it.
pub fn open_lock(path: &Path) -> Result<File> {
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(nix::libc::O_NOFOLLOW)
        .open(path)
        .context(|| format!("open {}", path.display()))
}

/// Opens and locks the file. The previous owner may remove it between the two, which leaves us
/// with a lock on a file that nobody else will ever see: then the new one is tried.
fn lock_file(lock_path: &Path, path: &Path) -> Result<File> {
    loop {
        let file = open_lock(lock_path)?;
        match file.try_lock() {
            Ok(()) if is_at(&file, lock_path) => {
                // The umask may have taken our own rights away, and the next one who opens the
                // file would be told so instead of who has the lock.
                file.set_permissions(PermissionsExt::from_mode(0o600))
                    .context(|| format!("change the mode of {}", lock_path.display()))?;
                return Ok(file);
            }
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let in_use = std::io::Error::from(std::io::ErrorKind::AddrInUse);
                let what = format!("{}: another process serves it", path.display());
                return Err(Error::system(what, in_use));
            }
            Err(TryLockError::Error(error)) => {
                return Err(Error::system(format!("lock {}", lock_path.display()), error));
            }
        }
    }
}

fn is_at(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::symlink_metadata(path)) {
        (Ok(open), Ok(found)) => (open.dev(), open.ino()) == (found.dev(), found.ino()),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;

    use super::*;

    fn access(mode: u32) -> Access {
        Access::of(&"unix:///x".parse().unwrap(), mode).unwrap()
    }

    fn bind(path: &Path) -> Result<UnixListener> {
        UnixListener::bind(path).context(|| "bind".into())
    }

    #[test]
    fn publishes_with_the_mode_asked_for_and_cleans_up() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let mut claim = PathClaim::acquire(&path, FileKind::Socket).unwrap();
        let _socket = claim.publish(&access(0o640), bind).unwrap();
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
        assert!(PathClaim::acquire(&path, FileKind::Fifo).is_err());
        fs::write(&other, "precious").unwrap();
        assert!(PathClaim::acquire(&other, FileKind::Socket).is_err());
        fs::remove_file(&path).unwrap();
        symlink(&other, &path).unwrap();
        assert!(PathClaim::acquire(&path, FileKind::Socket).is_err());
        assert_eq!(fs::read(&other).unwrap(), b"precious");
    }

    #[test]
    fn leaves_a_file_alone_that_replaced_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let mut claim = PathClaim::acquire(&path, FileKind::Socket).unwrap();
        let _socket = claim.publish(&access(0o600), bind).unwrap();
        fs::remove_file(&path).unwrap();
        fs::write(&path, "somebody else's").unwrap();
        drop(claim);
        assert!(path.exists());
    }
}
