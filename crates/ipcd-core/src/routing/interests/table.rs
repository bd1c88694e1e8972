//! The writer's side of the table of interests. There is one writer, the supervisor.

use std::collections::HashMap;
use std::sync::atomic::Ordering::Release;
use std::sync::atomic::fence;

use ipcd_proto::Filter;

use super::layout::{
    Buckets, FilterPattern, GENERATION, GENERATIONS, HASH, LENGTHS, LIVING, MAX_PATTERNS, MEMBERS,
    NEXT, NUMBER, PATTERN_COUNT, PATTERN_PLACES, PATTERNS, PLACE, REUSES, ROOT, SLOT, SLOTS,
    SharedMemory, SharedWords, TEXT, TEXT_BYTES, TextLengths, USED_WORDS, VERSION,
};
use super::view::InterestView;
use crate::model::interest::{GroupPart, Interest};

/// Words in which memory is given to entries.
const GRAIN: usize = 4;
/// Sizes of entries, in grains.
const SIZES: usize = (TEXT + TEXT_BYTES.div_ceil(size_of::<u32>())).div_ceil(GRAIN) + 1;
const FIRST_BUCKETS_LOG2: u32 = 6;
/// Entries for each bucket, beyond which there are twice as many buckets.
const CROWD: usize = 2;

/// The table of interests, for writing. Readers see all changes at once, by [`InterestTable::view`].
#[derive(Debug)]
pub(crate) struct InterestTable {
    words: SharedWords,
    view: InterestView,
    /// The entries of each slot.
    held: Vec<Vec<u32>>,
    count: usize,
    /// The place of each known pattern, and the number of its filters.
    patterns: HashMap<FilterPattern, (usize, usize)>,
    free_places: Vec<usize>,
    /// Free entries, by their sizes in grains.
    free: Vec<Vec<u32>>,
}

/// The table has no memory for an interest, or no place for its pattern.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct TableFull;

impl InterestTable {
    /// Creates a table for this many slots. The words are the writer's and the readers' access to
    /// the same memory, which is all 0. `seed` is unknown to peers, so that they cannot choose
    /// filters with one hash.
    pub(crate) fn new(slots: usize, words: SharedWords, readers: SharedWords, seed: u64) -> Self {
        words.memory().set_seed(seed);
        words.memory().set(SLOTS, slots as u32);
        words.memory().set(USED_WORDS, first_heap_word(slots) as u32);
        let mut free = Vec::new();
        free.resize_with(SIZES, Vec::new);
        Self {
            words,
            view: InterestView::new(readers),
            held: vec![Vec::new(); slots],
            count: 0,
            patterns: HashMap::new(),
            free_places: Vec::new(),
            free,
        }
    }

    /// Returns the readers' side.
    pub(crate) fn view(&self) -> InterestView {
        self.view.clone()
    }

    /// Returns the number of interests of a slot.
    pub(crate) fn held(&self, slot: u32) -> usize {
        self.held.get(slot as usize).map_or(0, Vec::len)
    }

    /// Begins a generation of a slot, without interests. Generation 0 ends the present one: from now
    /// on, no message goes to the slot.
    pub(crate) fn begin(&mut self, slot: u32, generation: u32) {
        self.clear(slot);
        let (memory, at) = (self.words.memory(), GENERATIONS + slot as usize);
        let before = memory.get(at);
        let living = memory.get(LIVING) + u32::from(generation > 0) - u32::from(before > 0);
        memory.set(LIVING, living);
        memory.publish(at, generation);
    }

