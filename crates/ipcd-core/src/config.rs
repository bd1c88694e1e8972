//! The configuration of a router, and the facts that it gets about each peer. No I/O happens here:
//! the server reads the file and fills in these values.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use crate::acl::Acl;
use crate::model::principal::AddressPrefixes;
use ipcd_proto::auth::{Nonce, Token};
use ipcd_proto::control::Origin;
use ipcd_proto::nats::Nkey;
use ipcd_proto::{Filter, limits};
use serde::{Deserialize, Serialize};

/// Messages of one principal whose outcomes may be pending in a worker: some 50 MB of entries.
const MAX_PENDING: u64 = 256 * 1024;

/// The configuration of a router. [`Config::new`] has the defaults.
#[derive(Clone, Debug)]
pub struct Config {
    /// The slot of its worker.
    pub slot: u32,
    /// The generation of its worker in that slot.
    pub generation: u32,
    /// The largest payload of a message, in bytes.
    pub max_payload: usize,
    /// Bytes of a send queue from which on it is full.
    pub queue_limit: usize,
    /// Subscribers from which on a message is stored once for all, not copied to each of them.
    pub sharers: usize,
    /// Bytes in the send queue of a subscriber that reads, from which on publishers wait for it.
    pub pace: usize,
    /// Bytes that may be in flight from one worker to another before publishers wait.
    pub window: u64,
    /// Steps that one peer may use in a turn of the worker. A step takes some 50 ns. Work beyond
    /// that continues in later turns, in slices.
    pub turn: usize,
    /// Steps of a slice.
    pub slice: usize,
    /// Subscriptions of one peer.
    pub max_subscriptions: usize,
    /// Subscriptions of all peers of one principal; 0 for any number.
    pub max_subscriptions_per_principal: u64,
    /// Bytes in the send queues of all peers of one principal, from which on those queues are full;
    /// 0 for any number.
    pub max_bytes_per_principal: u64,
    /// Messages of the peers of one principal whose outcomes may be pending in a worker, before its
    /// publishers of such messages wait.
    pub max_pending_per_principal: u64,
    /// The address prefixes that group peers into one principal.
    pub prefixes: AddressPrefixes,
    /// Time from attaching a peer to the end of the handshake.
    pub handshake_timeout: Duration,
    /// Time from the first byte of a frame to the last.
    pub frame_timeout: Duration,
    /// Time without a byte from the peer; `None` for ever.
    pub idle_timeout: Option<Duration>,
    /// Age that the oldest byte of a send queue may reach.
    pub stall_timeout: Duration,
    /// The secrets that peers can prove.
    pub tokens: TokenSet,
    /// The access rules.
    pub acl: Acl,
    /// Facts for the answer to `status`.
    pub daemon: DaemonInfo,
}

/// The secrets that peers can prove.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct TokenSet {
    /// The token of the daemon itself.
    pub own: Option<Token>,
    /// The other tokens, by name.
    pub named: HashMap<String, Token>,
    /// Public keys of peers that prove the private ones, by the name that rules have for them.
    pub keys: HashMap<String, Nkey>,
}

impl TokenSet {
    /// Returns the token of this name, or the daemon's own without a name.
    pub fn find(&self, name: Option<&str>) -> Option<&Token> {
        match name {
            None => self.own.as_ref(),
            Some(name) => self.named.get(name),
        }
    }

    /// Whether a token or a public key has this name.
    pub fn has_name(&self, name: &str) -> bool {
        self.named.contains_key(name) || self.keys.contains_key(name)
    }

    /// Returns the name of a public key.
    pub fn name_of(&self, key: &Nkey) -> Option<&str> {
        self.keys.iter().find(|(_, known)| *known == key).map(|(name, _)| name.as_str())
    }

    /// Whether the secret or the key of this name is the same in the other set.
    pub(crate) fn is_unchanged(&self, other: &Self, name: Option<&str>) -> bool {
        let key = |set: &Self| name.and_then(|name| set.keys.get(name).copied());
        self.find(name) == other.find(name) && key(self) == key(other)
    }
}

/// Facts about the daemon for `status`, which the router cannot count itself.
#[derive(Clone, Debug)]
pub struct DaemonInfo {
    /// The process id of the supervisor.
    pub supervisor: u32,
    /// The process id of the worker.
    pub worker: u32,
    /// The daemon's version.
    pub version: String,
    /// The time of the daemon's start.
    pub started: Instant,
    /// The listeners by number: endpoint and codec.
    pub listeners: BTreeMap<usize, (String, String)>,
    /// The sandbox of the workers, as text for people.
    pub sandbox: String,
}

impl DaemonInfo {
    /// Returns the facts of a daemon that a test has started at this time.
    pub fn unknown(started: Instant) -> Self {
        let (supervisor, worker, version) = (0, 0, String::new());
        let (listeners, sandbox) = (BTreeMap::new(), "off".into());
        Self { supervisor, worker, version, started, listeners, sandbox }
    }
}

impl Config {
    /// Moves the configuration out, for a forked process that keeps it as its own. A copy would
    /// write to memory that the processes still share.
    #[must_use]
    pub fn take(&mut self) -> Self {
        let started = self.daemon.started;
        std::mem::replace(self, Self::new(DaemonInfo::unknown(started)))
    }

    /// Returns the defaults of the configuration file.
    pub fn new(daemon: DaemonInfo) -> Self {
        Self {
            slot: 0,
            generation: 0,
            max_payload: limits::DEFAULT_MAX_PAYLOAD,
            queue_limit: 8 * 1024 * 1024,
            pace: 256 * 1024,
            sharers: 4,
            window: 512 * 1024,
            turn: 16 * 1024,
            slice: 2 * 1024,
            max_subscriptions: 10_000,
            max_subscriptions_per_principal: 0,
            max_bytes_per_principal: 0,
            max_pending_per_principal: MAX_PENDING,
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

/// The facts about a peer that the worker attaches.
#[derive(Clone, Debug)]
pub struct PeerInfo {
    /// The number of the listener that accepted the peer, or of the server or program behind it.
    pub listener: usize,
    /// The identity of the peer. The router fills in the id and the name.
    pub origin: Origin,
    /// A random number for the challenge, if the peer must prove a token.
    pub challenge: Option<Nonce>,
    /// The agreement for a raw peer, whose session is open at once.
    pub raw: Option<RawPeer>,
}

/// The agreement for a peer that does not speak the protocol, and so cannot subscribe itself.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RawPeer {
    /// The messages for the peer. A message that matches two filters arrives twice.
    pub filters: Vec<Filter>,
    /// Whether the peer receives its own messages, too.
    pub echo: bool,
    /// The largest payload that the peer can receive, in bytes.
    pub largest: Option<usize>,
    /// Whether the peer can send. A peer that cannot is never idle.
    pub speaks: bool,
}
