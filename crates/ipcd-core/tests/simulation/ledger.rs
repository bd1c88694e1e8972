//! What was accepted, and what each subscription has got of it: here the promises of publishing
//! are checked.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Instant;

use ipcd_proto::control::{Overflow, Reason};

use crate::client::Client;
use crate::frames::{Id, SECRET, SUBJECTS, Wish, matches};
use crate::outcomes::{Outcomes, Sent, To};

/// A message that a router has accepted.
pub(crate) struct Accepted {
    pub(crate) number: u64,
    /// In which step.
    pub(crate) at: u64,
}

pub(crate) struct Sub {
    pub(crate) client: usize,
    pub(crate) wish: Wish,
    no_echo: bool,
    matches: [bool; SUBJECTS.len()],
    /// When its subscriber had the acknowledgement in hand.
    pub(crate) acked: Option<u64>,
    /// Whether the router has taken the SUBSCRIBE.
    pub(crate) is_taken: bool,
    /// Whether it has taken an UNSUBSCRIBE.
    pub(crate) is_ending: bool,
    /// How far it is in what each publisher has sent to each subject.
    next: HashMap<(usize, usize), usize>,
    pub(crate) delivered: u64,
    /// What it was told of that was dropped.
    pub(crate) reported: BTreeMap<Reason, u64>,
}

/// What a filter's members share.
pub(crate) type Group = (&'static str, &'static str);

/// What is known when messages are to be accounted for.
pub(crate) struct Facts {
    pub(crate) now: Instant,
    /// Peers that are there, and do not go.
    pub(crate) generations: Vec<bool>,
    /// Peers whose workers were not killed.
    pub(crate) survived: Vec<bool>,
}

#[derive(Default)]
pub(crate) struct Ledger {
    /// By publisher and subject, in order.
    pub(crate) accepted: BTreeMap<(usize, usize), Vec<Accepted>>,
    pub(crate) subs: Vec<Sub>,
    /// Messages that the members of a group have got.
    pub(crate) shared: HashMap<Group, HashSet<Id>>,
    /// Messages that a worker has passed on for want of members.
    pub(crate) handed_over: HashSet<Id>,
    pub(crate) outcomes: Outcomes,
    /// Each peer's id.
    pub(crate) ids: HashMap<usize, u64>,
    /// When peers began to go.
    pub(crate) left: HashMap<usize, u64>,
    /// Whether a worker was killed of which not everybody may have heard.
    pub(crate) is_killed: bool,
    /// When everybody had heard of the life that serves a peer.
    pub(crate) known: HashMap<usize, u64>,
    /// Lives that were killed.
    pub(crate) killed: HashSet<(usize, u32)>,
    /// When the daemon let peers go, who would have stayed.
    pub(crate) cut_off: HashMap<usize, u64>,
    /// What was in the outboxes of members of groups that have gone.
    pub(crate) left_behind: HashMap<Group, HashSet<Id>>,
    /// What workers that have left had counted.
    pub(crate) ended: HashMap<String, u64>,
    /// When everybody had heard of the last worker that was killed.
    pub(crate) last_kill: Option<u64>,
    pub(crate) deliveries: u64,
}

impl Ledger {
    pub(crate) fn subscribe(&mut self, client: &Client, wish: Wish) -> usize {
        let mut matches = matches(wish.filter);
        matches[SECRET] &= !client.is_restricted;
        self.subs.push(Sub {
            client: client.index,
            wish,
            no_echo: client.no_echo,
            matches,
            acked: None,
            is_taken: false,
            is_ending: false,
            next: HashMap::new(),
            delivered: 0,
            reported: BTreeMap::new(),
        });
        self.subs.len() - 1
    }

    pub(crate) fn accept(&mut self, publisher: usize, sent: Sent, at: u64, now: Instant) {
        if let To::Subject(subject) = sent.to {
            let list = self.accepted.entry((publisher, subject)).or_default();
            list.push(Accepted { number: sent.number, at });
        }
        self.outcomes.accept((publisher, sent.number), sent, at, now);
    }

    /// A subscriber got a message: it matches, was accepted, is neither old nor known, and nothing
    /// that was due before it is missing.
    pub(crate) fn deliver(&mut self, sub: usize, id: Id, subject: usize) {
        let Self { accepted, subs, shared, .. } = self;
        let (publisher, number) = id;
        let sub = &mut subs[sub];
        let what = || format!("message {number} of peer {publisher} to subject {subject}");
        assert!(sub.wants(publisher, subject), "{} does not match {:?}", what(), sub.wish);
        let list = accepted.get(&(publisher, subject)).map_or(&[][..], Vec::as_slice);
        let found = list.binary_search_by_key(&number, |message| message.number);
        let index = found.unwrap_or_else(|_| panic!("{} was never accepted", what()));
        let next = sub.next.entry((publisher, subject)).or_default();
        // What was passed on may come before or behind what was sent here at once.
        let skipped = if sub.wish.group.is_some() && self.handed_over.contains(&id) {
            &[]
        } else {
            assert!(index >= *next, "{} came twice or too late for {:?}", what(), sub.wish);
            &list[std::mem::replace(next, index + 1)..index]
        };
        sub.delivered += 1;
        self.deliveries += 1;
        if let Some(group) = sub.group() {
            let is_new = shared.entry(group).or_default().insert(id);
            assert!(is_new, "{} came to two of group {group:?}", what());
        } else if sub.loses_nothing()
            && let Some(missing) = skipped.iter().find(|message| sub.is_due(message))
        {
            panic!("message {} is missing before {}", missing.number, what());
        }
    }

