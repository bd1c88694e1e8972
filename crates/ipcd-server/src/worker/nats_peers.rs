//! NATS clients: their bytes go through an adapter, and who they are is asked of the router.

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use ipcd_core::{PeerKey, Router};
use ipcd_transport::{
    Channel, ChannelParts, Endpoint, Error, ReadBuffer, ReadOutcome, Result, Transport,
};

use super::Worker;
use crate::adapter::Adapter;
use crate::ids::OwnerId;
use crate::nats::{Credentials, NatsAdapter, NatsChannel, NatsProfile, has_signed};
use crate::worker::connection::Connection;
use crate::worker::peer_io::read_of;
use crate::worker::peer_sessions::nonce;

/// Why a secret is not taken.
const OPEN_SECRET: &str = "a password or token in clear text is taken over TLS or a Unix socket only; \
                           an nkey is taken everywhere";
/// Frames of one turn for which memory is kept.
const KEPT_FRAMES: usize = 1024 * 1024;
/// Bytes that an operation has beside its message: the line, and the end.
const OPERATION: usize = 8 * 1024;

impl Worker {
    /// Makes a channel and an adapter for a client. INFO goes ahead of TLS, unless that comes first.
    pub(super) fn take_up_nats(
        &self,
        transport: &dyn Transport,
        parts: ChannelParts,
        owner: OwnerId,
        profile: NatsProfile,
    ) -> std::result::Result<(Box<dyn Channel>, Adapter), crate::Error> {
        let frames_only =
            || crate::Error::Config(format!("{} takes frames only", transport.scheme()));
        let raw = transport.raw().ok_or_else(frames_only)?;
        let channel = self.nats_channel(transport, &parts, owner)?;
        let greets_in_clear = raw.takes_greeting() && !profile.handshake_first;
        let mut adapter = NatsAdapter::new(profile, channel, self.router.max_payload());
        if greets_in_clear {
            raw.greet(&parts, &adapter.greeting())?;
        } else {
            adapter.greet_later();
        }
        let adopted = raw.adopt_raw(parts)?;
        if adopted.keeps_records || !adopted.has_end {
            return Err(Error::Protocol("codec=nats needs a byte stream".into()).into());
        }
        Ok((adopted.channel, Adapter::Nats(Box::new(adapter))))
    }

    fn nats_channel(
        &self,
        transport: &dyn Transport,
        parts: &ChannelParts,
        owner: OwnerId,
    ) -> std::result::Result<NatsChannel, crate::Error> {
        let capabilities = transport.capabilities();
        let daemon = self.router.daemon();
        let listener = daemon.listeners.get(&owner.0);
        let at = listener.and_then(|(endpoint, _)| endpoint.parse::<Endpoint>().ok());
        let stream = at.as_ref().map(Endpoint::without_path);
        let place = stream.as_ref().and_then(|at| at.host_and_port().ok());
        let (host, port) =
            place.and_then(|place| place.rsplit_once(':')).unwrap_or(("localhost", "0"));
        let must_certify =
            at.as_ref().is_some_and(|at| at.option("client_auth") == Some("required"));
        Ok(NatsChannel {
            host: host.trim_matches(['[', ']']).to_owned(),
            port: port.parse().unwrap_or(0),
            client_ip: parts
                .identity
                .addr
                .and_then(|addr| addr.ip())
                .map(|addr| addr.ip().to_string()),
            is_encrypted: capabilities.encrypted,
            is_vouched: capabilities.identity.is_vouched(),
            must_certify,
            has_credentials: self.router.has_credentials(),
            nonce: BASE64_URL_SAFE_NO_PAD.encode(nonce()?),
            daemon: daemon.supervisor,
            version: daemon.version.clone(),
        })
    }

    /// Reads a client's bytes.
    pub(super) fn read_nats(&mut self, key: PeerKey) -> Option<Result<ReadOutcome>> {
        let connection =
            self.connections.get_mut(key).filter(|found| !found.waiting && !found.has_ended)?;
        let unparsed = connection.adapter.as_mut()?.nats()?.take_unparsed();
        let largest = self.router.max_payload() + OPERATION;
        let mut buffer = self.buffers.take(unparsed, largest);
        let outcome = read_of(connection, &mut buffer);
        self.note_certificate(key);
        let mut frames = std::mem::take(&mut self.frames);
        self.translate_nats(key, buffer, &mut frames);
        self.feed_frames(key, &mut frames);
        if frames.capacity() <= KEPT_FRAMES {
            self.frames = frames;
        }
        self.write_texts(key);
        let connection = self.connections.get_mut(key)?;
        if connection.waiting {
            return Some(match outcome {
                // Messages that wait for room in a send queue are still accepted.
                Ok(ReadOutcome::Closed) | Err(_) => {
                    connection.has_ended = true;
                    Ok(ReadOutcome::NotReady)
                }
                outcome => outcome,
            });
        }
        self.end_failed(key);
        Some(outcome)
    }