    /// Enters an interest of a slot. A repeated one replaces the earlier one.
    ///
    /// # Errors
    ///
    /// If there is no memory, or no place for the pattern. Nothing has changed then.
    pub(crate) fn insert(
        &mut self,
        slot: u32,
        interest: &Interest,
        part: Option<GroupPart>,
    ) -> Result<(), TableFull> {
        let Ok(filter) = Filter::parse(interest.filter.as_bytes()) else { return Err(TableFull) };
        if slot as usize >= self.held.len() {
            return Err(TableFull);
        }
        let known = self.find(slot, interest);
        let part = part.unwrap_or(GroupPart { number: 0, members: 0 });
        if let Some((entry, _)) = known {
            let memory = self.words.memory();
            memory.set(entry + NUMBER, part.number);
            memory.set(entry + MEMBERS, part.members);
        } else {
            self.grow()?;
            let text = [&interest.filter, interest.group.as_deref().unwrap_or("")].concat();
            let entry = self.allocate(text.len())?;
            let pattern = FilterPattern::of(&filter);
            if !self.note_pattern(pattern) {
                self.free(entry, text.len());
                return Err(TableFull);
            }
            self.write(entry, slot, interest, part, &text);
            self.link(entry);
        }
        self.words.memory().increment(VERSION);
        Ok(())
    }

    /// Removes an interest of a slot. Returns whether it existed.
    pub(crate) fn remove(&mut self, slot: u32, interest: &Interest) -> bool {
        let Some((entry, before)) = self.find(slot, interest) else { return false };
        self.unlink(entry, before);
        self.announce_reuse();
        true
    }

    /// Removes all interests of a slot.
    pub(crate) fn clear(&mut self, slot: u32) {
        let Some(held) = self.held.get(slot as usize) else { return };
        if held.is_empty() {
            return;
        }
        // From the end, because the last entry moves to the place of a removed one.
        while let Some(entry) = self.held[slot as usize].last().map(|entry| *entry as usize) {
            let before = self.before(entry);
            self.unlink(entry, before);
        }
        self.announce_reuse();
    }

    /// Writes an entry that no reader can reach yet.
    fn write(&mut self, entry: usize, slot: u32, interest: &Interest, part: GroupPart, text: &str) {
        let memory = self.words.memory();
        let lengths = TextLengths::of(&interest.filter, interest.group.as_deref());
        let held = &mut self.held[slot as usize];
        memory.set(entry + HASH, memory.hash(interest.filter.as_bytes()));
        memory.set(entry + SLOT, slot);
        memory.set(entry + GENERATION, memory.get(GENERATIONS + slot as usize));
        memory.set(entry + NUMBER, part.number);
        memory.set(entry + MEMBERS, part.members);
        memory.set(entry + LENGTHS, lengths.to_word());
        memory.set(entry + PLACE, held.len() as u32);
        memory.set_text(entry, text.as_bytes());
        held.push(entry as u32);
    }

    fn link(&mut self, entry: usize) {
        let memory = self.words.memory();
        let Some(buckets) = Buckets::of(memory) else { return };
        link_in(memory, buckets, entry);
        self.count += 1;
    }

    /// Takes an entry out of its bucket, and frees its memory. Readers may still stand on it, so it
    /// must not be written before the next call of [`InterestTable::announce_reuse`].
    fn unlink(&mut self, entry: usize, before: usize) {
        let memory = self.words.memory();
        let Some(buckets) = Buckets::of(memory) else { return };
        memory.publish(before, memory.get(entry + NEXT[buckets.link]));
        self.count -= 1;
        let (slot, place) = (memory.get(entry + SLOT), memory.get(entry + PLACE));
        let held = &mut self.held[slot as usize];
        held.swap_remove(place as usize);
        if let Some(moved) = held.get(place as usize) {
            memory.set(*moved as usize + PLACE, place);
        }
        if held.len() < held.capacity() / 4 {
            held.shrink_to(2 * held.len());
        }
        let lengths = TextLengths::from_word(memory.get(entry + LENGTHS));
        let mut text = [0; TEXT_BYTES];
        memory.copy_text(entry, &mut text[..lengths.filter]);
        if let Ok(filter) = Filter::parse(&text[..lengths.filter]) {
            self.forget_pattern(FilterPattern::of(&filter));
        }
        self.free(entry, lengths.total());
    }

