//! Requests and tracked messages that have no outcome yet. No I/O; the time comes in as an argument.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap, HashMap};
use std::time::Instant;

use foldhash::fast::RandomState;

/// Deadlines of finished requests that are kept even if few others are. Above that they are removed.
const STALE: usize = 1024;

/// The kind of a pending frame.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum PendingKind {
    /// A request that waits for replies.
    Request,
    /// A request that has ended, while the caller has not taken the event yet.
    Ended,
    /// A message that waits for its receipt.
    Tracked,
}

/// Everything that is pending, by the ids of the frames.
#[derive(Default)]
pub(crate) struct PendingTable {
    open: HashMap<u64, PendingKind, RandomState>,
    /// The deadlines of requests. Some of these have finished.
    deadlines: BinaryHeap<Reverse<(Instant, u64)>>,
    /// The largest id of a frame that the daemon has answered.
    handled: u64,
    /// Later frames that were given up, and that the daemon can still refuse.
    given_up: BTreeSet<u64>,
    late_replies: u64,
}

impl PendingTable {
    pub(crate) fn track(&mut self, id: u64) {
        self.open.insert(id, PendingKind::Tracked);
    }

    pub(crate) fn request(&mut self, id: u64, deadline: Instant) {
        self.open.insert(id, PendingKind::Request);
        // A heap finds no entry but the first, so stale ones are removed all at once, and rarely.
        if self.deadlines.len() > 2 * self.open.len() + STALE {
            let open = &self.open;
            self.deadlines.retain(|Reverse((_, id))| open.get(id) == Some(&PendingKind::Request));
        }
        self.deadlines.push(Reverse((deadline, id)));
    }

    /// Whether the request waits for the reply that has come. Else the reply counts as late.
    pub(crate) fn takes_reply(&mut self, id: u64) -> bool {
        self.count_late(self.open.get(&id) == Some(&PendingKind::Request))
    }

    /// Whether the caller still wants a reply from the event queue. Else the reply counts as late.
    pub(crate) fn hand_over_reply(&mut self, id: u64) -> bool {
        self.count_late(self.knows(id))
    }

    /// Whether the caller still wants the event of the request's end. Forgets the request.
    pub(crate) fn hand_over_end(&mut self, id: u64) -> bool {
        self.open.remove(&id).is_some()
    }

    /// Whether the caller has not taken the end of this yet.
    pub(crate) fn knows(&self, id: u64) -> bool {
        self.open.contains_key(&id)
    }

    fn count_late(&mut self, is_in_time: bool) -> bool {
        self.late_replies += u64::from(!is_in_time);
        is_in_time
    }

    /// Ends what is pending under this id, and returns its kind.
    pub(crate) fn end(&mut self, id: u64) -> Option<PendingKind> {
        let open = self.open.get_mut(&id)?;
        let ended = *open;
        match ended {
            PendingKind::Request => *open = PendingKind::Ended,
            PendingKind::Tracked => drop(self.open.remove(&id)),
            PendingKind::Ended => return None,
        }
        Some(ended)
    }

    /// Whether the message waits for the receipt that has come. Forgets the message.
    pub(crate) fn takes_receipt(&mut self, id: u64) -> bool {
        let takes = self.open.get(&id) == Some(&PendingKind::Tracked);
        if takes {
            self.open.remove(&id);
        }
        takes
    }

    /// Forgets a request on behalf of the caller.
    pub(crate) fn finish(&mut self, id: u64) {
        if self.open.get(&id).is_some_and(|open| *open != PendingKind::Tracked) {
            self.open.remove(&id);
            self.give_up(id);
        }
        if self.open.is_empty() {
            self.deadlines.clear();
        }
    }

    /// Notes that no call waits for the answer to this frame any more.
    pub(crate) fn give_up(&mut self, id: u64) {
        if id > self.handled {
            self.given_up.insert(id);
        }
    }

    /// Notes an answer to this frame. The daemon handles frames in order, so it has handled all
    /// frames before, and will not refuse one of them any more.
    pub(crate) fn note(&mut self, id: u64) {
        self.handled = self.handled.max(id);
        while self.given_up.first().is_some_and(|first| *first < self.handled) {
            self.given_up.pop_first();
        }
    }

    pub(crate) fn is_given_up(&self, id: u64) -> bool {
        self.given_up.contains(&id)
    }

