//! The subscription index: it finds the members whose filters match a subject. Members are
//! subscriptions of this router's peers. It knows nothing of rights or send queues.
//!
//! Filters of one shape are the rows of a [`table::FilterTable`], so that a lookup costs little no
//! matter how the filters were chosen.

mod members;
mod rows;
mod table;

use std::collections::HashMap;
use std::rc::Rc;

use foldhash::fast::RandomState;
use ipcd_proto::control::OverflowPolicy;
use ipcd_proto::limits::MAX_TOKENS;
use ipcd_proto::{Filter, Subject};

use self::table::{ANY, FilterShape, FilterTable, LookUp, UNKNOWN};
use crate::model::ids::PeerKey;

/// A subscription of a peer of this router.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct LocalSubscriber {
    /// The peer.
    pub peer: PeerKey,
    /// The peer's number for the subscription.
    pub subscription: u32,
    /// The treatment of messages while the peer's send queue is full.
    pub overflow: OverflowPolicy,
    /// Whether the peer asks for the senders' identities.
    pub origin: bool,
    /// The group that shares the messages, if there is one.
    pub group: Option<Rc<QueueGroup>>,
}

/// An interest of another worker: all subscriptions there with the same filter and group.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct WorkerInterest {
    /// The slot of the worker.
    pub slot: u32,
    /// The generation of the worker.
    pub generation: u32,
    /// Whether the interest is blocked: the send queue of a member is full, or in a group those of
    /// all members.
    pub is_blocked: bool,
    /// The worker's part in the group, if there is one.
    pub share: Option<GroupShare>,
}

/// The identity of a subscriber within a filter: the peer, and its number for the subscription.
pub(crate) type SubscriberKey = (PeerKey, u32);

impl LocalSubscriber {
    pub(crate) fn key(&self) -> SubscriberKey {
        (self.peer, self.subscription)
    }
}

/// A worker's part in a group.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct GroupShare {
    /// The group.
    pub group: Rc<QueueGroup>,
    /// The worker's number for the group.
    pub number: u32,
    /// The number of members there.
    pub members: u32,
}

/// A queue group: subscriptions of one filter and group name, which share the messages.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct QueueGroup {
    /// The filter.
    pub filter: Filter,
    /// The name of the group.
    pub name: String,
}

/// All subscribers, by the shapes of their filters.
#[derive(Clone, Debug, Default)]
pub struct SubscriptionIndex {
    /// Sorted by shape. There are at most 32 shapes.
    tables: Vec<FilterTable>,
    tokens: TokenNumbers,
    version: u64,
}

/// The numbers of the filters' tokens. A subject's tokens are looked up once, and then compared as
/// numbers.
#[derive(Clone, Debug, Default)]
struct TokenNumbers {
    /// The number of each token, and the number of its uses in filters.
    numbers: HashMap<Box<str>, (u32, usize), RandomState>,
    /// Unused numbers below the highest one.
    free: Vec<u32>,
}

impl SubscriptionIndex {
    /// Adds a member. It replaces an earlier one with the same key.
    pub fn add(&mut self, filter: &Filter, member: LocalSubscriber) {
        self.version += 1;
        let (stem, has_tail) = stem_of(filter);
        let tokens: Vec<u32> = stem.map(|token| self.tokens.note(token)).collect();
        let shape = FilterShape { tokens: tokens.len(), has_tail };
        let at = self.place_of(shape).unwrap_or_else(|at| {
            self.tables.insert(at, FilterTable::new(shape));
            at
        });
        // A known filter has counted its tokens before.
        if !self.tables[at].add(&tokens, member) {
            self.tokens.forget(filter);
        }
    }