    /// Tells readers that memory gets a new meaning from now on.
    fn announce_reuse(&self) {
        let memory = self.words.memory();
        memory.increment(REUSES);
        memory.increment(VERSION);
        // A reader that sees a later write sees the announcement, too.
        fence(Release);
    }

    /// Returns the entry of an interest, and the word that links to it.
    fn find(&self, slot: u32, interest: &Interest) -> Option<(usize, usize)> {
        let memory = self.words.memory();
        let lengths = TextLengths::of(&interest.filter, interest.group.as_deref());
        let hash = memory.hash(interest.filter.as_bytes());
        let is_it = |entry: usize| {
            if memory.get(entry + HASH) != hash
                || memory.get(entry + SLOT) != slot
                || memory.get(entry + LENGTHS) != lengths.to_word()
            {
                return false;
            }
            let mut text = [0; TEXT_BYTES];
            memory.copy_text(entry, &mut text[..lengths.total()]);
            let (filter, group) = text[..lengths.total()].split_at(lengths.filter);
            filter == interest.filter.as_bytes()
                && group == interest.group.as_deref().unwrap_or("").as_bytes()
        };
        let buckets = Buckets::of(memory)?;
        links(memory, buckets, hash).find(|(entry, _)| is_it(*entry))
    }

    /// Returns the word that links to an entry.
    fn before(&self, entry: usize) -> usize {
        let memory = self.words.memory();
        let hash = memory.get(entry + HASH);
        let chain = Buckets::of(memory).into_iter();
        let found = chain
            .flat_map(|buckets| links(memory, buckets, hash))
            .find(|(found, _)| *found == entry);
        found.expect("an entry is in the chain of its hash").1
    }

    /// Makes the buckets, or twice as many once there are many entries for each.
    fn grow(&mut self) -> Result<(), TableFull> {
        let memory = self.words.memory();
        let old = Buckets::of(memory);
        let (log2, link) = match old {
            None => (FIRST_BUCKETS_LOG2, 0),
            Some(old) if self.count < CROWD * old.count() => return Ok(()),
            Some(old) => (old.log2 + 1, 1 - old.link),
        };
        let buckets = Buckets { at: memory.get(USED_WORDS) as usize, log2, link };
        let end = (buckets.at + 1 + buckets.count()).next_multiple_of(GRAIN);
        if end > memory.len() {
            // Longer chains are better than no table.
            return old.map(|_| ()).ok_or(TableFull);
        }
        // The old buckets stay unused. All of them together take no more than the new ones.
        memory.set(USED_WORDS, end as u32);
        // The other links of the entries were in force before the present buckets.
        self.announce_reuse();
        memory.set(buckets.at, buckets.to_word());
        for entry in self.held.iter().flatten() {
            link_in(memory, buckets, *entry as usize);
        }
        memory.publish(ROOT, buckets.at as u32);
        Ok(())
    }

    /// Returns the offset of memory for an entry with this many bytes of text.
    fn allocate(&mut self, bytes: usize) -> Result<usize, TableFull> {
        let grains = grains_of(bytes);
        if let Some(entry) = self.free[grains].pop() {
            return Ok(entry as usize);
        }
        let memory = self.words.memory();
        let entry = memory.get(USED_WORDS) as usize;
        let end = entry + grains * GRAIN;
        if end > memory.len() {
            return Err(TableFull);
        }
        memory.set(USED_WORDS, end as u32);
        Ok(entry)
    }

    fn free(&mut self, entry: usize, bytes: usize) {
        self.free[grains_of(bytes)].push(entry as u32);
    }

