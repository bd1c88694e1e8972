//! The channel: one connected socket, the same on both sides of a connection.

mod receiving;
mod sending;

use std::net::UdpSocket;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Instant;

use ipcd_transport::{
    Channel, ChannelParts, ChannelTraffic, Error, PeerIdentity, ReadBuffer, ReadOutcome,
    RecordJoiner, RecordSplitter, Result, WriteOutcome,
};
use nix::errno::Errno;

use crate::datagram::{DATA_HEADER, Datagram, LARGEST_LOOPBACK, LARGEST_REMOTE};
use crate::errors::take_proof;
use crate::session::UdpSession;
use crate::timing::{PeerHealth, PeerLiveness, RetryBackoff};

/// Room for a datagram. One byte more than the largest has, so that a larger one is noticed.
const ROOM: usize = LARGEST_LOOPBACK + 1;

/// A UDP connection.
///
/// Deadlines change with every call, so the caller asks [`Channel::tick`] again after a write that
/// found no credit and after [`Channel::finish`]. A caller that resumes reading calls
/// [`Channel::read`] at once: what was held is not in the socket any more.
pub(crate) struct UdpChannel {
    /// Taken by `into_parts` only, and the channel with it.
    socket: Option<UdpSocket>,
    identity: PeerIdentity,
    largest: usize,
    session: UdpSession,
    splitter: RecordSplitter,
    joiner: RecordJoiner,
    live: PeerLiveness,
    /// BYE was said so often and is to be said again.
    bye: Option<(u32, RetryBackoff)>,
    /// BYE came and was not acknowledged: that says that everything before it was read.
    acknowledge: bool,
    /// Whether the kernel had no memory for a datagram.
    lacks_memory: bool,
    /// The peer's machine has proved that its port is closed, or the peer was silent for too long.
    gone: bool,
}

impl UdpChannel {
    pub(crate) fn new(
        socket: UdpSocket,
        identity: PeerIdentity,
        session: UdpSession,
    ) -> Result<Self> {
        let failed = |error| Error::system("take over a UDP socket", error);
        socket.set_nonblocking(true).map_err(failed)?;
        let peer = socket.peer_addr().map_err(failed)?;
        let near = peer.ip().to_canonical().is_loopback();
        let now = Instant::now();
        Ok(Self {
            socket: Some(socket),
            identity,
            largest: if near { LARGEST_LOOPBACK } else { LARGEST_REMOTE },
            splitter: RecordSplitter::default(),
            joiner: RecordJoiner::default(),
            live: PeerLiveness::new(now),
            bye: session.finished.then(|| (1, RetryBackoff::new(now))),
            acknowledge: session.ended,
            lacks_memory: false,
            gone: false,
            session,
        })
    }

    pub(crate) fn adopt(parts: ChannelParts) -> Result<Self> {
        let mut descriptors = parts.descriptors.into_iter();
        let (Some(socket), None) = (descriptors.next(), descriptors.next()) else {
            return Err(Error::Protocol("a UDP channel has one descriptor".into()));
        };
        let session = UdpSession::decode(&parts.state)
            .ok_or_else(|| Error::Protocol("this is no state of a UDP channel".into()))?;
        Self::new(socket.into(), parts.identity, session)
    }

    fn socket(&self) -> &UdpSocket {
        self.socket.as_ref().expect("only into_parts takes the socket")
    }

    /// An error that the network reports, perhaps because of a forged message. The peer has gone if
    /// it quotes what only the peer can have got.
    fn heed(&mut self, error: Errno) {
        let is_proved = take_proof(self.socket(), self.session.id);
        self.gone |= is_proved && error == Errno::ECONNREFUSED;
    }

    fn check_peer(&mut self, now: Instant) -> Result<()> {
        match self.live.check(now) {
            PeerHealth::Well => Ok(()),
            PeerHealth::Ask => {
                self.send(Datagram::Ping { id: self.session.id });
                Ok(())
            }
            // The datagrams that are held must be read first.
            PeerHealth::Over if !self.session.receiving.held().is_empty() => {
                self.live.heard(now);
                Ok(())
            }
            PeerHealth::Over => {
                self.gone = true;
                Err(Error::system("no sign of life from the peer", Errno::ETIMEDOUT))
            }
        }
    }
}

