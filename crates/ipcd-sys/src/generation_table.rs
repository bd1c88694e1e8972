//! Numbers that a process tells those it forks, and that they cannot change, whatever runs in them.

use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::errno::Errno;

/// The writable side, for the process that made it and none of its children.
pub struct GenerationTable {
    numbers: &'static [AtomicU64],
    owner: u32,
    seen: GenerationView,
}

/// The readable side, also for children that are forked later.
#[derive(Clone, Copy, Debug)]
pub struct GenerationView(&'static [AtomicU64]);

impl GenerationTable {
    /// So many numbers, 0 at first. They are never unmapped: a child may have something else where
    /// its parent has them.
    ///
    /// # Errors
    /// If there is no memory, or the kernel is older than 5.1, which has `F_SEAL_FUTURE_WRITE`.
    pub fn new(count: usize) -> io::Result<Self> {
        let bytes = size_of::<AtomicU64>() * count.max(1);
        // SAFETY: the name is a C string, and the call takes no other memory of ours.
        let fd = Errno::result(unsafe {
            libc::memfd_create(c"board".as_ptr(), libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING)
        })?;
        // SAFETY: the descriptor is new, and nothing else owns it.
        let file = std::fs::File::from(unsafe { OwnedFd::from_raw_fd(fd) });
        file.set_len(bytes as u64)?;
        let numbers = map(&file, bytes, count, libc::PROT_READ | libc::PROT_WRITE)?;
        // SAFETY: the range is the mapping that was just made. Children will not have it.
        let kept = unsafe { libc::madvise(numbers.as_ptr() as *mut _, bytes, libc::MADV_DONTFORK) };
        Errno::result(kept)?;
        // Later mappings can never be written to, not even after mprotect(2).
        let seals = libc::F_SEAL_FUTURE_WRITE | libc::F_SEAL_SHRINK | libc::F_SEAL_GROW;
        // SAFETY: the call takes no memory of ours.
        Errno::result(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, seals) })?;
        let seen = GenerationView(map(&file, bytes, count, libc::PROT_READ)?);
        Ok(Self { numbers, owner: std::process::id(), seen })
    }

    /// Changes the number in this place.
    ///
    /// # Panics
    /// If there is no such place, or this is a child of the process that made it.
    pub fn set(&self, place: usize, number: u64) {
        assert_eq!(
            std::process::id(),
            self.owner,
            "only the process that made the table writes to it"
        );
        // Pairs with `GenerationView::get`: a worker that has got a record sees the generation of
        // its sender.
        self.numbers[place].store(number, Ordering::Release);
    }

    /// The readable side.
    pub fn seen(&self) -> GenerationView {
        self.seen
    }
}

/// Only what a child may look at, too: it does not have the memory that is written.
impl fmt::Debug for GenerationTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Board").field("owner", &self.owner).field("seen", &self.seen).finish()
    }
}

impl GenerationView {
    /// The number in this place; `None` if there is no such place.
    pub fn get(&self, place: usize) -> Option<u64> {
        self.0.get(place).map(|number| number.load(Ordering::Acquire))
    }
}

fn map(
    file: &std::fs::File,
    bytes: usize,
    count: usize,
    protection: i32,
) -> io::Result<&'static [AtomicU64]> {
    let fd = file.as_raw_fd();
    // SAFETY: a new mapping wherever the kernel likes touches no memory of ours.
    let at = unsafe { libc::mmap(null_mut(), bytes, protection, libc::MAP_SHARED, fd, 0) };
    if at == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the mapping is page-aligned, as long as `count` numbers, zeroed (which is a valid
    // value) and never unmapped. Other processes that have the memory use atomics, too. One that is
    // for reading only is never written to: `GenerationView` only loads.
    Ok(unsafe { std::slice::from_raw_parts(at.cast::<AtomicU64>(), count) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_seen() {
        let generation_table = GenerationTable::new(3).unwrap();
        let seen = generation_table.seen();
        generation_table.set(2, u64::MAX);
        assert_eq!(
            [0, 1, 2, 3].map(|place| seen.get(place)),
            [Some(0), Some(0), Some(u64::MAX), None]
        );
    }

    /// A child that prints it would die of SIGSEGV.
    #[test]
    fn what_is_printed_is_memory_that_children_have() {
        let mut generation_table = GenerationTable::new(1).unwrap();
        // As in a child: an address where nothing can be read.
        let nowhere = std::ptr::NonNull::<AtomicU64>::dangling();
        // SAFETY: an empty slice needs no memory.
        generation_table.numbers = unsafe { std::slice::from_raw_parts(nowhere.as_ptr(), 0) };
        let shown = format!("{generation_table:?}");
        assert!(shown.contains("GenerationView([0])") && !shown.contains("numbers"), "{shown}");
    }

    #[test]
    fn who_only_sees_it_cannot_make_it_writable() {
        let generation_table = GenerationTable::new(1).unwrap();
        let at = generation_table.seen().0.as_ptr() as *mut _;
        // SAFETY: the range is a mapping of ours; to make it writable would do no harm.
        let made = unsafe { libc::mprotect(at, 8, libc::PROT_READ | libc::PROT_WRITE) };
        assert_eq!(Errno::result(made), Err(Errno::EACCES));
    }

    #[test]
    fn children_have_only_what_cannot_be_written() {
        let generation_table = GenerationTable::new(1).unwrap();
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        // `dc`: it is not copied by fork.
        let flags = |at: &[AtomicU64]| {
            let start = format!("{:x}-", at.as_ptr() as usize);
            let (_, rest) = maps.split_once(&start).expect("it is mapped");
            let flags = rest.lines().find_map(|line| line.strip_prefix("VmFlags:"));
            flags.expect("Linux tells them").split(' ').any(|flag| flag == "dc")
        };
        assert!(flags(generation_table.numbers) && !flags(generation_table.seen().0));
    }
}
