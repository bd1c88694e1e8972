//! The times to send again, and to give up. The clock comes in as an argument.

use std::time::{Duration, Instant};

const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Silence after which a peer is asked for a sign of life, and then asked again.
const QUIET: Duration = Duration::from_secs(10);

/// Unanswered pings after which another [`QUIET`] ends the connection: 30 seconds in all.
const PINGS: u32 = 2;

/// The least interval between questions to a peer out of turn.
const OUT_OF_TURN: Duration = Duration::from_secs(1);

/// Repeats something that may have been lost: after 50 ms, then 100 ms, and so on up to a second.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RetryBackoff {
    pub(crate) due: Instant,
    pause: Duration,
}

impl RetryBackoff {
    /// For something that was sent now.
    pub(crate) fn new(now: Instant) -> Self {
        Self { due: now + FIRST_PAUSE, pause: FIRST_PAUSE }
    }

    /// For something that was sent again now.
    pub(crate) fn again(&mut self, now: Instant) {
        self.pause = (2 * self.pause).min(LONGEST_PAUSE);
        self.due = now + self.pause;
    }
}

/// Whether the peer is still there.
#[derive(Debug)]
pub(crate) struct PeerLiveness {
    /// The time when the peer was last heard, or asked.
    since: Instant,
    pings: u32,
    /// The time when it was last asked out of turn.
    asked: Option<Instant>,
}

/// The result of [`PeerLiveness::check`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum PeerHealth {
    Well,
    /// A ping is to be sent now.
    Ask,
    /// The peer is gone.
    Over,
}

impl PeerLiveness {
    pub(crate) fn new(now: Instant) -> Self {
        Self { since: now, pings: 0, asked: None }
    }

    /// The peer sent something that only the peer can have sent.
    pub(crate) fn heard(&mut self, now: Instant) {
        (self.since, self.pings) = (now, 0);
    }

    /// A client at the peer's address seems to start anew. Says whether to ping: a forger must not
    /// get many out of it, and the time that the peer has to answer is the usual one.
    pub(crate) fn may_ask(&mut self, now: Instant) -> bool {
        let may = self.asked.is_none_or(|last| now >= last + OUT_OF_TURN);
        if may {
            self.asked = Some(now);
        }
        may
    }

    pub(crate) fn check(&mut self, now: Instant) -> PeerHealth {
        if now < self.since + QUIET {
            return PeerHealth::Well;
        }
        if self.pings == PINGS {
            return PeerHealth::Over;
        }
        // Counted from now, so that a process that was stopped for a minute still waits for an
        // answer.
        (self.since, self.pings) = (now, self.pings + 1);
        PeerHealth::Ask
    }

    /// The time of the next check.
    pub(crate) fn due(&self) -> Instant {
        self.since + QUIET
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn backs_off_to_a_second() {
        let mut now = Instant::now();
        let mut backoff = RetryBackoff::new(now);
        let mut pauses = Vec::new();
        for _ in 0..7 {
            pauses.push((backoff.due - now).as_millis());
            now = backoff.due;
            backoff.again(now);
        }
        assert_eq!(pauses, [50, 100, 200, 400, 800, 1000, 1000]);
    }

    #[test]
    fn a_silent_peer_is_asked_twice_and_then_over() {
        let start = Instant::now();
        let mut live = PeerLiveness::new(start);
        assert_eq!(live.check(start + 9 * SECOND), PeerHealth::Well);
        for expected in [PeerHealth::Ask, PeerHealth::Ask, PeerHealth::Over] {
            assert_eq!(live.check(live.due()), expected);
        }
        assert_eq!(live.due(), start + 30 * SECOND);
        live.heard(start + 31 * SECOND);
        assert_eq!(live.check(start + 40 * SECOND), PeerHealth::Well);
    }

    #[test]
    fn a_late_check_asks_before_it_gives_up() {
        let start = Instant::now();
        let mut live = PeerLiveness::new(start);
        assert_eq!(live.check(start + 100 * SECOND), PeerHealth::Ask);
        assert_eq!(live.check(start + 101 * SECOND), PeerHealth::Well);
    }

    #[test]
    fn a_question_out_of_turn_changes_no_deadline() {
        let start = Instant::now();
        let mut live = PeerLiveness::new(start);
        assert!(live.may_ask(start));
        assert!(!live.may_ask(start + SECOND / 2));
        live.heard(start + SECOND / 2);
        assert!(!live.may_ask(start + SECOND / 2), "who answers is not asked more often for it");
        assert!(live.may_ask(start + SECOND));
        assert_eq!(live.due(), start + SECOND / 2 + 10 * SECOND);
        assert_eq!(live.check(start + 9 * SECOND), PeerHealth::Well);
    }
}
