//! The words of the shared memory: a header, the patterns, and then hash buckets and entries.
//!
//! An entry has two links to the next one in its bucket. They are used in turn: when the table gets
//! more buckets, the new chains are built with one set of links, while readers still follow the
//! other.

use std::fmt;
use std::hash::BuildHasher;
use std::rc::Rc;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use foldhash::fast::FixedState;
use ipcd_proto::limits::{MAX_NAME, MAX_SUBJECT, MAX_TOKENS};
use ipcd_proto::{Filter, Subject};

/// Counts the changes.
pub(super) const VERSION: usize = 0;
/// Counts the moments after which memory gets a new meaning.
pub(super) const REUSES: usize = 1;
/// The offset of the buckets; 0 in an empty table. Its first word describes them ([`Buckets`]).
pub(super) const ROOT: usize = 2;
/// The number of places for patterns that have been used.
pub(super) const PATTERN_PLACES: usize = 3;
/// The number of known patterns, and the number of words in use.
pub(super) const PATTERN_COUNT: usize = 4;
pub(super) const USED_WORDS: usize = 5;
/// The two halves of the number with which texts are hashed.
const SEED: usize = 6;
/// The number of slots, and of those with a worker that takes messages.
pub(super) const SLOTS: usize = 8;
pub(super) const LIVING: usize = 9;
/// The first pattern. Each has two words.
pub(super) const PATTERNS: usize = 10;
/// Patterns that the table has room for.
pub(super) const MAX_PATTERNS: usize = 256;
/// The generation in each slot; 0 without a worker that takes messages.
pub(super) const GENERATIONS: usize = PATTERNS + 2 * MAX_PATTERNS;

/// The words of an entry. The texts of filter and group follow.
pub(super) const NEXT: [usize; 2] = [0, 1];
pub(super) const HASH: usize = 2;
pub(super) const SLOT: usize = 3;
pub(super) const GENERATION: usize = 4;
/// The worker's number for the group, and its members.
pub(super) const NUMBER: usize = 5;
pub(super) const MEMBERS: usize = 6;
/// The lengths of both texts, and whether there is a group.
pub(super) const LENGTHS: usize = 7;
/// The place of the entry among those of its slot. Only the writer uses it.
pub(super) const PLACE: usize = 8;
pub(super) const TEXT: usize = 9;

/// Bytes of a filter and a group together.
pub(super) const TEXT_BYTES: usize = MAX_SUBJECT + MAX_NAME;

const HAS_GROUP: u32 = 1 << 31;
const GROUP_SHIFT: u32 = 16;
const LENGTH_MASK: u32 = 0x7fff;

const _: () = assert!(TEXT_BYTES <= LENGTH_MASK as usize);
const _: () = assert!(MAX_TOKENS <= u32::BITS as usize);

/// Words that one process writes and others read.
#[derive(Clone)]
pub struct SharedWords(Rc<dyn AsRef<[AtomicU32]>>);

impl SharedWords {
    /// Uses these words. All of them have to be 0 at first.
    pub fn new(words: impl AsRef<[AtomicU32]> + 'static) -> Self {
        Self(Rc::new(words))
    }

    /// Returns words that only this process has.
    pub fn private(count: usize) -> Self {
        Self::new((0..count).map(|_| AtomicU32::new(0)).collect::<Vec<_>>())
    }

    pub(super) fn memory(&self) -> SharedMemory<'_> {
        SharedMemory((*self.0).as_ref())
    }
}

impl fmt::Debug for SharedWords {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SharedWords({})", (*self.0).as_ref().len())
    }
}

/// The words, for one operation. An offset outside of them reads as 0.
#[derive(Clone, Copy)]
pub(super) struct SharedMemory<'a>(&'a [AtomicU32]);

impl SharedMemory<'_> {
    pub(super) fn len(self) -> usize {
        self.0.len()
    }

    pub(super) fn get(self, at: usize) -> u32 {
        self.0.get(at).map_or(0, |word| word.load(Relaxed))
    }

    pub(super) fn get_published(self, at: usize) -> u32 {
        self.0.get(at).map_or(0, |word| word.load(Acquire))
    }

    pub(super) fn set(self, at: usize, value: u32) {
        self.0[at].store(value, Relaxed);
    }

    /// Stores a word, and with it everything that was written before.
    pub(super) fn publish(self, at: usize, value: u32) {
        self.0[at].store(value, Release);
    }

    pub(super) fn increment(self, at: usize) {
        self.publish(at, self.get(at).wrapping_add(1));
    }

    pub(super) fn set_seed(self, seed: u64) {
        self.set(SEED, seed as u32);
        self.set(SEED + 1, (seed >> u32::BITS) as u32);
    }

    pub(super) fn hash(self, text: &[u8]) -> u32 {
        let seed = u64::from(self.get(SEED)) | u64::from(self.get(SEED + 1)) << u32::BITS;
        let hash = FixedState::with_seed(seed).hash_one(text);
        (hash ^ hash >> u32::BITS) as u32
    }

    /// Copies the text at the end of an entry to the front of `into`.
    pub(super) fn copy_text(self, entry: usize, into: &mut [u8]) {
        for (at, bytes) in into.chunks_mut(size_of::<u32>()).enumerate() {
            let word = self.get(entry + TEXT + at).to_le_bytes();
            bytes.copy_from_slice(&word[..bytes.len()]);
        }
    }

    pub(super) fn set_text(self, entry: usize, text: &[u8]) {
        for (at, bytes) in text.chunks(size_of::<u32>()).enumerate() {
            let mut word = [0; size_of::<u32>()];
            word[..bytes.len()].copy_from_slice(bytes);
            self.set(entry + TEXT + at, u32::from_le_bytes(word));
        }
    }
}

