//! Reads and writes one peer.

use std::io::IoSlice;

use ipcd_core::PeerKey;
use ipcd_transport::{ReadBuffer, ReadOutcome, WriteOutcome};
use nix::sys::epoll::EpollFlags;

use super::{HANDSHAKE_STEPS, Worker};
use crate::adapter::Adapter;
use crate::lacking::is_exhaustion;
use crate::worker::connection::{Connection, EventToken};

/// The reason for a peer's end if it has closed its connection.
pub(super) const CLOSED: &str = "it closed the connection";
/// Reads that are made of a peer that can no longer be written to, to accept what it had sent, and the
/// bytes: as many as its socket may hold, of which each read may bring only one record.
const LAST_READS: usize = 512;
const LAST_BYTES: usize = 4 * 1024 * 1024;
/// Pieces of a send queue that are written at once.
const PIECES: usize = 16;

/// Reads. A kernel that has no memory now is no reason to disconnect a peer.
pub(super) fn read_of(
    connection: &mut Connection,
    into: &mut ReadBuffer,
) -> ipcd_transport::Result<ReadOutcome> {
    match connection.channel.read(into) {
        Err(error) if error.is_exhaustion() => {
            connection.is_paused = true;
            Ok(ReadOutcome::NotReady)
        }
        outcome => outcome,
    }
}

/// The same where nothing is wanted but the transport's own traffic.
fn serve(connection: &mut Connection) -> ipcd_transport::Result<ReadOutcome> {
    match connection.channel.serve() {
        Err(error) if error.is_exhaustion() => {
            connection.is_paused = true;
            Ok(ReadOutcome::NotReady)
        }
        served => served.map(|()| ReadOutcome::Bytes(0)),
    }
}

impl Worker {
    pub(super) fn handle_event(&mut self, token: EventToken, events: EpollFlags) {
        let key = PeerKey(token.place);
        let Some(connection) = self.connections.of_event(token) else { return };
        if connection.channel.is_shaking_hands() {
            // The event comes again in the next turn, behind those of other handshakes.
            if self.handshake_steps >= HANDSHAKE_STEPS {
                return;
            }
            self.handshake_steps += 1;
        }
        let Some(connection) = self.connections.get_mut(key) else { return };
        // Both come unasked: when both directions are closed, and after a reset (epoll_ctl(2)).
        let broken = EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR;
        if connection.hears_until.is_some() && events.intersects(broken) {
            return self.detach_peer(key, CLOSED);
        }
        if connection.wants_write() && events.intersects(EpollFlags::EPOLLOUT | broken) {
            self.go_on_writing(key);
        }
        let wants_read = self.connections.get_mut(key).is_some_and(|found| found.wants_read());
        if wants_read && events.intersects(EpollFlags::EPOLLIN | broken) {
            self.read_peer(key);
        }
        self.rearm_peer(key);
    }

