//! A private directory for one benchmark, removed at its end. A killed benchmark leaves its
//! directory, which the next one removes.
//!
//! A benchmark and its forked processes hold a lock on the directory (flock(2)). The kernel
//! releases the lock with the last of them. So a directory that can be locked is unused.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, OFlag};
use nix::unistd::geteuid;
use tempfile::TempDir;

/// The beginning of their names.
const PREFIX: &str = "ipcd-bench-";
/// Attempts: another benchmark that starts at the same moment may remove the new directory before
/// it is locked.
const TRIES: usize = 10;

/// The directory, removed when this is dropped.
pub(crate) struct ScratchDir {
    dir: TempDir,
    _lock: Flock<File>,
}

impl ScratchDir {
    /// Makes one below the system's temporary directory, and removes unused ones.
    pub(crate) fn make() -> io::Result<Self> {
        Self::make_in(&std::env::temp_dir())
    }

    fn make_in(parent: &Path) -> io::Result<Self> {
        remove_unused(parent);
        for _ in 0..TRIES {
            let dir = tempfile::Builder::new().prefix(PREFIX).tempdir_in(parent)?;
            if let Some(lock) = lock(dir.path())? {
                return Ok(Self { dir, _lock: lock });
            }
        }
        let parent = parent.display();
        Err(io::Error::other(format!("make a directory in {parent}: it is removed each time")))
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }
}

/// Removes the directories that killed benchmarks of this user have left. Errors are ignored.
fn remove_unused(parent: &Path) {
    let Ok(entries) = fs::read_dir(parent) else { return };
    let is_ours = |entry: &fs::DirEntry| entry.file_name().to_string_lossy().starts_with(PREFIX);
    for entry in entries.flatten().filter(is_ours) {
        if let Ok(Some(_lock)) = lock(&entry.path()) {
            // Symbolic links in it are removed, and not followed.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// Locks a directory of this user. `None` if it belongs to another user, is in use, is not a
/// directory, or has gone.
fn lock(path: &Path) -> io::Result<Option<Flock<File>>> {
    let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let Ok(dir) = OpenOptions::new().read(true).custom_flags(flags.bits()).open(path) else {
        return Ok(None);
    };
    if dir.metadata()?.uid() != geteuid().as_raw() {
        return Ok(None);
    }
    let lock = match Flock::lock(dir, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => lock,
        Err((_, Errno::EWOULDBLOCK)) => return Ok(None),
        Err((_, error)) => return Err(error.into()),
    };
    // The previous owner of the lock may have removed the directory.
    let is_same = fs::symlink_metadata(path).is_ok_and(|there| {
        lock.metadata().is_ok_and(|held| (there.dev(), there.ino()) == (held.dev(), held.ino()))
    });
    Ok(is_same.then_some(lock))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn removes_what_nobody_uses_and_nothing_else() {
        let parent = tempfile::tempdir().unwrap();
        let inside = |name: &str| parent.path().join(name);
        fs::create_dir(inside("ipcd-bench-left")).unwrap();
        fs::write(inside("ipcd-bench-left/file"), "left").unwrap();
        fs::create_dir(inside("another")).unwrap();
        fs::write(inside("ipcd-bench-file"), "no directory").unwrap();
        std::os::unix::fs::symlink(inside("another"), inside("ipcd-bench-link")).unwrap();
        fs::write(inside("another/file"), "kept").unwrap();
        std::os::unix::fs::symlink(inside("another"), inside("ipcd-bench-left/link")).unwrap();
        let first = ScratchDir::make_in(parent.path()).unwrap();
        let second = ScratchDir::make_in(parent.path()).unwrap();
        assert!(!inside("ipcd-bench-left").exists());
        assert!(inside("another/file").exists() && inside("ipcd-bench-file").exists());
        assert!(inside("ipcd-bench-link").is_symlink());
        assert!(first.path().exists() && second.path().exists(), "both are in use");
        let path = second.path().to_owned();
        drop(second);
        assert!(first.path().exists() && !path.exists());
    }
}
