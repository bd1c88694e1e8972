//! Words of memory that one process writes, and that those it forks can read but never change,
//! whatever runs in them.

use std::ffi::CStr;
use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr::null_mut;
use std::sync::atomic::AtomicU32;

use nix::errno::Errno;

/// The writable side, for the process that made it and none of its children.
pub struct SealedWords {
    words: &'static [AtomicU32],
    owner: u32,
}

/// The readable side, also for children that are forked later. Its words must only be loaded.
#[derive(Clone, Copy)]
pub struct SealedView(&'static [AtomicU32]);

impl SealedWords {
    /// Makes this many words, all 0. `name` is for people, in `/proc/PID/maps`. The kernel provides
    /// a page of memory when it is first written. The words are never unmapped: a child may have
    /// something else where its parent has them.
    ///
    /// # Errors
    /// If there is no memory, or the kernel is older than 5.1, which has `F_SEAL_FUTURE_WRITE`.
    pub fn new(name: &CStr, count: usize) -> io::Result<(Self, SealedView)> {
        let bytes = size_of::<AtomicU32>() * count.max(1);
        // SAFETY: the name is a C string, and the call takes no other memory of ours.
        let fd = Errno::result(unsafe {
            libc::memfd_create(name.as_ptr(), libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING)
        })?;
        // SAFETY: the descriptor is new, and nothing else owns it.
        let file = std::fs::File::from(unsafe { OwnedFd::from_raw_fd(fd) });
        file.set_len(bytes as u64)?;
        let words = map(&file, bytes, count, libc::PROT_READ | libc::PROT_WRITE)?;
        // SAFETY: the range is the mapping that was just made. Children will not have it.
        let kept = unsafe { libc::madvise(words.as_ptr() as *mut _, bytes, libc::MADV_DONTFORK) };
        Errno::result(kept)?;
        // Later mappings can never be written to, not even after mprotect(2).
        let seals = libc::F_SEAL_FUTURE_WRITE | libc::F_SEAL_SHRINK | libc::F_SEAL_GROW;
        // SAFETY: the call takes no memory of ours.
        Errno::result(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, seals) })?;
        let view = SealedView(map(&file, bytes, count, libc::PROT_READ)?);
        Ok((Self { words, owner: std::process::id() }, view))
    }
}

impl AsRef<[AtomicU32]> for SealedWords {
    /// Returns the words.
    ///
    /// # Panics
    /// In a child of the process that made them, because a child does not have this memory.
    fn as_ref(&self) -> &[AtomicU32] {
        assert_eq!(std::process::id(), self.owner, "only the process that made the words has them");
        self.words
    }
}

impl AsRef<[AtomicU32]> for SealedView {
    fn as_ref(&self) -> &[AtomicU32] {
        self.0
    }
}

/// Only values that a child has, too: it does not have the memory that is written.
impl fmt::Debug for SealedWords {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SealedWords").field("owner", &self.owner).finish_non_exhaustive()
    }
}

impl fmt::Debug for SealedView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SealedView({} words)", self.0.len())
    }
}

fn map(
    file: &std::fs::File,
    bytes: usize,
    count: usize,
    protection: i32,
) -> io::Result<&'static [AtomicU32]> {
    let fd = file.as_raw_fd();
    // SAFETY: a new mapping wherever the kernel likes touches no memory of ours.
    let at = unsafe { libc::mmap(null_mut(), bytes, protection, libc::MAP_SHARED, fd, 0) };
    if at == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the mapping is page-aligned, as long as `count` words, zeroed (which is a valid
    // value) and never unmapped. Other processes that have the memory use atomics, too. A mapping
    // that is for reading only is a `SealedView`, whose users only load.
    Ok(unsafe { std::slice::from_raw_parts(at.cast::<AtomicU32>(), count) })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering::Relaxed;

    use super::*;

    #[test]
    fn written_words_are_seen() {
        let (words, view) = SealedWords::new(c"test", 3).unwrap();
        words.as_ref()[2].store(u32::MAX, Relaxed);
        let seen: Vec<_> = view.as_ref().iter().map(|word| word.load(Relaxed)).collect();
        assert_eq!(seen, [0, 0, u32::MAX]);
    }

    #[test]
    fn the_view_cannot_be_made_writable() {
        let (_words, view) = SealedWords::new(c"test", 1).unwrap();
        let at = view.as_ref().as_ptr() as *mut _;
        // SAFETY: the range is a mapping of ours; to make it writable would do no harm.
        let made = unsafe { libc::mprotect(at, 4, libc::PROT_READ | libc::PROT_WRITE) };
        assert_eq!(Errno::result(made), Err(Errno::EACCES));
    }

    #[test]
    fn children_have_only_the_view() {
        let (words, view) = SealedWords::new(c"test", 1).unwrap();
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        // `dc`: it is not copied by fork.
        let is_kept = |at: &[AtomicU32]| {
            let start = format!("{:x}-", at.as_ptr() as usize);
            let (_, rest) = maps.split_once(&start).expect("it is mapped");
            let flags = rest.lines().find_map(|line| line.strip_prefix("VmFlags:"));
            flags.expect("Linux tells them").split(' ').any(|flag| flag == "dc")
        };
        assert!(is_kept(words.as_ref()) && !is_kept(view.as_ref()));
    }

    #[test]
    fn a_large_memory_takes_only_the_pages_that_are_written() {
        let (words, _) = SealedWords::new(c"test", 1 << 28).unwrap();
        words.as_ref()[1 << 27].store(1, Relaxed);
    }
}
