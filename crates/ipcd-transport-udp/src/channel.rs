//! The channel: one connected socket, the same on both sides of a connection.

use std::io::{ErrorKind, IoSlice};
use std::net::UdpSocket;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Instant;

use ipcd_transport::{
    Channel, ChannelParts, Error, Identity, Joiner, Read, ReadBuffer, Record, Result, Splitter,
    Wrote,
};
use nix::errno::Errno;
use nix::sys::uio::writev;

use crate::credit::{Held, cost};
use crate::datagram::{
    DATA_HEADER, Datagram, LARGEST_LOOPBACK, LARGEST_REMOTE, Place, data_header,
};
use crate::session::Session;
use crate::timing::{Backoff, Health, Liveness};

/// Room for a datagram. One byte more than the largest has, so that a larger one is noticed.
const ROOM: usize = LARGEST_LOOPBACK + 1;

/// Datagrams received in one call, and bytes appended after which it ends.
const READ_DATAGRAMS: usize = 16;
const READ_BYTES: usize = 128 * 1024;

/// How often BYE is said until it is acknowledged.
const BYES: u32 = 5;

/// A UDP connection.
///
/// Deadlines change with every call, so the caller asks [`Channel::tick`] again after a write that
/// found no credit and after [`Channel::finish`]. A caller that resumes reading calls
/// [`Channel::read`] at once: what was held is not in the socket any more.
pub(crate) struct UdpChannel {
    /// Taken by `into_parts` only, and the channel with it.
    socket: Option<UdpSocket>,
    identity: Identity,
    largest: usize,
    session: Session,
    splitter: Splitter,
    joiner: Joiner,
    live: Liveness,
    /// BYE was said so often and is to be said again.
    bye: Option<(u32, Backoff)>,
    /// BYE came and was not acknowledged: that says that everything before it was read.
    acknowledge: bool,
    /// The kernel learned that nobody has the peer's port, or the peer was silent for too long.
    gone: bool,
}

impl UdpChannel {
    pub(crate) fn new(socket: UdpSocket, identity: Identity, session: Session) -> Result<Self> {
        let failed = |error| Error::system("take over a UDP socket", error);
        socket.set_nonblocking(true).map_err(failed)?;
        let peer = socket.peer_addr().map_err(failed)?;
        let near = peer.ip().to_canonical().is_loopback();
        let now = Instant::now();
        Ok(Self {
            socket: Some(socket),
            identity,
            largest: if near { LARGEST_LOOPBACK } else { LARGEST_REMOTE },
            splitter: Splitter::default(),
            joiner: Joiner::default(),
            live: Liveness::new(now),
            bye: session.finished.then(|| (1, Backoff::new(now))),
            acknowledge: session.ended,
            gone: false,
            session,
        })
    }

    pub(crate) fn adopt(parts: ChannelParts) -> Result<Self> {
        let mut descriptors = parts.descriptors.into_iter();
        let (Some(socket), None) = (descriptors.next(), descriptors.next()) else {
            return Err(Error::Protocol("a UDP channel has one descriptor".into()));
        };
        let session = Session::decode(&parts.state)
            .ok_or_else(|| Error::Protocol("this is no state of a UDP channel".into()))?;
        Self::new(socket.into(), parts.identity, session)
    }

    fn socket(&self) -> &UdpSocket {
        self.socket.as_ref().expect("only into_parts takes the socket")
    }

    /// The next datagram, or `None` when there is none now.
    fn receive(&mut self, room: &mut [u8]) -> Result<Option<usize>> {
        loop {
            match self.socket().recv(room) {
                Ok(count) => return Ok(Some(count)),
                Err(error) => match error.kind() {
                    // The kernel reports this before what it has received, which is still there.
                    ErrorKind::ConnectionRefused => self.gone = true,
                    ErrorKind::WouldBlock | ErrorKind::Interrupted => return Ok(None),
                    _ => return Err(Error::system("receive", error)),
                },
            }
        }
    }

