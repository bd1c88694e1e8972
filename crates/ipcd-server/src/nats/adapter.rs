//! The adapter of one client.

use std::time::Instant;

use ipcd_proto::nats::{ConnectOptions, NatsWriter, ServerInfo, VERSION};
use ipcd_transport::ReadBuffer;

use crate::nats::answers::Answers;
use crate::nats::subscriptions::NatsSubscriptions;
use crate::nats::{NatsProfile, SlowClients};
use crate::staged_bytes::StagedBytes;
use crate::worker::NatsFacts;

/// The known facts about a client's channel.
pub(crate) struct NatsChannel {
    /// The address of the listener, for INFO.
    pub(crate) host: String,
    pub(crate) port: u16,
    /// The address of the client.
    pub(crate) client_ip: Option<String>,
    /// Whether only the two sides can read what is sent.
    pub(crate) is_encrypted: bool,
    /// Whether the kernel vouches for the client's user.
    pub(crate) is_vouched: bool,
    /// Whether the channel must show a certificate.
    pub(crate) must_certify: bool,
    /// Whether there are secrets or keys that a client could show.
    pub(crate) has_credentials: bool,
    /// Random text that an nkey signs.
    pub(crate) nonce: String,
    /// The process of the supervisor.
    pub(crate) daemon: u32,
    /// The daemon's version.
    pub(crate) version: String,
}

/// The progress of a session.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum SessionProgress {
    /// Nothing but PING was received.
    New,
    /// The router has HELLO.
    Open,
    /// The client has broken a rule. Nothing more is read.
    Failed,
}

/// The end of a session that the adapter wants.
#[derive(Debug)]
pub(crate) struct NatsFailure {
    /// The text for the log.
    pub(crate) why: String,
}

/// The adapter of one client.
pub(crate) struct NatsAdapter {
    pub(super) profile: NatsProfile,
    pub(super) channel: NatsChannel,
    pub(super) info: ServerInfo,
    pub(super) options: ConnectOptions,
    pub(super) progress: SessionProgress,
    must_greet: bool,
    /// Bytes that were received before the session was open.
    pub(super) before_open: usize,
    /// The beginning of an operation that is incomplete, and the time when it came.
    pub(super) unparsed: Option<Box<ReadBuffer>>,
    pub(super) unparsed_since: Option<Instant>,
    /// Numbers of the frames that were sent, by kind.
    pub(super) messages: u64,
    pub(super) flushes: u64,
    pub(super) subscriptions: NatsSubscriptions,
    pub(super) answers: Answers,
    pub(super) failure: Option<NatsFailure>,
    /// Text that goes ahead of the next frames.
    pub(super) texts: Vec<u8>,
    /// Text that is written when the session ends.
    pub(super) last_words: Vec<u8>,
    /// Room for a header block.
    pub(super) headers: Vec<u8>,
    pub(super) staged: StagedBytes,
    /// Messages that were for no subscription of the client's.
    pub(super) undelivered: u64,
}

impl NatsAdapter {
    pub(crate) fn new(profile: NatsProfile, channel: NatsChannel, max_payload: usize) -> Self {
        let requires_proof = profile.requires_proof();
        let info = ServerInfo {
            server_id: format!("IPCD{:010}", channel.daemon),
            server_name: format!("ipcd {}", channel.version),
            version: VERSION,
            proto: 1,
            host: channel.host.clone(),
            port: channel.port,
            headers: true,
            max_payload,
            client_id: 0,
            client_ip: channel.client_ip.clone(),
            // Some clients show what they have only if they are asked.
            auth_required: requires_proof || channel.has_credentials,
            tls_required: channel.is_encrypted,
            tls_verify: channel.must_certify,
            connect_urls: profile.connect_urls.clone(),
            nonce: channel.nonce.clone(),
            ldm: false,
        };
        Self {
            profile,
            channel,
            info,
            options: ConnectOptions::default(),
            progress: SessionProgress::New,
            must_greet: false,
            before_open: 0,
            unparsed: None,
            unparsed_since: None,
            messages: 0,
            flushes: 0,
            subscriptions: NatsSubscriptions::default(),
            answers: Answers::default(),
            failure: None,
            texts: Vec::new(),
            last_words: Vec::new(),
            headers: Vec::new(),
            staged: StagedBytes::default(),
            undelivered: 0,
        }
    }

    /// INFO, for a channel that takes bytes before it is made.
    pub(crate) fn greeting(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        NatsWriter(&mut bytes).info(&self.info);
        bytes
    }

    /// Has INFO written as soon as the channel takes bytes.
    pub(crate) fn greet_later(&mut self) {
        self.must_greet = true;
    }

    /// Sets the router's id of the client, and greets it.
    pub(crate) fn begin(&mut self, id: u64) {
        self.info.client_id = id;
        if self.must_greet {
            NatsWriter(&mut self.texts).info(&self.info);
        }
    }

    /// Whether the client is disconnected if it does not read fast enough.
    pub(crate) fn ends_when_slow(&self) -> bool {
        self.profile.slow == SlowClients::Disconnect
    }

    /// The facts that decide about the client beside its credentials.
    pub(crate) fn facts(&self, is_certified: bool) -> NatsFacts {
        NatsFacts::new(&self.profile, &self.channel, is_certified)
    }

    /// Limits the messages of the client to so many bytes from now on, and tells it.
    pub(crate) fn set_largest(&mut self, largest: usize) {
        if std::mem::replace(&mut self.info.max_payload, largest) != largest {
            NatsWriter(&mut self.texts).info(&self.info);
        }
    }

    /// The bytes to be written.
    pub(crate) fn staged(&mut self) -> &mut StagedBytes {
        &mut self.staged
    }

    /// Whether there is text for the client beside frames.
    pub(crate) fn has_text(&self) -> bool {
        !self.texts.is_empty()
    }

    /// The time since which an operation is incomplete.
    pub(crate) fn partial_since(&self) -> Option<Instant> {
        self.unparsed_since
    }

    /// Bytes that were read and not translated.
    pub(crate) fn take_unparsed(&mut self) -> Option<Box<ReadBuffer>> {
        self.unparsed.take()
    }

    /// Keeps bytes that are not a whole operation, until more have come.
    pub(crate) fn keep_unparsed(&mut self, rest: Option<Box<ReadBuffer>>) {
        self.unparsed = rest;
    }

    /// The end of the session, if the client has broken a rule.
    pub(crate) fn take_failure(&mut self) -> Option<NatsFailure> {
        self.failure.take()
    }

    /// Messages that were for no subscription of the client's.
    pub(crate) fn undelivered(&self) -> u64 {
        self.undelivered
    }

    /// Ends the session with this error, if the client is told one.
    pub(super) fn fail(&mut self, told: Option<&str>, why: impl Into<String>) {
        if let Some(told) = told {
            NatsWriter(&mut self.last_words).error(told);
        }
        self.progress = SessionProgress::Failed;
        self.failure.get_or_insert(NatsFailure { why: why.into() });
    }
}