impl Channel for UdpChannel {
    fn read_fd(&self) -> BorrowedFd<'_> {
        self.socket().as_fd()
    }

    fn write_fd(&self) -> BorrowedFd<'_> {
        self.socket().as_fd()
    }

    fn identity(&self) -> &PeerIdentity {
        &self.identity
    }

    fn read(&mut self, into: &mut ReadBuffer) -> Result<ReadOutcome> {
        let (appended, emptied) = self.receive_into(into)?;
        if self.session.receiving.report_due() {
            self.report();
        }
        let read = appended.map_or(ReadOutcome::NotReady, ReadOutcome::Bytes);
        if emptied && appended.unwrap_or(0) == 0 {
            return self.end_or(read);
        }
        if self.session.ended || self.gone {
            // There is more to say, and perhaps nothing left that makes the socket readable. The
            // peer's answer will, or the kernel's word that there is no peer.
            self.send(Datagram::Ping { id: self.session.id });
        }
        Ok(read)
    }

    fn write(&mut self, frames: &[u8]) -> Result<WriteOutcome> {
        if self.session.finished {
            return Err(Error::system("write", Errno::EPIPE));
        }
        if self.gone {
            return Err(gone());
        }
        let mut written = 0;
        while let Some(record) = self.splitter.next(&frames[written..], self.largest - DATA_HEADER)
        {
            let body = &frames[written..written + record.taken()];
            match self.send_record(&record, body)? {
                None => {
                    self.splitter.sent(&record);
                    written += record.taken();
                }
                Some(why_not) if written == 0 => return Ok(why_not),
                Some(_) => break,
            }
        }
        Ok(WriteOutcome::Bytes(written))
    }

    fn finish(&mut self) -> Result<()> {
        if !self.session.finished {
            self.session.finished = true;
            self.bye = Some((1, RetryBackoff::new(Instant::now())));
            self.say_bye();
        }
        Ok(())
    }

    fn into_parts(mut self: Box<Self>) -> ChannelParts {
        let socket = self.socket.take().expect("only into_parts takes the socket");
        let (identity, state) = (self.identity.clone(), self.session.encode());
        ChannelParts { descriptors: vec![socket.into()], identity, state }
    }

    fn traffic(&self) -> Option<&dyn ChannelTraffic> {
        Some(self)
    }

    fn traffic_mut(&mut self) -> Option<&mut dyn ChannelTraffic> {
        Some(self)
    }
}

impl ChannelTraffic for UdpChannel {
    fn take_shortage(&mut self) -> bool {
        std::mem::take(&mut self.lacks_memory)
    }

    fn wants_service(&self) -> bool {
        true
    }

    fn serve(&mut self) -> Result<()> {
        self.hold_what_comes()?;
        let unread = self.session.ended || !self.session.receiving.held().is_empty();
        if self.gone && !unread { Err(gone()) } else { Ok(()) }
    }

    fn tick(&mut self, now: Instant) -> Result<Option<Instant>> {
        self.check_peer(now)?;
        if let Some(position) = self.session.sending.probe(now) {
            self.send(Datagram::Probe { id: self.session.id, position });
        }
        self.repeat_bye(now);
        let probe = self.session.sending.probe.map(|probe| probe.due);
        let bye = self.bye.map(|(_, backoff)| backoff.due);
        Ok([Some(self.live.due()), probe, bye].into_iter().flatten().min())
    }

    fn lost(&self) -> u64 {
        let UdpSession { sending, receiving, .. } = &self.session;
        receiving.lost.saturating_add(self.joiner.dropped()).saturating_add(sending.lost)
    }
}

impl Drop for UdpChannel {
    fn drop(&mut self) {
        if self.socket.is_some() && !self.session.finished && !self.gone {
            self.say_bye();
        }
    }
}

