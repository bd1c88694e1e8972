//! Interest tables: whom a subject concerns. Members are subscriptions of this router's peers, or
//! other workers that have such subscriptions.

use std::collections::HashMap;
use std::rc::Rc;

use foldhash::fast::RandomState;
use ipcd_proto::control::Overflow;
use ipcd_proto::{Filter, Subject};

use crate::peer::PeerKey;

/// One subscription, as its own router knows it.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Member {
    /// Whose it is.
    pub peer: PeerKey,
    /// The peer's number for it.
    pub subscription: u32,
    /// What happens when the peer's outbox is full.
    pub overflow: Overflow,
    /// Whether the peer wants to know who senders are.
    pub origin: bool,
    /// The group that it shares its messages with.
    pub group: Option<Rc<Group>>,
}

/// An interest of another worker, for all its subscriptions of one filter and group.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Remote {
    /// The worker's place.
    pub slot: u32,
    /// Whether nothing more may be sent for now, because a member's outbox is full; of a group,
    /// because all members' are.
    pub off: bool,
    /// The part that it has in a group.
    pub share: Option<Share>,
}

/// A worker's part in a group.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Share {
    /// The group.
    pub group: Rc<Group>,
    /// The worker's own number for it.
    pub number: u32,
    /// Members there.
    pub members: u32,
}

/// Subscribers of one filter that share the work.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Group {
    /// The filter.
    pub filter: Filter,
    /// The group's name.
    pub name: String,
}

/// All members, in a tree of tokens.
#[derive(Clone, Debug)]
pub struct Interests<M> {
    root: Node<M>,
    generation: u64,
}

impl<M> Default for Interests<M> {
    fn default() -> Self {
        Self { root: Node::default(), generation: 0 }
    }
}

/// The filters that share a beginning. `*` is a child like any token, for no subject has it.
#[derive(Clone, Debug)]
struct Node<M> {
    children: HashMap<Box<str>, Node<M>, RandomState>,
    /// Filters that end here.
    here: Vec<M>,
    /// Filters that end in `>` after this.
    tail: Vec<M>,
}

impl<M> Default for Node<M> {
    fn default() -> Self {
        Self { children: HashMap::default(), here: Vec::new(), tail: Vec::new() }
    }
}

impl<M: Clone + Ord> Interests<M> {
    /// Adds a member.
    pub fn add(&mut self, filter: &Filter, member: M) {
        self.generation += 1;
        self.root.list(filter.as_str()).push(member);
    }

    /// Takes members of one filter away.
    pub fn remove(&mut self, filter: &Filter, gone: impl Fn(&M) -> bool) {
        self.generation += 1;
        self.root.remove(filter.as_str(), &gone);
    }

    /// Changes members of one filter.
    pub fn change(&mut self, filter: &Filter, change: impl FnMut(&mut M)) {
        self.generation += 1;
        if let Some(list) = self.root.find_list(filter.as_str()) {
            list.iter_mut().for_each(change);
        }
    }

    /// Takes members of all filters away.
    pub fn remove_all(&mut self, gone: impl Fn(&M) -> bool) {
        self.generation += 1;
        self.root.remove_all(&gone);
    }

    /// Says that members may count or not count that did otherwise before.
    pub(crate) fn touch(&mut self) {
        self.generation += 1;
    }

    /// Changes whenever a route may have changed.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// All members that match, each once for each of its filters that do, in order.
    pub fn find(&self, subject: Subject<'_>) -> Vec<M> {
        let mut found = Vec::new();
        self.root.find(subject.as_str(), &mut found);
        found.sort_unstable();
        found
    }
}

impl<M: Clone> Node<M> {
    fn list(&mut self, filter: &str) -> &mut Vec<M> {
        let (token, rest) = split(filter);
        match (token, rest) {
            (">", _) => &mut self.tail,
            (token, None) => &mut self.children.entry(token.into()).or_default().here,
            (token, Some(rest)) => self.children.entry(token.into()).or_default().list(rest),
        }
    }

    fn find_list(&mut self, filter: &str) -> Option<&mut Vec<M>> {
        let (token, rest) = split(filter);
        match (token, rest) {
            (">", _) => Some(&mut self.tail),
            (token, None) => Some(&mut self.children.get_mut(token)?.here),
            (token, Some(rest)) => self.children.get_mut(token)?.find_list(rest),
        }
    }

    /// Removes what is gone, and nodes that nothing is left in.
    fn remove(&mut self, filter: &str, gone: &impl Fn(&M) -> bool) {
        let (token, rest) = split(filter);
        if token == ">" {
            return self.tail.retain(|member| !gone(member));
        }
        let Some(child) = self.children.get_mut(token) else {
            return;
        };
        match rest {
            None => child.here.retain(|member| !gone(member)),
            Some(rest) => child.remove(rest, gone),
        }
        if child.is_empty() {
            self.children.remove(token);
        }
    }

    fn remove_all(&mut self, gone: &impl Fn(&M) -> bool) {
        self.here.retain(|member| !gone(member));
        self.tail.retain(|member| !gone(member));
        self.children.retain(|_, child| {
            child.remove_all(gone);
            !child.is_empty()
        });
    }

    fn is_empty(&self) -> bool {
        self.children.is_empty() && self.here.is_empty() && self.tail.is_empty()
    }

    fn find(&self, subject: &str, found: &mut Vec<M>) {
        found.extend_from_slice(&self.tail);
        let (token, rest) = split(subject);
        for child in [token, "*"].into_iter().filter_map(|token| self.children.get(token)) {
            match rest {
                None => found.extend_from_slice(&child.here),
                Some(rest) => child.find(rest, found),
            }
        }
    }
}

fn split(tokens: &str) -> (&str, Option<&str>) {
    match tokens.split_once('.') {
        Some((token, rest)) => (token, Some(rest)),
        None => (tokens, None),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn member(subscription: u32) -> Member {
        let peer = PeerKey::default();
        Member { peer, subscription, overflow: Overflow::Block, origin: false, group: None }
    }

    fn filter(text: &str) -> Filter {
        Filter::parse(text.as_bytes()).unwrap()
    }

    fn found(interests: &Interests<Member>, subject: &str) -> Vec<u32> {
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
            let mut interests = Interests::default();
            for (number, (text, _)) in filters.iter().enumerate() {
                interests.add(&filter(text), member(number as u32));
            }
            for (number, (text, stays)) in filters.iter().enumerate() {
                if !stays {
                    interests.remove(&filter(text), |member| member.subscription == number as u32);
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
        let mut interests = Interests::default();
        for text in ["a.b.c", "a.*.>", ">", "a"] {
            interests.add(&filter(text), member(1));
        }
        for text in ["a.b.c", "a.*.>", ">", "a", "never.added"] {
            interests.remove(&filter(text), |_| true);
        }
        assert!(interests.root.children.is_empty());
        assert!(interests.root.tail.is_empty());
    }
}
