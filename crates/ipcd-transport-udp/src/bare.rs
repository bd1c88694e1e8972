//! Datagrams of programs that know nothing of us: whoever sends one is a peer, by address and port,
//! until it has been silent for long enough. A server that we connect to is a peer from the start
//! and for good: it may have nothing to say, and it may be started after us.
//!
//! Each gets a connected socket on the listener's port, as peers with a handshake do. What it had
//! sent before that socket was there goes along with it, in its order.

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use ipcd_transport::{
    BareChannel, ChannelParts, Endpoint, Error, Identity, Listener, RecordChannel, Result,
};

use crate::connect::socket;
use crate::listener::socket_for;

/// How long a peer may be silent.
const SILENCE: Duration = Duration::from_secs(60);
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

pub(crate) struct Listening {
    socket: UdpSocket,
    bound: SocketAddr,
    local: Endpoint,
    pending: Vec<(SocketAddr, Vec<u8>)>,
    room: Vec<u8>,
}

impl Listening {
    /// Over a socket that shares its port.
    pub(crate) fn new(socket: UdpSocket, bound: SocketAddr, at: &Endpoint) -> Self {
        let local = at.with_address(bound.to_string());
        Self { socket, bound, local, pending: Vec::new(), room: vec![0; LARGEST] }
    }

    /// Takes what a socket holds.
    fn drain(&mut self, from: &UdpSocket) -> Result<()> {
        while self.pending.len() < QUEUE {
            match from.recv_from(&mut self.room) {
                Ok((count, peer)) => self.pending.push((peer, self.room[..count].to_vec())),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => {
                    return Err(Error::system(format!("receive on {}", self.local), error));
                }
            }
        }
        Ok(())
    }
}

impl Listener for Listening {
    fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    fn local(&self) -> &Endpoint {
        &self.local
    }

    /// Datagrams that wait make the descriptor readable for nobody, so callers must go on until
    /// there is nothing; if they stop early, those are handed out with the next that come.
    fn accept(&mut self) -> Result<Option<ChannelParts>> {
        let listener = self.socket.try_clone();
        let listener = listener.map_err(|error| Error::system("duplicate a socket", error))?;
        self.drain(&listener)?;
        let Some(&(peer, _)) = self.pending.first() else { return Ok(None) };
        let socket = socket_for(self.bound, peer)?;
        // Only now does everything that the peer sends go there; what is here came before, and what
        // is there and not the peer's came between bind and connect.
        self.drain(&listener)?;
        self.drain(&socket)?;
        let mut state = Vec::new();
        for (_, datagram) in self.pending.extract_if(.., |(from, _)| *from == peer) {
            if state.len() + LENGTH + datagram.len() <= ALONG {
                state.extend_from_slice(&(datagram.len() as u32).to_le_bytes());
                state.extend_from_slice(&datagram);
            }
        }
        let (descriptors, identity) = (vec![socket.into()], Identity::from_addr(peer));
        Ok(Some(ChannelParts { descriptors, identity, state }))
    }
}

/// A socket that sends to a server and hears nobody else. Nothing is sent, so that it says nothing
/// about whether the server is there.
pub(crate) fn connect(to: &Endpoint) -> Result<ChannelParts> {
    let mut last = None;
    for address in to.resolve()? {
        match socket(address) {
            Ok(socket) => {
                let (descriptors, identity) = (vec![socket.into()], Identity::from_addr(address));
                return Ok(ChannelParts { descriptors, identity, state: SERVER.to_vec() });
            }
            Err(error) => last = Some(Error::system(format!("connect to udp://{address}"), error)),
        }
    }
    Err(last.unwrap_or_else(|| to.error("the name has no address")))
}

/// The channel of what the listener has accepted, or [`connect`] has made.
pub(crate) fn adopt(mut parts: ChannelParts) -> Result<BareChannel> {
    let socket = parts.descriptors.pop();
    let socket = socket.ok_or_else(|| Error::Protocol("a channel has a socket".into()))?;
    let channel = if parts.state == SERVER {
        RecordChannel::datagrams(socket, parts.identity)
    } else {
        let first = come_along(&parts.state);
        RecordChannel::until_idle(socket, parts.identity, SILENCE, first)
    };
    let (channel, largest) = (Box::new(channel), Some(LARGEST_SENT));
    Ok(BareChannel::datagrams(channel, largest))
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
