//! What a worker does with one peer: read it, write to it, let it go.

use std::cmp::Reverse;
use std::io::IoSlice;

use ipcd_core::{PeerKey, Principal};
use ipcd_transport::{ReadBuffer, ReadOutcome, WriteOutcome};
use nix::sys::epoll::EpollFlags;
use tracing::{info, warn};

use super::bare::CLOSED;
use super::{HANDSHAKE_STEPS, SCRATCH_BYTES, Worker};
use crate::connection::{Connection, Token};
use crate::ids::AdmissionId;
use crate::lacking::is_exhaustion;
use crate::link::Gone;

/// A rest of so many bytes stays where it is; a smaller one is copied aside, so that a peer never
/// holds more than four times what it has sent.
const KEPT_BYTES: usize = SCRATCH_BYTES / 4;
/// How much larger than a rest its memory may be, and how many are kept for later.
const MAX_SLACK: usize = 4;
/// Reads that are made of a peer that can no longer be written to, to accept what it had sent, and the
/// bytes: as many as its socket may hold, of which each read may bring only one record.
const LAST_READS: usize = 512;
const LAST_BYTES: usize = 4 * 1024 * 1024;
/// Pieces of an outbox that are written at once.
const PIECES: usize = 16;
/// Room that is made in the kernel for the end of what a peer gets, at the most.
const LAST_WORDS: usize = 2 * 1024 * 1024;

/// Reads. A kernel that has no memory now is no reason to let a peer go.
pub(super) fn read_of(
    connection: &mut Connection,
    into: &mut ReadBuffer,
) -> ipcd_transport::Result<ReadOutcome> {
    match connection.channel.read(into) {
        Err(error) if error.is_exhaustion() => {
            connection.rests = true;
            Ok(ReadOutcome::NotReady)
        }
        outcome => outcome,
    }
}

/// The same where nothing is wanted but the transport's own traffic.
fn serve(connection: &mut Connection) -> ipcd_transport::Result<ReadOutcome> {
    match connection.channel.serve() {
        Err(error) if error.is_exhaustion() => {
            connection.rests = true;
            Ok(ReadOutcome::NotReady)
        }
        served => served.map(|()| ReadOutcome::Bytes(0)),
    }
}

impl Worker {
    pub(super) fn handle(&mut self, token: Token, events: EpollFlags) {
        let key = PeerKey(token.place);
        let Some(connection) = self.connection(key).filter(|found| found.token == token) else {
            return;
        };
        if connection.channel.is_shaking_hands() {
            if self.handshake_steps >= HANDSHAKE_STEPS {
                return;
            }
            self.handshake_steps += 1;
        }
        let Some(connection) = self.connection(key) else { return };
        let broken = EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR;
        if connection.hears_until.is_some() && events.intersects(broken) {
            return self.detach(key, CLOSED);
        }
        if connection.wants_write() && events.intersects(EpollFlags::EPOLLOUT | broken) {
            self.go_on_writing(key);
        }
        let wants_read = self.connection(key).is_some_and(|found| found.wants_read());
        if wants_read && events.intersects(EpollFlags::EPOLLIN | broken) {
            self.read(key);
        }
        self.rearm(key);
    }

    pub(super) fn connection(&mut self, key: PeerKey) -> Option<&mut Connection> {
        self.connections.get_mut(key.0 as usize)?.as_mut()
    }

    /// There is room: for what the channel has of its own first.
    fn go_on_writing(&mut self, key: PeerKey) {
        let Some(connection) = self.connection(key) else { return };
        connection.blocked = false;
        if connection.channel.wants_room()
            && let Err(error) = serve(connection)
        {
            return self.abandon(key, &error.to_string());
        }
        // A handshake may be over with it.
        self.vouch(key);
        self.write(key);
        self.served(key);
    }

    /// Reads once, and gives what came to the router.
    pub(super) fn read(&mut self, key: PeerKey) {
        let outcome = self.take_in(key);
        self.note_begun(key);
        match outcome {
            Some(Ok(ReadOutcome::Bytes(_))) => self.served(key),
            Some(Ok(ReadOutcome::NotReady | ReadOutcome::Boundary)) | None => {}
            Some(Ok(ReadOutcome::Closed)) => self.sent_all(key),
            Some(Err(error)) => self.detach(key, &error.to_string()),
        }
    }

