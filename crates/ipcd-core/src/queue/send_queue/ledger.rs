//! The age of the bytes in a send queue and the number of their messages, by stretches of the
//! stream. So neither question has to parse a full queue.

use std::time::{Duration, Instant};

use ipcd_proto::{FrameKind, Header};

use crate::queue::lazy_queue::LazyQueue;

/// Bytes after which a stretch ends: so many are walked over at the most to count messages. A burst
/// that is shorter needs no memory for stretches.
const STRETCH_BYTES: u64 = 64 * 1024;
/// The precision of the oldest byte's age.
const AGE_STEP: Duration = Duration::from_millis(250);

/// Numbers of messages: for subscriptions, and for the peer itself.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct MessageCounts {
    pub(super) subscribed: u64,
    pub(super) direct: u64,
}

impl MessageCounts {
    pub(super) fn of(header: &Header) -> Self {
        let is_direct = header.subscription == 0;
        match header.kind {
            FrameKind::Message if is_direct => Self { direct: 1, ..Self::default() },
            FrameKind::Message => Self { subscribed: 1, ..Self::default() },
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

/// The stretches of the stream that are not completely written.
#[derive(Debug, Default)]
pub(super) struct StreamLedger {
    /// Each with the position of its end.
    earlier: LazyQueue<(u64, Stretch)>,
    last: Stretch,
}

/// Bytes that were queued within [`AGE_STEP`] of each other.
#[derive(Clone, Copy, Debug, Default)]
struct Stretch {
    begin: u64,
    since: Option<Instant>,
    /// Messages that end in the stretch. Counters of 32 bits keep an idle peer small.
    subscribed: u32,
    direct: u32,
}

impl StreamLedger {
    /// Notes that bytes are appended at this position. `is_first` tells that the queue was empty.
    #[inline]
    pub(super) fn extend(&mut self, now: Instant, position: u64, is_first: bool) {
        let Stretch { begin, since, .. } = self.last;
        let is_full = position >= begin + STRETCH_BYTES;
        if is_first || is_full || since.is_none_or(|since| now >= since + AGE_STEP) {
            self.begin(now, position, is_first);
        }
    }

    fn begin(&mut self, now: Instant, position: u64, is_first: bool) {
        if is_first {
            self.earlier.clear();
        } else {
            self.earlier.push_back((position, self.last));
        }
        self.last = Stretch { begin: position, since: Some(now), subscribed: 0, direct: 0 };
    }

    /// Adds messages to the last stretch.
    pub(super) fn count(&mut self, more: MessageCounts) {
        self.last.subscribed += more.subscribed as u32;
        self.last.direct += more.direct as u32;
    }

    /// Forgets the stretches that end at or before this position.
    pub(super) fn pass(&mut self, written: u64) {
        while self.earlier.pop_front_if(|(end, _)| *end <= written).is_some() {}
        if self.earlier.is_empty() {
            self.earlier.clear();
        }
    }

    /// Returns the time when the oldest bytes were queued, if there are any.
    pub(super) fn oldest(&self) -> Option<Instant> {
        self.earlier.front().map_or(self.last, |(_, stretch)| *stretch).since
    }

    /// Returns the messages of all stretches without written bytes, and the end of the stretch that
    /// is partly written, if any: the caller has to parse that one.
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
