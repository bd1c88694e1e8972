//! The channel: a TCP socket, and rustls between it and the frames.
//!
//! All that was received is given to rustls and taken out again before a call returns, so that
//! there is something to read exactly when the socket says so. What was encrypted stays here until
//! the kernel takes it, and only then do the caller's bytes count as written.

use std::cell::RefCell;
use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use ipcd_transport::{
    Channel, ChannelParts, ChannelTraffic, Error, PeerIdentity, ReadBuffer, ReadOutcome, Result,
    WriteOutcome, end_socket, grow_send_buffer,
};
use nix::errno::Errno;
use nix::sys::socket::{self, MsgFlags, Shutdown};
use rustls::Connection;

use crate::config::SessionConfig;
use crate::explain::{HandshakeSide, explain};
use crate::names::name_of;
use crate::outgoing::OutgoingRecords;
use crate::progress::RecordProgress;

/// Bytes that are received at once, and plaintext that is encrypted at once.
const BATCH: usize = 64 * 1024;
/// Bytes that are received at once when no frames are wanted: a handshake has not many more, and
/// rustls keeps at most 16 KiB that were not taken.
const SERVICE: usize = 4 * 1024;
/// Plaintext of the largest record (RFC 8446 §5.1), and what its record has beyond it.
const RECORD: usize = 16 * 1024;
const OVERHEAD: usize = 22;
/// The time that a peer that has connected may take to shake hands. The router's own deadline is shorter
/// by default, but knows nothing of raw peers.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Room that is offered to rustls at once.
const PLAIN: usize = 16 * 1024;

thread_local! {
    /// The room for received ciphertext. Nothing stays there after a call.
    static RECEIVED: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// A stream in TLS.
pub struct TlsChannel {
    socket: OwnedFd,
    identity: PeerIdentity,
    tls: Box<Connection>,
    side: HandshakeSide,
    outgoing: OutgoingRecords,
    end: WriteEnd,
    /// Whether the peer has said that nothing more will come.
    peer_has_ended: bool,
    progress: RecordProgress,
    /// Whether the kernel had no memory for what is encrypted.
    lacks_memory: bool,
    /// Whether nothing can be read or written any more.
    is_broken: bool,
    /// The end of the time for the handshake; the connecting side has a deadline of its own.
    shaken_by: Option<Instant>,
    /// The parts of which another process would make the channel, until it is used here.
    unused: Option<(OwnedFd, Vec<u8>)>,
}

/// The state of the end of what we write.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum WriteEnd {
    NotYet,
    /// It is to be said after the handshake.
    Due,
    /// It is on its way.
    Said,
    Over,
}

/// The outcome of a receive.
enum ReceiveOutcome {
    Something,
    Nothing,
    Closed,
}

impl TlsChannel {
    /// Of a socket and a memory file with settings, and the state that names these.
    ///
    /// # Errors
    /// If the parts are not those of a [`TlsListener`](crate::TlsListener) or of [`dial`](crate::dial).
    pub fn adopt(parts: ChannelParts) -> Result<Self> {
        let ChannelParts { descriptors, identity, state } = parts;
        let Ok([socket, settings]) = <[OwnedFd; 2]>::try_from(descriptors) else {
            return Err(Error::Protocol("a TLS channel has a socket and settings".into()));
        };
        let config = SessionConfig::find(&state, &settings)?;
        let side = if matches!(config, SessionConfig::Server(_)) {
            HandshakeSide::Server
        } else {
            HandshakeSide::Client
        };
        Ok(Self {
            socket,
            identity,
            tls: Box::new(config.connection()?),
            side,
            outgoing: OutgoingRecords::default(),
            end: WriteEnd::NotYet,
            peer_has_ended: false,
            progress: RecordProgress::default(),
            lacks_memory: false,
            is_broken: false,
            shaken_by: (side == HandshakeSide::Server).then(|| Instant::now() + HANDSHAKE),
            unused: Some((settings, state)),
        })
    }

    /// Receives once, and gives what came to rustls; plaintext goes `into` a buffer, if there is
    /// one.
    fn receive(&mut self, most: usize, into: Option<&mut ReadBuffer>) -> Result<ReceiveOutcome> {
        let came = self.receive_some(most, into);
        // After an error the state of rustls is undefined, so nothing more is given to it.
        self.is_broken |= came.is_err();
        came
    }

