//! Interest tables: whom a subject concerns. Members are subscriptions of this router's peers, or
//! other workers that have such subscriptions.

pub(crate) mod members;

use std::collections::HashMap;
use std::rc::Rc;

use crate::model::ids::PeerKey;
use crate::routing::trie::members::{MemberSet, TrieMember};
use foldhash::fast::RandomState;
use ipcd_proto::control::Overflow;
use ipcd_proto::{Filter, Subject};

/// One subscription, as its own router knows it.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct LocalSubscriber {
    /// Whose it is.
    pub peer: PeerKey,
    /// The peer's number for it.
    pub subscription: u32,
    /// What happens when the peer's outbox is full.
    pub overflow: Overflow,
    /// Whether the peer wants to know who senders are.
    pub origin: bool,
    /// The group that it shares its messages with.
    pub group: Option<Rc<QueueGroup>>,
}

/// An interest of another worker, for all its subscriptions of one filter and group.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct WorkerInterest {
    /// The worker's place.
    pub slot: u32,
    /// Whether nothing more may be sent for now, because a member's outbox is full; of a group,
    /// because all members' are.
    pub off: bool,
    /// The part that it has in a group.
    pub share: Option<GroupShare>,
}

impl TrieMember for LocalSubscriber {
    type Key = (PeerKey, u32);

    fn key(&self) -> Self::Key {
        (self.peer, self.subscription)
    }
}

impl TrieMember for WorkerInterest {
    type Key = (u32, Option<String>);

    fn key(&self) -> Self::Key {
        (self.slot, self.share.as_ref().map(|share| share.group.name.clone()))
    }
}

/// A worker's part in a group.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct GroupShare {
    /// The group.
    pub group: Rc<QueueGroup>,
    /// The worker's own number for it.
    pub number: u32,
    /// Members there.
    pub members: u32,
}

/// Subscribers of one filter that share the work.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct QueueGroup {
    /// The filter.
    pub filter: Filter,
    /// The group's name.
    pub name: String,
}

/// All members, in a tree of tokens.
#[derive(Clone, Debug)]
pub struct SubscriptionTrie<M: TrieMember> {
    root: TrieNode<M>,
    /// Numbers of the tokens in the tree, and how often each is in a filter: so a subject's tokens
    /// are looked up once, however many branches match.
    tokens: HashMap<Box<str>, (u32, usize), RandomState>,
    last_token: u32,
    version: u64,
}

impl<M: TrieMember> Default for SubscriptionTrie<M> {
    fn default() -> Self {
        let (root, tokens) = (TrieNode::default(), HashMap::default());
        Self { root, tokens, last_token: 0, version: 0 }
    }
}

/// The filters that share a beginning.
#[derive(Clone, Debug)]
struct TrieNode<M: TrieMember> {
    children: HashMap<u32, TrieNode<M>, RandomState>,
    /// Those that go on with `*`.
    any: Option<Box<TrieNode<M>>>,
    /// Filters that end here.
    here: MemberSet<M>,
    /// Filters that end in `>` after this.
    tail: MemberSet<M>,
}

impl<M: TrieMember> Default for TrieNode<M> {
    fn default() -> Self {
        let (here, tail) = (MemberSet::default(), MemberSet::default());
        Self { children: HashMap::default(), any: None, here, tail }
    }
}

/// A step from a node towards the end of a filter.
#[derive(Clone, Copy)]
enum TrieStep {
    Token(u32),
    Any,
}

impl<M: TrieMember> SubscriptionTrie<M> {
    /// Adds a member, in place of an earlier one with its key.
    pub fn add(&mut self, filter: &Filter, member: M) {
        self.version += 1;
        let (stem, has_tail) = stem_of(filter);
        let mut node = &mut self.root;
        for token in stem {
            let next = match token {
                "*" => node.any.get_or_insert_default(),
                token => {
                    let number = match self.tokens.get_mut(token) {
                        Some((number, uses)) => {
                            *uses += 1;
                            *number
                        }
                        None => {
                            // Numbers are used again only when there have been four billion tokens.
                            self.last_token = self.last_token.wrapping_add(1);
                            self.tokens.insert(token.into(), (self.last_token, 1));
                            self.last_token
                        }
                    };
                    node.children.entry(number).or_default()
                }
            };
            node = next;
        }
        if node.roll(has_tail).insert(member).is_some() {
            self.forget_tokens(filter);
        }
    }

