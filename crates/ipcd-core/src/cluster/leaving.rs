//! The end of a worker that has lost its last peer: no message on its way to it is lost, and no
//! publisher that waits for an outcome is told that the worker has died.
//!
//! The worker tells the directory. Every other worker that hears of it sends nothing new from then on,
//! and says so behind all that it has sent ([`WorkerMessage::Last`]). When all have, the inbox is
//! empty: group messages have been passed on, and messages for its peers are counted.

use crate::cluster::Cluster;
use crate::cluster::messages::WorkerMessage;
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

impl Cluster {
    /// A worker is leaving, unless it is over by now. No message goes to it any more.
    pub(crate) fn hear_of_leaving(&mut self, slot: u32) {
        if !self.directory.is_leaving(slot) {
            return;
        }
        if slot == self.own_slot {
            self.leave = LeaveState::Known(self.unfinished());
            return;
        }
        self.tell(slot, &WorkerMessage::Last);
    }

    /// Tells workers that are leaving, at the start of this one, that it will send them nothing.
    pub(crate) fn greet_leavers(&mut self) {
        (0..self.links.len() as u32).for_each(|slot| self.hear_of_leaving(slot));
    }

    /// Another worker has said that no more messages come.
    pub(crate) fn had_last_of(&mut self, slot: u32) {
        self.links[slot as usize].has_said_last = true;
        self.owes_nothing(slot);
    }

    /// Waits no longer for a worker that has said its last, or is over.
    pub(crate) fn owes_nothing(&mut self, slot: u32) {
        if let LeaveState::Known(waits) = &mut self.leave {
            waits.retain(|known| *known != slot);
        }
    }

    /// Living workers that have not said that no more messages come.
    fn unfinished(&self) -> Vec<u32> {
        let generations = (0..).zip(&self.directory.generations).zip(&self.links);
        let owes = generations.filter(|((slot, generation), link)| {
            *slot != self.own_slot && **generation > 0 && !link.has_said_last
        });
        owes.map(|((slot, _), _)| slot).collect()
    }
}
