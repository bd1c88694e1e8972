//! The credit window: how a sender paces itself by what the receiver has consumed, and how the
//! receiver counts what it got and what it missed. No socket, no clock.

use std::collections::VecDeque;
use std::time::Instant;

use crate::datagram::{DATA_HEADER, StreamPlace};
use crate::timing::RetryBackoff;

/// The kernel's overhead for a datagram beyond its bytes (`struct sk_buff`, `skb_shared_info`,
/// headers), rounded up to an allocation: a datagram of one byte is charged with 768 to 832.
const OVERHEAD: usize = 768;

/// The part of a window that a datagram of this length takes.
pub(crate) fn cost(datagram: usize) -> u64 {
    (datagram + OVERHEAD) as u64
}

/// The sender's half: what is out and not yet consumed.
#[derive(Debug)]
pub(crate) struct SendCredit {
    /// The bytes that the receiver can hold.
    pub(crate) window: u32,
    /// Sequence number of the next datagram.
    pub(crate) sequence: u32,
    /// Cost of all that was sent.
    pub(crate) sent: u64,
    /// The receiver's last report.
    pub(crate) credited: u64,
    /// Datagrams that never arrived, by the receiver's reports.
    pub(crate) lost: u64,
    /// Set while credit lacks: the report that would bring it may have been lost.
    pub(crate) probe: Option<RetryBackoff>,
}

impl SendCredit {
    pub(crate) fn new(window: u32) -> Self {
        Self { window, sequence: 0, sent: 0, credited: 0, lost: 0, probe: None }
    }

    pub(crate) fn outstanding(&self) -> u64 {
        self.sent.saturating_sub(self.credited)
    }

    /// The position of a datagram that costs this much, or `None` when there is no credit. When
    /// nothing is out, one may always go, however small the window is.
    pub(crate) fn next(&self, cost: u64) -> Option<StreamPlace> {
        let out = self.outstanding();
        let allowed = out == 0 || out.saturating_add(cost) <= u64::from(self.window);
        let position = self.sent.saturating_add(cost);
        allowed.then_some(StreamPlace { sequence: self.sequence, position })
    }

    pub(crate) fn sent(&mut self, place: StreamPlace) {
        self.sequence = self.sequence.wrapping_add(1);
        self.sent = place.position;
    }

    /// Takes the receiver's report. An old or impossible one changes nothing.
    pub(crate) fn credit(&mut self, position: u64, lost: u64) {
        // No more than can have been sent.
        self.lost = self.lost.max(lost.min(self.sent / cost(DATA_HEADER)));
        if position > self.credited && position <= self.sent {
            self.credited = position;
            self.probe = None;
        }
    }

    /// Notes that something could not be sent for lack of credit.
    pub(crate) fn lacks(&mut self, now: Instant) {
        self.probe.get_or_insert(RetryBackoff::new(now));
    }

    /// The position to ask about, when it is time to.
    pub(crate) fn probe(&mut self, now: Instant) -> Option<u64> {
        let probe = self.probe.as_mut().filter(|probe| now >= probe.due)?;
        probe.again(now);
        Some(self.sent)
    }
}

/// A record that came while the caller did not want to read.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct HeldDatagrams {
    pub(crate) position: u64,
    pub(crate) record: Vec<u8>,
}

impl HeldDatagrams {
    fn cost(&self) -> u64 {
        cost(DATA_HEADER + self.record.len())
    }
}

/// The receiver's half.
#[derive(Debug)]
pub(crate) struct ReceiveCredit {
    /// The window that was granted to the sender.
    pub(crate) window: u32,
    /// Sequence number of the next datagram in turn.
    pub(crate) expected: u32,
    pub(crate) received: u64,
    pub(crate) lost: u64,
    /// Position up to which everything was delivered or lost.
    pub(crate) consumed: u64,
    /// The position that the sender was last told.
    pub(crate) reported: u64,
    held: VecDeque<HeldDatagrams>,
    held_cost: u64,
}

impl ReceiveCredit {
    pub(crate) fn new(window: u32) -> Self {
        Self {
            window,
            expected: 0,
            received: 0,
            lost: 0,
            consumed: 0,
            reported: 0,
            held: VecDeque::new(),
            held_cost: 0,
        }
    }

    /// Whether a datagram comes in turn. One that is late was counted as lost, or is a duplicate;
    /// what is missing before this one is lost, for if it still comes it will be late.
    pub(crate) fn admit(&mut self, sequence: u32) -> bool {
        let in_turn = self.skip_to(sequence);
        if in_turn {
            self.expected = sequence.wrapping_add(1);
            self.received = self.received.saturating_add(1);
        }
        in_turn
    }

    /// Counts what is missing before this sequence number; false if that is in the past.
    pub(crate) fn skip_to(&mut self, sequence: u32) -> bool {
        // Numbers wrap around, so the nearer way round decides (RFC 1982).
        let missing = sequence.wrapping_sub(self.expected);
        if missing > u32::MAX / 2 {
            return false;
        }
        self.expected = sequence;
        self.lost = self.lost.saturating_add(u64::from(missing));
        true
    }

    /// Everything up to here was delivered, or will never be.
    pub(crate) fn consume(&mut self, position: u64) {
        self.consumed = self.consumed.max(position);
    }