    fn receive_some(
        &mut self,
        most: usize,
        mut into: Option<&mut ReadBuffer>,
    ) -> Result<ReceiveOutcome> {
        self.unused = None;
        // Bytes that an earlier service has left.
        self.take_plaintext(into.as_deref_mut())?;
        if self.peer_has_ended {
            return Ok(ReceiveOutcome::Closed);
        }
        // A peer that takes no more may have said why.
        let flushed = self.flush();
        RECEIVED.with_borrow_mut(|received| {
            received.resize(BATCH, 0);
            let flags = MsgFlags::MSG_DONTWAIT;
            match socket::recv(self.socket.as_raw_fd(), &mut received[..most], flags) {
                Ok(0) => Err(flushed.err().unwrap_or_else(|| self.cut_off())),
                Ok(count) => {
                    let outcome = self.digest(&received[..count], into);
                    // Also an alert about what was wrong with it.
                    let flushed = self.flush();
                    outcome?;
                    flushed.map(|_| {
                        if self.peer_has_ended {
                            ReceiveOutcome::Closed
                        } else {
                            ReceiveOutcome::Something
                        }
                    })
                }
                // Without memory now, the kernel may have some later.
                Err(error @ (Errno::EAGAIN | Errno::EINTR | Errno::ENOMEM | Errno::ENOBUFS)) => {
                    self.lacks_memory |= !matches!(error, Errno::EAGAIN | Errno::EINTR);
                    flushed.map(|_| ReceiveOutcome::Nothing)
                }
                Err(error) => Err(Error::system("read", error)),
            }
        })
    }

    fn digest(&mut self, mut bytes: &[u8], mut into: Option<&mut ReadBuffer>) -> Result<()> {
        self.progress.received(bytes);
        while !bytes.is_empty() && !self.peer_has_ended {
            let taken = self.tls.read_tls(&mut bytes);
            taken.map_err(|error| Error::Protocol(format!("TLS: {error}")))?;
            let was_handshaking = self.tls.is_handshaking();
            // Also after an error: rustls may have decrypted records before the bad one, and the caller
            // reads them first.
            let processed = self.tls.process_new_packets();
            self.take_plaintext(into.as_deref_mut())?;
            let state = processed.map_err(|error| Error::Protocol(explain(&error, self.side)))?;
            if was_handshaking && !self.tls.is_handshaking() {
                self.note_certificate();
            }
            if state.peer_has_closed() {
                self.note_end()?;
            }
        }
        Ok(())
    }

    fn take_plaintext(&mut self, into: Option<&mut ReadBuffer>) -> Result<()> {
        let Some(into) = into else { return Ok(()) };
        loop {
            let room = into.spare(PLAIN);
            let wanted = room.len();
            match self.tls.reader().read(room) {
                Ok(0) => return Ok(()),
                Ok(count) => {
                    into.commit(count);
                    if count < wanted {
                        return Ok(());
                    }
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(Error::system("read", error)),
            }
        }
    }

    /// The peer has said close_notify. Reading is shut down, so that the socket says that there is
    /// an end to be read even if the peer leaves its own open.
    fn note_end(&mut self) -> Result<()> {
        if self.tls.is_handshaking() {
            return Err(self.ended_early());
        }
        self.peer_has_ended = true;
        end_socket(&self.socket, Shutdown::Read)
    }

    /// Only a server looks at certificates to know who it is: a client knows whom it has called.
    fn note_certificate(&mut self) {
        if self.side == HandshakeSide::Server
            && let Some([certificate, ..]) = self.tls.peer_certificates()
        {
            self.identity.certificate = name_of(certificate).map(String::into_boxed_str);
        }
    }

    /// The stream has ended without close_notify (RFC 8446 §6.1).
    fn cut_off(&self) -> Error {
        match self.tls.is_handshaking() {
            true => self.ended_early(),
            false => {
                Error::Truncated("the connection was cut off, or the other side has died".into())
            }
        }
    }

    fn ended_early(&self) -> Error {
        let why = match self.side {
            HandshakeSide::Client => {
                "it ended the connection in the handshake: it may be full, or not take TLS there"
            }
            HandshakeSide::Server => "it left in the handshake",
        };
        Error::Truncated(why.into())
    }

    /// Writes what is encrypted, as far as there is room; whether all of it was written.
    fn flush(&mut self) -> Result<bool> {
        if self.end == WriteEnd::Due && !self.tls.is_handshaking() {
            // Once only: each call would queue another alert.
            self.tls.send_close_notify();
            self.end = WriteEnd::Said;
        }
        while self.tls.wants_write() {
            let encoded = self.tls.write_tls(self.outgoing.sink());
            encoded.map_err(|error| Error::system("encrypt", error))?;
        }
        while !self.outgoing.unsent().is_empty() {
            let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
            match socket::send(self.socket.as_raw_fd(), self.outgoing.unsent(), flags) {
                Ok(count) => self.outgoing.sent(count),
                Err(Errno::EAGAIN) => return Ok(false),
                Err(Errno::ENOMEM | Errno::ENOBUFS) => {
                    self.lacks_memory = true;
                    return Ok(false);
                }
                Err(Errno::EINTR) => {}
                Err(error) => return Err(Error::system("write", error)),
            }
        }
        if self.end == WriteEnd::Said {
            self.end = WriteEnd::Over;
            end_socket(&self.socket, Shutdown::Write)?;
        }
        Ok(true)
    }

    /// Encrypts as much as is kept of what the caller still has.
    fn encrypt(&mut self, plain: &[u8]) -> Result<()> {
        // A record at a time, so that its end is known: the caller drops bytes only at such an end.
        for record in plain.chunks(RECORD).take(BATCH / RECORD) {
            let failed = |error| Error::system("encrypt", error);
            self.tls.writer().write_all(record).map_err(failed)?;
            while self.tls.wants_write() {
                self.tls.write_tls(self.outgoing.sink()).map_err(failed)?;
            }
            self.outgoing.end_record(record.len());
        }
        Ok(())
    }

    fn write_frames(&mut self, frames: &[u8]) -> Result<WriteOutcome> {
        let mut taken = 0;
        loop {
            let has_room = self.flush()?;
            taken += self.outgoing.take_done();
            if !has_room || taken == frames.len() {
                break;
            }
            self.encrypt(&frames[taken..])?;
        }
        Ok(if taken > 0 { WriteOutcome::Bytes(taken) } else { WriteOutcome::NotReady })
    }

    /// A peer that does not take us says so in an alert and closes, so that writing fails first.
    fn told(&mut self, error: Error) -> Error {
        if !error.is_disconnect() {
            return error;
        }
        match self.receive(SERVICE, None) {
            Err(told @ Error::Protocol(_)) => told,
            _ => error,
        }
    }
}

impl Channel for TlsChannel {
    fn read_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    fn write_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    fn identity(&self) -> &PeerIdentity {
        &self.identity
    }

