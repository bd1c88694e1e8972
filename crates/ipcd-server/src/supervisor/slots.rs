//! The places of workers: how many, and what is in them at first.

use std::time::Instant;

use crate::Error;
use crate::config::{Config, ForkMode};
use crate::inbox::Places;
use crate::slot::{Slot, WorkerState};

/// The places of workers and their inboxes, all made before the first worker is born.
pub(super) fn make_slots(config: &Config) -> Result<(Vec<Slot>, Places), Error> {
    let daemon = &config.daemon;
    let (count, state) = match daemon.fork {
        ForkMode::Pool => (daemon.workers.count(), WorkerState::Dead { until: Instant::now() }),
        ForkMode::Connection => (daemon.max_children.count() + spare(config), WorkerState::Free),
    };
    let failed = |error| Error::system("make the links and inboxes of workers", error);
    let slots = (0..count).map(|_| Slot::new(state)).collect();
    Ok((slots, Places::new(count).map_err(failed)?))
}

/// Peers at the most because each needs a child.
pub(super) fn most_children(config: &Config) -> Option<usize> {
    let daemon = &config.daemon;
    (daemon.fork == ForkMode::Connection).then(|| daemon.max_children.count())
}

/// Places for children of peers that come while those are still there who have to go for them.
pub(super) fn spare(config: &Config) -> usize {
    (config.daemon.max_children.count() / 8).clamp(2, 32)
}

pub(super) fn occupied(slots: &[Slot]) -> Vec<usize> {
    let is_occupied = |index: &usize| !matches!(slots[*index].state, WorkerState::Free);
    (0..slots.len()).filter(is_occupied).collect()
}
