//! Requests and tracked messages of which the end is not known yet. No I/O; the time comes in as an
//! argument.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap, HashMap};
use std::time::Instant;

use foldhash::fast::RandomState;

/// Deadlines of requests that are over, kept although there are not many others.
const STALE: usize = 1024;

/// What is outstanding.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Open {
    /// A request whose replies are awaited.
    Request,
    /// A request that has ended, which the caller has not been told yet.
    Ended,
    /// A message whose receipt is awaited.
    Tracked,
}

/// Everything that is outstanding, by the numbers of the frames.
#[derive(Default)]
pub(crate) struct Outstanding {
    open: HashMap<u64, Open, RandomState>,
    /// When requests are too late, also some that are over.
    deadlines: BinaryHeap<Reverse<(Instant, u64)>>,
    /// The largest number of a frame about which anything came.
    handled: u64,
    /// Frames above it that nobody waits for any more, and that can still be refused.
    given_up: BTreeSet<u64>,
    late_replies: u64,
}

impl Outstanding {
    pub(crate) fn track(&mut self, id: u64) {
        self.open.insert(id, Open::Tracked);
    }

    pub(crate) fn request(&mut self, id: u64, deadline: Instant) {
        self.open.insert(id, Open::Request);
        // Looking for a deadline to remove would cost more than all of them cost here.
        if self.deadlines.len() > 2 * self.open.len() + STALE {
            let open = &self.open;
            self.deadlines.retain(|Reverse((_, id))| open.get(id) == Some(&Open::Request));
        }
        self.deadlines.push(Reverse((deadline, id)));
    }

    /// Whether the request waits for a reply that has come; if it does not, the reply is late.
    pub(crate) fn takes_reply(&mut self, id: u64) -> bool {
        self.count_late(self.open.get(&id) == Some(&Open::Request))
    }

    /// Whether the caller still wants a reply that has waited; if it does not, the reply is late.
    pub(crate) fn hand_over_reply(&mut self, id: u64) -> bool {
        self.count_late(self.knows(id))
    }

    /// Whether the caller still wants to hear of the request's end. Then that is done with.
    pub(crate) fn hand_over_end(&mut self, id: u64) -> bool {
        self.open.remove(&id).is_some()
    }

    /// Whether the caller has not heard that this is over.
    pub(crate) fn knows(&self, id: u64) -> bool {
        self.open.contains_key(&id)
    }

    fn count_late(&mut self, is_in_time: bool) -> bool {
        self.late_replies += u64::from(!is_in_time);
        is_in_time
    }

    /// Ends what is outstanding under this number, and says what that was.
    pub(crate) fn end(&mut self, id: u64) -> Option<Open> {
        let open = self.open.get_mut(&id)?;
        let ended = *open;
        match ended {
            Open::Request => *open = Open::Ended,
            Open::Tracked => drop(self.open.remove(&id)),
            Open::Ended => return None,
        }
        Some(ended)
    }

    /// Whether the message waits for a receipt that has come. Then that is done with.
    pub(crate) fn takes_receipt(&mut self, id: u64) -> bool {
        let takes = self.open.get(&id) == Some(&Open::Tracked);
        if takes {
            self.open.remove(&id);
        }
        takes
    }

    /// The caller does not want to hear of the request any more.
    pub(crate) fn finish(&mut self, id: u64) {
        if self.open.get(&id).is_some_and(|open| *open != Open::Tracked) {
            self.open.remove(&id);
            self.give_up(id);
        }
        if self.open.is_empty() {
            self.deadlines.clear();
        }
    }

    /// Nobody waits for the answer to this frame any more.
    pub(crate) fn give_up(&mut self, id: u64) {
        if id > self.handled {
            self.given_up.insert(id);
        }
    }

    /// Notes that something came about this frame. The daemon handles frames in their order, so it
    /// has handled all before.
    pub(crate) fn note(&mut self, id: u64) {
        self.handled = self.handled.max(id);
        while self.given_up.first().is_some_and(|first| *first < self.handled) {
            self.given_up.pop_first();
        }
    }

    pub(crate) fn is_given_up(&self, id: u64) -> bool {
        self.given_up.contains(&id)
    }

