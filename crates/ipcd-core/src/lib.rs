//! ipcd's router without I/O: sessions, interests, outboxes, back-pressure and time-outs.
//!
//! The worker feeds it what it read ([`Core::receive`]) and what time it is, and does what it asks
//! for ([`Core::poll_output`]). It knows no descriptor, no clock, no randomness and no log.

mod access;
mod acl;
mod arriving;
mod charges;
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
mod others;
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

pub use crate::acl::{Acl, Action, BadName, Members, NamePattern, Pattern, Rule, Whom};
pub use crate::charges::Spent;
pub use crate::config::{Bare, Config, DaemonInfo, PeerInfo, Tokens};
pub use crate::core::{Core, Output};
pub use crate::fault::Fault;
pub use crate::interest::{Group, Interests, Listed, Member, Remote, Share};
pub use crate::peer::PeerKey;
pub use crate::receiving::Progress;
pub use crate::shared::{Change, Interest, Part, Shared};
pub use crate::source::{Prefixes, Source};
pub use crate::table::{Asker, News, Principal, Request, Table, Told};