/// The lengths of the texts of an entry, in bytes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct TextLengths {
    pub(super) filter: usize,
    pub(super) group: Option<usize>,
}

impl TextLengths {
    pub(super) fn of(filter: &str, group: Option<&str>) -> Self {
        Self { filter: filter.len(), group: group.map(str::len) }
    }

    pub(super) fn to_word(self) -> u32 {
        let group = self.group.map_or(0, |length| HAS_GROUP | (length as u32) << GROUP_SHIFT);
        self.filter as u32 | group
    }

    /// Returns the lengths, but never more than an entry can have: the word may be anything while
    /// memory gets a new meaning.
    pub(super) fn from_word(word: u32) -> Self {
        let filter = ((word & LENGTH_MASK) as usize).min(MAX_SUBJECT);
        let length = ((word >> GROUP_SHIFT & LENGTH_MASK) as usize).min(MAX_NAME);
        Self { filter, group: (word & HAS_GROUP != 0).then_some(length) }
    }

    pub(super) fn total(self) -> usize {
        self.filter + self.group.unwrap_or(0)
    }
}

/// The hash buckets: 2 to the power of `log2`, which follow the word that describes them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Buckets {
    pub(super) at: usize,
    pub(super) log2: u32,
    /// Which of the links of an entry these chains use.
    pub(super) link: usize,
}

impl Buckets {
    pub(super) fn to_word(self) -> u32 {
        self.log2 << 1 | self.link as u32
    }

    /// Returns the buckets in force; `None` in an empty table.
    pub(super) fn of(memory: SharedMemory<'_>) -> Option<Self> {
        let at = memory.get_published(ROOT) as usize;
        let word = memory.get(at);
        let buckets = Self { at, log2: (word >> 1) % u32::BITS, link: (word & 1) as usize };
        (at != 0).then_some(buckets)
    }

    pub(super) fn count(self) -> usize {
        1 << self.log2
    }

    pub(super) fn bucket_of(self, hash: u32) -> usize {
        self.at + 1 + (hash as usize & (self.count() - 1))
    }
}

/// The pattern of a filter.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) struct FilterPattern {
    /// A bit for each `*`.
    stars: u32,
    /// The number of tokens before any `>`.
    tokens: u32,
    has_tail: bool,
}

impl FilterPattern {
    pub(crate) fn of(filter: &Filter) -> Self {
        let has_tail = filter.has_tail();
        let stems = filter.tokens().count() - usize::from(has_tail);
        let stars = filter.tokens().take(stems).zip(0..).filter(|(token, _)| *token == "*");
        let stars = stars.map(|(_, at)| 1 << at).sum();
        Self { stars, tokens: stems as u32, has_tail }
    }

    /// Returns the two words of a pattern. The second is not 0.
    pub(super) fn to_words(self) -> [u32; 2] {
        [self.stars, self.tokens << 2 | u32::from(self.has_tail) << 1 | 1]
    }

    pub(super) fn from_words([stars, shape]: [u32; 2]) -> Option<Self> {
        let pattern = Self { stars, tokens: shape >> 2, has_tail: shape & 2 != 0 };
        (shape & 1 != 0).then_some(pattern)
    }

    /// Whether a filter with this pattern can match a subject of this many tokens.
    pub(super) fn takes(self, tokens: usize) -> bool {
        match self.has_tail {
            true => (self.tokens as usize) < tokens,
            false => self.tokens as usize == tokens,
        }
    }

    /// Writes the only filter with this pattern that matches the subject, and returns its length. It
    /// is never longer than the subject, because no token is shorter than a wildcard.
    pub(super) fn write_filter(self, subject: Subject<'_>, into: &mut [u8; MAX_SUBJECT]) -> usize {
        let mut length = 0;
        let mut add = |bytes: &[u8]| {
            into[length..length + bytes.len()].copy_from_slice(bytes);
            length += bytes.len();
        };
        for (at, token) in (0..self.tokens).zip(subject.tokens()) {
            if at > 0 {
                add(b".");
            }
            let is_star = self.stars >> at & 1 != 0;
            add(if is_star { b"*" } else { token.as_bytes() });
        }
        if self.has_tail {
            add(if self.tokens > 0 { b".>" } else { b">" });
        }
        length
    }
}
