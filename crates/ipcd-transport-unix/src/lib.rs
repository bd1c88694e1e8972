//! Unix-domain sockets: local, fast, and the kernel vouches for the peer (unix(7)).
//!
//! `type=stream` (the default) is a byte stream. `type=seqpacket` keeps records, in which frames
//! travel whole or in pieces. `type=dgram` is for bare peers only: its one socket cannot accept, and
//! frames of many senders on it would be nobody's.

mod dgram;
mod seqpacket;

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::Instant;

use ipcd_transport::{
    Capabilities, Channel, ChannelParts, Endpoint, EndpointPurpose, EnvVariable, Error, FileKind,
    IdentityKind, InheritedFd, Listener, PathClaim, PathRights, RawChannel, RawTransport,
    RecordChannel, Result, SocketActivation, StreamChannel, Transport, accept_local, bind_local,
    check_length, check_server, connect_local, guard_of_passed, inherited_fd::prepare,
    peer_credentials, set_local_access, tells_records,
};
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, getsockopt, listen, socket, sockopt,
};
use nix::sys::stat::{Mode, fchmod};

use crate::seqpacket::SeqpacketChannel;

/// The Unix-domain socket transport.
pub struct Unix;

const OPTIONS: [&str; 4] =
    ["type", PathRights::OPTIONS[0], PathRights::OPTIONS[1], PathRights::OPTIONS[2]];

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

    fn options_for(&self, purpose: EndpointPurpose) -> &'static [&'static str] {
        match purpose {
            EndpointPurpose::Listen | EndpointPurpose::ListenRaw => &OPTIONS,
            EndpointPurpose::Connect => &["type", "owner"],
            EndpointPurpose::ConnectRaw => &["type"],
        }
    }

    fn check(&self, endpoint: &Endpoint, purpose: EndpointPurpose) -> Result<()> {
        if abstract_name(endpoint).is_none() {
            endpoint.path()?;
        }
        check_length(endpoint)?;
        match purpose {
            EndpointPurpose::ListenRaw => Kind::of(endpoint).map(drop),
            _ => Kind::of_frames(endpoint).map(drop),
        }
    }

    fn default_endpoint(&self, runtime_dir: &Path) -> Result<Endpoint> {
        Ok(Endpoint::from_path(self.scheme(), &runtime_dir.join("ipcd.sock")))
    }

    fn listens_by_default(&self) -> bool {
        true
    }

    fn listen(&self, at: &Endpoint) -> Result<Box<dyn Listener>> {
        let kind = Kind::of_frames(at)?;
        let Bound { socket, guard, claim } = bind_at(at, kind)?;
        let (socket, local) = (socket.into(), at.clone());
        Ok(Box::new(Listening { socket, kind, local, guard, claim }))
    }

    fn connect(&self, to: &Endpoint, deadline: Instant) -> Result<Box<dyn Channel>> {
        let parts = connect(to, deadline)?;
        check_server(to, parts.identity.uid)?;
        self.adopt(parts)
    }

    fn adopt(&self, parts: ChannelParts) -> Result<Box<dyn Channel>> {
        Kind::of_parts(&parts).channel(parts)
    }

    fn raw(&self) -> Option<&dyn RawTransport> {
        Some(self)
    }

    fn activation(&self) -> Option<&dyn SocketActivation> {
        Some(self)
    }
}

impl SocketActivation for Unix {
    fn endpoint_of(&self, passed: &InheritedFd) -> Option<Endpoint> {
        let kinds = [Kind::Stream, Kind::Seqpacket, Kind::Datagram];
        let (kind, name) =
            kinds.into_iter().find_map(|kind| Some((kind, passed.bound(kind.socket_type())?)))?;
        let mut endpoint = name.local_endpoint(self.scheme())?;
        if kind != Kind::Stream {
            endpoint.set_option("type", kind.name());
        }
        Some(endpoint)
    }

    fn inherit(&self, at: &Endpoint, passed: OwnedFd) -> Result<Box<dyn Listener>> {
        let kind = Kind::of_frames(at)?;
        let local = self.inherited(at, kind, &passed)?;
        let guard = guard_of_passed(at, &local)?;
        Ok(Box::new(Listening { socket: passed.into(), kind, local, guard, claim: None }))
    }

