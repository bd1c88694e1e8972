//! Raw peers: their messages are translated into frames, and back.

use std::time::{Duration, Instant};

use ipcd_core::PeerKey;
use ipcd_transport::{Error, ReadBuffer, ReadOutcome, Result, WriteOutcome};
use tracing::warn;

use super::Worker;
use crate::adapter::Adapter;
use crate::ids::OwnerId;
use crate::link::LiveConfig;
use crate::listen::RawProfile;
use crate::worker::peer_io::{CLOSED, read_of};

/// The time that a raw peer which sends no more is kept without messages for it. TCP does not tell
/// a peer that only listens from one that is gone.
const HALF_CLOSED: Duration = Duration::from_secs(10);
/// The reason for a raw peer whose stream begins like a browser's.
const BROWSER: &str = "it speaks HTTP: a page in a browser may have sent it here";
/// Records read of a raw peer in one turn.
const RECORDS: usize = 64;

impl Worker {
    /// Puts another configuration in force, also for the adapters of raw peers.
    pub(super) fn apply_config(&mut self, live: LiveConfig) {
        self.router.configure(self.now, |config| live.apply(config));
        let largest = self.router.max_payload();
        let adapters = self.connections.iter_mut();
        let adapters = adapters.filter_map(|(_, found)| found.adapter.as_mut());
        adapters.for_each(|adapter| adapter.set_largest(largest));
    }

    /// Gives the raw peers of a listener other subjects.
    pub(super) fn resubscribe_raw(&mut self, owner: OwnerId, raw_profile: &RawProfile) {
        for (key, connection) in self.connections.iter_mut() {
            if let Some(adapter) = connection.adapter.as_mut().and_then(Adapter::raw)
                && self.router.listener(key) == owner.0
            {
                adapter.set_profile(raw_profile.clone());
                self.router.resubscribe_raw(key, adapter.session());
            }
        }
    }

    /// Reads a raw peer's bytes, or some of its records.
    pub(super) fn read_raw(&mut self, key: PeerKey) -> Option<Result<ReadOutcome>> {
        let mut buffer = self.buffers.take_empty();
        let mut frames = Vec::new();
        let outcome = self.translate_input(key, &mut buffer, &mut frames);
        self.buffers.put_back(buffer);
        self.note_certificate(key);
        if !frames.is_empty() {
            self.feed_router(key, ReadBuffer::holding(&frames, self.router.largest_frame(key)));
        }
        self.tell_refusal(key);
        let connection = self.connections.get_mut(key)?;
        match outcome? {
            // Messages that wait for room in a send queue are still accepted.
            Ok(ReadOutcome::Closed) | Err(_) if connection.waiting => {
                connection.has_ended = true;
                Some(Ok(ReadOutcome::NotReady))
            }
            outcome => Some(outcome),
        }
    }

    fn translate_input(
        &mut self,
        key: PeerKey,
        buffer: &mut ReadBuffer,
        frames: &mut Vec<u8>,
    ) -> Option<Result<ReadOutcome>> {
        let connection =
            self.connections.get_mut(key).filter(|found| !found.waiting && !found.has_ended)?;
        let keeps_records = connection.adapter.as_mut()?.raw()?.keeps_records();
        // A read of a stream fills the buffer. A record is often small, and each needs a read of
        // its own.
        let most = if keeps_records { RECORDS } else { 1 };
        let mut total = 0;
        for _ in 0..most {
            let outcome = read_of(connection, buffer);
            connection.has_more = matches!(outcome, Ok(ReadOutcome::Bytes(_)));
            let adapter = connection.adapter.as_mut()?.raw()?;
            match outcome {
                Ok(ReadOutcome::Bytes(count)) => {
                    adapter.read(buffer.filled(), frames);
                    if adapter.is_browser() {
                        return Some(Err(Error::Protocol(BROWSER.into())));
                    }
                    buffer.clear();
                    total += count;
                }
                Ok(ReadOutcome::NotReady) if total > 0 => break,
                Ok(ReadOutcome::NotReady) => return Some(Ok(ReadOutcome::NotReady)),
                Ok(ReadOutcome::Boundary) => {
                    adapter.finish(frames);
                    break;
                }
                // A stream that an attacker may have cut has no last message.
                Err(Error::Truncated(_)) => return Some(outcome),
                Ok(ReadOutcome::Closed) | Err(_) => {
                    adapter.finish(frames);
                    return Some(outcome);
                }
            }
        }
        Some(Ok(ReadOutcome::Bytes(total)))
    }

