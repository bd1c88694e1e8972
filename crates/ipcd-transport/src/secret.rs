//! Files that hold a secret, such as a token, and how well their rights keep it. Daemon and client
//! judge a file by the same rule.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::libc::O_NONBLOCK;

use crate::BlockingFile;

/// Rights by which others than the owner change the file, or users outside its group read it. The
/// group may read it: its members may then do what the secret allows.
const UNSAFE: u32 = 0o027;
/// The right to pass through a directory, for others than its owner (path_resolution(7)).
const SEARCH: u32 = 0o011;
/// Bytes of the largest secret that is read.
const LARGEST: u64 = 64 * 1024;

/// Other users' access to a secret.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Exposure {
    /// The file's own rights keep them out.
    Private,
    /// The file is open to them, and only a directory on the way keeps them out.
    Sheltered,
    /// They may read or change the secret.
    Exposed,
}

/// An open file that holds a secret.
#[derive(Debug)]
pub struct SecretFile {
    file: File,
    path: PathBuf,
    mode: u32,
    is_regular: bool,
    is_judged: bool,
}

impl SecretFile {
    /// Opens the file, without reading it.
    ///
    /// # Errors
    /// As open(2) and fstat(2).
    pub fn open(path: &Path) -> io::Result<Self> {
        // Opening a FIFO would otherwise wait for a writer, perhaps without end.
        let file = File::options().read(true).custom_flags(O_NONBLOCK).open(path)?;
        // The open file is examined, not the path: the path may lead elsewhere by now.
        let found = file.metadata()?;
        let kind = found.file_type();
        Ok(Self {
            mode: found.mode() & 0o777,
            is_regular: kind.is_file(),
            // A terminal or another device keeps nothing that others could read later.
            is_judged: kind.is_file() || kind.is_fifo(),
            path: path.to_owned(),
            file,
        })
    }

    /// Whether it is a regular file, and not a pipe or a device.
    pub fn is_regular(&self) -> bool {
        self.is_regular
    }

    /// Its permission bits.
    pub fn mode(&self) -> u32 {
        self.mode
    }

    /// Whether other users can get at the secret.
    pub fn exposure(&self) -> Exposure {
        if !self.is_judged || self.mode & UNSAFE == 0 {
            Exposure::Private
        } else if is_sheltered(&self.path) {
            Exposure::Sheltered
        } else {
            Exposure::Exposed
        }
    }

    /// Reads at most 64 KiB of it. A pipe is waited for until its writer closes it.
    ///
    /// # Errors
    /// As read(2).
    pub fn read(self) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        BlockingFile::over(self.file)?.take(LARGEST).read_to_end(&mut bytes)?;
        Ok(bytes)
    }
}

/// Whether a directory on the way lets no other user pass.
fn is_sheltered(path: &Path) -> bool {
    let keeps_out = |dir: &Path| dir.metadata().is_ok_and(|found| found.mode() & SEARCH == 0);
    path.canonicalize().is_ok_and(|path| path.ancestors().skip(1).any(keeps_out))
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::io::Write;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_secret_is_judged_by_its_rights_and_its_directories() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        std::fs::write(&path, "secret").unwrap();
        let exposure = |directory: u32, mode: u32| {
            std::fs::set_permissions(dir.path(), Permissions::from_mode(directory)).unwrap();
            std::fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            SecretFile::open(&path).unwrap().exposure()
        };
        for mode in [0o600, 0o640, 0o400] {
            assert_eq!(exposure(0o755, mode), Exposure::Private, "{mode:o}");
        }
        for mode in [0o644, 0o620, 0o602, 0o660] {
            assert_eq!(exposure(0o755, mode), Exposure::Exposed, "{mode:o}");
            assert_eq!(exposure(0o700, mode), Exposure::Sheltered, "{mode:o}");
        }
        assert_eq!(SecretFile::open(&path).unwrap().read().unwrap(), b"secret");
    }

    #[test]
    fn a_pipe_is_read_to_its_end_and_is_no_regular_file() {
        let (reader, mut writer) = io::pipe().unwrap();
        let path = format!("/dev/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&reader));
        let secret = SecretFile::open(Path::new(&path)).unwrap();
        assert_eq!((secret.exposure(), secret.is_regular()), (Exposure::Private, false));
        let reading = std::thread::spawn(move || secret.read());
        writer.write_all(b"secret").unwrap();
        drop(writer);
        assert_eq!(reading.join().unwrap().unwrap(), b"secret");
    }
}
