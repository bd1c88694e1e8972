//! The sockets underneath: their types, and binding them to a path or an abstract name.

use std::os::fd::{AsRawFd, OwnedFd};

use ipcd_transport::{
    ChannelParts, Endpoint, Error, FileKind, PathClaim, PathRights, Result, bind_local,
    tells_records,
};
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, listen, socket,
};
use nix::sys::stat::{Mode, fchmod};

/// Bytes of a socket's buffer that no record can have.
pub(crate) const RESERVED: usize = 32;
/// The state in a seqpacket channel's parts; a stream's is empty, and any other a sender's of
/// datagrams.
pub(crate) const SEQPACKET: &[u8] = b"seqpacket";

#[derive(Clone, Copy, Eq, PartialEq)]
pub(crate) enum SocketKind {
    Stream,
    Seqpacket,
    Datagram,
}

impl SocketKind {
    pub(crate) fn of(endpoint: &Endpoint) -> Result<Self> {
        match endpoint.option("type") {
            None | Some("stream") => Ok(Self::Stream),
            Some("seqpacket") => Ok(Self::Seqpacket),
            Some("dgram") => Ok(Self::Datagram),
            Some(_) => Err(endpoint.error("type is stream, seqpacket or dgram")),
        }
    }

    /// The kind of an endpoint where frames are spoken.
    pub(crate) fn of_frames(endpoint: &Endpoint) -> Result<Self> {
        match Self::of(endpoint)? {
            Self::Datagram => Err(endpoint.error(
                "type=dgram is for listeners with a codec only: add codec=raw and subject=, or use \
                 type=seqpacket, which keeps records too",
            )),
            kind => Ok(kind),
        }
    }

    pub(crate) fn of_parts(parts: &ChannelParts) -> Self {
        match parts.state.as_slice() {
            [] => Self::Stream,
            SEQPACKET => Self::Seqpacket,
            _ => Self::Datagram,
        }
    }

    /// The value of the option `type`.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Stream => "stream",
            Self::Seqpacket => "seqpacket",
            Self::Datagram => "dgram",
        }
    }

    /// The state in the parts of a channel of this kind.
    pub(crate) fn state(self) -> Vec<u8> {
        if self == Self::Seqpacket { SEQPACKET.to_vec() } else { Vec::new() }
    }

    /// A worker could not ask the kernel for this.
    pub(crate) fn prepare(self, connected: &OwnedFd) {
        if self == Self::Seqpacket {
            tells_records(connected);
        }
    }

    pub(crate) fn socket_type(self) -> SockType {
        match self {
            Self::Stream => SockType::Stream,
            Self::Seqpacket => SockType::SeqPacket,
            Self::Datagram => SockType::Datagram,
        }
    }
}

/// A socket with an address.
pub(crate) struct BoundSocket {
    pub(crate) socket: OwnedFd,
    /// The rights to check, where no path decides.
    pub(crate) guard: Option<PathRights>,
    pub(crate) claim: Option<PathClaim>,
}

pub(crate) fn abstract_name(endpoint: &Endpoint) -> Option<&str> {
    if endpoint.is_opaque() { endpoint.address().strip_prefix('@') } else { None }
}

/// Binds the endpoint; the claim removes its path when it is dropped. An abstract name has no rights
/// of its own: every user can connect to it (unix(7)), so `accept` checks the peer.
pub(crate) fn bind_at(at: &Endpoint, kind: SocketKind) -> Result<BoundSocket> {
    let access = PathRights::of(at, PathRights::PRIVATE)?;
    if let Some(name) = abstract_name(at) {
        let address = UnixAddr::new_abstract(name.as_bytes());
        let socket = bind_to(at, &address.map_err(|error| listening(at, error))?, kind)?;
        return Ok(BoundSocket { socket, guard: Some(access), claim: None });
    }
    if kind == SocketKind::Stream {
        let (socket, claim) = bind_local(at.path()?, &access)?;
        return Ok(BoundSocket { socket, guard: None, claim: Some(claim) });
    }
    let mut claim = PathClaim::acquire(at.path()?, FileKind::Socket)?;
    let socket = claim.publish_socket(&access, |path| {
        let address = UnixAddr::new(path);
        bind_to(at, &address.map_err(|error| listening(at, error))?, kind)
    })?;
    Ok(BoundSocket { socket, guard: None, claim: Some(claim) })
}

fn bind_to(at: &Endpoint, address: &UnixAddr, kind: SocketKind) -> Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let bound = || {
        let socket = socket(AddressFamily::Unix, kind.socket_type(), flags, None)?;
        // A path begins with the rights of the socket that it is made for.
        fchmod(&socket, Mode::S_IRUSR | Mode::S_IWUSR)?;
        bind(socket.as_raw_fd(), address)?;
        // A datagram socket receives as soon as it is bound.
        if kind != SocketKind::Datagram {
            listen(&socket, Backlog::MAXCONN)?;
        }
        Ok(socket)
    };
    bound().map_err(|error| listening(at, error))
}

fn listening(at: &Endpoint, error: Errno) -> Error {
    Error::system(format!("listen on {at}"), error)
}
