//! Unix-domain sockets: local, fast, and the kernel vouches for the peer (unix(7)).
//!
//! `type=stream` (the default) is a byte stream. `type=seqpacket` keeps records, in which frames
//! travel whole or in pieces. `type=dgram` is for raw peers only: its one socket cannot accept, and
//! frames of many senders on it would have no session.

mod dgram;
mod seqpacket;
mod socket;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::Instant;

use ipcd_transport::{
    Capabilities, Channel, ChannelParts, Endpoint, EndpointPurpose, EnvVariable, Error,
    IdentityKind, InheritedFd, Listener, PathClaim, PathRights, RawChannel, RawTransport,
    RecordChannel, Result, SocketActivation, StreamChannel, Transport, accept_local, check_length,
    check_server, connect_local, guard_of_passed, inherited_fd::prepare, peer_credentials,
    set_local_access,
};
use nix::sys::socket::{UnixAddr, getsockopt, sockopt};

use crate::seqpacket::SeqpacketChannel;
use crate::socket::{BoundSocket, RESERVED, SocketKind, abstract_name, bind_at};

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
            EndpointPurpose::ListenRaw => SocketKind::of(endpoint).map(drop),
            _ => SocketKind::of_frames(endpoint).map(drop),
        }
    }

    fn default_endpoint(&self, runtime_dir: &Path) -> Result<Endpoint> {
        Ok(Endpoint::from_path(self.scheme(), &runtime_dir.join("ipcd.sock")))
    }

    fn listens_by_default(&self) -> bool {
        true
    }

    fn listen(&self, at: &Endpoint) -> Result<Box<dyn Listener>> {
        let kind = SocketKind::of_frames(at)?;
        let BoundSocket { socket, guard, claim } = bind_at(at, kind)?;
        let (socket, local) = (socket.into(), at.clone());
        Ok(Box::new(LocalListener { socket, kind, local, guard, claim }))
    }

    fn connect(&self, to: &Endpoint, deadline: Instant) -> Result<Box<dyn Channel>> {
        let parts = connect(to, deadline)?;
        check_server(to, parts.identity.uid)?;
        self.adopt(parts)
    }

    fn adopt(&self, parts: ChannelParts) -> Result<Box<dyn Channel>> {
        channel_of(parts)
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
        let kinds = [SocketKind::Stream, SocketKind::Seqpacket, SocketKind::Datagram];
        let (kind, name) =
            kinds.into_iter().find_map(|kind| Some((kind, passed.bound(kind.socket_type())?)))?;
        let mut endpoint = name.local_endpoint(self.scheme())?;
        if kind != SocketKind::Stream {
            endpoint.set_option("type", kind.name());
        }
        Some(endpoint)
    }

    fn inherit(&self, at: &Endpoint, passed: OwnedFd) -> Result<Box<dyn Listener>> {
        let kind = SocketKind::of_frames(at)?;
        let local = self.inherited(at, kind, &passed)?;
        let guard = guard_of_passed(at, &local)?;
        Ok(Box::new(LocalListener { socket: passed.into(), kind, local, guard, claim: None }))
    }

    fn inherit_raw(&self, at: &Endpoint, passed: OwnedFd) -> Result<Box<dyn Listener>> {
        let kind = SocketKind::of(at)?;
        if kind != SocketKind::Datagram {
            return self.inherit(at, passed);
        }
        let local = self.inherited(at, kind, &passed)?;
        let guard = guard_of_passed(at, &local)?;
        let bound = BoundSocket { socket: passed, guard, claim: None };
        Ok(Box::new(dgram::DatagramListener::new(bound, local)?))
    }
}

impl RawTransport for Unix {
    fn listen_raw(&self, at: &Endpoint) -> Result<Box<dyn Listener>> {
        if SocketKind::of(at)? != SocketKind::Datagram {
            return self.listen(at);
        }
        Ok(Box::new(dgram::DatagramListener::new(bind_at(at, SocketKind::Datagram)?, at.clone())?))
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
        match SocketKind::of_parts(&parts) {
            SocketKind::Datagram => return dgram::adopt(parts),
            SocketKind::Stream => return Ok(RawChannel::stream(self.adopt(parts)?)),
            SocketKind::Seqpacket => {}
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
    /// The address of an inherited socket, if it is of this kind.
    fn inherited(&self, at: &Endpoint, kind: SocketKind, socket: &OwnedFd) -> Result<Endpoint> {
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

struct LocalListener {
    socket: UnixListener,
    kind: SocketKind,
    local: Endpoint,
    guard: Option<PathRights>,
    claim: Option<PathClaim>,
}

impl Listener for LocalListener {
    fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    fn local(&self) -> &Endpoint {
        &self.local
    }

    fn adapt(&mut self, at: &Endpoint, _is_raw: bool) -> Result<bool> {
        if SocketKind::of(at)? != self.kind {
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
    let kind = SocketKind::of_frames(to)?;
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

fn channel_of(parts: ChannelParts) -> Result<Box<dyn Channel>> {
    match SocketKind::of_parts(&parts) {
        SocketKind::Stream => Ok(Box::new(StreamChannel::adopt(parts)?)),
        SocketKind::Seqpacket => Ok(Box::new(SeqpacketChannel::adopt(parts)?)),
        SocketKind::Datagram => Ok(dgram::adopt(parts)?.channel),
    }
}
