//! How old the bytes of a send queue are and how many messages they hold, by stretches of the stream:
//! so that neither question walks over a queue that is full.

use std::time::{Duration, Instant};

use ipcd_proto::{Header, Kind};

use crate::queue::lazy_queue::LazyQueue;

/// Bytes after which a stretch ends: so many are walked over at the most to count messages. A burst
/// that is shorter needs no memory for stretches.
const STRETCH_BYTES: u64 = 64 * 1024;
/// How precisely the age of the oldest byte is known.
const AGE_STEP: Duration = Duration::from_millis(250);

/// How many messages there are: for subscriptions, and for the peer alone.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct MessageCounts {
    pub(super) subscribed: u64,
    pub(super) direct: u64,
}

impl MessageCounts {
    pub(super) fn of(header: &Header) -> Self {
        let is_direct = header.subscription == 0;
        match header.kind {
            Kind::Message if is_direct => Self { direct: 1, ..Self::default() },
            Kind::Message => Self { subscribed: 1, ..Self::default() },
            _ => Self::default(),
        }
    }

    pub(super) fn add(&mut self, more: Self) {
        self.subscribed += more.subscribed;
        self.direct += more.direct;
    }

    pub(super) fn remove(&mut self, some: Self) {
        self.subscribed = self.subscribed.saturating_sub(some.subscribed);
        self.direct = self.direct.saturating_sub(some.direct);
    }
}

/// The stretches of the stream that are not wholly written.
#[derive(Debug, Default)]
pub(super) struct StreamLedger {
    /// Each with its end.
    earlier: LazyQueue<(u64, Stretch)>,
    last: Stretch,
}

/// Bytes that came within [`AGE_STEP`].
#[derive(Clone, Copy, Debug, Default)]
struct Stretch {
    begin: u64,
    since: Option<Instant>,
    /// Of the messages that end in it. Their sums in 32 bits keep an idle peer small.
    subscribed: u32,
    direct: u32,
}

impl StreamLedger {
    /// Bytes come at this position, behind others or as the first.
    pub(super) fn extend(&mut self, now: Instant, position: u64, is_first: bool) {
        let Stretch { begin, since, .. } = self.last;
        let is_full = position >= begin + STRETCH_BYTES;
        if !is_first && !is_full && since.is_some_and(|since| now < since + AGE_STEP) {
            return;
        }
        if is_first {
            self.earlier.clear();
        } else {
            self.earlier.push_back((position, self.last));
        }
        self.last = Stretch { begin: position, since: Some(now), subscribed: 0, direct: 0 };
    }

    /// The bytes that came last hold so many messages.
    pub(super) fn count(&mut self, more: MessageCounts) {
        self.last.subscribed += more.subscribed as u32;
        self.last.direct += more.direct as u32;
    }

    /// All bytes before this position are written.
    pub(super) fn pass(&mut self, written: u64) {
        while self.earlier.pop_front_if(|(end, _)| *end <= written).is_some() {}
        if self.earlier.is_empty() {
            self.earlier.clear();
        }
    }

    /// When the first bytes came, if there are any.
    pub(super) fn oldest(&self) -> Option<Instant> {
        self.earlier.front().map_or(self.last, |(_, stretch)| *stretch).since
    }

    /// The messages of all stretches that are not begun, and where one ends that is: it has to be
    /// walked over.
    pub(super) fn counts(&self, written: u64) -> (MessageCounts, Option<u64>) {
        let all = || self.earlier.iter().copied().chain([(u64::MAX, self.last)]);
        let begun = all().next().filter(|(_, first)| written > first.begin).map(|(end, _)| end);
        let mut counts = MessageCounts::default();
        for (_, stretch) in all().skip(usize::from(begun.is_some())) {
            counts.subscribed += u64::from(stretch.subscribed);
            counts.direct += u64::from(stretch.direct);
        }
        (counts, begun)
    }
}
