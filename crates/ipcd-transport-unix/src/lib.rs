//! Unix-domain sockets: local, fast, and the kernel vouches for the peer (unix(7)).
//!
//! `type=stream` (the default) is a byte stream. `type=seqpacket` keeps records, in which frames
//! travel whole or in pieces.

mod seqpacket;

use std::io::ErrorKind;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::Instant;

use ipcd_transport::{
    Access, BareChannel, Capabilities, Channel, ChannelParts, Endpoint, Error, FileKind,
    IdentityKind, Listener, PathClaim, RecordChannel, Result, StreamChannel, Transport, bind_local,
    connect_local, peer_credentials,
};
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, getsockopt, listen, socket, sockopt,
};

use crate::seqpacket::SeqpacketChannel;

/// The Unix-domain socket transport.
pub struct Unix;

const OPTIONS: [&str; 4] = ["type", Access::OPTIONS[0], Access::OPTIONS[1], Access::OPTIONS[2]];

impl Transport for Unix {
    fn scheme(&self) -> &'static str {
        "unix"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            summary: "local socket; the kernel names the peer's process and user",
            boundaries: false,
            ordered: true,
            reliable: true,
            remote: false,
            encrypted: false,
            largest_record: None,
            identity: IdentityKind::Credentials,
        }
    }

    fn options(&self) -> &'static [&'static str] {
        &OPTIONS
    }

    fn check(&self, endpoint: &Endpoint) -> Result<()> {
        if abstract_name(endpoint).is_some() { Ok(()) } else { endpoint.path().map(drop) }
    }

    fn default_endpoint(&self, runtime_dir: &Path) -> Result<Endpoint> {
        Ok(Endpoint::from_path(self.scheme(), &runtime_dir.join("ipcd.sock")))
    }

    fn listen(&self, at: &Endpoint) -> Result<Box<dyn Listener>> {
        let kind = Kind::of(at)?;
        let access = Access::of(at, Access::PRIVATE)?;
        let (socket, claim) = match (abstract_name(at), kind) {
            (Some(name), kind) => (bind_abstract(at, name, kind)?, None),
            (None, Kind::Stream) => {
                let (socket, claim) = bind_local(at.path()?, &access)?;
                (socket, Some(claim))
            }
            (None, Kind::Seqpacket) => {
                let mut claim = PathClaim::acquire(at.path()?, FileKind::Socket)?;
                let socket = claim.publish(&access, |staged| {
                    let address = UnixAddr::new(staged);
                    bind_to(at, &address.map_err(|error| listening(at, error))?, kind)
                })?;
                (socket, Some(claim))
            }
        };
        Ok(Box::new(Listening { socket: socket.into(), kind, local: at.clone(), _claim: claim }))
    }

    fn connect(&self, to: &Endpoint, deadline: Instant) -> Result<Box<dyn Channel>> {
        let kind = Kind::of(to)?;
        let address = match abstract_name(to) {
            Some(name) => UnixAddr::new_abstract(name.as_bytes()),
            None => UnixAddr::new(to.path()?),
        };
        let address = address.map_err(|error| Error::system(format!("connect to {to}"), error))?;
        let socket = connect_local(&address, kind.socket_type(), deadline)?;
        let identity = peer_credentials(&socket)?;
        kind.channel(ChannelParts { descriptors: vec![socket], identity, state: Vec::new() })
    }

    fn adopt(&self, parts: ChannelParts) -> Result<Box<dyn Channel>> {
        Kind::of_parts(&parts).channel(parts)
    }

    fn listen_bare(&self, at: &Endpoint) -> Result<Box<dyn Listener>> {
        self.listen(at)
    }

    fn adopt_bare(&self, mut parts: ChannelParts) -> Result<BareChannel> {
        let (keeps_records, has_end) = (Kind::of_parts(&parts) == Kind::Seqpacket, true);
        if !keeps_records {
            let channel = self.adopt(parts)?;
            return Ok(BareChannel { channel, keeps_records, has_end, largest: None });
        }
        let socket = parts.descriptors.pop();
        let socket = socket.ok_or_else(|| Error::Protocol("a channel has a socket".into()))?;
        // A record must fit the buffer, less what the kernel keeps of it (unix_dgram_sendmsg).
        let buffer = getsockopt(&socket, sockopt::SndBuf)
            .map_err(|error| Error::system("read a socket's buffer size", error))?;
        let largest = Some(buffer.saturating_sub(RESERVED));
        let channel = Box::new(RecordChannel::connected(socket, parts.identity));
        Ok(BareChannel { channel, keeps_records, has_end, largest })
    }
}

