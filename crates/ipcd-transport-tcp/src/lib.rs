//! TCP: an ordered, reliable byte stream between machines. A peer is known by its address only.

use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Instant;

use ipcd_transport::{
    Capabilities, Channel, ChannelParts, Endpoint, Identity, IdentityKind, InetListener, Listener,
    Result, StreamChannel, Transport, connect_inet,
};

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

    fn check(&self, endpoint: &Endpoint) -> Result<()> {
        endpoint.host_and_port().map(drop)
    }

    fn default_endpoint(&self, _runtime_dir: &Path) -> Result<Endpoint> {
        Ok(Endpoint::new(self.scheme(), format!("127.0.0.1:{DEFAULT_PORT}")))
    }

    fn listen(&self, at: &Endpoint) -> Result<Box<dyn Listener>> {
        Ok(Box::new(Listening(InetListener::bind(at)?)))
    }

    fn connect(&self, to: &Endpoint, deadline: Instant) -> Result<Box<dyn Channel>> {
        let (socket, address) = connect_inet(to, deadline)?;
        channel(socket, address)
    }

    fn adopt(&self, parts: ChannelParts) -> Result<Box<dyn Channel>> {
        Ok(Box::new(StreamChannel::adopt(parts)?))
    }

    fn listen_bare(&self, at: &Endpoint) -> Result<Box<dyn Listener>> {
        self.listen(at)
    }
}

struct Listening(InetListener);

impl Listener for Listening {
    fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    fn local(&self) -> &Endpoint {
        self.0.local()
    }

    fn accept(&mut self) -> Result<Option<ChannelParts>> {
        let Some((socket, from)) = self.0.accept()? else { return Ok(None) };
        Ok(Some(channel(socket, from)?.into_parts()))
    }
}

fn channel(socket: OwnedFd, peer: SocketAddr) -> Result<Box<dyn Channel>> {
    Ok(Box::new(StreamChannel::socket(socket, Identity::from_addr(peer))?))
}