    fn translate_nats(&mut self, key: PeerKey, mut buffer: ReadBuffer, frames: &mut Vec<u8>) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        let is_certified = connection.is_vouched;
        let Some(adapter) = connection.adapter.as_mut().and_then(Adapter::nats) else { return };
        let (router, facts) = (&mut self.router, adapter.facts(is_certified));
        let mut admit = |shown: &Credentials<'_>| facts.admit(router, key, shown);
        adapter.read(self.now, &mut buffer, frames, &mut admit);
        adapter.keep_unparsed(self.buffers.keep(buffer));
    }

    /// Gives frames to the router, and keeps those that it does not take yet.
    fn feed_frames(&mut self, key: PeerKey, frames: &mut Vec<u8>) {
        if let Some(connection) = self.connections.get_mut(key).filter(|_| !frames.is_empty()) {
            let progress = self.router.receive(self.now, key, frames);
            connection.waiting = progress.waiting;
            let rest = &frames[progress.consumed..];
            if !rest.is_empty() {
                let largest = self.router.largest_frame(key);
                connection.partial = Some(Box::new(ReadBuffer::holding(rest, largest)));
            }
        }
        frames.clear();
    }

    /// Writes what a client gets beside frames.
    pub(super) fn write_texts(&mut self, key: PeerKey) {
        let connection = self.connections.get_mut(key);
        let adapter = connection.and_then(|found| found.adapter.as_mut()?.nats());
        if adapter.is_some_and(|adapter| adapter.has_text()) {
            self.write_peer(key);
        }
    }

    /// Ends the session of a client that has broken a rule, and returns whether there is one.
    pub(super) fn end_failed(&mut self, key: PeerKey) -> bool {
        let connection = self.connections.get_mut(key);
        let failure = connection.and_then(|found| found.adapter.as_mut()?.nats()?.take_failure());
        if let Some(failure) = &failure {
            self.router.end_session(self.now, key, &failure.why);
        }
        failure.is_some()
    }
}

/// The facts that decide about a client beside its credentials.
pub(crate) struct NatsFacts {
    requires_proof: bool,
    /// Whether the client has shown a certificate.
    is_certified: bool,
    /// Whether no other party can read its secret.
    is_private: bool,
    nonce: String,
}

impl NatsFacts {
    pub(crate) fn new(profile: &NatsProfile, channel: &NatsChannel, is_certified: bool) -> Self {
        let is_private = channel.is_encrypted || channel.is_vouched || profile.takes_open_secrets;
        let requires_proof = profile.requires_proof();
        Self { requires_proof, is_certified, is_private, nonce: channel.nonce.clone() }
    }

    /// Whether a client comes in. The error is for it; an empty one gives no reason.
    fn admit(
        &self,
        router: &mut Router,
        key: PeerKey,
        shown: &Credentials<'_>,
    ) -> std::result::Result<(), String> {
        // As in nats-server, clients may show what is compared with nothing here.
        let is_open = !self.requires_proof && !router.has_credentials();
        match self.check(router, key, shown) {
            Ok(true) => Ok(()),
            _ if is_open => Ok(()),
            Ok(false) => Err(String::new()),
            Err(why) => Err(why),
        }
    }

    /// Whether the client has shown what it must. The router decides whether that is right.
    fn check(
        &self,
        router: &mut Router,
        key: PeerKey,
        shown: &Credentials<'_>,
    ) -> std::result::Result<bool, String> {
        Ok(match shown {
            Credentials::Nothing => !self.requires_proof || self.is_certified,
            Credentials::Secret { .. } if !self.is_private => return Err(OPEN_SECRET.into()),
            Credentials::Secret { name, secret } => router.take_secret(key, *name, secret),
            Credentials::Signature { nkey, signature } => {
                let public = has_signed(nkey, signature, &self.nonce);
                public.is_some_and(|public| router.take_key(key, &public))
            }
            Credentials::Unusable(why) => return Err((*why).into()),
        })
    }
}

impl Connection {
    /// Whether the peer is a NATS client.
    pub(crate) fn is_nats(&self) -> bool {
        self.adapter.as_ref().is_some_and(Adapter::has_session)
    }
}
