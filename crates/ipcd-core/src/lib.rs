//! ipcd's router without I/O: sessions, interests, outboxes, back-pressure and time-outs.
//!
//! The worker feeds it what it read ([`Router::receive`]) and what time it is, and does what it asks
//! for ([`Router::poll_output`]). It knows no descriptor, no clock, no randomness and no log.

mod access;
mod acl;
mod arriving;
mod charges;
mod cluster;
mod config;
mod configuring;
mod core;
mod direct;
mod ending;
mod fanout;
mod fault;
mod groups;
mod inquiry;
mod interest;
mod leaving;
mod levels;
mod name;
mod outbox;
mod pacing;
mod peer;
mod publish;
mod queue;
mod receiving;
mod report;
mod rotation;
mod route;
mod sending;
mod session;
mod shared;
mod source;
mod spare;
mod store;
mod table;
mod timers;
mod tracked;
mod turns;
mod waiting;

pub use crate::acl::{
    Acl, AclRule, BadName, GroupMembers, NamePattern, RuleAction, RuleScope, SubjectPattern,
};
pub use crate::charges::QuotaUsage;
pub use crate::config::{Config, DaemonInfo, PeerInfo, RawPeer, TokenSet};
pub use crate::core::{Output, Router};
pub use crate::fault::ProtocolViolation;
pub use crate::interest::{
    GroupShare, LocalSubscriber, QueueGroup, SubscriptionTrie, TrieMember, WorkerInterest,
};
pub use crate::peer::PeerKey;
pub use crate::receiving::ReceiveProgress;
pub use crate::shared::{DirectoryChange, DirectoryState, GroupPart, Interest};
pub use crate::source::{AddressPrefixes, Principal};
pub use crate::table::{
    AddressedEvent, Directory, DirectoryEvent, DirectoryRequest, QueryTicket, RequestingPeer,
};
