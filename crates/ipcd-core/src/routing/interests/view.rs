//! The readers' side of the table of interests.

use std::sync::atomic::Ordering::Acquire;
use std::sync::atomic::fence;

use ipcd_proto::Subject;
use ipcd_proto::limits::MAX_SUBJECT;

use super::layout::{
    Buckets, FilterPattern, GENERATION, GENERATIONS, HASH, LENGTHS, LIVING, MAX_PATTERNS, MEMBERS,
    NEXT, NUMBER, PATTERN_COUNT, PATTERN_PLACES, PATTERNS, REUSES, SLOT, SLOTS, SharedMemory,
    SharedWords, TEXT_BYTES, TextLengths, USED_WORDS, VERSION,
};
use crate::model::interest::GroupPart;

/// Patterns beyond which filters with new ones are no longer entered as they are. The rest is for
/// workers that do not know yet how many there are.
const FEW_PATTERNS: usize = MAX_PATTERNS / 2;
/// The part of the memory that is left for the same reason.
const RESERVE: usize = 16;
/// Quarters of a step, some 12 ns each, for a pattern, for an entry, and for a found entry.
const PATTERN_PARTS: usize = 3;
const ENTRY_PARTS: usize = 1;
const FOUND_PARTS: usize = 4;

/// The table of interests, for reading.
#[derive(Clone, Debug)]
pub(crate) struct InterestView(SharedWords);

/// An interest that matches a subject.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct FoundInterest {
    /// The worker that has the subscriptions.
    pub(crate) slot: u32,
    pub(crate) generation: u32,
    pub(crate) filter: String,
    /// The group, with the worker's part in it.
    pub(crate) group: Option<(String, GroupPart)>,
}

/// A table without memory, and so without interests.
impl Default for InterestView {
    fn default() -> Self {
        Self(SharedWords::private(0))
    }
}

impl InterestView {
    pub(super) fn new(words: SharedWords) -> Self {
        Self(words)
    }

    /// Returns a number that changes whenever a look-up may have another result. Everything that the
    /// supervisor had entered before it stored this number is found afterwards.
    pub(crate) fn version(&self) -> u32 {
        self.0.memory().get_published(VERSION)
    }

    /// Returns the number of workers that take messages.
    pub(crate) fn living(&self) -> u64 {
        self.0.memory().get(LIVING).into()
    }

    /// Returns the generation in a slot; 0 without a worker that takes messages.
    pub(crate) fn generation(&self, slot: u32) -> u32 {
        let memory = self.0.memory();
        let has_slot = slot < memory.get(SLOTS);
        if has_slot { memory.get_published(GENERATIONS + slot as usize) } else { 0 }
    }

    /// Whether a filter with this pattern can be entered as it is.
    pub(crate) fn takes_pattern(&self, pattern: FilterPattern) -> bool {
        let memory = self.0.memory();
        (memory.get(PATTERN_COUNT) as usize) < FEW_PATTERNS
            || patterns(memory).any(|known| known == pattern)
    }

    /// Whether there is memory for more interests.
    pub(crate) fn has_room(&self) -> bool {
        let memory = self.0.memory();
        (memory.get(USED_WORDS) as usize) < memory.len() - memory.len() / RESERVE
    }

    /// Returns the interests that match, sorted by worker, and the work in quarters of a step.
    pub(crate) fn find(&self, subject: Subject<'_>) -> (Vec<FoundInterest>, usize) {
        let memory = self.0.memory();
        let mut parts = 0;
        loop {
            let reuses = memory.get_published(REUSES);
            let mut look_up = LookUp { memory, parts: 0, found: Vec::new(), left: memory.len() };
            look_up.run(subject);
            parts += look_up.parts;
            // Pairs with the writer's fence: if a word with a new meaning was read above, then the
            // announcement of it is read here.
            fence(Acquire);
            if memory.get(REUSES) == reuses {
                let mut found = look_up.found;
                // The order of the buckets depends on the history of the table.
                found.sort_unstable_by(|a, b| (a.slot, &a.filter).cmp(&(b.slot, &b.filter)));
                return (found, parts);
            }
        }
    }
}

/// Returns the known patterns.
fn patterns(memory: SharedMemory<'_>) -> impl Iterator<Item = FilterPattern> {
    let places = (memory.get_published(PATTERN_PLACES) as usize).min(MAX_PATTERNS);
    (0..places).filter_map(move |place| {
        let at = PATTERNS + 2 * place;
        // The second word was written last.
        let shape = memory.get_published(at + 1);
        FilterPattern::from_words([memory.get(at), shape])
    })
}

struct LookUp<'a> {
    memory: SharedMemory<'a>,
    parts: usize,
    found: Vec<FoundInterest>,
    /// Entries that may still be looked at. With links to anywhere, a chain might have no end.
    left: usize,
}

impl LookUp<'_> {
    fn run(&mut self, subject: Subject<'_>) {
        let count = subject.tokens().count();
        let Some(buckets) = Buckets::of(self.memory) else { return };
        let mut text = [0; MAX_SUBJECT];
        for pattern in patterns(self.memory).filter(|pattern| pattern.takes(count)) {
            self.parts += PATTERN_PARTS;
            let length = pattern.write_filter(subject, &mut text);
            self.find(buckets, &text[..length]);
        }
    }

    /// Finds the entries with this filter.
    fn find(&mut self, buckets: Buckets, filter: &[u8]) {
        let memory = self.memory;
        let hash = memory.hash(filter);
        let mut entry = memory.get_published(buckets.bucket_of(hash)) as usize;
        while entry != 0 && self.left > 0 {
            (self.left, self.parts) = (self.left - 1, self.parts + ENTRY_PARTS);
            if memory.get(entry + HASH) == hash {
                self.take(entry, filter);
            }
            entry = memory.get_published(entry + NEXT[buckets.link]) as usize;
        }
    }

    fn take(&mut self, entry: usize, wanted: &[u8]) {
        let (memory, mut text) = (self.memory, [0; TEXT_BYTES]);
        let lengths = TextLengths::from_word(memory.get(entry + LENGTHS));
        memory.copy_text(entry, &mut text[..lengths.total()]);
        let (filter, group) = text[..lengths.total()].split_at(lengths.filter);
        // Anything else has the same hash by chance, or is memory with a new meaning.
        let Some(filter) = str::from_utf8(filter).ok().filter(|text| text.as_bytes() == wanted)
        else {
            return;
        };
        let group = match (lengths.group, str::from_utf8(group)) {
            (None, _) => None,
            (Some(_), Err(_)) => return,
            (Some(_), Ok(name)) => {
                let (number, members) = (memory.get(entry + NUMBER), memory.get(entry + MEMBERS));
                Some((name.to_owned(), GroupPart { number, members }))
            }
        };
        self.parts += FOUND_PARTS;
        let (slot, generation) = (memory.get(entry + SLOT), memory.get(entry + GENERATION));
        self.found.push(FoundInterest { slot, generation, filter: filter.to_owned(), group });
    }
}