    pub(crate) fn gap(&mut self, sub: usize, reason: Reason, dropped: u64) {
        let expected = match self.subs[sub].wish.overflow {
            Overflow::DropOldest => Some(Reason::Oldest),
            Overflow::DropNewest => Some(Reason::Newest),
            Overflow::Block | Overflow::Disconnect => None,
        };
        assert_eq!(Some(reason), expected, "a gap of {dropped} in subscription {sub}");
        *self.subs[sub].reported.entry(reason).or_default() += dropped;
    }

    /// When all is said: a subscription that lives has got, or was told of, all that was due of
    /// publishers whose workers have not been killed.
    pub(crate) fn settle(&self, facts: &Facts) {
        let own = |sub: &Sub| sub.group().is_none() && sub.stays(facts);
        for (index, sub) in self.subs.iter().enumerate().filter(|(_, sub)| own(sub)) {
            let matching =
                self.accepted.iter().filter(|((from, subject), _)| sub.wants(*from, *subject));
            let (mut due, mut most) = (0, 0);
            for (way @ (publisher, _), list) in matching {
                let next = sub.next.get(way).copied().unwrap_or(0);
                let is_whole = facts.survived[*publisher];
                most += list.len() as u64;
                due += list.iter().filter(|one| sub.is_due(one) && is_whole).count() as u64;
                if sub.loses_nothing() && is_whole {
                    let missing = list[next..].iter().find(|one| sub.is_due(one));
                    let missing = missing.map(|one| one.number);
                    assert_eq!(missing, None, "of {way:?} for subscription {index}");
                }
            }
            let known = sub.delivered + sub.reported();
            let range = due..=most;
            assert!(range.contains(&known), "subscription {index}: {known} of {range:?}");
        }
        self.settle_groups(facts);
    }

    /// A group that has a member which stays has got all that was accepted since, but for what its
    /// members have dropped or left behind; and for what was accepted before one of them that may
    /// drop messages left, or the daemon let one go, or a worker died.
    fn settle_groups(&self, facts: &Facts) {
        let mut groups = BTreeMap::<Group, Vec<&Sub>>::new();
        for sub in &self.subs {
            if let Some(group) = sub.group() {
                groups.entry(group).or_default().push(sub);
            }
        }
        for (group, members) in groups {
            let may_drop = |sub: &&&Sub| sub.wish.overflow != Overflow::Block;
            let left = members.iter().filter(may_drop);
            let left = left.filter_map(|sub| self.left.get(&sub.client)).max();
            let let_go = members.iter().filter_map(|sub| self.cut_off.get(&sub.client)).max();
            let excused = left.max(let_go).max(self.last_kill.as_ref()).copied().unwrap_or(0);
            let left_behind = self.left_behind.get(&group);
            let staying: Vec<_> = members.iter().filter(|sub| sub.stays(facts)).collect();
            let got = self.shared.get(&group);
            let mut missing = Vec::new();
            for ((publisher, subject), list) in &self.accepted {
                missing.extend(list.iter().filter_map(|one| {
                    let is_due = |sub: &&&Sub| sub.wants(*publisher, *subject) && sub.is_due(one);
                    let id = (*publisher, one.number);
                    let is_missing = one.at > excused
                        && got.is_none_or(|got| !got.contains(&id))
                        && left_behind.is_none_or(|left| !left.contains(&id))
                        && staying.iter().any(is_due);
                    is_missing.then_some(id)
                }));
            }
            let dropped: u64 = members.iter().map(|sub| sub.reported()).sum();
            let known = missing.len() as u64 <= dropped;
            assert!(known, "group {group:?} has dropped {dropped}, and lacks {missing:?}");
        }
    }
}

impl Sub {
    pub(crate) fn wants(&self, publisher: usize, subject: usize) -> bool {
        self.matches[subject] && !(self.no_echo && publisher == self.client)
    }

    pub(crate) fn group(&self) -> Option<Group> {
        Some((self.wish.filter, self.wish.group?))
    }

    /// Whether it lasts: its subscriber has the acknowledgement, and stays.
    pub(crate) fn stays(&self, facts: &Facts) -> bool {
        self.acked.is_some() && !self.is_ending && facts.generations[self.client]
    }

    /// Whether it was promised the message: it was acknowledged before that was accepted.
    pub(crate) fn is_due(&self, message: &Accepted) -> bool {
        self.is_due_at(message.at)
    }

    pub(crate) fn is_due_at(&self, at: u64) -> bool {
        self.acked.is_some_and(|acked| at > acked)
    }

    pub(crate) fn loses_nothing(&self) -> bool {
        matches!(self.wish.overflow, Overflow::Block | Overflow::Disconnect)
    }

    fn reported(&self) -> u64 {
        self.reported.values().sum()
    }
}