    /// Sends control traffic, which may be lost like everything else. Who reads learns that the
    /// peer is gone.
    fn send(&mut self, datagram: Datagram<'_>) {
        let bytes = datagram.encode();
        let sent = self.socket().send(&bytes);
        if sent.is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused) {
            self.gone = true;
            // That error would have woken the reader, and is used up; sending again renews it.
            let _ = self.socket().send(&bytes);
        }
    }

    /// Handles a datagram, and returns it if it is data in turn.
    fn handle<'a>(&mut self, bytes: &'a [u8]) -> Option<(Place, &'a [u8])> {
        let datagram = Datagram::decode(bytes).filter(|_| bytes.len() < ROOM)?;
        match datagram.id() {
            Some(id) if id == self.session.id => self.live.heard(Instant::now()),
            Some(_) => return None,
            None => self.handshake(&datagram),
        }
        match datagram {
            Datagram::Data { place, record, .. } if !self.session.ended => {
                return self.session.receiving.admit(place.sequence).then_some((place, record));
            }
            Datagram::Credit { position, .. } => self.session.sending.credit(position),
            Datagram::Probe { position, .. } => {
                self.session.receiving.passed(position);
                self.report();
            }
            Datagram::Ping { id } => self.send(Datagram::Pong { id }),
            Datagram::Bye { sequence, .. } => {
                self.session.receiving.skip_to(sequence);
                (self.session.ended, self.acknowledge) = (true, true);
            }
            Datagram::ByeAck { .. } => self.bye = None,
            Datagram::Gone { .. } => self.gone = true,
            _ => {}
        }
        None
    }

    /// A repeated CONNECT is answered again. Anything else may come from a new client on the old
    /// one's port, which gets through to the listener only when this channel is gone; or from
    /// somebody who would like it to be.
    fn handshake(&mut self, datagram: &Datagram<'_>) {
        let now = Instant::now();
        match datagram {
            Datagram::Connect(request) if request.nonce == self.session.nonce => {
                self.live.heard(now);
                self.send(self.session.acceptance());
            }
            Datagram::Init { .. } | Datagram::Connect(_) if self.live.suspect(now) => {
                self.send(Datagram::Ping { id: self.session.id });
            }
            _ => {}
        }
    }

    fn report(&mut self) {
        let receiving = &mut self.session.receiving;
        receiving.reported = receiving.consumed;
        let (position, received, lost) = (receiving.consumed, receiving.received, receiving.lost);
        self.send(Datagram::Credit { id: self.session.id, position, received, lost });
    }

    /// Receives within the budget. Says what was appended, if anything came at all, and whether
    /// the socket was left empty.
    fn receive_into(&mut self, into: &mut ReadBuffer) -> Result<(Option<usize>, bool)> {
        let mut appended = self.deliver_held(into)?;
        for _ in 0..READ_DATAGRAMS {
            if appended.is_some_and(|bytes| bytes >= READ_BYTES) {
                return Ok((appended, false));
            }
            let room = &mut into.spare(ROOM)[..ROOM];
            let Some(count) = self.receive(room)? else { return Ok((appended, true)) };
            let bytes = appended.get_or_insert(0);
            if let Some((place, _)) = self.handle(&room[..count]) {
                *bytes += self.joiner.accept_spare(DATA_HEADER..count, into)?;
                self.session.receiving.consume(place.position);
            }
            if self.session.ended && *bytes > 0 {
                return Ok((appended, false));
            }
        }
        Ok((appended, false))
    }

    fn deliver_held(&mut self, into: &mut ReadBuffer) -> Result<Option<usize>> {
        let mut appended = None;
        while let Some(held) = self.session.receiving.take_held() {
            *appended.get_or_insert(0) += self.joiner.accept(&held.record, into)?;
            self.session.receiving.consume(held.position);
        }
        Ok(appended)
    }

    /// What a read says that appended nothing and left the socket empty.
    fn end_or(&mut self, otherwise: Read) -> Result<Read> {
        if self.session.ended {
            if std::mem::take(&mut self.acknowledge) {
                self.send(Datagram::ByeAck { id: self.session.id });
            }
            return Ok(Read::Closed);
        }
        if self.gone { Err(gone()) } else { Ok(otherwise) }
    }

    /// Sends one record, or says why not.
    fn send_record(&mut self, record: &Record, frames: &[u8]) -> Result<Option<Wrote>> {
        let cost = cost(DATA_HEADER + record.header().len() + frames.len());
        let Some(place) = self.session.sending.next(cost) else {
            self.session.sending.lacks(Instant::now());
            return Ok(Some(Wrote::NoCredit));
        };
        let header = data_header(self.session.id, place);
        let parts = [&header, record.header(), frames].map(IoSlice::new);
        // A write is a datagram, and the socket is non-blocking. sendmsg(2) would do as well, but a
        // sandbox may forbid it, because it can choose another receiver.
        match writev(self.socket(), &parts) {
            Ok(_) => {
                self.session.sending.sent(place);
                Ok(None)
            }
            Err(Errno::EAGAIN | Errno::ENOBUFS | Errno::EINTR) => Ok(Some(Wrote::NotReady)),
            Err(Errno::ECONNREFUSED) => {
                self.gone = true;
                Err(gone())
            }
            Err(error) => Err(Error::system("send", error)),
        }
    }

    /// Says BYE twice in a row. A reader that finds one behind data stops there, and the other keeps
    /// its socket readable, so that it is called again to learn of the end.
    fn say_bye(&mut self) {
        let (id, sequence) = (self.session.id, self.session.sending.sequence);
        self.send(Datagram::Bye { id, sequence });
        self.send(Datagram::Bye { id, sequence });
    }

    fn repeat_bye(&mut self, now: Instant) {
        let Some((said, backoff)) = self.bye.as_mut().filter(|(_, backoff)| now >= backoff.due)
        else {
            return;
        };
        *said += 1;
        backoff.again(now);
        if *said >= BYES {
            self.bye = None;
        }
        self.say_bye();
    }

    fn check_peer(&mut self, now: Instant) -> Result<()> {
        match self.live.check(now) {
            Health::Well => Ok(()),
            Health::Ask => {
                self.send(Datagram::Ping { id: self.session.id });
                Ok(())
            }
            // What is held must be read first.
            Health::Over if !self.session.receiving.held().is_empty() => {
                self.live.heard(now);
                Ok(())
            }
            Health::Over => {
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

    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn read(&mut self, into: &mut ReadBuffer) -> Result<Read> {
        let (appended, emptied) = self.receive_into(into)?;
        if self.session.receiving.report_due() {
            self.report();
        }
        let read = appended.map_or(Read::NotReady, Read::Bytes);
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

    fn write(&mut self, frames: &[u8]) -> Result<Wrote> {
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
        Ok(Wrote::Bytes(written))
    }

    fn finish(&mut self) -> Result<()> {
        if !self.session.finished {
            self.session.finished = true;
            self.bye = Some((1, Backoff::new(Instant::now())));
            self.say_bye();
        }
        Ok(())
    }

    fn wants_service(&self) -> bool {
        true
    }

    fn serve(&mut self) -> Result<()> {
        let mut room = [0; ROOM];
        for _ in 0..READ_DATAGRAMS {
            let Some(count) = self.receive(&mut room)? else { break };
            if let Some((place, record)) = self.handle(&room[..count]) {
                let held = Held { position: place.position, record: record.to_vec() };
                self.session.receiving.hold(held);
            }
        }
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
        self.session.receiving.lost.saturating_add(self.joiner.dropped())
    }

    fn into_parts(mut self: Box<Self>) -> ChannelParts {
        let socket = self.socket.take().expect("only into_parts takes the socket");
        let (identity, state) = (self.identity.clone(), self.session.encode());
        ChannelParts { descriptors: vec![socket.into()], identity, state }
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
    use crate::cookie::COOKIE_BYTES;
    use crate::datagram::Request;
    use crate::datagram::tests::junk;

    const ID: u64 = 0x1d;
    const NONCE: u64 = 5;
    const WINDOW: u32 = 50_000;
    const SECOND: Duration = Duration::from_secs(1);

    /// A channel, and the bare socket of its peer.
    fn channel() -> (UdpChannel, UdpSocket) {
        let [ours, theirs] = [(); 2].map(|()| UdpSocket::bind("127.0.0.1:0").unwrap());
        ours.connect(theirs.local_addr().unwrap()).unwrap();
        theirs.connect(ours.local_addr().unwrap()).unwrap();
        theirs.set_nonblocking(true).unwrap();
        let session = Session::new(ID, NONCE, WINDOW, WINDOW);
        (UdpChannel::new(ours, Identity::default(), session).unwrap(), theirs)
    }

    fn say(peer: &UdpSocket, datagram: Datagram<'_>) {
        peer.send(&datagram.encode()).unwrap();
    }

    fn data(sequence: u32, record: &[u8]) -> Datagram<'_> {
        let position = 1_000 * u64::from(sequence + 1);
        Datagram::Data { id: ID, place: Place { sequence, position }, record }
    }

    /// What the peer gets; on the loopback it is there when the call that sent it returns.
    fn heard(peer: &UdpSocket) -> Option<Vec<u8>> {
        let mut bytes = vec![0; ROOM];
        let count = peer.recv(&mut bytes).ok()?;
        bytes.truncate(count);
        Some(bytes)
    }

    fn buffer() -> ReadBuffer {
        ReadBuffer::new(4_096, 1 << 20)
    }

    #[test]
    fn hostile_datagrams_do_no_harm() {
        let (mut channel, peer) = channel();
        let mut into = buffer();
        for seed in 0..10_000_u64 {
            let mut bytes = junk(seed, (seed % 61) as usize);
            bytes.splice(0..0, ID.to_le_bytes());
            bytes.insert(0, (seed % 13) as u8);
            peer.send(&bytes).unwrap();
            // An error is a right answer; a panic, or memory that piles up, is not.
            let _ = if seed % 3 == 0 { channel.serve() } else { channel.read(&mut into).map(drop) };
            let _ = channel.write(&[8, 0, 0, 0, 1, 2, 3, 4]);
            let _ = channel.tick(Instant::now());
            while heard(&peer).is_some() {}
            into.clear();
            assert!(into.capacity() < 1 << 20);
            assert!(channel.session.receiving.held().len() < 100);
        }
    }

    #[test]
    fn nothing_is_delivered_late_or_twice_or_by_strangers() {
        let (mut channel, peer) = channel();
        for sequence in [0, 2, 1, 2, 0, 4] {
            say(&peer, data(sequence, &[0, 5, 0, 0, 0, b'0' + sequence as u8]));
        }
        let place = Place { sequence: 5, position: 6_000 };
        say(&peer, Datagram::Data { id: ID + 1, place, record: &[0, 5, 0, 0, 0, b'!'] });
        peer.send(&[&data(5, &[0]).encode()[..], &[0; ROOM]].concat()).unwrap();
        let mut into = buffer();
        assert_eq!(channel.read(&mut into).unwrap(), Read::Bytes(15));
        let digits: Vec<u8> = into.filled().iter().copied().filter(u8::is_ascii_digit).collect();
        assert_eq!((digits.as_slice(), channel.lost()), (&b"024"[..], 2));
    }

    #[test]
    fn a_repeated_connect_is_accepted_again() {
        let (mut channel, peer) = channel();
        let cookie = [0; COOKIE_BYTES];
        say(&peer, Datagram::Connect(Request { nonce: NONCE, window: 1, cookie }));
        assert_eq!(channel.read(&mut buffer()).unwrap(), Read::Bytes(0));
        let accept = Datagram::Accept { nonce: NONCE, id: ID, window: WINDOW };
        assert_eq!(heard(&peer), Some(accept.encode()));
        assert_eq!(channel.check_peer(Instant::now() + 2 * SECOND).map_err(drop), Ok(()));
    }

    #[test]
    fn a_new_client_on_the_old_ones_port_ends_the_channel() {
        let (mut channel, peer) = channel();
        for nonce in 10..20 {
            say(&peer, Datagram::Init { nonce });
        }
        channel.serve().unwrap();
        assert_eq!(heard(&peer), Some(Datagram::Ping { id: ID }.encode()));
        assert_eq!(heard(&peer), None, "more than one answer to a forger");
        let due = channel.tick(Instant::now()).unwrap().unwrap();
        let error = channel.tick(due).unwrap_err();
        assert!(error.is_disconnect(), "{error}");
        drop(channel);
        assert_eq!(heard(&peer), None);
    }

    #[test]
    fn a_forged_init_does_not_end_the_channel() {
        let (mut channel, peer) = channel();
        say(&peer, Datagram::Init { nonce: 10 });
        channel.serve().unwrap();
        say(&peer, Datagram::Pong { id: ID });
        channel.serve().unwrap();
        channel.tick(Instant::now() + 2 * SECOND).unwrap();
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
    fn bye_is_said_until_it_is_acknowledged() {
        let bye = Datagram::Bye { id: ID, sequence: 0 }.encode();
        for acknowledged_after in [1, 3, u32::MAX] {
            let (mut channel, peer) = channel();
            channel.finish().unwrap();
            let mut rounds = 0;
            let mut now = Instant::now();
            while heard(&peer).is_some_and(|bytes| bytes == bye) {
                assert_eq!(heard(&peer).as_deref(), Some(&bye[..]));
                rounds += 1;
                if rounds == acknowledged_after {
                    say(&peer, Datagram::ByeAck { id: ID });
                    channel.serve().unwrap();
                }
                now += SECOND;
                channel.tick(now).unwrap();
            }
            assert_eq!(rounds, acknowledged_after.min(BYES));
            assert!(channel.write(&[4, 0, 0, 0]).is_err());
        }
    }

    #[test]
    fn the_end_is_acknowledged_when_everything_before_it_was_read() {
        let (mut channel, peer) = channel();
        say(&peer, data(0, &[0, 4, 0, 0, 0]));
        channel.serve().unwrap();
        say(&peer, Datagram::Bye { id: ID, sequence: 3 });
        channel.serve().unwrap();
        assert_eq!(heard(&peer), None);
        let mut into = buffer();
        assert_eq!(channel.read(&mut into).unwrap(), Read::Bytes(4));
        assert_eq!(heard(&peer), Some(Datagram::Ping { id: ID }.encode()));
        say(&peer, Datagram::Pong { id: ID });
        assert_eq!(channel.read(&mut into).unwrap(), Read::Closed);
        assert_eq!(heard(&peer), Some(Datagram::ByeAck { id: ID }.encode()));
        assert_eq!((channel.lost(), channel.read(&mut into).unwrap()), (2, Read::Closed));
    }

    #[test]
    fn probes_are_answered_at_once_and_what_is_held_stays_unreported() {
        let (mut channel, peer) = channel();
        let credit = |position, received, lost| {
            Some(Datagram::Credit { id: ID, position, received, lost }.encode())
        };
        say(&peer, data(0, &[0, 4, 0, 0, 0]));
        say(&peer, Datagram::Probe { id: ID, position: 3_000 });
        channel.serve().unwrap();
        assert_eq!(heard(&peer), credit(0, 1, 0));
        channel.read(&mut buffer()).unwrap();
        say(&peer, Datagram::Probe { id: ID, position: 3_000 });
        channel.serve().unwrap();
        assert_eq!(heard(&peer), credit(3_000, 1, 0));
    }

    #[test]
    fn what_came_before_the_peer_died_is_read_first() {
        let (mut channel, peer) = channel();
        for sequence in 0..40 {
            say(&peer, data(sequence, &[0, 4, 0, 0, 0]));
        }
        drop(peer);
        assert_eq!(channel.write(&[4, 0, 0, 0]).unwrap(), Wrote::Bytes(4));
        let mut into = buffer();
        let error = loop {
            match channel.read(&mut into) {
                Ok(Read::Bytes(_)) => {}
                Ok(other) => panic!("{other:?}"),
                Err(error) => break error,
            }
        };
        assert!(error.is_disconnect(), "{error}");
        assert_eq!(into.filled().len(), 40 * 4);
    }

    #[test]
    fn garbage_is_not_adopted() {
        let state = Session::new(1, 2, 3, 4).encode();
        let socket = || UdpSocket::bind("127.0.0.1:0").unwrap().into();
        let file = || std::fs::File::open("/dev/null").unwrap().into();
        let parts = |descriptors, state: &[u8]| ChannelParts {
            descriptors,
            identity: Identity::default(),
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