    /// Takes a member of one filter away, if it is there. Routes that are remembered have it until
    /// the caller says that they have changed ([`SubscriptionTrie::touch`]): when thousands go, that is once.
    pub(crate) fn remove(&mut self, filter: &Filter, key: &M::Key) -> Option<M> {
        let (branches, has_tail) = self.branches(filter)?;
        let gone = self.root.remove(&branches, has_tail, key)?;
        self.forget_tokens(filter);
        Some(gone)
    }

    /// Changes a member of one filter, if it is there.
    pub fn change(&mut self, filter: &Filter, key: &M::Key, change: impl FnOnce(&mut M)) {
        self.version += 1;
        let Some((branches, has_tail)) = self.branches(filter) else { return };
        let mut node = Some(&mut self.root);
        for branch in branches {
            node = node.and_then(|node| node.child(branch));
        }
        if let Some(member) = node.and_then(|node| node.roll(has_tail).find(key)) {
            change(member);
        }
    }

    /// Takes members of all filters away.
    pub fn remove_all(&mut self, gone: impl Fn(&M) -> bool) {
        self.version += 1;
        let mut path = Vec::new();
        let mut counts = HashMap::<u32, usize, RandomState>::default();
        self.root.remove_all(&gone, &mut path, &mut counts);
        self.tokens.retain(|_, (number, uses)| {
            *uses -= counts.get(number).copied().unwrap_or(0);
            *uses > 0
        });
    }

    /// Says that members may count or not count that did otherwise before.
    pub(crate) fn touch(&mut self) {
        self.version += 1;
    }

    /// Changes whenever a route may have changed.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// All members that match, each once for each of its filters that do, in order.
    pub fn find(&self, subject: Subject<'_>) -> Vec<M> {
        self.find_counted(subject).0
    }

    /// The same, and how many nodes and members were looked at.
    pub(crate) fn find_counted(&self, subject: Subject<'_>) -> (Vec<M>, usize) {
        let mut found = Vec::new();
        // All nodes that so much of the subject leads to.
        let (mut nodes, mut next, mut looked_at) = (vec![&self.root], Vec::new(), 0);
        for token in subject.as_str().split('.') {
            looked_at += nodes.len();
            let number = self.tokens.get(token).map(|(number, _)| *number);
            for node in nodes.drain(..) {
                found.extend(node.tail.iter().cloned());
                next.extend(number.and_then(|number| node.children.get(&number)));
                next.extend(node.any.as_deref());
            }
            std::mem::swap(&mut nodes, &mut next);
            if nodes.is_empty() {
                break;
            }
        }
        nodes.iter().for_each(|node| found.extend(node.here.iter().cloned()));
        looked_at += found.len();
        found.sort_unstable();
        (found, looked_at)
    }

    /// The way to the end of a filter, if there is one.
    fn branches(&self, filter: &Filter) -> Option<(Vec<TrieStep>, bool)> {
        let (stem, has_tail) = stem_of(filter);
        let branch = |token: &str| match token {
            "*" => Some(TrieStep::Any),
            token => self.tokens.get(token).map(|(number, _)| TrieStep::Token(*number)),
        };
        Some((stem.map(branch).collect::<Option<_>>()?, has_tail))
    }

    /// Counts the tokens of a filter once less.
    fn forget_tokens(&mut self, filter: &Filter) {
        for token in stem_of(filter).0.filter(|token| *token != "*") {
            let uses = self.tokens.get_mut(token).map(|(_, uses)| {
                *uses -= 1;
                *uses
            });
            if uses == Some(0) {
                self.tokens.remove(token);
            }
        }
    }
}

impl<M: TrieMember> TrieNode<M> {
    fn roll(&mut self, has_tail: bool) -> &mut MemberSet<M> {
        if has_tail { &mut self.tail } else { &mut self.here }
    }

