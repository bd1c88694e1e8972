//! Datagrams of programs that know nothing of us: each sender is a peer, by address and port,
//! until it has been silent for long enough. A server that we connect to is a peer from the start
//! and for good: it may have nothing to say, and it may be started after us.
//!
//! Each gets a connected socket on the listener's port, as peers with a handshake do. What it had
//! sent before that socket was there goes along with it, in its order.
//!
//! A source that nothing can be sent to is heard all the same: it is a peer until what it had sent is
//! read.

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use ipcd_transport::{
    ChannelParts, Endpoint, Error, Listener, PeerIdentity, RawChannel, RecordChannel, Result,
    SilenceLimit,
};

use crate::connect::socket;
use crate::door::{AddressPair, SharedPortSocket};

/// The longest silence of a peer; and of one that has sent nothing since it came, whose address
/// may be forged.
const SILENCE: Duration = Duration::from_secs(60);
const SILENCE_AT_FIRST: Duration = Duration::from_secs(10);
/// Bytes of the largest datagram.
const LARGEST: usize = 64 * 1024;
/// Bytes that fit one over IPv4 (udp(7)); over IPv6 it is a little more.
const LARGEST_SENT: usize = 65_507;
/// Datagrams that wait for their peers' sockets, at the most; a socket's buffer holds no more.
const QUEUE: usize = 512;
/// Bytes of a peer's datagrams that go along with its socket. More are lost, as on the way.
const ALONG: usize = 64 * 1024;
/// Bytes in front of each of these.
const LENGTH: usize = 4;
/// The state in the parts of a channel to a server. As datagrams, it would claim a length that
/// [`ALONG`] does not allow.
const SERVER: &[u8] = b"server";
/// The beginning of the state of a peer that nothing can be sent to; the same holds for it.
const DEAF: &[u8] = b"deaf";

pub(crate) struct RawUdpListener {
    door: SharedPortSocket,
    local: Endpoint,
    pending: Vec<(AddressPair, Vec<u8>)>,
    room: Vec<u8>,
}

impl RawUdpListener {
    pub(crate) fn new(door: SharedPortSocket, at: &Endpoint) -> Self {
        let local = at.with_address(door.bound().to_string());
        Self { door, local, pending: Vec::new(), room: vec![0; LARGEST] }
    }

    /// Takes what has come for the listener.
    fn receive(&mut self) -> Result<()> {
        let Self { door, pending, room, .. } = self;
        let taken = take(pending, room, |room| door.receive(room));
        taken.map_err(|error| Error::system(format!("receive on {}", self.local), error))
    }

    /// Makes a peer's socket, with what goes along.
    fn connect(&mut self, ends: AddressPair) -> Result<ChannelParts> {
        let socket = self.door.socket_for(ends)?;
        // Only now does everything that the peer sends go there; what is here came before, and what
        // is there and not the peer's came between bind and connect.
        self.receive()?;
        let caught = |room: &mut [u8]| {
            let (count, peer) = socket.recv_from(room)?;
            Ok((count, AddressPair { peer, ..ends }))
        };
        // An error there is about the peer's own datagrams, and the channel meets it.
        let _ = take(&mut self.pending, &mut self.room, caught);
        Ok(self.parts(ends, socket.into(), Vec::new()))
    }

    /// A peer that is only heard, and whose end comes behind what it has sent.
    fn hear_only(&mut self, ends: AddressPair) -> Result<ChannelParts> {
        let (ended, _) = UnixStream::pair().map_err(|error| Error::system("make a pair", error))?;
        Ok(self.parts(ends, ended.into(), DEAF.to_vec()))
    }

    /// Parts with what waits of the peer, as much as may go along.
    fn parts(&mut self, ends: AddressPair, socket: OwnedFd, mut state: Vec<u8>) -> ChannelParts {
        for (_, datagram) in self.pending.extract_if(.., |(of, _)| *of == ends) {
            if state.len() + LENGTH + datagram.len() <= ALONG {
                state.extend_from_slice(&(datagram.len() as u32).to_le_bytes());
                state.extend_from_slice(&datagram);
            }
        }
        let (descriptors, identity) = (vec![socket], PeerIdentity::from_addr(ends.peer));
        ChannelParts { descriptors, identity, state }
    }
}