fn gone() -> Error {
    Error::system("the peer is gone", Errno::ECONNRESET)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::datagram::StreamPlace;
    use crate::datagram::tests::junk;
    use crate::errors::quote_errors;

    pub(super) const ID: u64 = 0x1d;
    pub(super) const NONCE: u64 = 5;
    pub(super) const WINDOW: u32 = 50_000;
    pub(super) const SECOND: Duration = Duration::from_secs(1);

    /// A channel, and the raw socket of its peer.
    pub(super) fn channel() -> (UdpChannel, UdpSocket) {
        let [ours, theirs] = [(); 2].map(|()| UdpSocket::bind("127.0.0.1:0").unwrap());
        ours.connect(theirs.local_addr().unwrap()).unwrap();
        theirs.connect(ours.local_addr().unwrap()).unwrap();
        theirs.set_nonblocking(true).unwrap();
        quote_errors(&ours).unwrap();
        let session = UdpSession::new(ID, NONCE, WINDOW, WINDOW);
        (UdpChannel::new(ours, PeerIdentity::default(), session).unwrap(), theirs)
    }

    pub(super) fn say(peer: &UdpSocket, datagram: Datagram<'_>) {
        peer.send(&datagram.encode()).unwrap();
    }

    pub(super) fn data(sequence: u32, record: &[u8]) -> Datagram<'_> {
        let position = 1_000 * u64::from(sequence + 1);
        Datagram::Data { id: ID, place: StreamPlace { sequence, position }, record }
    }

    /// The next datagram at the peer; on the loopback it is there when the call that sent it returns.
    pub(super) fn heard(peer: &UdpSocket) -> Option<Vec<u8>> {
        let mut bytes = vec![0; ROOM];
        let count = peer.recv(&mut bytes).ok()?;
        bytes.truncate(count);
        Some(bytes)
    }

    pub(super) fn buffer() -> ReadBuffer {
        ReadBuffer::new(4_096, 1 << 20)
    }

    /// The new one gets what is for the old one, and says so ([`crate::connect`]).
    #[test]
    fn a_new_client_on_the_old_ones_port_ends_the_channel() {
        let (mut channel, peer) = channel();
        for nonce in 10..20 {
            say(&peer, Datagram::Init { nonce });
        }
        channel.serve().unwrap();
        assert_eq!(heard(&peer), Some(Datagram::Ping { id: ID }.encode()));
        assert_eq!(heard(&peer), None, "more than one answer to a forger");
        say(&peer, Datagram::Gone { id: ID });
        let error = channel.serve().unwrap_err();
        assert!(error.is_disconnect(), "{error}");
        drop(channel);
        assert_eq!(heard(&peer), None);
    }

    #[test]
    fn a_silent_peer_is_pinged_and_given_up() {
        let (mut channel, peer) = channel();
        let mut now = Instant::now();
        for _ in 0..2 {
            let due = channel.tick(now).unwrap().unwrap();
            assert!(due - now > 5 * SECOND, "a pointless wake-up");
            now = due;
            channel.tick(now).unwrap();
            assert_eq!(heard(&peer), Some(Datagram::Ping { id: ID }.encode()));
        }
        let error = channel.tick(now + 10 * SECOND).unwrap_err();
        assert!(error.is_disconnect(), "{error}");
        assert!(channel.write(&[4, 0, 0, 0]).unwrap_err().is_disconnect());
    }

    #[test]
    fn garbage_is_not_adopted() {
        let state = UdpSession::new(1, 2, 3, 4).encode();
        let socket = || UdpSocket::bind("127.0.0.1:0").unwrap().into();
        let file = || std::fs::File::open("/dev/null").unwrap().into();
        let parts = |descriptors, state: &[u8]| ChannelParts {
            descriptors,
            identity: PeerIdentity::default(),
            state: state.to_vec(),
        };
        assert!(UdpChannel::adopt(parts(vec![], &state)).is_err());
        assert!(UdpChannel::adopt(parts(vec![file()], &state)).is_err());
        assert!(UdpChannel::adopt(parts(vec![socket()], &state)).is_err(), "not connected");
        assert!(UdpChannel::adopt(parts(vec![socket(), socket()], &state)).is_err());
        let (channel, _peer) = channel();
        let ours = Channel::into_parts(Box::new(channel));
        assert!(UdpChannel::adopt(ChannelParts { state: junk(1, 100), ..ours }).is_err());
    }
}