    /// Counts a filter with this pattern. Returns false if the pattern is new, and there is no place
    /// for it.
    fn note_pattern(&mut self, pattern: FilterPattern) -> bool {
        if let Some((_, filters)) = self.patterns.get_mut(&pattern) {
            *filters += 1;
            return true;
        }
        let memory = self.words.memory();
        let places = memory.get(PATTERN_PLACES) as usize;
        let Some(place) = self.free_places.pop().or((places < MAX_PATTERNS).then_some(places))
        else {
            return false;
        };
        let ([stars, shape], at) = (pattern.to_words(), PATTERNS + 2 * place);
        memory.set(at, stars);
        memory.publish(at + 1, shape);
        if place == places {
            memory.publish(PATTERN_PLACES, places as u32 + 1);
        }
        self.patterns.insert(pattern, (place, 1));
        memory.set(PATTERN_COUNT, self.patterns.len() as u32);
        true
    }

    fn forget_pattern(&mut self, pattern: FilterPattern) {
        let Some((place, filters)) = self.patterns.get_mut(&pattern) else { return };
        *filters -= 1;
        if *filters == 0 {
            let (memory, place) = (self.words.memory(), *place);
            memory.publish(PATTERNS + 2 * place + 1, 0);
            self.patterns.remove(&pattern);
            self.free_places.push(place);
            memory.set(PATTERN_COUNT, self.patterns.len() as u32);
        }
    }
}

/// Returns the first word behind the generations.
fn first_heap_word(slots: usize) -> usize {
    (GENERATIONS + slots).next_multiple_of(GRAIN)
}

/// Puts an entry at the front of its bucket.
fn link_in(memory: SharedMemory<'_>, buckets: Buckets, entry: usize) {
    let bucket = buckets.bucket_of(memory.get(entry + HASH));
    memory.set(entry + NEXT[buckets.link], memory.get(bucket));
    memory.publish(bucket, entry as u32);
}

/// Returns the entries of a bucket, each with the word that links to it.
fn links(
    memory: SharedMemory<'_>,
    buckets: Buckets,
    hash: u32,
) -> impl Iterator<Item = (usize, usize)> {
    let mut before = buckets.bucket_of(hash);
    std::iter::from_fn(move || {
        let entry = memory.get(before) as usize;
        let link = std::mem::replace(&mut before, entry + NEXT[buckets.link]);
        (entry != 0).then_some((entry, link))
    })
}