    /// Removes a member of one filter, and returns it. Remembered routes still have it until the
    /// caller calls [`SubscriptionIndex::touch`], once for any number of removals.
    pub(crate) fn remove(
        &mut self,
        filter: &Filter,
        key: &SubscriberKey,
    ) -> Option<LocalSubscriber> {
        let (shape, tokens) = self.row_of(filter)?;
        let at = self.place_of(shape).ok()?;
        let table = &mut self.tables[at];
        let gone = table.members(&tokens)?.remove(key)?;
        if table.forget(&tokens) {
            self.tokens.forget(filter);
        }
        // A lookup visits every table, so that empty ones must go.
        if table.is_empty() {
            self.tables.remove(at);
        }
        Some(gone)
    }

    /// Changes a member of one filter, if it exists.
    pub fn change(
        &mut self,
        filter: &Filter,
        key: &SubscriberKey,
        change: impl FnOnce(&mut LocalSubscriber),
    ) {
        self.version += 1;
        let Some((shape, tokens)) = self.row_of(filter) else { return };
        let Ok(at) = self.place_of(shape) else { return };
        let members = self.tables[at].members(&tokens);
        if let Some(member) = members.and_then(|members| members.find(key)) {
            change(member);
        }
    }

    /// Removes all members for which `gone` is true.
    pub fn remove_all(&mut self, gone: impl Fn(&LocalSubscriber) -> bool) {
        self.version += 1;
        let mut filters = Vec::new();
        self.tables.retain_mut(|table| {
            table.remove_all(&gone, &mut filters);
            !table.is_empty()
        });
        self.tokens.forget_all(filters.iter().flat_map(|tokens| &**tokens));
    }

    /// Notes that routes have changed for a reason outside the index.
    pub(crate) fn touch(&mut self) {
        self.version += 1;
    }

    /// Returns a number that grows whenever a route may have changed.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Returns the members whose filters match, sorted. A member with several matching filters
    /// occurs once for each.
    pub fn find(&self, subject: Subject<'_>) -> Vec<LocalSubscriber> {
        self.find_counted(subject).0
    }

    /// Returns the same, and the work in quarters of a step, some 12 ns each.
    pub(crate) fn find_counted(&self, subject: Subject<'_>) -> (Vec<LocalSubscriber>, usize) {
        let (mut tokens, mut count) = ([UNKNOWN; MAX_TOKENS], 0);
        for (number, token) in tokens.iter_mut().zip(subject.tokens()) {
            *number = self.tokens.of(token);
            count += 1;
        }
        let tokens = &tokens[..count];
        let mut look_up = LookUp::default();
        look_up.parts = count;
        for table in self.tables.iter().filter(|table| table.shape.takes(count)) {
            table.look_up(tokens, &mut look_up);
        }
        // The order of the tables and rows depends on the history of the filters.
        look_up.found.sort_unstable();
        (look_up.found, look_up.parts)
    }

    /// Returns the shape of a filter and the numbers of its tokens, if all tokens are known.
    fn row_of(&self, filter: &Filter) -> Option<(FilterShape, Vec<u32>)> {
        let (stem, has_tail) = stem_of(filter);
        // No filter has an unknown token, so that the row cannot exist.
        let number = |token: &str| Some(self.tokens.of(token)).filter(|number| *number != UNKNOWN);
        let tokens = stem.map(number).collect::<Option<Vec<_>>>()?;
        Some((FilterShape { tokens: tokens.len(), has_tail }, tokens))
    }

    fn place_of(&self, shape: FilterShape) -> Result<usize, usize> {
        self.tables.binary_search_by_key(&shape, |table| table.shape)
    }
}

impl TokenNumbers {
    fn of(&self, token: &str) -> u32 {
        match token {
            "*" => ANY,
            token => self.numbers.get(token).map_or(UNKNOWN, |(number, _)| *number),
        }
    }

    /// Counts one use of a token more, and returns its number.
    fn note(&mut self, token: &str) -> u32 {
        if token == "*" {
            return ANY;
        }
        if let Some((number, uses)) = self.numbers.get_mut(token) {
            *uses += 1;
            return *number;
        }
        // Freed numbers are used again, so that memory runs out before the numbers do.
        let number = self.free.pop().unwrap_or(self.numbers.len() as u32 + 1);
        self.numbers.insert(token.into(), (number, 1));
        number
    }

