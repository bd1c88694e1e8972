//! What a worker hands to others and takes from them.

use ipcd_core::PeerKey;
use ipcd_proto::limits::{MAX_MAX_PAYLOAD, largest_frame};
use nix::sys::epoll::{EpollEvent, EpollFlags};
use tracing::warn;

use super::{FIRST_WAY, Worker};
use crate::Error;
use crate::connection::Token;
use crate::inbox::{Arrived, Sent};
use crate::lacking::is_exhaustion;
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

    /// Takes what other workers have sent, within this turn's share; whether
    /// there may be more.
    pub(super) fn hear_others(&mut self) -> Result<bool, Error> {
        let failed = |error| Error::system("read the inbox", error);
        let mut buffer = self.take_scratch();
        // That worker may have read a new configuration before this one.
        buffer.set_largest_frame(largest_frame(MAX_MAX_PAYLOAD));
        let mut is_empty = false;
        for _ in 0..INBOX_RECORDS {
            if self.core.is_behind() {
                break;
            }
            match self.inboxes.receive(&mut buffer).map_err(failed)? {
                Arrived::Of(slot, generation) => {
                    self.core.arrive(self.now, slot, generation, buffer.filled_mut());
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
        while !self.full_inboxes[slot as usize] {
            let (frames, generation) = self.core.outgoing(slot);
            if frames.is_empty() {
                return self.say_if_quiet();
            }
            match self.inboxes.send(slot, generation, frames).map_err(failed)? {
                Sent::Bytes(count) => self.core.forwarded(slot, count),
                Sent::NoMemory => {
                    self.retry_soon();
                    return Ok(());
                }
                Sent::Full => return self.wait_for_inbox(slot),
            }
        }
        Ok(())
    }

    fn wait_for_inbox(&mut self, slot: u32) -> Result<(), Error> {
        let token = Token { place: FIRST_WAY.place + slot, number: 0 };
        let event = EpollEvent::new(EpollFlags::EPOLLOUT, token.to_u64());
        match self.epoll.add(self.inboxes.way(slot), event) {
            Ok(()) => self.full_inboxes[slot as usize] = true,
            Err(error) if is_exhaustion(error) => self.retry_soon(),
            Err(error) => return Err(Error::system("watch an inbox", error)),
        }
        Ok(())
    }

    pub(super) fn inbox_has_room(&mut self, slot: u32) -> Result<(), Error> {
        match self.epoll.delete(self.inboxes.way(slot)) {
            Ok(()) => self.full_inboxes[slot as usize] = false,
            // It stays watched, so this is called again.
            Err(error) if is_exhaustion(error) => return Ok(()),
            Err(error) => return Err(Error::system("watch an inbox", error)),
        }
        self.forward(slot)
    }
}
