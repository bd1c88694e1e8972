//! The router of ipcd: sessions, subscriptions, send queues, back-pressure and time-outs.
//!
//! The worker passes in the bytes that it has read ([`Router::receive`]) and the current time, and
//! carries out the outputs ([`Router::poll_output`]). The router does no I/O: it must not use
//! descriptors, a clock, randomness or a log. So a test can run a whole daemon's logic with its own
//! clock.

mod acl;
mod cluster;
mod config;
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
pub use crate::config::{Config, DaemonInfo, PeerInfo, RawPeer, TokenSet};
pub use crate::directory::messages::{
    AddressedEvent, DirectoryEvent, DirectoryRequest, QueryTicket, RequestingPeer,
};
pub use crate::directory::state::{DirectoryChange, DirectoryState};
pub use crate::directory::violation::ProtocolViolation;
pub use crate::directory::{Directory, InterestMemory};
pub use crate::model::ids::PeerKey;
pub use crate::model::interest::{GroupPart, Interest};
pub use crate::model::principal::QuotaUsage;
pub use crate::model::principal::{AddressPrefixes, Principal};
pub use crate::output::{CloseReason, Output, ReceiveProgress};
pub use crate::peers::rights::DeniedUse;
pub use crate::router::Router;
pub use crate::routing::index::{
    GroupShare, LocalSubscriber, QueueGroup, SubscriptionIndex, WorkerInterest,
};
pub use crate::routing::interests::SharedWords;