    /// Counts one use of the filter's tokens less.
    fn forget(&mut self, filter: &Filter) {
        for token in stem_of(filter).0.filter(|token| *token != "*") {
            let Some((number, uses)) = self.numbers.get_mut(token) else { continue };
            *uses -= 1;
            if *uses == 0 {
                self.free.push(*number);
                self.numbers.remove(token);
            }
        }
        self.shrink();
    }

    /// Counts one use less for each occurrence of a token.
    fn forget_all<'a>(&mut self, tokens: impl Iterator<Item = &'a u32>) {
        let mut counts = HashMap::<u32, usize, RandomState>::default();
        tokens.for_each(|token| *counts.entry(*token).or_default() += 1);
        self.numbers.retain(|_, (number, uses)| {
            *uses -= counts.get(number).copied().unwrap_or(0);
            if *uses == 0 {
                self.free.push(*number);
            }
            *uses > 0
        });
        self.shrink();
    }

    /// Frees the memory of tokens that have gone, if it is much.
    fn shrink(&mut self) {
        if self.numbers.is_empty() {
            *self = Self::default();
        } else if self.numbers.len() < self.numbers.capacity() / 8 {
            // Twice the size: the next tokens must not make it grow at once.
            self.numbers.shrink_to(2 * self.numbers.len());
        }
    }
}

