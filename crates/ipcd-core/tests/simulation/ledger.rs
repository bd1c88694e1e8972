//! The accepted messages, and the messages that each subscription has received. It checks the
//! promises for publishing.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Instant;

use ipcd_proto::control::{DropReason, OverflowPolicy};

use crate::client::Client;
use crate::frames::{Id, SECRET, SUBJECTS, Wish, matches};
use crate::outcomes::{Outcomes, Sent, To};

/// A message that a router has accepted.
pub(crate) struct Accepted {
    pub(crate) number: u64,
    /// The step of acceptance.
    pub(crate) at: u64,
}

pub(crate) struct Sub {
    pub(crate) client: usize,
    pub(crate) wish: Wish,
    no_echo: bool,
    matches: [bool; SUBJECTS.len()],
    /// The step in which the subscriber received the acknowledgement.
    pub(crate) acked: Option<u64>,
    /// Whether the router has taken the SUBSCRIBE.
    pub(crate) is_taken: bool,
    /// Whether the router has taken an UNSUBSCRIBE.
    pub(crate) is_ending: bool,
    /// The progress in the messages of each publisher and subject.
    next: HashMap<(usize, usize), usize>,
    pub(crate) delivered: u64,
    /// The number of drops that the subscriber was told about.
    pub(crate) reported: BTreeMap<DropReason, u64>,
}

/// The members of a group, and what they have received together.
pub(crate) type Group = (&'static str, &'static str);

/// The state in which messages are accounted for.
pub(crate) struct Facts {
    pub(crate) now: Instant,
    /// Peers that are attached and stay.
    pub(crate) generations: Vec<bool>,
    /// Peers whose workers were not killed.
    pub(crate) survived: Vec<bool>,
}

#[derive(Default)]
pub(crate) struct Ledger {
    /// By publisher and subject, in order.
    pub(crate) accepted: BTreeMap<(usize, usize), Vec<Accepted>>,
    pub(crate) subs: Vec<Sub>,
    /// Messages that the members of a group have received.
    pub(crate) shared: HashMap<Group, HashSet<Id>>,
    /// Messages that a worker has passed on because it had no member left.
    pub(crate) handed_over: HashSet<Id>,
    pub(crate) outcomes: Outcomes,
    /// The id of each peer.
    pub(crate) ids: HashMap<usize, u64>,
    /// The steps in which peers began to leave.
    pub(crate) left: HashMap<usize, u64>,
    /// Whether a worker was killed and some workers may not know it yet.
    pub(crate) is_killed: bool,
    /// The step in which all workers knew the generation that serves a peer.
    pub(crate) known: HashMap<usize, u64>,
    /// Generations that were killed.
    pub(crate) killed: HashSet<(usize, u32)>,
    /// The steps in which the daemon disconnected peers that would have stayed.
    pub(crate) cut_off: HashMap<usize, u64>,
    /// The content of the send queues of former group members.
    pub(crate) left_behind: HashMap<Group, HashSet<Id>>,
    /// The counters of workers that have left.
    pub(crate) ended: HashMap<String, u64>,
    /// The step in which all workers knew of the last killed worker.
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

    /// Notes a received message, and checks that it matches, was accepted, is neither late nor a
    /// duplicate, and that no earlier one is missing.
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
        // A message that was passed on may overtake one that was sent here directly, or follow it.
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

    pub(crate) fn gap(&mut self, sub: usize, reason: DropReason, dropped: u64) {
        let expected = match self.subs[sub].wish.overflow {
            OverflowPolicy::DropOldest => Some(DropReason::Oldest),
            OverflowPolicy::DropNewest => Some(DropReason::Newest),
            OverflowPolicy::Block | OverflowPolicy::Disconnect => None,
        };
        assert_eq!(Some(reason), expected, "a gap of {dropped} in subscription {sub}");
        *self.subs[sub].reported.entry(reason).or_default() += dropped;
    }

    /// Checks at the end that each living subscription has received, or was told as dropped, all
    /// messages of publishers whose workers were not killed.
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

    /// Checks a group with a member that stays. It has received all messages since that member's
    /// acknowledgement, except those that members dropped or left in their queues, and those
    /// accepted before a member with drops left, a member was disconnected, or a worker died.
    fn settle_groups(&self, facts: &Facts) {
        let mut groups = BTreeMap::<Group, Vec<&Sub>>::new();
        for sub in &self.subs {
            if let Some(group) = sub.group() {
                groups.entry(group).or_default().push(sub);
            }
        }
        for (group, members) in groups {
            let may_drop = |sub: &&&Sub| sub.wish.overflow != OverflowPolicy::Block;
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

    /// Whether the subscription lasts: it is acknowledged, and the subscriber stays.
    pub(crate) fn stays(&self, facts: &Facts) -> bool {
        self.acked.is_some() && !self.is_ending && facts.generations[self.client]
    }

    /// Whether the message was promised: the subscription was acknowledged before the acceptance.
    pub(crate) fn is_due(&self, message: &Accepted) -> bool {
        self.is_due_at(message.at)
    }

    pub(crate) fn is_due_at(&self, at: u64) -> bool {
        self.acked.is_some_and(|acked| at > acked)
    }

    pub(crate) fn loses_nothing(&self) -> bool {
        matches!(self.wish.overflow, OverflowPolicy::Block | OverflowPolicy::Disconnect)
    }

    fn reported(&self) -> u64 {
        self.reported.values().sum()
    }
}
