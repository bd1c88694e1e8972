//! Subscriptions, what becomes of messages, and who they are from.

use std::borrow::Cow;

use ipcd_address::PeerAddress;
use serde::{Deserialize, Serialize};

/// Asks for messages.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Subscribe {
    /// The peer's number for the subscription.
    pub subscription: u32,
    /// Which messages.
    pub filter: String,
    /// Share the work with the other members of this group: each message goes to one of them.
    pub group: Option<String>,
    /// What happens when the peer does not take messages fast enough; `None` for the daemon's
    /// choice: `DropOldest` for a filter that ends in `>`, else `Block`.
    pub overflow: Option<Overflow>,
    /// Whether an ORIGIN notice tells who a sender is, before its first message.
    pub origin: bool,
}

/// What happens to messages for a subscriber whose outbox is full.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize, Deserialize)]
pub enum Overflow {
    /// Publishers wait.
    Block,
    /// The oldest messages of the subscription are dropped.
    DropOldest,
    /// The new message is dropped.
    DropNewest,
    /// The subscriber is cut off.
    Disconnect,
}

/// Ends a subscription.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Unsubscribe {
    /// The peer's number for it.
    pub subscription: u32,
}

/// What became of a message: the copies of it, by what happened to them.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub struct Receipt {
    /// Copies that receivers have in their sockets, pipes or FIFOs.
    pub delivered: u64,
    /// Copies that were dropped, by reason; a reason that did not occur is left out.
    pub dropped: Vec<(Reason, u64)>,
}

impl Receipt {
    /// Copies that were dropped.
    pub fn dropped(&self) -> u64 {
        self.dropped.iter().fold(0, |sum, (_, count)| sum.saturating_add(*count))
    }

    /// Counts copies that were dropped.
    pub fn drop_for(&mut self, reason: Reason, copies: u64) {
        match self.dropped.iter_mut().find(|(known, _)| *known == reason) {
            Some((_, count)) => *count = count.saturating_add(copies),
            None => self.dropped.push((reason, copies)),
        }
    }

    /// Adds what became of other copies of the message.
    pub fn add(&mut self, other: &Self) {
        self.delivered = self.delivered.saturating_add(other.delivered);
        other.dropped.iter().for_each(|&(reason, copies)| self.drop_for(reason, copies));
    }
}

/// Why a copy of a message was dropped.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize, Deserialize)]
pub enum Reason {
    /// It was the oldest, its receiver's outbox was full, and the subscription drops the oldest.
    Oldest,
    /// Its receiver's outbox was full, and the subscription drops new messages.
    Newest,
    /// Its receiver was cut off: it did not read, or an administrator wanted it gone.
    CutOff,
    /// Its receiver has gone.
    Departed,
    /// The worker that had it has died.
    WorkerDied,
    /// It is larger than its receiver can be sent.
    TooLarge,
    /// Nobody reads where its receiver has it from.
    NoReader,
}

impl Reason {
    /// All reasons, in order.
    pub const ALL: [Self; 7] = [
        Self::Oldest,
        Self::Newest,
        Self::CutOff,
        Self::Departed,
        Self::WorkerDied,
        Self::TooLarge,
        Self::NoReader,
    ];

    /// Its name in counters and reports.
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

/// News that nobody asked for.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum Notice {
    /// Who a sender is.
    Origin(Origin),
    /// Messages of a subscription were dropped.
    Gap {
        /// Which subscription.
        subscription: u32,
        /// Why.
        reason: Reason,
        /// How many since the last notice.
        dropped: u64,
    },
}

/// Who a sender is.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Origin {
    /// Its id.
    pub peer: u64,
    /// Its name, if it has one.
    pub name: Option<String>,
    /// The transport it uses.
    pub transport: Cow<'static, str>,
    /// Its process, if the kernel told.
    pub pid: Option<u32>,
    /// Its user, if the kernel told.
    pub uid: Option<u32>,
    /// Its group, if the kernel told.
    pub gid: Option<u32>,
    /// Its address, if the kernel does not vouch for it.
    pub addr: Option<PeerAddress>,
}