    /// Writes the messages for a raw peer, as much as the channel takes.
    pub(super) fn write_raw(&mut self, key: PeerKey) {
        loop {
            let Some(connection) = self.connections.get_mut(key) else { return };
            let Some(adapter) = &mut connection.adapter else { return };
            if connection.blocked || connection.broken.is_some() {
                return;
            }
            if adapter.staged().unwritten().is_empty() {
                let taken = adapter.stage(self.router.queue_pieces(key), &mut self.spare);
                if taken == 0 && adapter.staged().unwritten().is_empty() {
                    break;
                }
                self.router.pin(key, taken);
            }
            let bytes = adapter.staged().unwritten();
            if bytes.is_empty() {
                // Nothing of it is for the peer.
                let done = adapter.staged().wrote(0, &mut self.spare);
                self.router.wrote(self.now, key, done);
                continue;
            }
            match connection.channel.write(bytes) {
                Ok(WriteOutcome::Bytes(count)) => {
                    let done = adapter.staged().wrote(count, &mut self.spare);
                    if let Some(until) = &mut connection.hears_until {
                        // Its end is reported only after a write, so that this one needs time.
                        *until = self.now + HALF_CLOSED;
                    }
                    self.router.wrote(self.now, key, done);
                }
                Ok(WriteOutcome::Nobody) => {
                    let whole = adapter.discard(self.router.send_queue(key));
                    self.router.wrote(self.now, key, whole);
                    self.router.drop_unread(self.now, key);
                }
                Ok(WriteOutcome::NotReady) => connection.blocked = true,
                Ok(WriteOutcome::NoCredit) => return connection.awaiting_credit = true,
                Err(error) if error.is_exhaustion() => {
                    // As in `write_peer`: the descriptor may be writable all the same.
                    (connection.blocked, connection.is_paused) = (true, true);
                }
                Err(error) => return self.abandon_writing(key, &error.to_string()),
            }
        }
        self.tell_refusal(key);
        let Some(connection) = self.connections.get_mut(key) else { return };
        if connection.closing.is_some() {
            let has_end = connection.adapter.as_ref().is_some_and(|found| found.has_end());
            match has_end && !connection.has_ended {
                true => self.finish_channel(key),
                false => self.detach_peer(key, "the session was ended"),
            }
        }
    }

    /// Notes that a peer sends no more. A raw peer that can receive still gets messages, until it
    /// has closed the other direction, too, or had no message for a while. TCP reports that end
    /// only after a write. Any other peer has gone.
    pub(super) fn sent_all(&mut self, key: PeerKey) {
        if self.end_failed(key) {
            return;
        }
        let until = self.now + HALF_CLOSED;
        let Some(connection) = self.connections.get_mut(key) else { return };
        let adapter = connection.adapter.as_ref();
        let may_hear = adapter.is_some_and(|adapter| adapter.may_hear_on());
        if !may_hear || connection.closing.is_some() {
            return self.detach_peer(key, CLOSED);
        }
        (connection.has_ended, connection.hears_until) = (true, Some(until));
        self.tick_peer(key);
    }

    /// The time to look again at a peer that sends no more; `None` once it is detached.
    pub(super) fn look_at_silent(&mut self, key: PeerKey, until: Instant) -> Option<Instant> {
        if until > self.now {
            return Some(until);
        }
        // Messages for it wait as long as for any other peer.
        if !self.router.is_flushed(key) {
            return Some(self.now + HALF_CLOSED);
        }
        self.detach_peer(key, CLOSED);
        None
    }

    /// Logs once why the messages of a raw peer are refused, because the peer cannot be told.
    fn tell_refusal(&mut self, key: PeerKey) {
        let adapter = self.connections.get_mut(key).and_then(|found| found.adapter.as_mut());
        if let Some(why) = adapter.and_then(|adapter| adapter.take_refusal()) {
            let (peer, source) = self.peer_and_source(key);
            warn!(%source, peer, why, "message refused; later ones of this peer are only counted");
        }
    }
}