    /// There is room: for what the channel has of its own first.
    fn go_on_writing(&mut self, key: PeerKey) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        connection.blocked = false;
        if connection.channel.wants_room()
            && let Err(error) = serve(connection)
        {
            return self.abandon_writing(key, &error.to_string());
        }
        // A handshake may be over with it.
        self.note_certificate(key);
        self.write_peer(key);
        self.after_service(key);
    }

    /// Reads once, and gives what came to the router.
    pub(super) fn read_peer(&mut self, key: PeerKey) {
        let outcome = self.take_in(key);
        self.note_partial(key);
        match outcome {
            Some(Ok(ReadOutcome::Bytes(_))) => self.after_service(key),
            Some(Ok(ReadOutcome::NotReady | ReadOutcome::Boundary)) | None => {}
            Some(Ok(ReadOutcome::Closed)) => self.sent_all(key),
            Some(Err(error)) => self.detach_peer(key, &error.to_string()),
        }
    }

    /// Reads once, and gives what came to the router; says what came of it, unless the peer has
    /// gone.
    fn take_in(&mut self, key: PeerKey) -> Option<ipcd_transport::Result<ReadOutcome>> {
        let connection = self.connections.get(key)?;
        self.mark.set(connection.admission);
        match &connection.adapter {
            Some(Adapter::Raw(_)) => return self.read_raw(key),
            Some(Adapter::Nats(_)) => return self.read_nats(key),
            None => {}
        }
        let largest = self.router.largest_frame(key);
        let connection = self.connections.get_mut(key)?;
        let mut buffer = self.buffers.take(connection.partial.take(), largest);
        // A peer that waits is not read, but its transport's own messages are: without their
        // acknowledgements UDP would take the peer for dead.
        let outcome =
            if connection.waiting { serve(connection) } else { read_of(connection, &mut buffer) };
        self.note_certificate(key);
        // Whatever the outcome: bytes that came before an error are accepted.
        self.feed_router(key, buffer);
        Some(outcome)
    }

    /// Tells the router of a record that is incomplete, or is not any more: it has to end as soon as a
    /// frame has. One that is not read for a while need not.
    fn note_partial(&mut self, key: PeerKey) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        let of_adapter =
            connection.adapter.as_mut().and_then(|found| found.nats()?.partial_since());
        let since = connection.channel.partial_since().into_iter().chain(of_adapter).min();
        let since = since.filter(|_| !connection.waiting);
        if since.is_some() || connection.has_partial_record {
            connection.has_partial_record = since.is_some();
            let is_in_frame = connection.partial.is_some() && !connection.waiting;
            self.router.note_begun(key, since, is_in_frame);
        }
    }

    /// Gives the router what is in the buffer, and keeps what it does not take.
    pub(super) fn feed_router(&mut self, key: PeerKey, mut buffer: ReadBuffer) {
        let Some(connection) = self.connections.get_mut(key) else {
            return self.buffers.put_back(buffer);
        };
        if !connection.waiting && !buffer.is_empty() {
            let progress = self.router.receive(self.now, key, buffer.filled_mut());
            buffer.consume(progress.consumed);
            connection.waiting = progress.waiting;
        }
        connection.partial = self.buffers.keep(buffer);
    }

    /// After a peer was heard: its report may allow more to be written, and set new deadlines.
    pub(super) fn after_service(&mut self, key: PeerKey) {
        let Some(connection) = self.connections.get_mut(key) else {
            return;
        };
        // The channel counts since its beginning, and the router wants the increase.
        let lost = connection.channel.lost();
        self.router.count_lost(lost - std::mem::replace(&mut connection.lost, lost));
        let has_traffic = connection.channel.wants_service();
        let may_write = has_traffic || std::mem::take(&mut connection.awaiting_credit);
        let has_text = connection.adapter.as_mut().is_some_and(Adapter::has_text);
        if may_write && !connection.blocked && (has_text || !self.router.is_flushed(key)) {
            self.write_peer(key);
        }
        if has_traffic {
            self.tick_peer(key);
        }
    }

    /// Writes the peer's send queue, as much as the channel takes.
    pub(super) fn write_peer(&mut self, key: PeerKey) {
        let Some(connection) = self.connections.get_mut(key) else {
            return;
        };
        if connection.adapter.is_some() {
            return self.write_raw(key);
        }
        while !connection.blocked && connection.broken.is_none() {
            let mut pieces = [IoSlice::new(&[]); PIECES];
            let mut count = 0;
            for (place, bytes) in pieces.iter_mut().zip(self.router.queue_pieces(key)) {
                *place = IoSlice::new(bytes);
                count += 1;
            }
            let outcome = match &pieces[..count] {
                [] => break,
                [only] => connection.channel.write(only),
                several => connection.channel.write_pieces(several),
            };
            match outcome {
                Ok(WriteOutcome::Bytes(count)) => {
                    // Of several pieces it may have looked at the first only.
                    connection.blocked = !ends_piece(&pieces, count);
                    self.router.wrote(self.now, key, count);
                }
                Ok(WriteOutcome::NotReady) => connection.blocked = true,
                Ok(WriteOutcome::NoCredit) => {
                    // Not `blocked`: the descriptor has room, so epoll would report it at once,
                    // again and again. The credit arrives with a datagram.
                    connection.awaiting_credit = true;
                    break;
                }
                Ok(WriteOutcome::Nobody) => {
                    return self.abandon_writing(key, "the peer has no reader");
                }
                Err(error) if error.is_exhaustion() => {
                    // The descriptor may be writable all the same, so that a timer has to try
                    // again.
                    (connection.blocked, connection.is_paused) = (true, true);
                }
                Err(error) => return self.abandon_writing(key, &error.to_string()),
            }
            if connection.blocked {
                self.router.pin(key, connection.channel.pinned());
            }
        }
        if connection.closing.is_some() && self.router.is_flushed(key) {
            self.finish_channel(key);
        }
    }

    /// Nothing will follow: the peer sees the end of the stream, and we wait for its own.
    pub(super) fn finish_channel(&mut self, key: PeerKey) {
        let Some(connection) = self.connections.get_mut(key) else {
            return;
        };
        if !std::mem::replace(&mut connection.finished, true)
            && let Err(error) = connection.channel.finish()
        {
            self.detach_peer(key, &error.to_string());
        }
    }

    /// A peer that cannot be written to has gone, but what it had sent before is still accepted, as soon
    /// as those take it that it is for.
    pub(super) fn abandon_writing(&mut self, key: PeerKey, why: &str) {
        let mut left = LAST_BYTES;
        for _ in 0..LAST_READS {
            let waits = self.connections.get_mut(key).is_none_or(|connection| connection.waiting);
            let Some(Ok(ReadOutcome::Bytes(count))) = (!waits).then(|| self.take_in(key)).flatten()
            else {
                break;
            };
            left = left.saturating_sub(count);
            if left == 0 {
                break;
            }
        }
        match self.connections.get_mut(key) {
            Some(connection) if connection.waiting && connection.closing.is_none() => {
                connection.broken = Some(why.into());
            }
            _ => self.detach_peer(key, why),
        }
    }

    /// Lets a channel with traffic of its own do what is due, and a peer go that was silent for long
    /// enough.
    pub(super) fn tick_peer(&mut self, key: PeerKey) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        let due = match connection.channel.tick(self.now) {
            Ok(due) => due,
            // Messages that wait for room in a send queue are still accepted.
            Err(_) if connection.waiting && connection.adapter.is_some() => {
                return connection.has_ended = true;
            }
            Err(error) => return self.detach_peer(key, &error.to_string()),
        };
        let silent = connection.hears_until.map(|until| self.look_at_silent(key, until));
        let next = due.into_iter().chain(silent.flatten()).min();
        let Some(connection) = self.connections.get_mut(key) else { return };
        if let Some(at) = next.filter(|at| connection.tick_at.is_none_or(|earlier| *at < earlier)) {
            connection.tick_at = Some(at);
            self.ticks.push(at, connection.token);
        }
    }

    pub(super) fn resume_peer(&mut self, key: PeerKey) {
        // After a pause the peers stay unread until the daemon has ended.
        if !self.reads_peers {
            return;
        }
        let largest = self.router.largest_frame(key);
        let Some(connection) = self.connections.get_mut(key) else { return };
        connection.waiting = false;
        self.mark.set(connection.admission);
        let buffer = self.buffers.take(connection.partial.take(), largest);
        // First the bytes that were read before: later ones must not overtake them.
        self.feed_router(key, buffer);
        let connection = self.connections.get_mut(key);
        let Some(connection) = connection.filter(|connection| !connection.waiting) else {
            return self.rearm_peer(key);
        };
        match (connection.broken.take(), connection.has_ended) {
            (Some(why), _) => self.abandon_writing(key, &why),
            (None, true) => self.sent_all(key),
            (None, false) => self.read_peer(key),
        }
        self.rearm_peer(key);
    }

    pub(super) fn rearm_peer(&mut self, key: PeerKey) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        connection.is_paused |= connection.channel.take_shortage();
        let (armed, is_paused) = (connection.arm(&self.epoll), connection.is_paused);
        if is_paused {
            self.retry_soon();
        }
        match armed {
            Ok(()) => {}
            Err(error) if is_exhaustion(error) => self.leave_unwatched(key, error),
            Err(error) => self.detach_peer(key, &error.to_string()),
        }
    }
}

/// Whether the first bytes are whole pieces.
fn ends_piece(pieces: &[IoSlice<'_>], count: usize) -> bool {
    let mut end = 0;
    pieces.iter().any(|piece| {
        end += piece.len();
        end == count && count > 0
    })
}