    /// Keeps a record for later: one, or as many as the window allows. What goes beyond that, which
    /// no honest sender does, is lost.
    pub(crate) fn hold(&mut self, held: HeldDatagrams) {
        let cost = held.cost();
        if !self.held.is_empty() && self.held_cost + cost > u64::from(self.window) {
            self.lost = self.lost.saturating_add(1);
            return self.passed(held.position);
        }
        self.held_cost += cost;
        self.held.push_back(held);
    }

    pub(crate) fn take_held(&mut self) -> Option<HeldDatagrams> {
        let held = self.held.pop_front()?;
        self.held_cost -= held.cost();
        Some(held)
    }

    pub(crate) fn held(&self) -> &VecDeque<HeldDatagrams> {
        &self.held
    }

    /// Nothing that was sent before this position is still to come: it is consumed as soon as what
    /// is held is.
    pub(crate) fn passed(&mut self, position: u64) {
        match self.held.back_mut() {
            Some(last) => last.position = last.position.max(position),
            None => self.consume(position),
        }
    }

    /// Whether so much was consumed that the sender should know.
    pub(crate) fn report_due(&self) -> bool {
        let unreported = self.consumed.saturating_sub(self.reported);
        unreported > 0 && unreported >= u64::from(self.window / 4)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn send(sending: &mut SendCredit, datagram: usize) -> Option<StreamPlace> {
        let place = sending.next(cost(datagram))?;
        sending.sent(place);
        Some(place)
    }

    #[test]
    fn at_most_a_window_is_outstanding() {
        let mut sending = SendCredit::new(10_000);
        while send(&mut sending, 1_000).is_some() {}
        assert_eq!((sending.sequence, sending.outstanding()), (5, 5 * 1_768));
        sending.credit(1_768, 0);
        assert!(send(&mut sending, 1_000).is_some());
        assert!(send(&mut sending, 1_000).is_none());
    }

    #[test]
    fn one_datagram_always_goes() {
        let mut sending = SendCredit::new(0);
        assert!(send(&mut sending, 15_000).is_some());
        assert!(send(&mut sending, 1).is_none());
        sending.credit(15_768, 0);
        assert!(send(&mut sending, 1).is_some());
    }

    #[test]
    fn old_and_impossible_reports_change_nothing() {
        let mut sending = SendCredit::new(10_000);
        send(&mut sending, 1_000);
        send(&mut sending, 1_000);
        sending.credit(1_768, 0);
        for position in [0, 1_767, 3_537, u64::MAX] {
            sending.credit(position, 0);
            assert_eq!(sending.outstanding(), 1_768, "{position}");
        }
        // Four datagrams of no bytes would cost more than these two.
        for (reported, known) in [(1, 1), (0, 1), (u64::MAX, 4)] {
            sending.credit(0, reported);
            assert_eq!(sending.lost, known);
        }
    }

    #[test]
    fn a_lost_report_is_probed_for() {
        let (mut sending, mut receiving) = (SendCredit::new(4_000), ReceiveCredit::new(4_000));
        let mut now = Instant::now();
        while let Some(place) = send(&mut sending, 1_000) {
            assert!(receiving.admit(place.sequence));
            receiving.consume(place.position);
        }
        assert!(receiving.report_due());
        receiving.reported = receiving.consumed; // and this report is lost
        assert_eq!(sending.probe(now), None);
        sending.lacks(now);
        for pause in [50, 100, 200] {
            assert_eq!(sending.probe(now), None);
            now += Duration::from_millis(pause);
            assert_eq!(sending.probe(now), Some(sending.sent));
        }
        receiving.passed(sending.sent);
        sending.credit(receiving.consumed, 0);
        assert_eq!(sending.outstanding(), 0);
        assert_eq!(sending.probe(now + Duration::from_secs(9)), None);
    }

    #[test]
    fn a_probe_passes_what_was_lost_but_not_what_is_held() {
        let mut receiving = ReceiveCredit::new(10_000);
        receiving.passed(500);
        assert_eq!(receiving.consumed, 500);
        receiving.hold(HeldDatagrams { position: 1_000, record: vec![0; 100] });
        receiving.passed(3_000);
        assert_eq!(receiving.consumed, 500);
        let held = receiving.take_held().unwrap();
        receiving.consume(held.position);
        assert_eq!(receiving.consumed, 3_000);
    }

    #[test]
    fn late_and_repeated_datagrams_are_refused_and_gaps_counted() {
        let mut receiving = ReceiveCredit::new(1_000);
        receiving.expected = u32::MAX - 1;
        let admitted = [u32::MAX - 1, u32::MAX, u32::MAX, 2, 0, 1, 3, u32::MAX - 1, 3]
            .map(|sequence| receiving.admit(sequence));
        assert_eq!(admitted, [true, true, false, true, false, false, true, false, false]);
        assert_eq!((receiving.received, receiving.lost, receiving.expected), (4, 2, 4));
        assert!(receiving.skip_to(9));
        assert_eq!(receiving.lost, 7);
    }

    #[test]
    fn no_more_than_a_window_is_held() {
        let mut receiving = ReceiveCredit::new(10_000);
        for position in 1..=1_000 {
            receiving.hold(HeldDatagrams { position, record: vec![0; 100] });
        }
        let held = receiving.held().len();
        assert_eq!(held, 10_000 / (100 + DATA_HEADER + OVERHEAD));
        assert_eq!(receiving.lost, 1_000 - held as u64);
        while let Some(held) = receiving.take_held() {
            receiving.consume(held.position);
        }
        assert_eq!((receiving.consumed, receiving.held_cost), (1_000, 0));
    }
}
