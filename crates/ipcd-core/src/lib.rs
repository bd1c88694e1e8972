//! ipcd's router without I/O: sessions, interests, outboxes, back-pressure and time-outs.
//!
//! The worker feeds it what it read ([`Router::receive`]) and what time it is, and does what it asks
//! for ([`Router::poll_output`]). It knows no descriptor, no clock, no randomness and no log.

mod access;
mod acl;
mod arriving;
mod charges;
mod cluster;
mod configuring;
mod core;
mod direct;
mod directory;
mod ending;
mod fanout;
mod groups;
mod inquiry;
mod leaving;
mod levels;
mod model;
mod pacing;
mod peer;
mod publish;
mod queue;
mod receiving;
mod report;
mod routing;
mod sending;
mod session;
mod timers;
mod tracked;
mod turns;
mod waiting;

pub use crate::acl::names::{BadName, NamePattern};
pub use crate::acl::pattern::SubjectPattern;
pub use crate::acl::{Acl, AclRule, GroupMembers, RuleAction, RuleScope};
pub use crate::charges::QuotaUsage;
pub use crate::core::{Output, Router};
pub use crate::directory::Directory;
pub use crate::directory::messages::{
    AddressedEvent, DirectoryEvent, DirectoryRequest, QueryTicket, RequestingPeer,
};
pub use crate::directory::state::{DirectoryChange, DirectoryState, GroupPart, Interest};
pub use crate::directory::violation::ProtocolViolation;
pub use crate::model::config::{Config, DaemonInfo, PeerInfo, RawPeer, TokenSet};
pub use crate::model::ids::PeerKey;
pub use crate::model::principal::{AddressPrefixes, Principal};
pub use crate::receiving::ReceiveProgress;
pub use crate::routing::trie::members::TrieMember;
pub use crate::routing::trie::{
    GroupShare, LocalSubscriber, QueueGroup, SubscriptionTrie, WorkerInterest,
};