/// Returns the tokens of a filter before any `>`, and whether `>` follows.
fn stem_of(filter: &Filter) -> (impl Iterator<Item = &str>, bool) {
    let stem = filter.as_str().strip_suffix('>').filter(|_| filter.has_tail());
    let stem = stem.map(|stem| stem.strip_suffix('.').unwrap_or(stem));
    let has_tail = stem.is_some();
    let tokens = stem.unwrap_or(filter.as_str());
    (tokens.split('.').filter(|token| !token.is_empty()), has_tail)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn member(subscription: u32) -> LocalSubscriber {
        let peer = PeerKey::default();
        LocalSubscriber {
            peer,
            subscription,
            overflow: OverflowPolicy::Block,
            origin: false,
            group: None,
        }
    }

    fn filter(text: &str) -> Filter {
        Filter::parse(text.as_bytes()).unwrap()
    }

    fn found(interests: &SubscriptionIndex, subject: &str) -> Vec<u32> {
        let subject = Subject::parse(subject.as_bytes()).unwrap();
        interests.find(subject).iter().map(|member| member.subscription).collect()
    }

    fn token() -> impl Strategy<Value = String> {
        prop_oneof![Just("a".into()), Just("b".into()), Just("c".into()), Just("d>".into())]
    }

    fn any_subject() -> impl Strategy<Value = String> {
        proptest::collection::vec(token(), 1..5).prop_map(|tokens| tokens.join("."))
    }

    fn any_filter() -> impl Strategy<Value = String> {
        let wild = prop_oneof![3 => token(), 1 => Just("*".into())];
        let tail = prop_oneof![2 => Just(""), 1 => Just(".>")];
        (proptest::collection::vec(wild, 1..5), tail)
            .prop_map(|(tokens, tail)| tokens.join(".") + tail)
    }

    proptest! {
        /// After any additions and removals, a lookup finds the same as matching filters one by
        /// one.
        #[test]
        fn matches_as_a_naive_oracle_says(
            filters in proptest::collection::vec((any_filter(), any::<bool>()), 0..30),
            subjects in proptest::collection::vec(any_subject(), 1..10),
        ) {
            let mut interests = SubscriptionIndex::default();
            for (number, (text, _)) in filters.iter().enumerate() {
                interests.add(&filter(text), member(number as u32));
            }
            for (number, (text, stays)) in filters.iter().enumerate() {
                if !stays {
                    interests.remove(&filter(text), &member(number as u32).key());
                }
            }
            for subject in &subjects {
                let parsed = Subject::parse(subject.as_bytes()).unwrap();
                let expected: Vec<u32> = (0..)
                    .zip(&filters)
                    .filter(|(_, (text, stays))| *stays && filter(text).matches(parsed))
                    .map(|(number, _)| number)
                    .collect();
                prop_assert_eq!(found(&interests, subject), expected);
            }
        }
    }

    fn is_blank(interests: &SubscriptionIndex) -> bool {
        let TokenNumbers { numbers, free } = &interests.tokens;
        interests.tables.is_empty() && numbers.is_empty() && free.is_empty()
    }

    #[test]
    fn an_empty_table_keeps_nothing() {
        let mut interests = SubscriptionIndex::default();
        for text in ["a.b.c", "a.*.>", ">", "a"] {
            interests.add(&filter(text), member(1));
        }
        for text in ["a.b.c", "a.*.>", ">", "a", "never.added"] {
            interests.remove(&filter(text), &member(1).key());
        }
        assert!(is_blank(&interests));
        interests.add(&filter("a.*.b"), member(1));
        interests.remove_all(|_| true);
        assert!(is_blank(&interests));
    }

    /// Returns filters with this many tokens, each a token or `*`, followed by one more token.
    fn all_ways(count: u32, tokens: u32, last: &str) -> SubscriptionIndex {
        let mut interests = SubscriptionIndex::default();
        for number in 0..count {
            let token = |bit: u32| if number >> bit & 1 == 0 { "a" } else { "*" };
            let stem: Vec<_> = (0..tokens).map(token).collect();
            interests.add(&filter(&format!("{}.{last}", stem.join("."))), member(number));
        }
        interests
    }

    #[test]
    fn a_subject_with_thousands_of_ways_through_the_filters_costs_no_more_than_their_bits() {
        let interests = all_ways(1 << 13, 13, "z");
        let counted = |text: &str| {
            let (found, parts) = interests.find_counted(Subject::parse(text.as_bytes()).unwrap());
            (found.len(), parts)
        };
        let stem = ["a"; 13].join(".");
        // Only the last column shows that nothing matches.
        let (tokens, columns) = (14, 2 * 14);
        assert_eq!(counted(&format!("{stem}.7")), (0, tokens + columns));
        let bits = 14 * (1 + (1 << 13) / 64 / 8);
        let all = tokens + columns + bits + (4 << 13);
        assert_eq!(counted(&format!("{stem}.z")), (1 << 13, all));
        let other = ["b"; 13].join(".");
        assert_eq!(counted(&format!("{other}.z")), (1, tokens + columns + bits + 4));
    }

    #[test]
    fn filters_that_come_and_go_by_the_thousand_leave_the_others_and_no_memory() {
        const ALL: u32 = 3000;
        let text = |number: u32| match number % 3 {
            0 => format!("app.{number}.x"),
            1 => format!("app.*.y{}.>", number % 100),
            _ => format!("*.{}.{}", number % 64, number / 64),
        };
        for step in [1, 7, 1009] {
            let mut interests = SubscriptionIndex::default();
            (0..ALL).for_each(|number| interests.add(&filter(&text(number)), member(number)));
            let mut stay: Vec<u32> = (0..ALL).collect();
            for at in 0..ALL {
                let number = at * step % ALL;
                let gone = interests.remove(&filter(&text(number)), &member(number).key());
                assert_eq!(gone, Some(member(number)));
                stay.retain(|other| *other != number);
                if at % 300 == 0 {
                    for subject in ["app.9.x", "app.5.y41.q.r", "b.63.2", "app.6.x"] {
                        let parsed = Subject::parse(subject.as_bytes()).unwrap();
                        let matches = |number: &&u32| filter(&text(**number)).matches(parsed);
                        let expected: Vec<u32> = stay.iter().filter(matches).copied().collect();
                        assert_eq!(found(&interests, subject), expected);
                    }
                }
            }
            assert!(is_blank(&interests));
        }
    }
}
