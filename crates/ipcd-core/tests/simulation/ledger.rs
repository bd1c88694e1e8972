//! What was accepted, and what each subscription has got of it: here the promises are checked.

use std::collections::HashMap;

use ipcd_proto::control::Overflow;

use crate::frames::matches;

/// A message that a router has accepted.
struct Accepted {
    number: u64,
    /// In which step.
    at: u64,
}

pub(crate) struct Sub {
    pub(crate) client: usize,
    pub(crate) filter: &'static str,
    pub(crate) overflow: Overflow,
    pub(crate) origin: bool,
    no_echo: bool,
    /// When its subscriber had the acknowledgement in hand.
    pub(crate) acked: Option<u64>,
    /// Whether the router has taken the SUBSCRIBE.
    pub(crate) is_taken: bool,
    /// Whether it has taken an UNSUBSCRIBE.
    pub(crate) is_ending: bool,
    /// How far it is in what each publisher has sent to each subject.
    next: HashMap<(usize, usize), usize>,
    delivered: u64,
    reported: u64,
}

#[derive(Default)]
pub(crate) struct Ledger {
    /// By publisher and subject, in order.
    accepted: HashMap<(usize, usize), Vec<Accepted>>,
    pub(crate) subs: Vec<Sub>,
    /// Each peer's id.
    pub(crate) ids: HashMap<usize, u64>,
    pub(crate) deliveries: u64,
}

impl Ledger {
    pub(crate) fn subscribe(
        &mut self,
        client: usize,
        no_echo: bool,
        filter: &'static str,
        overflow: Overflow,
        origin: bool,
    ) -> usize {
        self.subs.push(Sub {
            client,
            filter,
            overflow,
            origin,
            no_echo,
            acked: None,
            is_taken: false,
            is_ending: false,
            next: HashMap::new(),
            delivered: 0,
            reported: 0,
        });
        self.subs.len() - 1
    }

    pub(crate) fn accept(&mut self, publisher: usize, subject: usize, number: u64, at: u64) {
        let list = self.accepted.entry((publisher, subject)).or_default();
        list.push(Accepted { number, at });
    }

    /// A subscriber got a message: it matches, was accepted, is neither old nor known, and nothing
    /// that was due before it is missing.
    pub(crate) fn deliver(&mut self, sub: usize, publisher: usize, subject: usize, number: u64) {
        let Self { accepted, subs, deliveries, .. } = self;
        let sub = &mut subs[sub];
        let what = || format!("message {number} of peer {publisher} to subject {subject}");
        assert!(sub.wants(publisher, subject), "{} does not match {}", what(), sub.filter);
        let list = accepted.get(&(publisher, subject)).map_or(&[][..], Vec::as_slice);
        let found = list.binary_search_by_key(&number, |message| message.number);
        let index = found.unwrap_or_else(|_| panic!("{} was never accepted", what()));
        let next = sub.next.entry((publisher, subject)).or_default();
        assert!(index >= *next, "{} came twice or too late", what());
        let skipped = &list[*next..index];
        *next = index + 1;
        sub.delivered += 1;
        *deliveries += 1;
        if sub.overflow == Overflow::Block
            && let Some(missing) = skipped.iter().find(|message| sub.is_due(message))
        {
            panic!("message {} is missing before {}", missing.number, what());
        }
    }

    pub(crate) fn gap(&mut self, sub: usize, dropped: u64) {
        assert!(self.subs[sub].overflow != Overflow::Block, "a gap where nothing may be dropped");
        self.subs[sub].reported += dropped;
    }

    /// When all is said: a subscription that lives has got, or was told of, all that was due of
    /// publishers whose workers have not been killed.
    pub(crate) fn settle(&self, lives: impl Fn(usize) -> bool, survived: impl Fn(usize) -> bool) {
        for (index, sub) in self.subs.iter().enumerate() {
            if sub.is_ending || sub.acked.is_none() || !lives(sub.client) {
                continue;
            }
            let matching =
                self.accepted.iter().filter(|((from, subject), _)| sub.wants(*from, *subject));
            let (mut due, mut most) = (0, 0);
            for (way @ (publisher, _), list) in matching {
                let next = sub.next.get(way).copied().unwrap_or(0);
                let is_whole = survived(*publisher);
                most += list.len() as u64;
                due += list.iter().filter(|one| sub.is_due(one) && is_whole).count() as u64;
                if sub.overflow == Overflow::Block && is_whole {
                    let missing = list[next..].iter().find(|one| sub.is_due(one));
                    let missing = missing.map(|one| one.number);
                    assert_eq!(missing, None, "of {way:?} for subscription {index}");
                }
            }
            let known = sub.delivered + sub.reported;
            let range = due..=most;
            assert!(range.contains(&known), "subscription {index}: {known} of {range:?}");
        }
    }
}

impl Sub {
    pub(crate) fn wants(&self, publisher: usize, subject: usize) -> bool {
        matches(self.filter, subject) && !(self.no_echo && publisher == self.client)
    }

    /// Whether it was promised the message: it was acknowledged before that was accepted.
    fn is_due(&self, message: &Accepted) -> bool {
        self.acked.is_some_and(|acked| message.at > acked)
    }
}