    /// Reads once, and gives what came to the router; says what came of it, unless the peer has
    /// gone.
    fn take_in(&mut self, key: PeerKey) -> Option<ipcd_transport::Result<ReadOutcome>> {
        let connection = self.connections.get(key.0 as usize)?.as_ref()?;
        self.mark.set(connection.admission);
        if connection.translator.is_some() {
            return self.take_in_bare(key);
        }
        let mut buffer = self.take_buffer(key);
        let Some(connection) = self.connection(key) else {
            self.put_back(buffer);
            return None;
        };
        let outcome =
            if connection.waiting { serve(connection) } else { read_of(connection, &mut buffer) };
        self.vouch(key);
        self.feed(key, buffer);
        Some(outcome)
    }

    /// Tells the router of a record that is incomplete, or is not any more: it has to end as soon as a
    /// frame has. One that is not read for a while need not.
    fn note_begun(&mut self, key: PeerKey) {
        let Some(connection) = self.connections[key.0 as usize].as_mut() else { return };
        let since = connection.channel.partial_since().filter(|_| !connection.waiting);
        if since.is_some() || connection.has_begun {
            connection.has_begun = since.is_some();
            let is_in_frame = connection.rest.is_some() && !connection.waiting;
            self.core.note_begun(key, since, is_in_frame);
        }
    }

    /// Tells the router of a certificate, before it hears anything of the peer.
    pub(super) fn vouch(&mut self, key: PeerKey) {
        let Some(connection) = self.connections[key.0 as usize].as_mut() else { return };
        let identity = connection.channel.identity();
        let Some(name) = identity.certificate.as_deref().filter(|_| !connection.is_vouched) else {
            return;
        };
        let peer = self.core.origin(key).peer;
        let source = Principal::of(identity.uid, identity.addr, self.core.prefixes());
        info!(%source, peer, %identity, "peer known by its certificate");
        let has_other_rights = self.core.vouch(key, name);
        connection.is_vouched = true;
        if has_other_rights && let Some(translator) = &mut connection.translator {
            // What waits for it was not sent. Nobody knew yet whether it may hear that.
            let whole = translator.discard(self.core.outbox(key));
            self.core.wrote(self.now, key, whole);
            self.core.unheard(self.now, key);
        }
    }

    /// Gives the router what is in the buffer, and keeps what it does not take.
    pub(super) fn feed(&mut self, key: PeerKey, mut buffer: ReadBuffer) {
        let Some(connection) = self.connections[key.0 as usize].as_mut() else {
            return self.put_back(buffer);
        };
        if !connection.waiting && !buffer.is_empty() {
            let progress = self.core.receive(self.now, key, buffer.filled_mut());
            buffer.consume(progress.consumed);
            connection.waiting = progress.waiting;
        }
        match buffer.filled().len() {
            0 => self.put_back(buffer),
            KEPT_BYTES.. => connection.rest = Some(Box::new(buffer)),
            _ => {
                let mut rest = self.rests.pop().unwrap_or_else(|| ReadBuffer::new(0, 0));
                if rest.capacity() > MAX_SLACK * buffer.filled().len() {
                    rest = ReadBuffer::new(0, 0);
                }
                rest.extend(buffer.filled());
                connection.rest = Some(Box::new(rest));
                self.put_back(buffer);
            }
        }
    }

    /// After a peer was heard: its report may allow more to be written, and set new deadlines.
    pub(super) fn served(&mut self, key: PeerKey) {
        let Some(connection) = self.connections[key.0 as usize].as_mut() else {
            return;
        };
        let lost = connection.channel.lost();
        self.core.count_lost(lost - std::mem::replace(&mut connection.lost, lost));
        let has_traffic = connection.channel.wants_service();
        let may_write = has_traffic || std::mem::take(&mut connection.starved);
        if may_write && !connection.blocked && !self.core.is_flushed(key) {
            self.write(key);
        }
        if has_traffic {
            self.tick(key);
        }
    }