    /// The deadline of the first request, or an earlier one that is stale.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.peek().map(|Reverse((deadline, _))| *deadline)
    }

    /// Ends a request whose deadline has passed.
    pub(crate) fn expire(&mut self, now: Instant) -> Option<u64> {
        while let Some(&Reverse((deadline, id))) = self.deadlines.peek()
            && deadline <= now
        {
            self.deadlines.pop();
            if self.open.get(&id) == Some(&PendingKind::Request) {
                self.give_up(id);
                self.end(id);
                return Some(id);
            }
        }
        None
    }

    /// Ends everything together with the connection, in the order of the ids.
    pub(crate) fn end_all(&mut self) -> Vec<(u64, PendingKind)> {
        let mut ids: Vec<_> = self.open.iter().map(|(id, open)| (*id, *open)).collect();
        ids.retain(|(_, open)| *open != PendingKind::Ended);
        ids.sort_unstable_by_key(|(id, _)| *id);
        for (id, _) in &ids {
            self.end(*id);
        }
        self.deadlines.clear();
        self.given_up.clear();
        ids
    }

    pub(crate) fn late_replies(&self) -> u64 {
        self.late_replies
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn requests(count: u64, start: Instant) -> PendingTable {
        let mut pending = PendingTable::default();
        for id in 1..=count {
            pending.request(id, start + Duration::from_secs(id));
        }
        pending
    }

    fn expired(pending: &mut PendingTable, now: Instant) -> Vec<u64> {
        std::iter::from_fn(|| pending.expire(now)).collect()
    }

    #[test]
    fn requests_expire_in_the_order_of_their_deadlines_unless_finished() {
        let start = Instant::now();
        let mut pending = requests(4, start);
        pending.request(5, start + Duration::from_millis(1));
        pending.finish(2);
        assert_eq!(pending.next_deadline(), Some(start + Duration::from_millis(1)));
        assert_eq!(expired(&mut pending, start + Duration::from_secs(3)), [5, 1, 3]);
        assert_eq!(pending.next_deadline(), Some(start + Duration::from_secs(4)));
        assert!(!pending.takes_reply(1) && pending.takes_reply(4));
        assert!(pending.hand_over_end(1) && !pending.hand_over_end(1));
        assert_eq!(pending.late_replies(), 1);
        pending.finish(4);
        [3, 5].iter().for_each(|id| pending.finish(*id));
        assert_eq!(pending.next_deadline(), None);
    }

    #[test]
    fn deadlines_of_finished_requests_do_not_pile_up() {
        let deadline = Instant::now() + Duration::from_secs(3600);
        let mut pending = PendingTable::default();
        pending.request(0, deadline);
        for id in 1..10 * STALE as u64 {
            pending.request(id, deadline);
            pending.finish(id);
        }
        assert!(pending.deadlines.len() <= STALE + 4);
        assert_eq!(expired(&mut pending, deadline), [0]);
    }

    #[test]
    fn a_frame_that_was_given_up_is_remembered_until_the_daemon_has_handled_it() {
        let mut pending = requests(9, Instant::now());
        [3, 5, 7].iter().for_each(|id| pending.finish(*id));
        pending.note(5);
        assert!(pending.is_given_up(5) && pending.is_given_up(7));
        assert!(!pending.is_given_up(3));
        pending.finish(4);
        assert!(!pending.is_given_up(4));
        pending.note(8);
        pending.note(1);
        assert!(pending.given_up.is_empty());
    }

    #[test]
    fn everything_ends_once() {
        let start = Instant::now();
        let mut pending = requests(3, start);
        pending.track(4);
        pending.track(5);
        assert_eq!(pending.end(4), Some(PendingKind::Tracked));
        assert_eq!(pending.end(4), None);
        assert_eq!(pending.end(2), Some(PendingKind::Request));
        assert_eq!(pending.end(2), None);
        assert!(pending.takes_receipt(5) && !pending.takes_receipt(5));
        assert!(!pending.takes_receipt(1));
        pending.track(6);
        let ended = pending.end_all();
        assert_eq!(
            ended,
            [(1, PendingKind::Request), (3, PendingKind::Request), (6, PendingKind::Tracked)]
        );
        assert!(pending.end_all().is_empty());
        assert!(expired(&mut pending, start + Duration::from_secs(9)).is_empty());
        assert!([1, 2, 3].iter().all(|id| pending.hand_over_end(*id)));
    }
}
