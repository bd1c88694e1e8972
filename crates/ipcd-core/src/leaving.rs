//! How a worker ends whose last peer has gone: nothing that is on its way to it is lost, and no one
//! who waits for an outcome is told that it has died.
//!
//! It says so to the table. Each other worker that hears of it sends it nothing new from then on,
//! and says behind all that it has sent that this was the last ([`WorkerMessage::Last`]). When all have,
//! the inbox is empty: group messages have been passed on, and what was for its peers is counted.

use std::time::Instant;

use crate::cluster::{Cluster, WorkerMessage};
use crate::core::{Output, Router};
use crate::directory::messages::DirectoryRequest;
use ipcd_proto::control::Reason;

/// How far a worker is in leaving.
#[derive(Debug, Default)]
pub(crate) enum LeaveState {
    /// It serves.
    #[default]
    No,
    /// The table was told.
    Announced,
    /// All know of it, and these workers have still to say their last.
    Known(Vec<u32>),
}

impl Router {
    /// Makes a router without peers ready for its end, which is to be asked again after each turn:
    /// whether everything for it has come, and what others wait for is told. What is left then is to
    /// be sent ([`Router::is_forwarded`]).
    pub fn leave(&mut self, now: Instant) -> bool {
        debug_assert_eq!(self.peer_count(), 0, "peers are still to be served");
        let has_work = self.has_deferred();
        let Some(cluster) = &mut self.cluster else { return !has_work };
        match &cluster.leave {
            LeaveState::No => {
                cluster.leave = LeaveState::Announced;
                self.outputs.push_back(Output::Tell(DirectoryRequest::Leaving));
                false
            }
            LeaveState::Announced => false,
            LeaveState::Known(waits) if has_work || !waits.is_empty() => false,
            LeaveState::Known(_) => self.settle_passed_on(now),
        }
    }

    /// A worker is leaving, unless it is over by now. No message goes to it any more.
    pub(crate) fn hear_of_leaving(&mut self, slot: u32) {
        let Some(cluster) = &mut self.cluster else { return };
        if !cluster.shared.is_leaving(slot) {
            return;
        }
        if slot == cluster.own_slot {
            cluster.leave = LeaveState::Known(cluster.unfinished());
            return;
        }
        let output = cluster.tell(slot, &WorkerMessage::Last);
        self.outputs.extend(output);
    }

    /// A worker that was just born tells those that are leaving that it will send them nothing.
    pub(crate) fn greet_leavers(&mut self) {
        let Some(cluster) = &self.cluster else { return };
        let slots = 0..cluster.links.len() as u32;
        slots.for_each(|slot| self.hear_of_leaving(slot));
    }

    /// Another worker has said its last.
    pub(crate) fn had_last_of(&mut self, slot: u32) {
        let Some(cluster) = &mut self.cluster else { return };
        cluster.links[slot as usize].has_said_last = true;
        cluster.owes_nothing(slot);
    }

    /// What this router has passed on it cannot wait for without end. Receipts are told within the
    /// time that a receiver may stall; a request may be answered as long as its publisher waits.
    fn settle_passed_on(&mut self, now: Instant) -> bool {
        self.hand_back_requests(now);
        if self.trackers.is_empty() {
            return true;
        }
        let patience = 2 * self.config.stall_timeout;
        let by = *self.trackers.leave_by.get_or_insert(now + patience);
        if by <= now {
            self.give_up_copies(now, Reason::WorkerDied);
        }
        self.trackers.is_empty()
    }
}

impl Cluster {
    /// Nothing is waited for of a worker that has said its last, or is over.
    pub(crate) fn owes_nothing(&mut self, slot: u32) {
        if let LeaveState::Known(waits) = &mut self.leave {
            waits.retain(|known| *known != slot);
        }
    }

    /// Workers that live and have not said that nothing more comes of them.
    fn unfinished(&self) -> Vec<u32> {
        let generations = (0..).zip(&self.shared.generations).zip(&self.links);
        let owes = generations.filter(|((slot, generation), link)| {
            *slot != self.own_slot && **generation > 0 && !link.has_said_last
        });
        owes.map(|((slot, _), _)| slot).collect()
    }
}
