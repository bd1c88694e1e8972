//! A client written from the documentation alone, step by step, so that each step can go wrong.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use nix::unistd::{mkfifo, read, write};

/// The names of a unique pair, and its record.
pub(crate) struct Raw {
    pub(crate) up: PathBuf,
    pub(crate) down: PathBuf,
    pub(crate) record: Vec<u8>,
}

/// The client's ends of a pair.
pub(crate) struct Ends {
    pub(crate) down: OwnedFd,
    pub(crate) up: OwnedFd,
}

impl Raw {
    pub(crate) fn new(drop_box: &Path) -> Self {
        static NUMBER: AtomicU64 = AtomicU64::new(1);
        let number = u128::from(NUMBER.fetch_add(1, Ordering::Relaxed));
        let mut record = b"ipcdfifo\x01\0\0\0".to_vec();
        record.extend(number.to_be_bytes());
        record.extend(crc32(&record).to_le_bytes());
        let path = |end: &str| drop_box.join(format!("{number:032x}.{end}"));
        Self { up: path("up"), down: path("down"), record }
    }

    /// Makes and opens the pair.
    pub(crate) fn make(&self) -> Ends {
        for path in [&self.up, &self.down] {
            mkfifo(path, Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
        }
        Ends { down: end(&self.down, OFlag::O_RDONLY), up: end(&self.up, OFlag::O_RDWR) }
    }

    /// Whether either name is still there.
    pub(crate) fn is_left(&self) -> bool {
        [&self.up, &self.down].iter().any(|path| fs::symlink_metadata(path).is_ok())
    }
}

impl Ends {
    pub(crate) fn expect_greeting(&self) {
        let mut greeting = [0; 64];
        let count = read(&self.down, &mut greeting).unwrap();
        assert_eq!(&greeting[..count], b"ipcd-fifo/1");
    }
}

/// Writes the bytes into a FIFO, all at once.
pub(crate) fn put(fifo: &Path, bytes: &[u8]) {
    assert_eq!(write(end(fifo, OFlag::O_WRONLY), bytes), Ok(bytes.len()));
}

/// Writes junk into a FIFO until it holds no more.
pub(crate) fn fill(fifo: &Path) -> usize {
    let end = end(fifo, OFlag::O_WRONLY);
    std::iter::from_fn(|| write(&end, b"ipcdfif?").ok()).sum()
}

pub(crate) fn end(fifo: &Path, access: OFlag) -> OwnedFd {
    open(fifo, access | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC, Mode::empty()).unwrap()
}

/// By the definition: the remainder of a division of polynomials, bit by bit.
fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for bit in bytes.iter().flat_map(|byte| (0..8).map(move |bit| u32::from(byte >> bit & 1))) {
        let carry = (crc ^ bit) & 1;
        crc = (crc >> 1) ^ (carry * 0xedb8_8320);
    }
    !crc
}
