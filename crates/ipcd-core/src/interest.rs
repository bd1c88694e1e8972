//! The interest table: which subscriptions a subject matches.

use std::collections::HashMap;
use std::rc::Rc;

use foldhash::fast::RandomState;
use ipcd_proto::control::Overflow;
use ipcd_proto::{BadSubject, Filter, Subject};

use crate::peer::PeerKey;

/// One subscription, as the table knows it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Member {
    /// Whose it is.
    pub peer: PeerKey,
    /// The peer's number for it.
    pub subscription: u32,
    /// What happens when the peer's outbox is full.
    pub overflow: Overflow,
    /// Whether the peer wants to know who senders are.
    pub origin: bool,
}

/// Subjects whose routes are remembered. A client that makes up subjects cannot take more memory.
const MAX_ROUTES: usize = 16 * 1024;

/// All subscriptions, in a tree of tokens; and the routes found lately.
#[derive(Debug, Default)]
pub struct Interests {
    root: Node,
    routes: HashMap<Box<[u8]>, Route, RandomState>,
    generation: u64,
}

#[derive(Debug)]
struct Route {
    generation: u64,
    members: Rc<[Member]>,
}

/// The filters that share a beginning. `*` is a child like any token, for no subject has it.
#[derive(Debug, Default)]
struct Node {
    children: HashMap<Box<str>, Node, RandomState>,
    /// Filters that end here.
    here: Vec<Member>,
    /// Filters that end in `>` after this.
    tail: Vec<Member>,
}

impl Interests {
    /// Adds a subscription.
    pub fn add(&mut self, filter: &Filter, member: Member) {
        self.generation += 1;
        self.root.list(filter.as_str()).push(member);
    }

    /// Takes a peer's subscription away.
    pub fn remove(&mut self, filter: &Filter, peer: PeerKey, subscription: u32) {
        self.generation += 1;
        let gone = |member: &Member| (member.peer, member.subscription) == (peer, subscription);
        self.root.remove(filter.as_str(), &gone);
    }

    /// All subscriptions that match, each once.
    ///
    /// # Errors
    /// If the bytes are no subject.
    pub fn route(&mut self, subject: &[u8]) -> Result<Rc<[Member]>, BadSubject> {
        if let Some(route) = self.routes.get(subject)
            && route.generation == self.generation
        {
            return Ok(Rc::clone(&route.members));
        }
        let members: Rc<[Member]> = self.find(Subject::parse(subject)?).into();
        if self.routes.len() >= MAX_ROUTES {
            self.routes.clear();
        }
        let route = Route { generation: self.generation, members: Rc::clone(&members) };
        self.routes.insert(subject.into(), route);
        Ok(members)
    }

    /// Changes whenever a route may have changed.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    fn find(&self, subject: Subject<'_>) -> Vec<Member> {
        let mut found = Vec::new();
        self.root.find(subject.as_str(), &mut found);
        found
    }
}

impl Node {
    fn list(&mut self, filter: &str) -> &mut Vec<Member> {
        let (token, rest) = split(filter);
        match (token, rest) {
            (">", _) => &mut self.tail,
            (token, None) => &mut self.children.entry(token.into()).or_default().here,
            (token, Some(rest)) => self.children.entry(token.into()).or_default().list(rest),
        }
    }

    /// Removes what is gone, and nodes that nothing is left in.
    fn remove(&mut self, filter: &str, gone: &impl Fn(&Member) -> bool) {
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
        if child.children.is_empty() && child.here.is_empty() && child.tail.is_empty() {
            self.children.remove(token);
        }
    }

    fn find(&self, subject: &str, found: &mut Vec<Member>) {
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
        Member { peer, subscription, overflow: Overflow::Block, origin: false }
    }

    fn filter(text: &str) -> Filter {
        Filter::parse(text.as_bytes()).unwrap()
    }

    fn found(interests: &mut Interests, subject: &str) -> Vec<u32> {
        let route = interests.route(subject.as_bytes()).unwrap();
        let mut found: Vec<_> = route.iter().map(|member| member.subscription).collect();
        found.sort_unstable();
        found
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
            for subject in &subjects {
                found(&mut interests, subject);
            }
            for (number, (text, stays)) in filters.iter().enumerate() {
                if !stays {
                    interests.remove(&filter(text), PeerKey::default(), number as u32);
                }
            }
            for subject in &subjects {
                let parsed = Subject::parse(subject.as_bytes()).unwrap();
                let expected: Vec<u32> = (0..)
                    .zip(&filters)
                    .filter(|(_, (text, stays))| *stays && filter(text).matches(parsed))
                    .map(|(number, _)| number)
                    .collect();
                prop_assert_eq!(found(&mut interests, subject), expected);
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
            interests.remove(&filter(text), PeerKey::default(), 1);
        }
        assert!(interests.root.children.is_empty());
        assert!(interests.root.tail.is_empty());
    }

    #[test]
    fn remembers_a_bounded_number_of_routes() {
        let mut interests = Interests::default();
        for number in 0..2 * MAX_ROUTES {
            interests.route(format!("made.up.{number}").as_bytes()).unwrap();
            assert!(interests.routes.len() <= MAX_ROUTES);
        }
    }
}