    /// When the first request is too late, or before that.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.peek().map(|Reverse((deadline, _))| *deadline)
    }

    /// Ends a request whose deadline has come.
    pub(crate) fn expire(&mut self, now: Instant) -> Option<u64> {
        while let Some(&Reverse((deadline, id))) = self.deadlines.peek()
            && deadline <= now
        {
            self.deadlines.pop();
            if self.open.get(&id) == Some(&Open::Request) {
                self.give_up(id);
                self.end(id);
                return Some(id);
            }
        }
        None
    }

    /// Ends everything, because the connection has ended; in the order of the numbers.
    pub(crate) fn end_all(&mut self) -> Vec<(u64, Open)> {
        let mut ids: Vec<_> = self.open.iter().map(|(id, open)| (*id, *open)).collect();
        ids.retain(|(_, open)| *open != Open::Ended);
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

    fn requests(count: u64, start: Instant) -> Outstanding {
        let mut outstanding = Outstanding::default();
        for id in 1..=count {
            outstanding.request(id, start + Duration::from_secs(id));
        }
        outstanding
    }

    fn expired(outstanding: &mut Outstanding, now: Instant) -> Vec<u64> {
        std::iter::from_fn(|| outstanding.expire(now)).collect()
    }

    #[test]
    fn requests_expire_in_the_order_of_their_deadlines_unless_finished() {
        let start = Instant::now();
        let mut outstanding = requests(4, start);
        outstanding.request(5, start + Duration::from_millis(1));
        outstanding.finish(2);
        assert_eq!(outstanding.next_deadline(), Some(start + Duration::from_millis(1)));
        assert_eq!(expired(&mut outstanding, start + Duration::from_secs(3)), [5, 1, 3]);
        assert_eq!(outstanding.next_deadline(), Some(start + Duration::from_secs(4)));
        assert!(!outstanding.takes_reply(1) && outstanding.takes_reply(4));
        assert!(outstanding.hand_over_end(1) && !outstanding.hand_over_end(1));
        assert_eq!(outstanding.late_replies(), 1);
        outstanding.finish(4);
        [3, 5].iter().for_each(|id| outstanding.finish(*id));
        assert_eq!(outstanding.next_deadline(), None);
    }

    #[test]
    fn deadlines_of_what_is_finished_do_not_pile_up() {
        let deadline = Instant::now() + Duration::from_secs(3600);
        let mut outstanding = Outstanding::default();
        outstanding.request(0, deadline);
        for id in 1..10 * STALE as u64 {
            outstanding.request(id, deadline);
            outstanding.finish(id);
        }
        assert!(outstanding.deadlines.len() <= STALE + 4);
        assert_eq!(expired(&mut outstanding, deadline), [0]);
    }

    #[test]
    fn what_was_given_up_is_remembered_until_it_must_have_been_handled() {
        let mut outstanding = requests(9, Instant::now());
        [3, 5, 7].iter().for_each(|id| outstanding.finish(*id));
        outstanding.note(5);
        assert!(outstanding.is_given_up(5) && outstanding.is_given_up(7));
        assert!(!outstanding.is_given_up(3));
        outstanding.finish(4);
        assert!(!outstanding.is_given_up(4));
        outstanding.note(8);
        outstanding.note(1);
        assert!(outstanding.given_up.is_empty());
    }

    #[test]
    fn everything_ends_once() {
        let start = Instant::now();
        let mut outstanding = requests(3, start);
        outstanding.track(4);
        outstanding.track(5);
        assert_eq!(outstanding.end(4), Some(Open::Tracked));
        assert_eq!(outstanding.end(4), None);
        assert_eq!(outstanding.end(2), Some(Open::Request));
        assert_eq!(outstanding.end(2), None);
        assert!(outstanding.takes_receipt(5) && !outstanding.takes_receipt(5));
        assert!(!outstanding.takes_receipt(1));
        outstanding.track(6);
        let ended = outstanding.end_all();
        assert_eq!(ended, [(1, Open::Request), (3, Open::Request), (6, Open::Tracked)]);
        assert!(outstanding.end_all().is_empty());
        assert!(expired(&mut outstanding, start + Duration::from_secs(9)).is_empty());
        assert!([1, 2, 3].iter().all(|id| outstanding.hand_over_end(*id)));
    }
}
