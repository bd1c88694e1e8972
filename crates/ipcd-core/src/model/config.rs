//! What a router is told at its start, and about each peer.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use crate::acl::Acl;
use crate::model::principal::AddressPrefixes;
use ipcd_proto::auth::{Nonce, Token};
use ipcd_proto::control::Origin;
use ipcd_proto::{Filter, limits};
use serde::{Deserialize, Serialize};

/// What a router is told at its start.
#[derive(Clone, Debug)]
pub struct Config {
    /// The place of its worker.
    pub slot: u32,
    /// Which life of that place this is.
    pub generation: u32,
    /// Bytes of the largest payload.
    pub max_payload: usize,
    /// Bytes that an outbox holds before its subscriptions are full.
    pub outbox: usize,
    /// Subscribers of a message for whom its bytes are kept once, rather than copied to each.
    pub sharers: usize,
    /// Bytes in the outbox of a subscriber that reads, before publishers wait for it.
    pub pace: usize,
    /// Bytes that may be on their way from one worker to another before publishers wait.
    pub window: u64,
    /// Steps that a peer may use in a turn of the worker, of some 50 ns each; what is put off goes on
    /// in slices.
    pub turn: usize,
    /// Steps of a slice.
    pub slice: usize,
    /// Subscriptions that a peer may have.
    pub max_subscriptions: usize,
    /// Subscriptions that the peers of one source may have; 0 for any number.
    pub max_subscriptions_per_source: u64,
    /// Bytes that may be in the outboxes of the peers of one source before their subscriptions are
    /// full; 0 for any number.
    pub max_bytes_per_source: u64,
    /// Which addresses are one source.
    pub prefixes: AddressPrefixes,
    /// From attaching to the end of the handshake.
    pub handshake_timeout: Duration,
    /// From the first byte of a frame to its last.
    pub frame_timeout: Duration,
    /// Without a byte from the peer; `None` for ever.
    pub idle_timeout: Option<Duration>,
    /// How old the oldest byte of an outbox may grow.
    pub stall_timeout: Duration,
    /// The secrets that peers may prove.
    pub tokens: TokenSet,
    /// Who may do what.
    pub acl: Acl,
    /// What `status` tells of the daemon.
    pub daemon: DaemonInfo,
}

/// The secrets that peers may prove.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct TokenSet {
    /// The daemon's own.
    pub own: Option<Token>,
    /// Others, by name.
    pub named: HashMap<String, Token>,
}

impl TokenSet {
    /// The token of this name, or the daemon's own.
    pub fn find(&self, name: Option<&str>) -> Option<&Token> {
        match name {
            None => self.own.as_ref(),
            Some(name) => self.named.get(name),
        }
    }
}

/// What `status` tells of the daemon beyond what the router counts itself.
#[derive(Clone, Debug)]
pub struct DaemonInfo {
    /// The supervisor's process.
    pub supervisor: u32,
    /// The worker's process.
    pub worker: u32,
    /// The daemon's version.
    pub version: String,
    /// When it started.
    pub started: Instant,
    /// Its listeners by number: endpoint and codec.
    pub listeners: BTreeMap<usize, (String, String)>,
    /// What its workers are confined by, for people.
    pub sandbox: String,
}

impl DaemonInfo {
    /// A daemon for tests, which started at this time.
    pub fn unknown(started: Instant) -> Self {
        let (supervisor, worker, version) = (0, 0, String::new());
        let (listeners, sandbox) = (BTreeMap::new(), "off".into());
        Self { supervisor, worker, version, started, listeners, sandbox }
    }
}

impl Config {
    /// Takes it out, for a process that was forked to have it as its own: to copy it would write to
    /// memory that is still shared.
    #[must_use]
    pub fn take(&mut self) -> Self {
        let started = self.daemon.started;
        std::mem::replace(self, Self::new(DaemonInfo::unknown(started)))
    }

    /// The defaults of the configuration file.
    pub fn new(daemon: DaemonInfo) -> Self {
        Self {
            slot: 0,
            generation: 0,
            max_payload: limits::DEFAULT_MAX_PAYLOAD,
            outbox: 8 * 1024 * 1024,
            pace: 256 * 1024,
            sharers: 4,
            window: 512 * 1024,
            turn: 16 * 1024,
            slice: 2 * 1024,
            max_subscriptions: 10_000,
            max_subscriptions_per_source: 0,
            max_bytes_per_source: 0,
            prefixes: AddressPrefixes::default(),
            handshake_timeout: Duration::from_secs(5),
            frame_timeout: Duration::from_secs(30),
            idle_timeout: None,
            stall_timeout: Duration::from_secs(10),
            tokens: TokenSet::default(),
            acl: Acl::default(),
            daemon,
        }
    }
}

/// What a router is told about a peer that is attached to it.
#[derive(Clone, Debug)]
pub struct PeerInfo {
    /// The number of the listener that accepted it, or whatever else it is of.
    pub listener: usize,
    /// Who it is; the router fills in id and name.
    pub origin: Origin,
    /// A random number to challenge the peer with, if it must prove a token.
    pub challenge: Option<Nonce>,
    /// What is agreed with a peer that does not speak the protocol: its session is open at once.
    pub bare: Option<RawPeer>,
}

/// What a peer hears that cannot say it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RawPeer {
    /// The messages that go to it; one that matches two of them comes twice.
    pub filters: Vec<Filter>,
    /// Whether its own are among them.
    pub echo: bool,
    /// Bytes of the largest payload that it can be sent.
    pub largest: Option<usize>,
    /// Whether it can say anything: one that cannot is never idle.
    pub speaks: bool,
}
