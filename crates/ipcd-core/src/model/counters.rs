//! Counters of the router, and counts of drops by reason. They only count: no decision depends on
//! them.

use ipcd_proto::control::DropReason;

/// The counters of the whole router, as `status` reports them.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct RouterCounters {
    pub(crate) accepted: u64,
    pub(crate) matched: u64,
    pub(crate) dropped: DropCounts,
    /// Messages for a group of this worker that had no member left on any worker.
    pub(crate) unclaimed: u64,
    /// Messages to a single peer that existed.
    pub(crate) direct_matched: u64,
    pub(crate) direct_dropped: u64,
    pub(crate) direct_undeliverable: u64,
    pub(crate) replies_late: u64,
    pub(crate) refused: u64,
    pub(crate) denied: u64,
    pub(crate) disconnect_slow: u64,
    pub(crate) peers: u64,
    pub(crate) lost_in_transit: u64,
    pub(crate) stale: u64,
    /// Peers that the worker could not watch, because epoll_ctl(2) had no memory.
    pub(crate) unwatched: u64,
}

/// Adds counters to the sum, by name.
pub(crate) fn add_counters(sum: &mut Vec<(String, u64)>, more: &[(String, u64)]) {
    for (name, value) in more {
        match sum.iter_mut().find(|(known, _)| known == name) {
            // A hostile worker may report any number, so the sum must not overflow.
            Some((_, sum)) => *sum = sum.saturating_add(*value),
            None => sum.push((name.clone(), *value)),
        }
    }
}

/// Dropped messages, by reason.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct DropCounts {
    counts: [u64; DropReason::ALL.len()],
    /// The part of `counts` that the peer has been told.
    told: [u64; DropReason::ALL.len()],
}

impl DropCounts {
    pub(crate) fn count(&mut self, reason: DropReason, messages: u64) {
        self.counts[reason as usize] += messages;
    }

    pub(crate) fn of(&self, reason: DropReason) -> u64 {
        self.counts[reason as usize]
    }

    pub(crate) fn total(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Returns the reasons that occurred, with their counts.
    pub(crate) fn by_reason(&self) -> impl Iterator<Item = (DropReason, u64)> {
        DropReason::ALL.into_iter().zip(self.counts).filter(|(_, count)| *count > 0)
    }

    /// Returns the drops that the peer has not been told, and marks them as told.
    pub(crate) fn take_untold(&mut self) -> Vec<(DropReason, u64)> {
        let told = std::mem::replace(&mut self.told, self.counts);
        let counts = DropReason::ALL.into_iter().zip(self.counts).zip(told);
        let untold = counts.map(|((reason, count), told)| (reason, count - told));
        untold.filter(|(_, count)| *count > 0).collect()
    }
}
