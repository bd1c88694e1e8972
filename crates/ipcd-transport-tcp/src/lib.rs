//! TCP: an ordered, reliable byte stream between machines. A peer is known by its address only.

use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Instant;

use ipcd_transport::{
    Capabilities, Channel, ChannelParts, Endpoint, EndpointPurpose, EnvVariable, IdentityKind,
    InetListener, InheritedFd, Listener, PeerIdentity, RawTransport, Result, SocketActivation,
    StreamChannel, StreamListener, Transport, connect_inet,
    inherited_fd::{BoundName, prepare},
};
use nix::sys::socket::SockType;

/// The TCP transport.
pub struct Tcp;

/// The port of a daemon that was told nothing else.
pub const DEFAULT_PORT: u16 = 7117;

impl Transport for Tcp {
    fn scheme(&self) -> &'static str {
        "tcp"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            summary: "byte stream between machines; peers prove a token",
            boundaries: false,
            ordered: true,
            reliable: true,
            remote: true,
            encrypted: false,
            largest_record: None,
            identity: IdentityKind::Address,
        }
    }

    fn options(&self) -> &'static [&'static str] {
        &[]
    }

    fn check(&self, endpoint: &Endpoint, _purpose: EndpointPurpose) -> Result<()> {
        endpoint.host_and_port().map(drop)
    }

    fn default_endpoint(&self, _runtime_dir: &Path) -> Result<Endpoint> {
        Ok(Endpoint::new(self.scheme(), format!("127.0.0.1:{DEFAULT_PORT}")))
    }

    fn listens_by_default(&self) -> bool {
        true
    }

    fn listen(&self, at: &Endpoint) -> Result<Box<dyn Listener>> {
        Ok(Box::new(StreamListener::from(InetListener::bind(at)?)))
    }

    fn connect(&self, to: &Endpoint, deadline: Instant) -> Result<Box<dyn Channel>> {
        let (socket, address) = connect_inet(to, deadline)?;
        channel(socket, address)
    }

    fn adopt(&self, parts: ChannelParts) -> Result<Box<dyn Channel>> {
        Ok(Box::new(StreamChannel::adopt(parts)?))
    }

    fn raw(&self) -> Option<&dyn RawTransport> {
        Some(self)
    }

    fn activation(&self) -> Option<&dyn SocketActivation> {
        Some(self)
    }
}

impl SocketActivation for Tcp {
    fn endpoint_of(&self, passed: &InheritedFd) -> Option<Endpoint> {
        passed.bound(SockType::Stream)?.inet_endpoint(self.scheme())
    }

    fn is_at(&self, at: &Endpoint, passed: &InheritedFd) -> bool {
        let found = passed.bound(SockType::Stream);
        matches!(found, Some(BoundName::Inet(addr)) if at.resolve().is_ok_and(|all| all.contains(addr)))
    }

    fn inherit(&self, at: &Endpoint, passed: OwnedFd) -> Result<Box<dyn Listener>> {
        let found = InheritedFd::of(passed.as_fd());
        let local = self.endpoint_of(&found);
        let local = local.ok_or_else(|| found.refused(at, "a TCP socket that listens"))?;
        prepare(&passed)?;
        Ok(Box::new(StreamListener::from(InetListener::over(passed, local))))
    }
}

impl RawTransport for Tcp {
    fn connect_raw(
        &self,
        to: &Endpoint,
        deadline: Instant,
        _variables: &[EnvVariable],
    ) -> Result<ChannelParts> {
        Ok(self.connect(to, deadline)?.into_parts())
    }
}

fn channel(socket: OwnedFd, peer: SocketAddr) -> Result<Box<dyn Channel>> {
    Ok(Box::new(StreamChannel::socket(socket, PeerIdentity::from_addr(peer))?))
}
