//! What a worker hands to others and takes from them.

use ipcd_core::PeerKey;
use ipcd_proto::limits::{MAX_MAX_PAYLOAD, largest_frame};
use nix::sys::epoll::{EpollEvent, EpollFlags};
use tracing::warn;

use super::{FIRST_WAY, Worker};
use crate::Error;
use crate::connection::Token;
use crate::inbox::{Arrived, Sent};
use crate::link::ToSupervisor;

/// Records taken out of the inbox in one turn.
const INBOX_RECORDS: usize = 16;

impl Worker {
    /// Stops reading peers. What they have sent and was accepted goes out to the other workers.
    pub(super) fn quiesce(&mut self) -> Result<(), Error> {
        (self.quiescing, self.reads_peers) = (true, false);
        for index in 0..self.connections.len() {
            if let Some(connection) = &mut self.connections[index] {
                connection.waiting = true;
            }
            self.rearm(PeerKey(index as u32));
        }
        self.say_if_quiet()
    }

    pub(super) fn say_if_quiet(&mut self) -> Result<(), Error> {
        if self.quiescing && self.core.is_forwarded() {
            self.quiescing = false;
            self.tell(&ToSupervisor::Quiet)?;
        }
        Ok(())
    }

    /// There is something in the inbox: records, or with rings a bell. That may also mean that there
    /// is room again where there was none.
    pub(super) fn hear_inbox(&mut self) -> Result<(), Error> {
        if !self.inboxes.has_rings() {
            return self.hear_others().map(drop);
        }
        let failed = |error| Error::system("read the inbox", error);
        if self.inboxes.hear_bell().map_err(failed)? == Arrived::Nonsense {
            self.note_nonsense();
        }
        let full = std::mem::take(&mut self.full_inboxes);
        self.full_inboxes = vec![false; full.len()];
        (0..).zip(full).filter(|(_, is_full)| *is_full).try_for_each(|(slot, _)| self.forward(slot))
    }

    /// Takes what other workers have sent, within this turn's share; whether
    /// there may be more.
    pub(super) fn hear_others(&mut self) -> Result<bool, Error> {
        let failed = |error| Error::system("read the inbox", error);
        let mut buffer = self.take_scratch();
        // That worker may have read a new configuration before this one.
        buffer.set_largest_frame(largest_frame(MAX_MAX_PAYLOAD));
        let mut is_empty = false;
        for _ in 0..INBOX_RECORDS {
            match self.inboxes.receive(&mut buffer).map_err(failed)? {
                Arrived::Of(slot, life) => {
                    self.core.arrive(self.now, slot, life, buffer.filled_mut());
                    buffer.clear();
                }
                Arrived::Stale => {}
                Arrived::Nonsense => self.note_nonsense(),
                Arrived::Nothing => {
                    is_empty = true;
                    break;
                }
            }
        }
        self.put_back(buffer);
        self.inboxes.answer().map_err(failed)?;
        self.core.count_stale(self.inboxes.take_stale());
        Ok(!is_empty)
    }

    /// Says once that another worker sends what none does.
    fn note_nonsense(&mut self) {
        if !std::mem::replace(&mut self.has_heard_nonsense, true) {
            warn!("a record of another worker makes no sense; further ones are only counted");
        }
        self.core.count_stale(1);
    }

    /// Sends what is on its way to another worker, as much as its inbox takes.
    pub(super) fn forward(&mut self, slot: u32) -> Result<(), Error> {
        let failed = |error| Error::system("write to an inbox", error);
        let index = slot as usize;
        // A ring is tried again: it is empty for whoever comes after the one that left it full.
        self.full_inboxes[index] &= !self.inboxes.has_rings();
        while !self.full_inboxes[index] {
            let (frames, life) = self.core.outgoing(slot);
            if frames.is_empty() {
                break;
            }
            match self.inboxes.send(slot, life, frames).map_err(failed)? {
                Sent::Bytes(count) => self.core.forwarded(slot, count),
                Sent::Full => {
                    self.full_inboxes[index] = true;
                    self.wait_for_room(slot).map_err(failed)?;
                }
            }
        }
        self.inboxes.ring(slot).map_err(failed)?;
        self.say_if_quiet()
    }

    /// Has an event come when there is room. With rings, that is a bell.
    fn wait_for_room(&mut self, slot: u32) -> std::io::Result<()> {
        if self.inboxes.has_rings() {
            return Ok(());
        }
        let token = Token { place: FIRST_WAY.place + slot, number: 0 };
        let event = EpollEvent::new(EpollFlags::EPOLLOUT, token.to_u64());
        Ok(self.epoll.add(self.inboxes.way(slot), event)?)
    }

    pub(super) fn inbox_has_room(&mut self, slot: u32) -> Result<(), Error> {
        let failed = |error| Error::system("watch an inbox", error);
        self.epoll.delete(self.inboxes.way(slot)).map_err(failed)?;
        self.full_inboxes[slot as usize] = false;
        self.forward(slot)
    }
}
