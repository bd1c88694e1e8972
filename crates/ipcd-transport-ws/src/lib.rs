//! WebSockets over TCP, for pages in browsers and for networks that let only HTTP pass. A peer is known
//! by its address only.
//!
//! All that is a WebSocket is in `ipcd-websocket`.

use std::path::Path;
use std::time::Instant;

use ipcd_transport::{
    Capabilities, Channel, ChannelParts, Endpoint, EndpointPurpose, EnvVariable, IdentityKind,
    InetListener, Listener, PeerIdentity, RawTransport, Result, StreamChannel, StreamListener,
    Transport, connect_inet,
};
use ipcd_websocket::{ORIGIN_OPTION, Place, WebSocketChannel, WebSocketListener, client_parts};

/// The WebSocket transport.
pub struct Ws;

/// The port of a daemon that was told nothing else.
pub const DEFAULT_PORT: u16 = 7180;

impl Transport for Ws {
    fn scheme(&self) -> &'static str {
        "ws"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            summary: "WebSocket, also for pages in browsers; peers prove a token",
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
        &[ORIGIN_OPTION]
    }

    fn options_for(&self, purpose: EndpointPurpose) -> &'static [&'static str] {
        if purpose.listens() { self.options() } else { &[] }
    }

    fn check(&self, endpoint: &Endpoint, _purpose: EndpointPurpose) -> Result<()> {
        WebSocketListener::check(endpoint)
    }

    fn default_endpoint(&self, _runtime_dir: &Path) -> Result<Endpoint> {
        Ok(Endpoint::new(self.scheme(), format!("127.0.0.1:{DEFAULT_PORT}")))
    }

    fn listen(&self, at: &Endpoint) -> Result<Box<dyn Listener>> {
        listen(at, false)
    }

    /// The upgrade is not over when this returns: the first turns of the channel make it.
    fn connect(&self, to: &Endpoint, deadline: Instant) -> Result<Box<dyn Channel>> {
        self.adopt(dial(to, false, deadline)?)
    }

    fn adopt(&self, parts: ChannelParts) -> Result<Box<dyn Channel>> {
        let channel = WebSocketChannel::adopt(parts, |below| {
            Ok(Box::new(StreamChannel::adopt(below)?) as Box<dyn Channel>)
        });
        Ok(Box::new(channel?))
    }

    fn raw(&self) -> Option<&dyn RawTransport> {
        Some(self)
    }
}

impl RawTransport for Ws {
    fn listen_raw(&self, at: &Endpoint) -> Result<Box<dyn Listener>> {
        listen(at, true)
    }

    fn connect_raw(
        &self,
        to: &Endpoint,
        deadline: Instant,
        _variables: &[EnvVariable],
    ) -> Result<ChannelParts> {
        dial(to, true, deadline)
    }
}

fn listen(at: &Endpoint, is_raw: bool) -> Result<Box<dyn Listener>> {
    let listener = WebSocketListener::open(at, is_raw, |at| {
        Ok(Box::new(StreamListener::from(InetListener::bind(at)?)))
    });
    Ok(Box::new(listener?))
}

fn dial(to: &Endpoint, is_raw: bool, deadline: Instant) -> Result<ChannelParts> {
    let place = Place::of(to)?;
    let (socket, address) = connect_inet(&place.stream, deadline)?;
    let stream = StreamChannel::socket(socket, PeerIdentity::from_addr(address))?;
    client_parts(&place, is_raw, Box::new(stream).into_parts())
}
