//! The file that holds the daemon's process id, for others to read.

use std::fs::{File, Permissions};
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use ipcd_transport::{FoundFile, TrustedDir, is_trusted};
use nix::errno::Errno;
use nix::fcntl::OFlag;

use crate::Error;

/// All users may read it.
const MODE: u32 = 0o644;
/// Bytes that are read of what stands there: more than a process id has.
const LONGEST: u64 = 64;

/// The file, as long as this lives. Dropping it removes the file, if it is still the same one and
/// holds our process id. A forked child must not drop it.
#[derive(Debug)]
pub(crate) struct PidFile {
    directory: TrustedDir,
    name: PathBuf,
    /// As long as it is open, no other file gets its number.
    file: File,
}

impl PidFile {
    /// Writes our process id to the path, which must hold a process id, or not exist.
    pub(crate) fn write(path: &Path) -> Result<Self, Error> {
        let failed = |error| Error::system(format!("write {}", path.display()), error);
        let (directory, name, found) = examine_path(path)?;
        let opened = match found {
            None => directory.create(&name),
            Some(found) => found.open(OFlag::O_RDWR).map(File::from),
        };
        let mut file = opened.map_err(|error| failed(error.into()))?;
        let ours = format!("{}\n", std::process::id());
        // Only now: `examine_path` has made sure that nothing but a process id is lost.
        file.set_len(0)
            .and_then(|()| file.write_all(ours.as_bytes()))
            .and_then(|()| file.set_permissions(Permissions::from_mode(MODE)))
            .map_err(failed)?;
        Ok(Self { directory, name, file })
    }
}

/// The file at the path, if there is one; an error if our process id may not be written there.
pub(crate) fn examine_path(path: &Path) -> Result<(TrustedDir, PathBuf, Option<FoundFile>), Error> {
    let failed = |error| Error::system(format!("write {}", path.display()), error);
    let absolute = std::path::absolute(path).map_err(failed)?;
    let (directory, name) = TrustedDir::of(&absolute)?;
    let found = match directory.find(&name) {
        Err(Errno::ENOENT) => None,
        Err(error) => return Err(failed(error.into())),
        Ok(found) => {
            check(&found, path)?;
            Some(found)
        }
    };
    Ok((directory, name, found))
}

impl Drop for PidFile {
    fn drop(&mut self) {
        // Another daemon may have put its own file in this place since.
        let id = self.file.metadata().map(|metadata| (metadata.dev(), metadata.ino()));
        let is_ours = |found: &FoundFile| {
            let is_same = id.as_ref().is_ok_and(|id| *id == found.id());
            is_same && process_id(found) == Some(std::process::id().to_string())
        };
        if self.directory.find(&self.name).is_ok_and(|found| is_ours(&found)) {
            // Nothing can be done about a failure here; the next start writes over it.
            let _ = self.directory.remove(&self.name);
        }
    }
}

/// A device or another program's file is not written over.
fn check(found: &FoundFile, path: &Path) -> Result<(), Error> {
    let refused = |why: &str| {
        let why = format!("{}: {why}: remove it, or choose another --pid-file", path.display());
        Err(Error::Config(why))
    };
    if !found.is_regular() {
        return refused("not a regular file");
    }
    // A file of another user, or one with a second name, could be a trap: writing would destroy
    // something else.
    if !is_trusted(found.owner()) || found.has_other_names() {
        return refused("that file belongs to another user, or has a second name");
    }
    let is_number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    match process_id(found) {
        Some(text) if is_number(&text) => Ok(()),
        _ => refused("that file holds something else than a process id"),
    }
}

/// The content of a regular file, if it is short and on one line.
fn process_id(found: &FoundFile) -> Option<String> {
    let file = found.is_regular().then(|| found.open(OFlag::O_RDONLY))?.ok()?;
    let mut text = String::new();
    File::from(file).take(LONGEST).read_to_string(&mut text).ok()?;
    Some(text.trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use nix::sys::stat::Mode;
    use nix::unistd::mkfifo;

    use super::*;

    #[test]
    fn goes_at_the_end_if_it_is_still_ours() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pid");
        let ours = format!("{}\n", std::process::id());
        let file = PidFile::write(&path).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), ours);
        drop(file);
        assert!(!path.exists());
        for (what, other) in [("another's number", "4242\n"), ("nothing", ""), ("text", "x\n")] {
            let file = PidFile::write(&path).unwrap();
            fs::write(&path, other).unwrap();
            drop(file);
            assert_eq!(fs::read_to_string(&path).unwrap(), other, "{what}");
            fs::write(&path, "17\n").unwrap();
        }
        let file = PidFile::write(&path).unwrap();
        fs::remove_file(&path).unwrap();
        fs::write(&path, &ours).unwrap();
        drop(file);
        assert!(path.exists(), "another file of that name is another's");
    }

    #[test]
    fn writes_over_nothing_but_a_process_id() {
        let dir = tempfile::tempdir().unwrap();
        let (path, precious) = (dir.path().join("pid"), dir.path().join("precious"));
        fs::write(&precious, "precious").unwrap();
        let refused = |what: &str| {
            let why = PidFile::write(&path).unwrap_err().to_string();
            assert!(why.contains("--pid-file"), "{what}: {why}");
            fs::remove_file(&path).or_else(|_| fs::remove_dir(&path)).unwrap();
        };
        mkfifo(&path, Mode::S_IRWXU).unwrap();
        refused("a FIFO");
        fs::create_dir(&path).unwrap();
        refused("a directory");
        symlink(&precious, &path).unwrap();
        refused("a symlink");
        fs::hard_link(&precious, &path).unwrap();
        refused("a second name");
        fs::write(&path, "precious").unwrap();
        refused("another file");
        assert_eq!(fs::read(&precious).unwrap(), b"precious");
        assert!(
            PidFile::write(Path::new("/dev/null")).unwrap_err().to_string().contains("regular")
        );
    }
}