    fn child(&mut self, branch: TrieStep) -> Option<&mut Self> {
        match branch {
            TrieStep::Any => self.any.as_deref_mut(),
            TrieStep::Token(number) => self.children.get_mut(&number),
        }
    }

    /// Removes a member, and nodes that nothing is left in.
    fn remove(&mut self, branches: &[TrieStep], has_tail: bool, key: &M::Key) -> Option<M> {
        let Some((&branch, rest)) = branches.split_first() else {
            return self.roll(has_tail).remove(key);
        };
        let child = self.child(branch)?;
        let gone = child.remove(rest, has_tail, key);
        if child.is_empty() {
            match branch {
                TrieStep::Any => self.any = None,
                TrieStep::Token(number) => drop(self.children.remove(&number)),
            }
        }
        gone
    }

    /// Removes members, and counts for each token of the way here how many they were.
    fn remove_all(
        &mut self,
        gone: &impl Fn(&M) -> bool,
        path: &mut Vec<u32>,
        counts: &mut HashMap<u32, usize, RandomState>,
    ) {
        let removed =
            self.here.retain(|member| !gone(member)) + self.tail.retain(|member| !gone(member));
        for token in path.iter().filter(|_| removed > 0) {
            *counts.entry(*token).or_default() += removed;
        }
        self.children.retain(|token, child| {
            path.push(*token);
            child.remove_all(gone, path, counts);
            path.pop();
            !child.is_empty()
        });
        if let Some(child) = &mut self.any {
            child.remove_all(gone, path, counts);
            if child.is_empty() {
                self.any = None;
            }
        }
    }

    fn is_empty(&self) -> bool {
        let has_child = self.any.is_some() || !self.children.is_empty();
        !has_child && self.here.is_empty() && self.tail.is_empty()
    }
}

/// The tokens of a filter without `>` at its end, and whether that is there.
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
            overflow: Overflow::Block,
            origin: false,
            group: None,
        }
    }

    fn filter(text: &str) -> Filter {
        Filter::parse(text.as_bytes()).unwrap()
    }

    fn found(interests: &SubscriptionTrie<LocalSubscriber>, subject: &str) -> Vec<u32> {
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
        /// Any subscriptions, some taken away again, and any subject match as one by one.
        #[test]
        fn matches_as_a_naive_oracle_says(
            filters in proptest::collection::vec((any_filter(), any::<bool>()), 0..30),
            subjects in proptest::collection::vec(any_subject(), 1..10),
        ) {
            let mut interests = SubscriptionTrie::default();
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

    #[test]
    fn an_empty_table_keeps_no_nodes() {
        let mut interests = SubscriptionTrie::default();
        for text in ["a.b.c", "a.*.>", ">", "a"] {
            interests.add(&filter(text), member(1));
        }
        for text in ["a.b.c", "a.*.>", ">", "a", "never.added"] {
            interests.remove(&filter(text), &member(1).key());
        }
        assert!(interests.root.is_empty() && interests.tokens.is_empty());
        interests.add(&filter("a.*.b"), member(1));
        interests.remove_all(|_| true);
        assert!(interests.root.is_empty() && interests.tokens.is_empty());
    }

    #[test]
    fn a_subject_is_looked_up_token_by_token_however_many_branches_match() {
        let mut interests = SubscriptionTrie::default();
        for number in 0..1_u32 << 8 {
            let token = |bit: u32| if number >> bit & 1 == 0 { "a" } else { "*" };
            let text = (0..8).map(token).collect::<Vec<_>>().join(".");
            interests.add(&filter(&text), member(number));
        }
        let subject = Subject::parse(b"a.a.a.a.a.a.a.a").unwrap();
        let (found, looked_at) = interests.find_counted(subject);
        assert_eq!((found.len(), looked_at), (256, 255 + 256));
        let subject = Subject::parse(b"b.b.b.b.b.b.b.b").unwrap();
        assert_eq!(interests.find_counted(subject).1, 8 + 1);
    }
}