/// Takes what a socket holds, as long as there is room for it.
fn take(
    pending: &mut Vec<(AddressPair, Vec<u8>)>,
    room: &mut [u8],
    mut receive: impl FnMut(&mut [u8]) -> io::Result<(usize, AddressPair)>,
) -> io::Result<()> {
    for _ in pending.len()..QUEUE {
        match receive(room) {
            Ok((_, ends)) if ends.is_loop() => {}
            Ok((count, ends)) => pending.push((ends, room[..count].to_vec())),
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

impl Listener for RawUdpListener {
    fn fd(&self) -> BorrowedFd<'_> {
        self.door.as_fd()
    }

    fn local(&self) -> &Endpoint {
        &self.local
    }

    fn adapt(&mut self, at: &Endpoint, is_raw: bool) -> Result<bool> {
        if !is_raw {
            return Ok(false);
        }
        self.local = at.with_address(self.local.address());
        Ok(true)
    }

    /// Datagrams that wait do not make the descriptor readable, so callers must go on until
    /// there is nothing; if they stop early, those are handed out with the next that come.
    fn accept(&mut self) -> Result<Option<ChannelParts>> {
        self.receive()?;
        let Some(&(ends, _)) = self.pending.first() else { return Ok(None) };
        if !ends.can_answer() {
            return self.hear_only(ends).map(Some);
        }
        match self.connect(ends) {
            // No way leads to where it says that it comes from. It must not keep others from coming in.
            Err(error) if !error.is_exhaustion() => self.hear_only(ends).map(Some),
            parts => parts.map(Some),
        }
    }
}

/// A socket that sends to a server and hears no other host. Nothing is sent, so that it says nothing
/// about whether the server is there.
pub(crate) fn connect(to: &Endpoint) -> Result<ChannelParts> {
    let mut last = None;
    for address in to.resolve()? {
        match socket(address) {
            Ok(socket) => {
                let (descriptors, identity) =
                    (vec![socket.into()], PeerIdentity::from_addr(address));
                return Ok(ChannelParts { descriptors, identity, state: SERVER.to_vec() });
            }
            Err(error) => last = Some(Error::system(format!("connect to udp://{address}"), error)),
        }
    }
    Err(last.unwrap_or_else(|| to.error("the name has no address")))
}

/// The channel of what the listener has accepted, or [`connect`] has made.
pub(crate) fn adopt(mut parts: ChannelParts) -> Result<RawChannel> {
    let socket = parts.descriptors.pop();
    let socket = socket.ok_or_else(|| Error::Protocol("a channel has a socket".into()))?;
    let channel = if parts.state == SERVER {
        RecordChannel::datagrams(socket, parts.identity)
    } else if let Some(state) = parts.state.strip_prefix(DEAF) {
        RecordChannel::ended(socket, parts.identity, come_along(state))
    } else {
        let first = come_along(&parts.state);
        let silence = SilenceLimit::new(SILENCE, SILENCE_AT_FIRST);
        RecordChannel::until_idle(socket, parts.identity, silence, first)
    };
    let (channel, largest) = (Box::new(channel), Some(LARGEST_SENT));
    Ok(RawChannel::datagrams(channel, largest))
}

/// The datagrams that came before the socket was there.
fn come_along(state: &[u8]) -> VecDeque<Vec<u8>> {
    let (mut first, mut rest) = (VecDeque::new(), state);
    while let Some((length, behind)) = rest.split_first_chunk::<LENGTH>()
        && let Some((datagram, behind)) =
            behind.split_at_checked(u32::from_le_bytes(*length) as usize)
    {
        first.push_back(datagram.to_vec());
        rest = behind;
    }
    first
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use ipcd_transport::{ReadBuffer, ReadOutcome};

    use super::*;
    use crate::listener::bind_listener;

    fn listening() -> RawUdpListener {
        let at = "udp://127.0.0.1:0".parse().unwrap();
        RawUdpListener::new(bind_listener(&at, &["127.0.0.1:0".parse().unwrap()]).unwrap(), &at)
    }

    fn waits(listening: &mut RawUdpListener, peer: &str, datagram: &[u8]) {
        let ends = AddressPair { local: listening.door.bound(), peer: peer.parse().unwrap() };
        listening.pending.push((ends, datagram.to_vec()));
    }

    /// No socket can be connected to a broadcast address, and without root nothing else sends from
    /// where no way leads back.
    #[test]
    fn sources_that_cannot_be_answered_are_heard_and_keep_nobody_from_coming_in() {
        for nowhere in ["255.255.255.255:9", "127.0.0.1:0"] {
            let mut listening = listening();
            waits(&mut listening, nowhere, b"one");
            waits(&mut listening, nowhere, b"");
            let honest = UdpSocket::bind("127.0.0.1:0").unwrap();
            honest.send_to(b"three", listening.door.bound()).unwrap();
            let parts = listening.accept().unwrap().expect("it is heard");
            assert_eq!(parts.identity.addr, nowhere.parse().ok());
            let mut deaf = adopt(parts).unwrap().channel;
            let mut into = ReadBuffer::new(4096, 4096);
            let reads = [(); 4].map(|()| deaf.read(&mut into).unwrap());
            assert_eq!(
                reads,
                [
                    ReadOutcome::Bytes(3),
                    ReadOutcome::Bytes(0),
                    ReadOutcome::Closed,
                    ReadOutcome::Closed
                ]
            );
            assert!(deaf.is_write_only());
            let parts = listening.accept().unwrap().expect("the honest one comes in");
            assert_eq!(parts.identity.addr, Some(honest.local_addr().unwrap().into()));
            assert_eq!(come_along(&parts.state), [b"three"]);
            assert!(listening.accept().unwrap().is_none());
        }
    }

    #[test]
    fn a_listener_is_no_peer_of_its_own() {
        let local = "127.0.0.1:7".parse().unwrap();
        assert!(AddressPair { local, peer: local }.is_loop());
        assert!(!AddressPair { local, peer: "127.0.0.2:7".parse().unwrap() }.is_loop());
    }
}
