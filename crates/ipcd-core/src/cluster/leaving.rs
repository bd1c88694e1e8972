//! The end of a worker that has lost its last peer: no message on its way to it is lost, and no
//! publisher that waits for an outcome is told that the worker has died.
//!
//! The worker tells the directory. Every other worker that learns of it sends nothing new from then
//! on, and says so behind everything that it has sent ([`WorkerMessage::Last`]). When all have, the
//! inbox is empty: group messages have been passed on, and messages for its peers are counted.

use crate::cluster::messages::WorkerMessage;
use crate::cluster::{Cluster, WorkerLink};

/// The progress of a worker's leaving.
#[derive(Debug, Default)]
pub(crate) enum LeaveState {
    /// The worker serves peers.
    #[default]
    No,
    /// The directory has been told.
    Announced,
    /// All workers know of it. These have not said yet that no more messages come.
    Known(Vec<u32>),
}

impl Cluster {
    /// Notes that a worker is leaving, unless it has ended by now. No message goes to it any more.
    pub(crate) fn note_leaving(&mut self, slot: u32) {
        if !self.directory.is_leaving(slot) {
            return;
        }
        // The others get the same change, and each answers with its last message.
        if slot == self.own_slot {
            self.leave = LeaveState::Known(self.unfinished());
            return;
        }
        self.tell(slot, &WorkerMessage::Last);
    }

    /// Waits for a worker that this one meets while it leaves, because it passes messages on to it.
    pub(crate) fn note_met_while_leaving(&mut self, slot: u32) {
        if let LeaveState::Known(waits) = &mut self.leave {
            waits.push(slot);
        }
    }

    /// Notes that another worker will send no more messages.
    pub(crate) fn note_last_message(&mut self, slot: u32) {
        self.link(slot).has_said_last = true;
        self.stop_waiting_for(slot);
    }

    /// Stops waiting for a worker that has sent its last message, or has ended.
    pub(crate) fn stop_waiting_for(&mut self, slot: u32) {
        if let LeaveState::Known(waits) = &mut self.leave {
            waits.retain(|known| *known != slot);
        }
    }

    /// Returns the living workers that this one has met, and that have not said that no more messages
    /// come.
    fn unfinished(&self) -> Vec<u32> {
        let owes = |slot: u32, link: &WorkerLink| self.is_alive(slot) && !link.has_said_last;
        let others = self.links.iter().filter(|(slot, link)| owes(**slot, link));
        others.map(|(slot, _)| *slot).collect()
    }
}