    fn inherit_raw(&self, at: &Endpoint, passed: OwnedFd) -> Result<Box<dyn Listener>> {
        let kind = Kind::of(at)?;
        if kind != Kind::Datagram {
            return self.inherit(at, passed);
        }
        let local = self.inherited(at, kind, &passed)?;
        let guard = guard_of_passed(at, &local)?;
        let bound = Bound { socket: passed, guard, claim: None };
        Ok(Box::new(dgram::Listening::new(bound, local)?))
    }
}

impl RawTransport for Unix {
    fn listen_raw(&self, at: &Endpoint) -> Result<Box<dyn Listener>> {
        if Kind::of(at)? != Kind::Datagram {
            return self.listen(at);
        }
        Ok(Box::new(dgram::Listening::new(bind_at(at, Kind::Datagram)?, at.clone())?))
    }

    fn connect_raw(
        &self,
        to: &Endpoint,
        deadline: Instant,
        _variables: &[EnvVariable],
    ) -> Result<ChannelParts> {
        connect(to, deadline)
    }

    fn adopt_raw(&self, mut parts: ChannelParts) -> Result<RawChannel> {
        match Kind::of_parts(&parts) {
            Kind::Datagram => return dgram::adopt(parts),
            Kind::Stream => return Ok(RawChannel::stream(self.adopt(parts)?)),
            Kind::Seqpacket => {}
        }
        let socket = parts.descriptors.pop();
        let socket = socket.ok_or_else(|| Error::Protocol("a channel has a socket".into()))?;
        // A record must fit the buffer, less what the kernel keeps of it (unix_dgram_sendmsg).
        let buffer = getsockopt(&socket, sockopt::SndBuf)
            .map_err(|error| Error::system("read a socket's buffer size", error))?;
        let largest = Some(buffer.saturating_sub(RESERVED));
        let channel = Box::new(RecordChannel::connected(socket, parts.identity));
        Ok(RawChannel { keeps_records: true, largest, ..RawChannel::stream(channel) })
    }
}

impl Unix {
    /// Where a passed socket is bound, if it is of this kind.
    fn inherited(&self, at: &Endpoint, kind: Kind, socket: &OwnedFd) -> Result<Endpoint> {
        let passed = InheritedFd::of(socket.as_fd());
        let local = passed.bound(kind.socket_type()).and_then(|_| self.endpoint_of(&passed));
        let local = local.ok_or_else(|| {
            let kind = kind.name();
            passed.refused(at, &format!("a bound Unix-domain socket with type={kind}"))
        })?;
        prepare(socket)?;
        Ok(local)
    }
}

/// Bytes of a socket's buffer that no record can have.
const RESERVED: usize = 32;
/// The state in a seqpacket channel's parts; a stream's is empty, and any other a sender's of
/// datagrams.
const SEQPACKET: &[u8] = b"seqpacket";

#[derive(Clone, Copy, Eq, PartialEq)]
enum Kind {
    Stream,
    Seqpacket,
    Datagram,
}

impl Kind {
    fn of(endpoint: &Endpoint) -> Result<Self> {
        match endpoint.option("type") {
            None | Some("stream") => Ok(Self::Stream),
            Some("seqpacket") => Ok(Self::Seqpacket),
            Some("dgram") => Ok(Self::Datagram),
            Some(_) => Err(endpoint.error("type is stream, seqpacket or dgram")),
        }
    }

    /// The kind of an endpoint where frames are spoken.
    fn of_frames(endpoint: &Endpoint) -> Result<Self> {
        match Self::of(endpoint)? {
            Self::Datagram => Err(endpoint.error(
                "type=dgram is for listeners with a codec only: add codec=raw and subject=, or use \
                 type=seqpacket, which keeps records too",
            )),
            kind => Ok(kind),
        }
    }

    fn of_parts(parts: &ChannelParts) -> Self {
        match parts.state.as_slice() {
            [] => Self::Stream,
            SEQPACKET => Self::Seqpacket,
            _ => Self::Datagram,
        }
    }