/// Bytes of a socket's buffer that no record can have.
const RESERVED: usize = 32;
/// The state in a seqpacket channel's parts; a stream's is empty.
const SEQPACKET: &[u8] = b"seqpacket";

#[derive(Clone, Copy, Eq, PartialEq)]
enum Kind {
    Stream,
    Seqpacket,
}

impl Kind {
    fn of(endpoint: &Endpoint) -> Result<Self> {
        match endpoint.option("type") {
            None | Some("stream") => Ok(Self::Stream),
            Some("seqpacket") => Ok(Self::Seqpacket),
            Some("dgram") => Err(endpoint.error("type=dgram is not in this version")),
            Some(_) => Err(endpoint.error("type is stream, seqpacket or dgram")),
        }
    }

    fn of_parts(parts: &ChannelParts) -> Self {
        if parts.state == SEQPACKET { Self::Seqpacket } else { Self::Stream }
    }

    fn socket_type(self) -> SockType {
        match self {
            Self::Stream => SockType::Stream,
            Self::Seqpacket => SockType::SeqPacket,
        }
    }

    fn channel(self, parts: ChannelParts) -> Result<Box<dyn Channel>> {
        match self {
            Self::Stream => Ok(Box::new(StreamChannel::adopt(parts)?)),
            Self::Seqpacket => Ok(Box::new(SeqpacketChannel::adopt(parts)?)),
        }
    }
}

struct Listening {
    /// Accepts sockets of any type, whatever std calls it.
    socket: UnixListener,
    kind: Kind,
    local: Endpoint,
    _claim: Option<PathClaim>,
}

impl Listener for Listening {
    fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    fn local(&self) -> &Endpoint {
        &self.local
    }

    fn accept(&mut self) -> Result<Option<ChannelParts>> {
        let socket = match self.socket.accept() {
            Ok((socket, _)) => socket,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
            Err(error) => return Err(Error::system(format!("accept on {}", self.local), error)),
        };
        socket
            .set_nonblocking(true)
            .map_err(|error| Error::system("make a socket non-blocking", error))?;
        let socket = OwnedFd::from(socket);
        let identity = peer_credentials(&socket)?;
        let state = if self.kind == Kind::Seqpacket { SEQPACKET.to_vec() } else { Vec::new() };
        Ok(Some(ChannelParts { descriptors: vec![socket], identity, state }))
    }
}

fn abstract_name(endpoint: &Endpoint) -> Option<&str> {
    if endpoint.is_opaque() { endpoint.address().strip_prefix('@') } else { None }
}

fn bind_abstract(at: &Endpoint, name: &str, kind: Kind) -> Result<OwnedFd> {
    let address = UnixAddr::new_abstract(name.as_bytes());
    bind_to(at, &address.map_err(|error| listening(at, error))?, kind)
}

fn bind_to(at: &Endpoint, address: &UnixAddr, kind: Kind) -> Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let bound = || {
        let socket = socket(AddressFamily::Unix, kind.socket_type(), flags, None)?;
        bind(socket.as_raw_fd(), address)?;
        listen(&socket, Backlog::MAXCONN)?;
        Ok(socket)
    };
    bound().map_err(|error| listening(at, error))
}

fn listening(at: &Endpoint, error: Errno) -> Error {
    Error::system(format!("listen on {at}"), error)
}
