//! Counters of the router, and of drops by reason.

use ipcd_proto::control::Reason;

/// What is counted for the whole router.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct RouterCounters {
    pub(crate) accepted: u64,
    pub(crate) matched: u64,
    pub(crate) dropped: DropCounts,
    /// Messages for a group here, of which no member was left anywhere.
    pub(crate) unclaimed: u64,
    /// Messages to one peer that was there.
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
    /// Peers that the kernel had no memory to wait for.
    pub(crate) unwatched: u64,
}

/// Adds counters by name.
pub(crate) fn add_counters(sum: &mut Vec<(String, u64)>, more: &[(String, u64)]) {
    for (name, value) in more {
        match sum.iter_mut().find(|(known, _)| known == name) {
            Some((_, sum)) => *sum = sum.saturating_add(*value),
            None => sum.push((name.clone(), *value)),
        }
    }
}

/// Messages dropped, by reason.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct DropCounts {
    counts: [u64; Reason::ALL.len()],
    /// Of these the peer was told.
    told: [u64; Reason::ALL.len()],
}

impl DropCounts {
    pub(crate) fn count(&mut self, reason: Reason, messages: u64) {
        self.counts[reason as usize] += messages;
    }

    pub(crate) fn of(&self, reason: Reason) -> u64 {
        self.counts[reason as usize]
    }

    /// Those that were, by reason.
    pub(crate) fn by_reason(&self) -> impl Iterator<Item = (Reason, u64)> {
        Reason::ALL.into_iter().zip(self.counts).filter(|(_, count)| *count > 0)
    }

    /// Those that the peer was not told of; it will have been, after this.
    pub(crate) fn take_untold(&mut self) -> Vec<(Reason, u64)> {
        let told = std::mem::replace(&mut self.told, self.counts);
        let counts = Reason::ALL.into_iter().zip(self.counts).zip(told);
        let untold = counts.map(|((reason, count), told)| (reason, count - told));
        untold.filter(|(_, count)| *count > 0).collect()
    }
}
