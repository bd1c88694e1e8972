//! The generation of each slot, as a process tells it those that it forks.

use std::io;
use std::sync::atomic::Ordering::{Acquire, Release};

use crate::sealed_words::{SealedView, SealedWords};

/// The writable side, for the process that made it and none of its children.
#[derive(Debug)]
pub struct GenerationTable {
    words: SealedWords,
    view: GenerationView,
}

/// The readable side, also for children that are forked later.
#[derive(Clone, Copy, Debug)]
pub struct GenerationView(SealedView);

impl GenerationTable {
    /// Makes a table for this many slots, all of them 0.
    ///
    /// # Errors
    /// As [`SealedWords::new`].
    pub fn new(count: usize) -> io::Result<Self> {
        let (words, view) = SealedWords::new(c"ipcd-generations", count)?;
        Ok(Self { words, view: GenerationView(view) })
    }

    /// Changes the generation of this slot.
    ///
    /// # Panics
    /// If there is no such slot, or this is a child of the process that made the table.
    pub fn set(&self, slot: usize, generation: u32) {
        // Pairs with `GenerationView::get`: a worker that has got a record sees the generation of
        // its sender.
        self.words.as_ref()[slot].store(generation, Release);
    }

    /// Returns the readable side.
    pub fn view(&self) -> GenerationView {
        self.view
    }
}

impl GenerationView {
    /// Returns the generation of this slot; `None` if there is no such slot.
    pub fn get(&self, slot: usize) -> Option<u32> {
        self.0.as_ref().get(slot).map(|word| word.load(Acquire))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn written_generations_are_seen() {
        let table = GenerationTable::new(3).unwrap();
        table.set(2, u32::MAX);
        let seen = [0, 1, 2, 3].map(|slot| table.view().get(slot));
        assert_eq!(seen, [Some(0), Some(0), Some(u32::MAX), None]);
    }
}
