//! ipcd's router without I/O: sessions, interests, outboxes, back-pressure and time-outs.
//!
//! The worker feeds it what it read ([`Router::receive`]) and what time it is, and does what it asks
//! for ([`Router::poll_output`]). It knows no descriptor, no clock, no randomness and no log.

mod acl;
mod cluster;
mod delivery;
mod directory;
mod model;
mod output;
mod peers;
mod queue;
mod requests;
mod router;
mod routing;
mod sessions;

pub use crate::acl::names::{BadName, NamePattern};
pub use crate::acl::pattern::SubjectPattern;
pub use crate::acl::{Acl, AclRule, GroupMembers, RuleAction, RuleScope};
pub use crate::directory::Directory;
pub use crate::directory::messages::{
    AddressedEvent, DirectoryEvent, DirectoryRequest, QueryTicket, RequestingPeer,
};
pub use crate::directory::state::{DirectoryChange, DirectoryState, GroupPart, Interest};
pub use crate::directory::violation::ProtocolViolation;
pub use crate::model::config::{Config, DaemonInfo, PeerInfo, RawPeer, TokenSet};
pub use crate::model::ids::PeerKey;
pub use crate::model::principal::QuotaUsage;
pub use crate::model::principal::{AddressPrefixes, Principal};
pub use crate::output::{Output, ReceiveProgress};
pub use crate::router::Router;
pub use crate::routing::trie::members::TrieMember;
pub use crate::routing::trie::{
    GroupShare, LocalSubscriber, QueueGroup, SubscriptionTrie, WorkerInterest,
};