    /// The value of the option `type`.
    fn name(self) -> &'static str {
        match self {
            Self::Stream => "stream",
            Self::Seqpacket => "seqpacket",
            Self::Datagram => "dgram",
        }
    }

    /// The state in the parts of a channel of this kind.
    fn state(self) -> Vec<u8> {
        if self == Self::Seqpacket { SEQPACKET.to_vec() } else { Vec::new() }
    }

    /// A worker could not ask the kernel for this.
    fn prepare(self, connected: &OwnedFd) {
        if self == Self::Seqpacket {
            tells_records(connected);
        }
    }

    fn socket_type(self) -> SockType {
        match self {
            Self::Stream => SockType::Stream,
            Self::Seqpacket => SockType::SeqPacket,
            Self::Datagram => SockType::Datagram,
        }
    }

    fn channel(self, parts: ChannelParts) -> Result<Box<dyn Channel>> {
        match self {
            Self::Stream => Ok(Box::new(StreamChannel::adopt(parts)?)),
            Self::Seqpacket => Ok(Box::new(SeqpacketChannel::adopt(parts)?)),
            Self::Datagram => Ok(dgram::adopt(parts)?.channel),
        }
    }
}

struct Listening {
    socket: UnixListener,
    kind: Kind,
    local: Endpoint,
    guard: Option<PathRights>,
    claim: Option<PathClaim>,
}

/// A socket with an address.
struct Bound {
    socket: OwnedFd,
    /// Who may come in, where no path decides.
    guard: Option<PathRights>,
    claim: Option<PathClaim>,
}

impl Listener for Listening {
    fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    fn local(&self) -> &Endpoint {
        &self.local
    }

    fn adapt(&mut self, at: &Endpoint, _is_bare: bool) -> Result<bool> {
        if Kind::of(at)? != self.kind {
            return Ok(false);
        }
        set_local_access(at, self.claim.as_ref(), &mut self.guard)?;
        self.local = at.clone();
        Ok(true)
    }

    fn accept(&mut self) -> Result<Option<ChannelParts>> {
        let accepted = accept_local(&self.socket, &self.local, self.guard.as_ref())?;
        let state = self.kind.state();
        Ok(accepted.map(|(socket, identity)| {
            self.kind.prepare(&socket);
            let descriptors = vec![socket];
            ChannelParts { descriptors, identity, state }
        }))
    }
}

fn connect(to: &Endpoint, deadline: Instant) -> Result<ChannelParts> {
    let kind = Kind::of_frames(to)?;
    let address = match abstract_name(to) {
        Some(name) => UnixAddr::new_abstract(name.as_bytes()),
        None => UnixAddr::new(to.path()?),
    };
    let address = address.map_err(|error| Error::system(format!("connect to {to}"), error))?;
    let socket = connect_local(&address, kind.socket_type(), deadline)?;
    kind.prepare(&socket);
    let identity = peer_credentials(&socket)?;
    Ok(ChannelParts { descriptors: vec![socket], identity, state: kind.state() })
}

fn abstract_name(endpoint: &Endpoint) -> Option<&str> {
    if endpoint.is_opaque() { endpoint.address().strip_prefix('@') } else { None }
}

/// Binds the endpoint; the claim removes its path when it is dropped. An abstract name has no rights
/// of its own: everybody can connect to it (unix(7)), so who does is looked at.
fn bind_at(at: &Endpoint, kind: Kind) -> Result<Bound> {
    let access = PathRights::of(at, PathRights::PRIVATE)?;
    if let Some(name) = abstract_name(at) {
        let address = UnixAddr::new_abstract(name.as_bytes());
        let socket = bind_to(at, &address.map_err(|error| listening(at, error))?, kind)?;
        return Ok(Bound { socket, guard: Some(access), claim: None });
    }
    if kind == Kind::Stream {
        let (socket, claim) = bind_local(at.path()?, &access)?;
        return Ok(Bound { socket, guard: None, claim: Some(claim) });
    }
    let mut claim = PathClaim::acquire(at.path()?, FileKind::Socket)?;
    let socket = claim.publish_socket(&access, |path| {
        let address = UnixAddr::new(path);
        bind_to(at, &address.map_err(|error| listening(at, error))?, kind)
    })?;
    Ok(Bound { socket, guard: None, claim: Some(claim) })
}

fn bind_to(at: &Endpoint, address: &UnixAddr, kind: Kind) -> Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let bound = || {
        let socket = socket(AddressFamily::Unix, kind.socket_type(), flags, None)?;
        // A path begins with the rights of the socket that it is made for.
        fchmod(&socket, Mode::S_IRUSR | Mode::S_IWUSR)?;
        bind(socket.as_raw_fd(), address)?;
        if kind != Kind::Datagram {
            listen(&socket, Backlog::MAXCONN)?;
        }
        Ok(socket)
    };
    bound().map_err(|error| listening(at, error))
}

fn listening(at: &Endpoint, error: Errno) -> Error {
    Error::system(format!("listen on {at}"), error)
}