fn grains_of(bytes: usize) -> usize {
    (TEXT + bytes.div_ceil(size_of::<u32>())).div_ceil(GRAIN)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

    use ipcd_proto::Subject;
    use proptest::prelude::*;

    use super::*;

    fn table(slots: usize, words: usize) -> InterestTable {
        let words = SharedWords::private(words);
        InterestTable::new(slots, words.clone(), words, 7)
    }

    fn interest(filter: &str, group: Option<&str>) -> Interest {
        Interest { filter: filter.into(), group: group.map(str::to_owned) }
    }

    fn found(table: &InterestTable, subject: &str) -> Vec<(u32, String)> {
        let subject = Subject::parse(subject.as_bytes()).unwrap();
        let (found, _) = table.view().find(subject);
        found.into_iter().map(|found| (found.slot, found.filter)).collect()
    }

    fn any_filter() -> impl Strategy<Value = String> {
        let token = prop_oneof![Just("a"), Just("b"), Just("c>"), Just("*"), Just("long-token-x")];
        let tail = prop_oneof![2 => Just(""), 1 => Just(".>")];
        (proptest::collection::vec(token, 1..5), tail)
            .prop_map(|(tokens, tail)| tokens.join(".") + tail)
    }

    fn any_subject() -> impl Strategy<Value = String> {
        let token = prop_oneof![Just("a"), Just("b"), Just("c>"), Just("long-token-x")];
        proptest::collection::vec(token, 1..6).prop_map(|tokens| tokens.join("."))
    }

    #[derive(Clone, Debug)]
    enum Act {
        Insert(u32, String, Option<&'static str>, u32),
        Remove(u32, String, Option<&'static str>),
        Begin(u32),
    }

    fn any_act() -> impl Strategy<Value = Act> {
        let group = || prop_oneof![Just(None), Just(Some("g")), Just(Some("h"))];
        prop_oneof![
            6 => (0..3_u32, any_filter(), group(), 1..9_u32)
                .prop_map(|(slot, filter, group, members)| Act::Insert(slot, filter, group, members)),
            3 => (0..3_u32, any_filter(), group())
                .prop_map(|(slot, filter, group)| Act::Remove(slot, filter, group)),
            1 => (0..3_u32).prop_map(Act::Begin),
        ]
    }

    proptest! {
        /// After any changes, a look-up finds the same as matching all filters one by one.
        #[test]
        fn finds_what_a_naive_oracle_finds(
            acts in proptest::collection::vec(any_act(), 0..300),
            subjects in proptest::collection::vec(any_subject(), 1..10),
        ) {
            let mut table = table(3, 1 << 16);
            let mut oracle = BTreeMap::new();
            for act in acts {
                match act {
                    Act::Insert(slot, filter, group, members) => {
                        let part = group.map(|_| GroupPart { number: slot + 1, members });
                        let interest = interest(&filter, group);
                        prop_assert_eq!(table.insert(slot, &interest, part), Ok(()));
                        oracle.insert((slot, interest), part);
                    }
                    Act::Remove(slot, filter, group) => {
                        let interest = interest(&filter, group);
                        let existed = oracle.remove(&(slot, interest.clone())).is_some();
                        prop_assert_eq!(table.remove(slot, &interest), existed);
                    }
                    Act::Begin(slot) => {
                        table.begin(slot, 1);
                        oracle.retain(|(of, _), _| *of != slot);
                    }
                }
                prop_assert_eq!(table.count, oracle.len());
            }
            for slot in 0..3 {
                let count = oracle.keys().filter(|(of, _)| *of == slot).count();
                prop_assert_eq!(table.held(slot), count);
            }
            for subject in &subjects {
                let parsed = Subject::parse(subject.as_bytes()).unwrap();
                let mut expected: Vec<_> = oracle
                    .iter()
                    .filter(|((_, interest), _)| {
                        Filter::parse(interest.filter.as_bytes()).unwrap().matches(parsed)
                    })
                    .map(|((slot, interest), part)| {
                        let group = interest.group.clone().zip(*part);
                        (*slot, interest.filter.clone(), group.map(|(name, part)| (name, part.number, part.members)))
                    })
                    .collect();
                let (found, _) = table.view().find(parsed);
                let mut found: Vec<_> = found
                    .into_iter()
                    .map(|found| {
                        let group = found.group.map(|(name, part)| (name, part.number, part.members));
                        (found.slot, found.filter, group)
                    })
                    .collect();
                expected.sort();
                found.sort();
                prop_assert_eq!(found, expected);
            }
        }
    }

    #[test]
    fn memory_of_removed_interests_is_used_again() {
        let mut table = table(2, 1 << 14);
        for round in 0..10_000 {
            let interest = interest(&format!("a.{round}.b"), None);
            table.insert(0, &interest, None).unwrap();
            assert_eq!(found(&table, &format!("a.{round}.b")).len(), 1);
            assert!(table.remove(0, &interest));
        }
        assert!(
            (table.words.memory().get(USED_WORDS) as usize) < first_heap_word(2) + 1024
                && table.patterns.is_empty()
        );
    }

    #[test]
    fn a_full_table_refuses_and_stays_as_it_was() {
        let mut table = table(2, first_heap_word(2) + 4096);
        let text = |number: usize| format!("filter.{number:05}");
        let fitting = (0..)
            .take_while(|number| table.insert(0, &interest(&text(*number), None), None).is_ok());
        let count = fitting.count();
        assert!(!table.view().has_room() && table.held(0) == count);
        assert_eq!(found(&table, &text(count)), []);
        assert_eq!(found(&table, &text(count - 1)).len(), 1);
        table.clear(0);
        assert_eq!(table.insert(1, &interest(&text(0), None), None), Ok(()));
        assert_eq!(found(&table, &text(0)), [(1, text(0))]);
    }

    #[test]
    fn new_patterns_are_refused_once_there_are_many() {
        let mut table = table(1, 1 << 20);
        let pattern = |number: u32| {
            let token = |bit: u32| if number >> bit & 1 == 0 { "a" } else { "*" };
            (0..10).map(token).collect::<Vec<_>>().join(".")
        };
        let takes = |table: &InterestTable, text: &str| {
            let filter = Filter::parse(text.as_bytes()).unwrap();
            table.view().takes_pattern(FilterPattern::of(&filter))
        };
        for number in 0..MAX_PATTERNS as u32 {
            let (text, few) = (pattern(number), (number as usize) < MAX_PATTERNS / 2);
            assert_eq!(takes(&table, &text), few, "{number}");
            table.insert(0, &interest(&text, None), None).unwrap();
            assert!(takes(&table, &text));
        }
        let last = interest(&pattern(MAX_PATTERNS as u32), None);
        assert_eq!(table.insert(0, &last, None), Err(TableFull));
        assert_eq!(found(&table, "a.a.a.a.a.a.a.a.a.a").len(), MAX_PATTERNS);
        assert!(table.remove(0, &interest(&pattern(3), None)));
        assert_eq!(table.insert(0, &last, None), Ok(()));
        table.clear(0);
        assert!(takes(&table, &pattern(1)) && table.patterns.is_empty());
    }

    /// Readers in threads of their own see entries that stay in every look-up, and never one with
    /// mixed parts, while others come and go, and the table grows.
    #[test]
    fn readers_are_right_while_the_table_changes() {
        struct Shared(Arc<Vec<AtomicU32>>);
        impl AsRef<[AtomicU32]> for Shared {
            fn as_ref(&self) -> &[AtomicU32] {
                &self.0
            }
        }
        let words: Arc<Vec<_>> = Arc::new((0..1 << 18).map(|_| AtomicU32::new(0)).collect());
        let share = || SharedWords::new(Shared(Arc::clone(&words)));
        let mut table = InterestTable::new(4, share(), share(), 7);
        for filter in ["stay.here", "stay.*", "stay.>"] {
            table.insert(0, &interest(filter, None), None).unwrap();
        }
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                let (words, is_over) = (Arc::clone(&words), &is_over);
                scope.spawn(move || {
                    let view = InterestView::new(SharedWords::new(Shared(words)));
                    let subject = Subject::parse(b"stay.here").unwrap();
                    while !is_over.load(Ordering::Relaxed) {
                        let (found, _) = view.find(subject);
                        let steady = found.iter().filter(|found| found.slot == 0).count();
                        assert_eq!(steady, 3, "{found:?}");
                        for found in found.iter().filter(|found| found.slot > 0) {
                            let (name, part) = found.group.as_ref().expect("the others are groups");
                            assert_eq!(
                                (part.number, name.len()),
                                (found.slot, found.slot as usize)
                            );
                        }
                    }
                });
            }
            for round in 0..20_000_u32 {
                let slot = 1 + round % 3;
                let group = "g".repeat(slot as usize);
                let filters = ["stay.here", "stay.*", "*.here", "*.*", ">", "*.>"];
                let interest = interest(filters[round as usize % filters.len()], Some(&group));
                let part = Some(GroupPart { number: slot, members: 1 });
                if !table.remove(slot, &interest) {
                    table.insert(slot, &interest, part).unwrap();
                }
                let other = format!("other.{}", round % 3000);
                let other = Interest { filter: other, group: None };
                if round % 9000 < 6000 {
                    table.insert(0, &other, None).unwrap();
                } else {
                    table.remove(0, &other);
                }
            }
            is_over.store(true, Ordering::Relaxed);
        });
    }
}