    /// Writes what is in the peer's outbox, as much as the channel takes.
    pub(super) fn write(&mut self, key: PeerKey) {
        let Some(connection) = self.connections[key.0 as usize].as_mut() else {
            return;
        };
        if connection.translator.is_some() {
            return self.write_bare(key);
        }
        while !connection.blocked && connection.broken.is_none() {
            let mut pieces = [IoSlice::new(&[]); PIECES];
            let mut count = 0;
            for (place, bytes) in pieces.iter_mut().zip(self.core.outbox_pieces(key)) {
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
                    self.core.wrote(self.now, key, count);
                }
                Ok(WriteOutcome::NotReady) => connection.blocked = true,
                Ok(WriteOutcome::NoCredit) => {
                    connection.starved = true;
                    break;
                }
                Ok(WriteOutcome::Nobody) => return self.abandon(key, "nobody is there"),
                Err(error) if error.is_exhaustion() => {
                    (connection.blocked, connection.rests) = (true, true);
                }
                Err(error) => return self.abandon(key, &error.to_string()),
            }
            if connection.blocked {
                self.core.pin(key, connection.channel.pinned());
            }
        }
        if connection.closing.is_some() && self.core.is_flushed(key) {
            self.finish(key);
        }
    }

    /// Nothing will follow: the peer sees the end of the stream, and we wait for its own.
    pub(super) fn finish(&mut self, key: PeerKey) {
        let Some(connection) = self.connections[key.0 as usize].as_mut() else {
            return;
        };
        if !std::mem::replace(&mut connection.finished, true)
            && let Err(error) = connection.channel.finish()
        {
            self.detach(key, &error.to_string());
        }
    }

    /// A peer that cannot be written to has gone, but what it had sent before is still accepted, as soon
    /// as those take it that it is for.
    pub(super) fn abandon(&mut self, key: PeerKey, why: &str) {
        let mut left = LAST_BYTES;
        for _ in 0..LAST_READS {
            let waits = self.connection(key).is_none_or(|connection| connection.waiting);
            let Some(Ok(ReadOutcome::Bytes(count))) = (!waits).then(|| self.take_in(key)).flatten()
            else {
                break;
            };
            left = left.saturating_sub(count);
            if left == 0 {
                break;
            }
        }
        match self.connection(key) {
            Some(connection) if connection.waiting && connection.closing.is_none() => {
                connection.broken = Some(why.into());
            }
            _ => self.detach(key, why),
        }
    }

    /// Lets a channel with traffic of its own do what is due, and a peer go that was silent for long
    /// enough.
    pub(super) fn tick(&mut self, key: PeerKey) {
        let Some(connection) = self.connections[key.0 as usize].as_mut() else { return };
        let due = match connection.channel.tick(self.now) {
            Ok(due) => due,
            // What waits for somebody's outbox is still accepted.
            Err(_) if connection.waiting && connection.translator.is_some() => {
                return connection.has_ended = true;
            }
            Err(error) => return self.detach(key, &error.to_string()),
        };
        let silent = connection.hears_until.map(|until| self.look_at_silent(key, until));
        let next = due.into_iter().chain(silent.flatten()).min();
        let Some(connection) = self.connections[key.0 as usize].as_mut() else { return };
        if let Some(at) = next.filter(|at| connection.tick_at.is_none_or(|earlier| *at < earlier)) {
            connection.tick_at = Some(at);
            self.ticks.push(Reverse((at, connection.token)));
        }
    }

    pub(super) fn detach(&mut self, key: PeerKey, why: &str) {
        let Some(connection) = self.connections[key.0 as usize].take() else {
            return;
        };
        let was_cut_off = connection.closing.is_some();
        let why = connection.closing.as_deref().unwrap_or(why);
        let origin = self.core.origin(key);
        let source = self.source_of(connection.channel.identity());
        let (peer, transport, name) = (origin.peer, &origin.transport, origin.name.as_deref());
        let identity = connection.channel.identity();
        match self.core.dropped(key) {
            0 => info!(%source, peer, %transport, %identity, name, why, "peer gone"),
            // What was lost may matter more than that it has gone.
            dropped => warn!(%source, peer, %transport, %identity, name, why, dropped, "peer gone"),
        }
        if let Some((refused, withheld)) = connection.translator.as_ref().map(|t| t.losses())
            && refused + withheld > 0
        {
            warn!(%source, peer = origin.peer, refused, withheld, "messages of or for it were dropped");
        }
        self.core.detach(self.now, key);
        self.gone.push(Gone { number: connection.admission, was_cut_off });
    }

    /// Ends the session of a peer that the supervisor wants gone.
    pub(super) fn let_go(&mut self, number: AdmissionId) {
        let is_meant = |found: &Connection| found.admission == number;
        let place = self.connections.iter().position(|found| found.as_ref().is_some_and(is_meant));
        if let Some(place) = place {
            self.core.dismiss(self.now, PeerKey(place as u32), "the daemon has done with it");
        }
    }

    pub(super) fn resume(&mut self, key: PeerKey) {
        if !self.reads_peers {
            return;
        }
        let buffer = self.take_buffer(key);
        if let Some(connection) = self.connections[key.0 as usize].as_mut() {
            connection.waiting = false;
            self.mark.set(connection.admission);
        }
        self.feed(key, buffer);
        let connection = self.connection(key);
        let Some(connection) = connection.filter(|connection| !connection.waiting) else {
            return self.rearm(key);
        };
        match (connection.broken.take(), connection.has_ended) {
            (Some(why), _) => self.abandon(key, &why),
            (None, true) => self.sent_all(key),
            (None, false) => self.read(key),
        }
        self.rearm(key);
    }

    pub(super) fn close(&mut self, key: PeerKey, why: String) {
        if let Some(connection) = self.connections[key.0 as usize].as_mut() {
            connection.closing = Some(why.into());
            connection.waiting = false;
            if let Some(why) = connection.broken.take() {
                return self.detach(key, &why);
            }
            if std::mem::take(&mut connection.blocked) {
                // One that does not read finds in its own buffer why it was cut off.
                let last = self.core.queued(key);
                connection.channel.make_room(last.min(LAST_WORDS));
            }
            self.write(key);
            self.rearm(key);
        }
    }

    /// A session is open: one that had to prove something has.
    pub(super) fn note_opened(&mut self, key: PeerKey) {
        if let Some(connection) = self.connections[key.0 as usize].as_mut()
            && std::mem::take(&mut connection.must_prove)
        {
            self.opened.push(connection.admission);
        }
    }

    /// Lets a peer go, for another wants its place. One that may still prove its token stays if it has.
    pub(super) fn displace(&mut self, number: AdmissionId, why: &str, may_prove: bool) {
        let mut all = self.connections.iter().flatten();
        let is_meant = |found: &&Connection| found.admission == number;
        let found = all.find(is_meant).filter(|found| found.must_prove || !may_prove);
        if let Some(token) = found.map(|connection| connection.token) {
            self.core.displace(self.now, PeerKey(token.place), why, may_prove);
        }
    }

    /// The log is told once of a peer that was denied something. Of a bare one it is told all that
    /// was refused.
    pub(super) fn note_denied(&mut self, key: PeerKey, why: &str) {
        let Some(connection) = self.connections[key.0 as usize].as_ref() else { return };
        if connection.translator.is_none() {
            let identity = connection.channel.identity();
            let peer = self.core.origin(key).peer;
            let source = self.source_of(identity);
            warn!(%source, peer, %identity, why, "denied; what else is denied to this peer is only counted");
        }
    }

    pub(super) fn rearm(&mut self, key: PeerKey) {
        let Some(connection) = self.connections[key.0 as usize].as_mut() else { return };
        connection.rests |= connection.channel.take_shortage();
        let (armed, rests) = (connection.arm(&self.epoll), connection.rests);
        if rests {
            self.retry_soon();
        }
        match armed {
            Ok(()) => {}
            Err(error) if is_exhaustion(error) => self.leave_unwatched(key, error),
            Err(error) => self.detach(key, &error.to_string()),
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
