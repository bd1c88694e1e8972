//! Counts sent and received messages: lost, twice, out of turn, changed.

use serde::{Deserialize, Serialize};

/// Numbers that are remembered, to tell a duplicate from a late message.
const WINDOW: u64 = 1 << 16;

/// Counts of messages.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct MessageCounts {
    /// Messages sent, times the receivers that each was for.
    pub sent: u64,
    /// Different messages that came.
    pub received: u64,
    /// Messages that never came.
    pub lost: u64,
    /// Messages that came again.
    pub duplicated: u64,
    /// Messages that came after a later one.
    pub reordered: u64,
    /// Messages whose bytes had changed; looked for with `--verify crc`.
    pub corrupted: u64,
}

impl MessageCounts {
    pub(crate) fn add(&mut self, other: &Self) {
        self.sent += other.sent;
        self.received += other.received;
        self.lost += other.lost;
        self.duplicated += other.duplicated;
        self.reordered += other.reordered;
        self.corrupted += other.corrupted;
    }

    /// Whether everything came once, in turn and unaltered.
    pub fn is_clean(&self) -> bool {
        self.lost + self.duplicated + self.reordered + self.corrupted == 0
    }
}

/// Notes the numbers of messages as they come.
pub(crate) struct SequenceTally {
    next: u64,
    seen: Vec<u64>,
    pub(crate) counts: MessageCounts,
}

impl SequenceTally {
    pub(crate) fn new() -> Self {
        let seen = vec![0; (WINDOW / 64) as usize];
        Self { next: 0, seen, counts: MessageCounts::default() }
    }

    pub(crate) fn note(&mut self, number: u64, is_whole: bool) {
        self.counts.corrupted += u64::from(!is_whole);
        if number >= self.next {
            self.forget(number);
            self.mark(number);
            self.next = number + 1;
            self.counts.received += 1;
        } else if self.is_seen(number) {
            self.counts.duplicated += 1;
        } else {
            self.mark(number);
            self.counts.received += 1;
            self.counts.reordered += 1;
        }
    }

    /// Makes room for the numbers from the next one up to this.
    fn forget(&mut self, number: u64) {
        if number - self.next >= WINDOW {
            self.seen.fill(0);
            return;
        }
        for old in self.next..=number {
            self.seen[(old % WINDOW / 64) as usize] &= !(1 << (old % 64));
        }
    }

    fn mark(&mut self, number: u64) {
        self.seen[(number % WINDOW / 64) as usize] |= 1 << (number % 64);
    }

    /// A number older than the window counts as seen: no message comes that late.
    fn is_seen(&self, number: u64) -> bool {
        self.next - number > WINDOW
            || self.seen[(number % WINDOW / 64) as usize] & 1 << (number % 64) != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_late_from_twice() {
        let mut tally = SequenceTally::new();
        for number in [0, 1, 4, 2, 2, 4, 5] {
            tally.note(number, number != 5);
        }
        let expected = MessageCounts {
            received: 5,
            duplicated: 2,
            reordered: 1,
            corrupted: 1,
            ..MessageCounts::default()
        };
        assert_eq!(tally.counts, expected);
    }

    #[test]
    fn survives_large_gaps() {
        let mut tally = SequenceTally::new();
        for number in [0, WINDOW * 3, WINDOW * 3 - 1, WINDOW * 3 - 1, 5] {
            tally.note(number, true);
        }
        let MessageCounts { received, duplicated, reordered, .. } = tally.counts;
        assert_eq!((received, duplicated, reordered), (3, 2, 1));
    }
}