    fn read(&mut self, into: &mut ReadBuffer) -> Result<ReadOutcome> {
        let before = into.filled().len();
        let came = self.receive(BATCH, Some(into))?;
        Ok(match (into.filled().len() - before, came) {
            (0, ReceiveOutcome::Nothing) => ReadOutcome::NotReady,
            (0, ReceiveOutcome::Closed) => ReadOutcome::Closed,
            (count, _) => ReadOutcome::Bytes(count),
        })
    }

    fn write(&mut self, frames: &[u8]) -> Result<WriteOutcome> {
        self.unused = None;
        if self.end != WriteEnd::NotYet || self.is_broken {
            return Err(Error::system("write", Errno::EPIPE));
        }
        let wrote = match self.tls.is_handshaking() {
            true => self.flush().map(|_| WriteOutcome::NoCredit),
            false => self.write_frames(frames),
        };
        wrote.map_err(|error| self.told(error))
    }

    fn finish(&mut self) -> Result<()> {
        self.unused = None;
        if self.end == WriteEnd::NotYet {
            self.end = WriteEnd::Due;
        }
        match self.flush() {
            // A peer that has gone needs no goodbye.
            Err(error) if error.is_disconnect() => Ok(()),
            flushed => flushed.map(drop),
        }
    }

    fn make_room(&mut self, bytes: usize) {
        let records = bytes.div_ceil(RECORD) + 1;
        grow_send_buffer(
            self.socket.as_fd(),
            bytes + records * OVERHEAD + self.outgoing.unsent().len(),
        );
    }

    fn into_parts(self: Box<Self>) -> ChannelParts {
        let (settings, state) = self.unused.unzip();
        let descriptors = std::iter::once(self.socket).chain(settings).collect();
        ChannelParts { descriptors, identity: self.identity, state: state.unwrap_or_default() }
    }

    fn traffic(&self) -> Option<&dyn ChannelTraffic> {
        Some(self)
    }

    fn traffic_mut(&mut self) -> Option<&mut dyn ChannelTraffic> {
        Some(self)
    }
}

impl ChannelTraffic for TlsChannel {
    fn partial_since(&self) -> Option<Instant> {
        self.progress.since()
    }

    fn pinned(&self) -> usize {
        self.outgoing.pinned()
    }

    /// A client's first flight is in rustls until it is asked for.
    fn wants_room(&self) -> bool {
        !self.outgoing.unsent().is_empty() || self.tls.wants_write() && !self.is_broken
    }

    fn take_shortage(&mut self) -> bool {
        std::mem::take(&mut self.lacks_memory)
    }

    fn wants_service(&self) -> bool {
        self.tls.is_handshaking() && !self.is_broken
    }

    fn is_shaking_hands(&self) -> bool {
        self.wants_service()
    }

    fn serve(&mut self) -> Result<()> {
        match self.tls.is_handshaking() {
            true => self.receive(SERVICE, None).map(drop),
            false => self.flush().map(drop),
        }
    }

    fn tick(&mut self, now: Instant) -> Result<Option<Instant>> {
        self.shaken_by.take_if(|_| !self.tls.is_handshaking());
        match self.shaken_by {
            Some(at) if at <= now => {
                self.is_broken = true;
                Err(Error::TimedOut("the handshake".into()))
            }
            next => Ok(next),
        }
    }
}
