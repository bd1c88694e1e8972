//! TLS 1.3 over TCP: an encrypted stream between machines. A peer is known by its address, and by
//! its certificate if it shows one that is signed by the listener's CA.
//!
//! The process that opens an endpoint reads its files; the one that serves the channel gets them as a
//! sealed memory file beside the socket, and opens no file itself. The handshake is a part of the
//! channel's traffic: it goes on in the loop of the channel's owner, on both sides.

mod channel;
mod config;
mod explain;
mod files;
mod listener;
mod names;
mod outgoing;
mod progress;
mod settings;
mod verify;

use std::path::Path;
use std::time::Instant;

use ipcd_transport::{
    Capabilities, Channel, ChannelParts, Endpoint, EndpointPurpose, EnvVariable, IdentityKind,
    Listener, PeerIdentity, RawTransport, Result, Transport, connect_inet,
};

use crate::channel::TlsChannel;
use crate::listener::TlsListener;
use crate::settings::{SealedSettings, TlsSettings};

/// The TLS transport.
pub struct Tls;

const OPTIONS: [&str; 5] = ["cert", "key", "ca", "client_auth", "name"];

/// The name of the protocol inside TLS (RFC 7301).
pub const ALPN: &[u8] = b"ipcd/1";

impl Transport for Tls {
    fn scheme(&self) -> &'static str {
        "tls"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            summary: "encrypted byte stream between machines; peers prove a token or a certificate",
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
        if purpose.listens() { &OPTIONS[..4] } else { &["cert", "key", "ca", "name"] }
    }

    fn check(&self, endpoint: &Endpoint, purpose: EndpointPurpose) -> Result<()> {
        endpoint.host_and_port()?;
        match purpose.listens() {
            true => {
                settings::check_to_listen(endpoint)?;
                settings::check_effect(endpoint)
            }
            false => settings::check_to_connect(endpoint),
        }
    }

    fn default_endpoint(&self, _runtime_dir: &Path) -> Result<Endpoint> {
        let needed = "tls has no default endpoint: write tls://HOST:PORT?ca=FILE to connect, or \
                      tls://HOST:PORT?cert=FILE&key=FILE to listen";
        Err(ipcd_transport::Error::Endpoint(needed.into()))
    }

    fn check_listen(&self, at: &Endpoint) -> Result<()> {
        TlsSettings::to_listen(at, None)?.config().map(drop)
    }

    fn listen(&self, at: &Endpoint) -> Result<Box<dyn Listener>> {
        Ok(Box::new(TlsListener::open(at, Some(ALPN))?))
    }

    /// The handshake is not over when this returns: the first turns of the channel make it.
    fn connect(&self, to: &Endpoint, deadline: Instant) -> Result<Box<dyn Channel>> {
        self.adopt(dial(to, Some(ALPN), deadline)?)
    }

    fn adopt(&self, parts: ChannelParts) -> Result<Box<dyn Channel>> {
        Ok(Box::new(TlsChannel::adopt(parts)?))
    }

    fn raw(&self) -> Option<&dyn RawTransport> {
        Some(self)
    }
}

impl RawTransport for Tls {
    /// Raw peers, such as `openssl s_client`, agree on no protocol.
    fn listen_raw(&self, at: &Endpoint) -> Result<Box<dyn Listener>> {
        Ok(Box::new(TlsListener::open(at, None)?))
    }

    fn connect_raw(
        &self,
        to: &Endpoint,
        deadline: Instant,
        _variables: &[EnvVariable],
    ) -> Result<ChannelParts> {
        dial(to, None, deadline)
    }
}

fn dial(to: &Endpoint, alpn: Option<&[u8]>, deadline: Instant) -> Result<ChannelParts> {
    let settings = TlsSettings::to_connect(to, alpn)?;
    let config = settings.config()?;
    let (descriptor, state) = SealedSettings::new(&settings)?.share()?;
    config.remember(&state);
    let (socket, address) = connect_inet(to, deadline)?;
    let (descriptors, identity) = (vec![socket, descriptor], PeerIdentity::from_addr(address));
    Ok(ChannelParts { descriptors, identity, state })
}
