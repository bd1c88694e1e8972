//! The deadlines of pairs: each pair has one at most.

use std::collections::BTreeSet;
use std::time::Instant;

#[derive(Default)]
pub(crate) struct PairAlarms {
    order: BTreeSet<(Instant, usize)>,
    /// The deadline of each pair.
    by_pair: Vec<Option<Instant>>,
}

impl PairAlarms {
    /// The first deadline.
    pub(crate) fn first(&self) -> Option<Instant> {
        self.order.first().map(|(at, _)| *at)
    }

    /// Sets or removes the deadline of a pair.
    pub(crate) fn set(&mut self, key: usize, at: Option<Instant>) {
        if self.by_pair.len() <= key {
            self.by_pair.resize(key + 1, None);
        }
        let was = std::mem::replace(&mut self.by_pair[key], at);
        // Most turns leave the deadline as it was, and then cost no search.
        if was == at {
            return;
        }
        was.map(|was| self.order.remove(&(was, key)));
        at.map(|at| self.order.insert((at, key)));
    }

    /// Removes the deadlines up to now, and returns their pairs.
    pub(crate) fn take_due(&mut self, now: Instant) -> Vec<usize> {
        let mut due = Vec::new();
        while let Some(&(at, key)) = self.order.first()
            && at <= now
        {
            self.order.pop_first();
            self.by_pair[key] = None;
            due.push(key);
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_pair_has_its_last_deadline_only() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut alarms = PairAlarms::default();
        alarms.set(3, Some(at(1)));
        alarms.set(0, Some(at(2)));
        alarms.set(3, Some(at(4)));
        assert_eq!(alarms.first(), Some(at(2)));
        assert_eq!(alarms.take_due(at(3)), [0]);
        assert!(alarms.take_due(at(3)).is_empty());
        alarms.set(3, None);
        assert_eq!((alarms.first(), alarms.take_due(at(9))), (None, Vec::new()));
    }
}
