//! WebSockets over TLS, for pages in browsers and for networks that let only HTTPS pass. A peer is
//! known by its address, and by its certificate if it shows one that is signed by the listener's CA.
//!
//! All that is a WebSocket is in `ipcd-websocket`, all that is TLS in `ipcd-tls`.

use std::path::Path;
use std::time::Instant;

use ipcd_tls::{ProtocolNames, TlsChannel, TlsListener};
use ipcd_transport::{
    Capabilities, Channel, ChannelParts, Endpoint, EndpointPurpose, EnvVariable, Error,
    IdentityKind, Listener, RawTransport, Result, Transport,
};
use ipcd_websocket::{ORIGIN_OPTION, Place, WebSocketChannel, WebSocketListener, client_parts};

/// The transport of WebSockets over TLS.
pub struct Wss;

const OPTIONS: [&str; 6] = ["cert", "key", "ca", "client_auth", "name", ORIGIN_OPTION];
const LISTEN_OPTIONS: [&str; 5] = ["cert", "key", "ca", "client_auth", ORIGIN_OPTION];

/// Both kinds of peers ask in HTTP, and agree on the protocol inside then. Browsers offer this name; a
/// server of another protocol with the same certificate refuses it.
const HTTP: &[u8] = b"http/1.1";
const NAMES: ProtocolNames = ProtocolNames { frames: Some(HTTP), raw: Some(HTTP) };

impl Transport for Wss {
    fn scheme(&self) -> &'static str {
        "wss"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            summary: "WebSocket over TLS; peers prove a token or a certificate",
            boundaries: false,
            ordered: true,
            reliable: true,
            remote: true,
            encrypted: true,
            largest_record: None,
            identity: IdentityKind::Address,
        }
    }

    fn options(&self) -> &'static [&'static str] {
        &OPTIONS
    }

    fn options_for(&self, purpose: EndpointPurpose) -> &'static [&'static str] {
        if purpose.listens() { &LISTEN_OPTIONS } else { &ipcd_tls::CONNECT_OPTIONS }
    }

    fn check(&self, endpoint: &Endpoint, purpose: EndpointPurpose) -> Result<()> {
        WebSocketListener::check(endpoint)?;
        ipcd_tls::check(endpoint, purpose)
    }

    fn default_endpoint(&self, _runtime_dir: &Path) -> Result<Endpoint> {
        let needed = "wss has no default endpoint: write wss://HOST:PORT/PATH?ca=FILE to connect, or \
                      wss://HOST:PORT?cert=FILE&key=FILE to listen";
        Err(Error::Endpoint(needed.into()))
    }

    fn check_listen(&self, at: &Endpoint) -> Result<()> {
        ipcd_tls::check_listen(&Place::of(at)?.stream)
    }

    fn listen(&self, at: &Endpoint) -> Result<Box<dyn Listener>> {
        listen(at, false)
    }

    /// The handshake is not over when this returns: the first turns of the channel make it.
    fn connect(&self, to: &Endpoint, deadline: Instant) -> Result<Box<dyn Channel>> {
        self.adopt(dial(to, false, deadline)?)
    }

    fn adopt(&self, parts: ChannelParts) -> Result<Box<dyn Channel>> {
        let channel = WebSocketChannel::adopt(parts, |below| {
            Ok(Box::new(TlsChannel::adopt(below)?) as Box<dyn Channel>)
        });
        Ok(Box::new(channel?))
    }

    fn raw(&self) -> Option<&dyn RawTransport> {
        Some(self)
    }
}

impl RawTransport for Wss {
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
        Ok(Box::new(TlsListener::open(at, NAMES, is_raw)?))
    });
    Ok(Box::new(listener?))
}

fn dial(to: &Endpoint, is_raw: bool, deadline: Instant) -> Result<ChannelParts> {
    let place = Place::of(to)?;
    let below = ipcd_tls::dial(&place.stream, Some(HTTP), deadline)?;
    client_parts(&place, is_raw, below)
}
