//! The way to and from the other workers: their inboxes, and which of them are full.

use ipcd_transport::ReadBuffer;
use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};
use tracing::warn;

use crate::Error;
use crate::inbox::{ReceivedRecord, SendOutcome, WorkerInboxes};
use crate::lacking::is_exhaustion;
use crate::worker::connection::EventToken;

/// The inboxes, and their state.
pub(super) struct OtherWorkers {
    inboxes: WorkerInboxes,
    /// The token of the way into the inbox of slot 0; those of the others follow.
    first_token: EventToken,
    /// The inboxes that epoll watches for room, by slot.
    full: Vec<bool>,
    /// Records that were dropped because they violate the protocol.
    invalid: u64,
    has_reported_invalid: bool,
}

/// The outcome of sending.
pub(super) enum ForwardOutcome {
    /// So many bytes were taken.
    Bytes(usize),
    /// The inbox is full. Epoll tells when there is room.
    Full,
    /// The kernel has no memory now: to be tried again after a pause.
    NoMemory,
}

impl OtherWorkers {
    /// Has epoll report under `own` that a record has come, and under the tokens from `first` on that
    /// the inbox of a slot has room.
    pub(super) fn new(
        inboxes: WorkerInboxes,
        slots: usize,
        own: EventToken,
        first_token: EventToken,
        epoll: &Epoll,
    ) -> Result<Self, Error> {
        let watched =
            epoll.add(inboxes.own_inbox(), EpollEvent::new(EpollFlags::EPOLLIN, own.to_u64()));
        watched.map_err(|error| Error::system("watch the inbox", error))?;
        let full = vec![false; slots];
        Ok(Self { inboxes, first_token, full, invalid: 0, has_reported_invalid: false })
    }

    /// The slots of all workers.
    pub(super) fn slots(&self) -> std::ops::Range<u32> {
        0..self.full.len() as u32
    }

    /// Takes the next record out of the inbox.
    pub(super) fn receive(&mut self, buffer: &mut ReadBuffer) -> Result<ReceivedRecord, Error> {
        let arrived = self.inboxes.receive(buffer);
        let arrived = arrived.map_err(|error| Error::system("read the inbox", error))?;
        if arrived == ReceivedRecord::Invalid {
            self.invalid += 1;
            if !std::mem::replace(&mut self.has_reported_invalid, true) {
                warn!("dropped an invalid record of another worker; later ones are only counted");
            }
        }
        Ok(arrived)
    }

    /// The number of records that were dropped since the last call.
    pub(super) fn take_dropped(&mut self) -> u64 {
        std::mem::take(&mut self.invalid) + self.inboxes.take_stale()
    }

    /// Whether the inbox of a slot takes no more for now.
    pub(super) fn is_full(&self, slot: u32) -> bool {
        self.full[slot as usize]
    }

    /// Sends frames to the worker in a slot, as much as its inbox takes.
    pub(super) fn send(
        &mut self,
        slot: u32,
        generation: u32,
        frames: &[u8],
        epoll: &Epoll,
    ) -> Result<ForwardOutcome, Error> {
        let sent = self.inboxes.send(slot, generation, frames);
        match sent.map_err(|error| Error::system("write to an inbox", error))? {
            SendOutcome::Bytes(count) => return Ok(ForwardOutcome::Bytes(count)),
            SendOutcome::NoMemory => return Ok(ForwardOutcome::NoMemory),
            SendOutcome::Full => {}
        }
        let place = self.first_token.place + slot;
        let event = EpollEvent::new(EpollFlags::EPOLLOUT, EventToken { place, number: 0 }.to_u64());
        match epoll.add(self.inboxes.writing_end(slot), event) {
            Ok(()) => self.full[slot as usize] = true,
            Err(error) if is_exhaustion(error) => return Ok(ForwardOutcome::NoMemory),
            Err(error) => return Err(Error::system("watch an inbox", error)),
        }
        Ok(ForwardOutcome::Full)
    }

    /// An inbox that was full has room.
    pub(super) fn note_room(&mut self, slot: u32, epoll: &Epoll) -> Result<(), Error> {
        match epoll.delete(self.inboxes.writing_end(slot)) {
            Ok(()) => self.full[slot as usize] = false,
            // It stays watched, so epoll reports it again.
            Err(error) if is_exhaustion(error) => {}
            Err(error) => return Err(Error::system("watch an inbox", error)),
        }
        Ok(())
    }
}
