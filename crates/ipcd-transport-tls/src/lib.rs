//! TLS 1.3 over TCP: an encrypted stream between machines. A peer is known by its address, and by
//! its certificate if it shows one that is signed by the listener's CA.
//!
//! All that is TLS is in `ipcd-tls`.

use std::path::Path;
use std::time::Instant;

use ipcd_tls::{CONNECT_OPTIONS, LISTEN_OPTIONS, OPTIONS, ProtocolNames, TlsChannel, TlsListener};
use ipcd_transport::{
    Capabilities, Channel, ChannelParts, Endpoint, EndpointPurpose, EnvVariable, IdentityKind,
    Listener, RawTransport, Result, Transport,
};

/// The TLS transport.
pub struct Tls;

/// Raw peers, such as `openssl s_client`, agree on no protocol.
const NAMES: ProtocolNames = ProtocolNames { frames: Some(b"ipcd/1"), raw: None };

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
        if purpose.listens() { &LISTEN_OPTIONS } else { &CONNECT_OPTIONS }
    }

    fn check(&self, endpoint: &Endpoint, purpose: EndpointPurpose) -> Result<()> {
        endpoint.host_and_port()?;
        ipcd_tls::check(endpoint, purpose)
    }

    fn default_endpoint(&self, _runtime_dir: &Path) -> Result<Endpoint> {
        let needed = "tls has no default endpoint: write tls://HOST:PORT?ca=FILE to connect, or \
                      tls://HOST:PORT?cert=FILE&key=FILE to listen";
        Err(ipcd_transport::Error::Endpoint(needed.into()))
    }

    fn check_listen(&self, at: &Endpoint) -> Result<()> {
        ipcd_tls::check_listen(at)
    }

    fn listen(&self, at: &Endpoint) -> Result<Box<dyn Listener>> {
        Ok(Box::new(TlsListener::open(at, NAMES, false)?))
    }

    /// The handshake is not over when this returns: the first turns of the channel make it.
    fn connect(&self, to: &Endpoint, deadline: Instant) -> Result<Box<dyn Channel>> {
        self.adopt(ipcd_tls::dial(to, NAMES.frames, deadline)?)
    }

    fn adopt(&self, parts: ChannelParts) -> Result<Box<dyn Channel>> {
        Ok(Box::new(TlsChannel::adopt(parts)?))
    }

    fn raw(&self) -> Option<&dyn RawTransport> {
        Some(self)
    }
}

impl RawTransport for Tls {
    fn takes_greeting(&self) -> bool {
        true
    }

    fn greet(&self, parts: &ChannelParts, bytes: &[u8]) -> Result<()> {
        ipcd_tls::greet(parts, bytes)
    }

    fn listen_raw(&self, at: &Endpoint) -> Result<Box<dyn Listener>> {
        Ok(Box::new(TlsListener::open(at, NAMES, true)?))
    }

    fn connect_raw(
        &self,
        to: &Endpoint,
        deadline: Instant,
        _variables: &[EnvVariable],
    ) -> Result<ChannelParts> {
        ipcd_tls::dial(to, NAMES.raw, deadline)
    }
}
