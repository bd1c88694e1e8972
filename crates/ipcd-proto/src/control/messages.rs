//! The bodies about messages: subscriptions, receipts, and notices.

use std::borrow::Cow;

use ipcd_address::PeerAddress;
use serde::{Deserialize, Serialize};

/// The body of SUBSCRIBE: asks for the messages that match a filter.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Subscribe {
    /// The peer's number for the subscription.
    pub subscription: u32,
    /// The filter of the messages.
    pub filter: String,
    /// The group to join: each message goes to one of its members.
    pub group: Option<String>,
    /// The policy for a full send queue; `None` for the daemon's choice: `DropOldest` for a filter that
    /// ends in `>`, else `Block`.
    pub overflow: Option<OverflowPolicy>,
    /// Whether an ORIGIN notice precedes the first message of each sender.
    pub origin: bool,
}

/// The policy for messages to a subscriber whose send queue is full.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize, Deserialize)]
pub enum OverflowPolicy {
    /// Publishers wait.
    Block,
    /// The oldest messages of the subscription are dropped.
    DropOldest,
    /// The new message is dropped.
    DropNewest,
    /// The subscriber is disconnected.
    Disconnect,
}

/// The body of UNSUBSCRIBE: ends a subscription.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Unsubscribe {
    /// The peer's number for it.
    pub subscription: u32,
}

/// The body of RECEIPT: the number of delivered and of dropped copies of a message.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub struct Receipt {
    /// Copies that are in the sockets, pipes or FIFOs of their receivers.
    pub delivered: u64,
    /// Copies that were dropped, by reason. A reason without copies is left out.
    pub dropped: Vec<(DropReason, u64)>,
}

impl Receipt {
    /// The number of dropped copies, over all reasons.
    pub fn dropped(&self) -> u64 {
        self.dropped.iter().fold(0, |sum, (_, count)| sum.saturating_add(*count))
    }

    /// Counts dropped copies.
    pub fn drop_for(&mut self, reason: DropReason, copies: u64) {
        match self.dropped.iter_mut().find(|(known, _)| *known == reason) {
            Some((_, count)) => *count = count.saturating_add(copies),
            None => self.dropped.push((reason, copies)),
        }
    }

    /// Adds the counts of other copies of the message.
    pub fn add(&mut self, other: &Self) {
        self.delivered = self.delivered.saturating_add(other.delivered);
        other.dropped.iter().for_each(|&(reason, copies)| self.drop_for(reason, copies));
    }
}

/// The reason for which a copy of a message was dropped.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize, Deserialize)]
pub enum DropReason {
    /// The receiver's send queue was full, and the subscription drops the oldest messages.
    Oldest,
    /// The receiver's send queue was full, and the subscription drops new messages.
    Newest,
    /// The daemon disconnected the receiver: it did not read, or an administrator kicked it.
    CutOff,
    /// The receiver disconnected.
    Departed,
    /// The worker that held the copy died.
    WorkerDied,
    /// The message is larger than the receiver's transport can carry.
    TooLarge,
    /// The receiver is a FIFO without a reader.
    NoReader,
}

impl DropReason {
    /// All reasons, in the order of the wire format.
    pub const ALL: [Self; 7] = [
        Self::Oldest,
        Self::Newest,
        Self::CutOff,
        Self::Departed,
        Self::WorkerDied,
        Self::TooLarge,
        Self::NoReader,
    ];

    /// The name in counters and reports, such as `cut_off`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Oldest => "oldest",
            Self::Newest => "newest",
            Self::CutOff => "cut_off",
            Self::Departed => "departed",
            Self::WorkerDied => "worker_died",
            Self::TooLarge => "too_large",
            Self::NoReader => "no_reader",
        }
    }
}

/// The body of NOTICE.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum Notice {
    /// The identity of a sender.
    Origin(Origin),
    /// Messages of a subscription were dropped.
    Gap {
        /// The peer's number for the subscription.
        subscription: u32,
        /// The reason.
        reason: DropReason,
        /// The number of messages since the last notice.
        dropped: u64,
    },
}

/// The identity of a sender.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Origin {
    /// The peer's id.
    pub peer: u64,
    /// Its name, if it has one.
    pub name: Option<String>,
    /// The transport it uses.
    pub transport: Cow<'static, str>,
    /// Its process id, if the kernel reports one (unix(7), `SO_PEERCRED`).
    pub pid: Option<u32>,
    /// Its user id, if the kernel reports one.
    pub uid: Option<u32>,
    /// Its group id, if the kernel reports one.
    pub gid: Option<u32>,
    /// Its address, if the kernel does not vouch for it.
    pub addr: Option<PeerAddress>,
}
