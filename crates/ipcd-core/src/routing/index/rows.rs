//! Sets of rows of a table: a few as sorted numbers, many as bits. Both forms take at most 16 bytes
//! for each row, no matter how large the table is.

/// Bits of a word.
pub(super) const WORD_BITS: usize = u64::BITS as usize;

/// A set of rows of a table.
#[derive(Clone, Debug)]
pub(super) enum RowSet {
    One(u32),
    /// Sorted.
    Few(Vec<u32>),
    Many {
        words: Vec<u64>,
        count: usize,
    },
}

impl Default for RowSet {
    fn default() -> Self {
        Self::Few(Vec::new())
    }
}

impl RowSet {
    pub(super) fn len(&self) -> usize {
        match self {
            Self::One(_) => 1,
            Self::Few(rows) => rows.len(),
            Self::Many { count, .. } => *count,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = usize> {
        let (few, many) = match self {
            Self::One(row) => (std::slice::from_ref(row), &[][..]),
            Self::Few(rows) => (rows.as_slice(), &[][..]),
            Self::Many { words, .. } => (&[][..], words.as_slice()),
        };
        few.iter().map(|row| *row as usize).chain(bits_of(many))
    }

    /// Adds a row that is not in the set. `table_words` is the number of words for all rows of the
    /// table.
    pub(super) fn insert(&mut self, row: u32, table_words: usize) {
        match self {
            Self::Few(rows) if rows.is_empty() => *self = Self::One(row),
            Self::One(known) => *self = Self::Few(vec![row.min(*known), row.max(*known)]),
            Self::Few(rows) => {
                let at = rows.partition_point(|known| *known < row);
                rows.insert(at, row);
            }
            Self::Many { words, count } => {
                let (at, bit) = place_of(row);
                words.resize(words.len().max(at + 1), 0);
                words[at] |= bit;
                *count += 1;
            }
        }
        // From here on, bits take no more memory than numbers.
        if let Self::Few(rows) = self
            && rows.len() >= 2 * table_words
        {
            let (mut words, count) = (vec![0; table_words], rows.len());
            self.add_to(&mut words);
            *self = Self::Many { words, count };
        }
        self.thin_out();
    }

    /// Removes a row that is in the set.
    pub(super) fn remove(&mut self, row: u32) {
        match self {
            Self::One(_) => *self = Self::default(),
            Self::Few(rows) => {
                if let Ok(at) = rows.binary_search(&row) {
                    rows.remove(at);
                }
                if rows.len() < rows.capacity() / 4 {
                    rows.shrink_to(2 * rows.len());
                }
            }
            Self::Many { words, count } => {
                let (at, bit) = place_of(row);
                words[at] &= !bit;
                *count -= 1;
                // Empty words at the end would keep the memory of rows that have gone.
                while words.pop_if(|last| *last == 0).is_some() {}
                if words.len() < words.capacity() / 4 {
                    words.shrink_to(2 * words.len());
                }
            }
        }
        self.thin_out();
    }

    /// Sets the bits of these rows in the mask.
    pub(super) fn add_to(&self, mask: &mut [u64]) {
        let few = match self {
            Self::One(row) => std::slice::from_ref(row),
            Self::Few(rows) => rows,
            Self::Many { words, .. } => {
                mask.iter_mut().zip(words).for_each(|(mask, word)| *mask |= word);
                return;
            }
        };
        for (at, bit) in few.iter().map(|row| place_of(*row)) {
            mask[at] |= bit;
        }
    }

    /// Returns to numbers when bits take four times their memory. With an earlier return, a row
    /// that comes and goes would convert the set each time.
    fn thin_out(&mut self) {
        if let Self::Many { words, count } = self
            && 2 * *count < words.len()
        {
            let few: Vec<u32> = bits_of(words).map(|row| row as u32).collect();
            *self = match few[..] {
                [row] => Self::One(row),
                _ => Self::Few(few),
            };
        }
    }
}

/// Returns the positions of the set bits.
pub(super) fn bits_of(words: &[u64]) -> impl Iterator<Item = usize> {
    words.iter().enumerate().flat_map(|(at, &word)| {
        let mut left = word;
        std::iter::from_fn(move || {
            let bit = left.trailing_zeros() as usize;
            // A word without bits has `WORD_BITS` trailing zeros.
            (bit < WORD_BITS).then(|| {
                left &= left - 1;
                at * WORD_BITS + bit
            })
        })
    })
}

fn place_of(row: u32) -> (usize, u64) {
    (row as usize / WORD_BITS, 1 << (row as usize % WORD_BITS))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// After any insertions and removals, the set has the same rows as a set of numbers, and
        /// takes little memory.
        #[test]
        fn holds_what_a_set_of_numbers_holds(
            toggled in proptest::collection::vec((0_u32..3000, 1_u32..4), 1..400),
        ) {
            let (mut set, mut model) = (RowSet::default(), BTreeSet::new());
            for (row, spread) in toggled {
                let row = row / spread;
                match model.remove(&row) {
                    true => set.remove(row),
                    false => {
                        model.insert(row);
                        set.insert(row, 3000_usize.div_ceil(WORD_BITS));
                    }
                }
                prop_assert_eq!(set.len(), model.len());
                let bytes = match &set {
                    RowSet::One(_) => 0,
                    RowSet::Few(rows) => 4 * rows.len(),
                    RowSet::Many { words, .. } => 8 * words.len(),
                };
                prop_assert!(bytes <= 16 * model.len());
            }
            prop_assert!(set.iter().eq(model.iter().map(|row| *row as usize)));
            let mut mask = vec![0; 3000_usize.div_ceil(WORD_BITS)];
            set.add_to(&mut mask);
            prop_assert!(bits_of(&mask).eq(set.iter()));
        }
    }
}
