//! The memory of rings from each of some processes to each other, made before the first fork.

use std::io;
use std::mem::ManuallyDrop;
use std::ptr::{NonNull, null_mut};
use std::sync::atomic::AtomicU64;

use nix::errno::Errno;

use super::{Cell, Memory};

/// Words from one cell to the next: two cache lines, for processors fetch lines in pairs.
const CELL_WORDS: usize = 16;
/// Words before the records.
const CELLS_WORDS: usize = 8 * CELL_WORDS;
/// Rings begin with a page, so that each can be given back alone. The largest page in use.
const PAGE_BYTES: usize = 64 * 1024;

impl<T: AsRef<[AtomicU64]>> Memory for T {
    type Word = AtomicU64;

    fn cell(&self, cell: Cell) -> &AtomicU64 {
        &self.as_ref()[cell as usize * CELL_WORDS]
    }

    fn data(&self) -> &[AtomicU64] {
        &self.as_ref()[CELLS_WORDS..]
    }
}

/// Rings from each place to each other.
#[derive(Debug)]
pub struct Grid {
    at: NonNull<u8>,
    places: usize,
    words: usize,
}

// SAFETY: nothing in it belongs to a thread; all access is atomic.
unsafe impl Send for Grid {}

impl Grid {
    /// For so many places, with so many words for the records of each ring. It takes memory only
    /// where something is written.
    ///
    /// # Errors
    /// If there is no room for it.
    ///
    /// # Panics
    /// If the words are no power of two, or more than 2^31.
    pub fn new(places: usize, words: usize) -> io::Result<Self> {
        assert!(words.is_power_of_two() && words <= 1 << 31, "a ring of {words} words");
        let bytes = (places * places).max(1) * stride(words);
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: a new mapping wherever the kernel likes touches no memory of ours.
        let at = unsafe { libc::mmap(null_mut(), bytes, protection, flags, -1, 0) };
        if at == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let at = NonNull::new(at.cast()).ok_or_else(|| io::Error::from(Errno::ENOMEM))?;
        Ok(Self { at, places, words })
    }

    /// The ring from one place to another.
    ///
    /// # Panics
    /// If there is no such place.
    pub fn ring(&self, from: usize, to: usize) -> &[AtomicU64] {
        assert!(from < self.places && to < self.places, "no ring from {from} to {to}");
        // SAFETY: the ring lies within the mapping, which lives as long as `self`.
        unsafe { words_at(self.start(from * self.places + to), self.words) }
    }

    /// Keeps the rings from and to one place, and gives the others back: this process cannot reach
    /// them any more. By place, the rings to each and the rings from each, its own excepted.
    ///
    /// # Errors
    /// As munmap(2).
    pub fn keep(self, own: usize) -> io::Result<(Areas, Areas)> {
        let grid = ManuallyDrop::new(self);
        let (places, stride) = (grid.places, stride(grid.words));
        let is_own = |index: usize| {
            let (from, to) = (index / places, index % places);
            from != to && (from == own || to == own)
        };
        let indices: Vec<usize> = (0..places * places).collect();
        for run in indices.chunk_by(|a, b| is_own(*a) == is_own(*b)).filter(|run| !is_own(run[0])) {
            // SAFETY: these rings lie within the mapping, nothing borrowed from it is left, and
            // what is kept lies in other pages.
            unsafe { unmap(grid.start(run[0]), run.len() * stride)? };
        }
        let area = |from: usize, to: usize| {
            let index = from * places + to;
            // From here on it is the area's to unmap.
            is_own(index).then(|| Area { at: grid.start(index), words: grid.words })
        };
        let to_each = (0..places).map(|other| area(own, other)).collect();
        let from_each = (0..places).map(|other| area(other, own)).collect();
        Ok((to_each, from_each))
    }

    fn start(&self, index: usize) -> NonNull<u8> {
        // SAFETY: callers pass the index of a ring, which lies within the mapping.
        unsafe { self.at.add(index * stride(self.words)) }
    }
}

impl Drop for Grid {
    fn drop(&mut self) {
        let bytes = (self.places * self.places).max(1) * stride(self.words);
        // SAFETY: it was mapped with this length, and nothing borrowed from it is left.
        let _ = unsafe { unmap(self.at, bytes) };
    }
}

/// The memory of rings by place; there is none to oneself.
pub type Areas = Vec<Option<Area>>;

/// The memory of one ring.
#[derive(Debug)]
pub struct Area {
    at: NonNull<u8>,
    words: usize,
}

// SAFETY: nothing in it belongs to a thread; all access is atomic.
unsafe impl Send for Area {}

impl AsRef<[AtomicU64]> for Area {
    fn as_ref(&self) -> &[AtomicU64] {
        // SAFETY: the area owns its part of the mapping, which lives as long as `self`.
        unsafe { words_at(self.at, self.words) }
    }
}

impl Drop for Area {
    fn drop(&mut self) {
        // SAFETY: the area owns these pages, and nothing borrowed from them is left.
        let _ = unsafe { unmap(self.at, stride(self.words)) };
    }
}

/// Bytes from one ring to the next.
fn stride(words: usize) -> usize {
    ((CELLS_WORDS + words) * size_of::<AtomicU64>()).next_multiple_of(PAGE_BYTES)
}

/// # Safety
/// There begins a ring of so many words, mapped for at least `'a`.
unsafe fn words_at<'a>(at: NonNull<u8>, words: usize) -> &'a [AtomicU64] {
    // SAFETY: the ring is there, aligned to a page, and zeroed at first; any value is valid. Whoever
    // else has it, in this process or another, has it as atomics, too. A process that has been
    // taken over may write otherwise, but what we load is then still some value, which nothing is
    // concluded from before it is checked.
    unsafe { std::slice::from_raw_parts(at.cast().as_ptr(), CELLS_WORDS + words) }
}

/// # Safety
/// Nothing uses these pages of ours any more.
unsafe fn unmap(at: NonNull<u8>, bytes: usize) -> io::Result<()> {
    // SAFETY: the caller's.
    Errno::result(unsafe { libc::munmap(at.as_ptr().cast(), bytes) })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::*;

    /// Pages of this process, from /proc/self/maps (proc(5)).
    fn is_mapped(at: usize) -> bool {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let ranges = maps.lines().filter_map(|line| line.split_once(' ')?.0.split_once('-'));
        let number = |text| usize::from_str_radix(text, 16).unwrap();
        ranges.into_iter().any(|(from, to)| (number(from)..number(to)).contains(&at))
    }

    #[test]
    fn only_the_rings_of_a_place_stay() {
        let grid = Grid::new(4, 1 << 16).unwrap();
        for (from, to) in [(1, 3), (3, 1), (0, 2)] {
            grid.ring(from, to)[0].store((10 * from + to) as u64, Ordering::Relaxed);
        }
        let first = |words: &[AtomicU64]| words[0].load(Ordering::Relaxed);
        let (others, own) = (grid.ring(0, 2).as_ptr() as usize, grid.ring(1, 3).as_ptr() as usize);
        let (to_each, from_each) = grid.keep(1).unwrap();
        let shown = |areas: &[Option<Area>]| -> Vec<Option<u64>> {
            areas.iter().map(|area| Some(first(area.as_ref()?.as_ref()))).collect()
        };
        assert_eq!(shown(&to_each), [Some(0), None, Some(0), Some(13)]);
        assert_eq!(shown(&from_each), [Some(0), None, Some(0), Some(31)]);
        assert!(is_mapped(own) && !is_mapped(others));
    }
}
