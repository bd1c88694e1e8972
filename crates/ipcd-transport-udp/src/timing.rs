//! When to send again, and when to give up. The clock comes in as an argument.

use std::time::{Duration, Instant};

const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Silence after which a peer is asked for a sign of life, and then asked again.
const QUIET: Duration = Duration::from_secs(10);

/// Unanswered pings after which another [`QUIET`] ends the connection: 30 seconds in all.
const PINGS: u32 = 2;

/// How long a peer has to prove that it did not start anew.
const SUSPECT: Duration = Duration::from_secs(1);

/// Repeats something that may have been lost: after 50 ms, then 100 ms, and so on up to a second.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Backoff {
    pub(crate) due: Instant,
    pause: Duration,
}

impl Backoff {
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
pub(crate) struct Liveness {
    /// When the peer was last heard, or asked.
    since: Instant,
    pings: u32,
    suspect_until: Option<Instant>,
}

/// What [`Liveness::check`] found.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Health {
    Well,
    /// A ping is to be sent now.
    Ask,
    /// The peer is gone.
    Over,
}

impl Liveness {
    pub(crate) fn new(now: Instant) -> Self {
        Self { since: now, pings: 0, suspect_until: None }
    }

    /// The peer sent something that only the peer can have sent.
    pub(crate) fn heard(&mut self, now: Instant) {
        *self = Self::new(now);
    }

    /// Somebody at the peer's address seems to start anew. Says whether to ping; a forger must not
    /// get more than one out of it.
    pub(crate) fn suspect(&mut self, now: Instant) -> bool {
        let first = self.suspect_until.is_none();
        self.suspect_until.get_or_insert(now + SUSPECT);
        first
    }

    pub(crate) fn check(&mut self, now: Instant) -> Health {
        if self.suspect_until.is_some_and(|end| now >= end) {
            return Health::Over;
        }
        if now < self.since + QUIET {
            return Health::Well;
        }
        if self.pings == PINGS {
            return Health::Over;
        }
        // Counted from now, so that a process that was stopped for a minute still waits for an
        // answer.
        (self.since, self.pings) = (now, self.pings + 1);
        Health::Ask
    }

    /// When to check next.
    pub(crate) fn due(&self) -> Instant {
        let quiet = self.since + QUIET;
        self.suspect_until.map_or(quiet, |end| end.min(quiet))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn backs_off_to_a_second() {
        let mut now = Instant::now();
        let mut backoff = Backoff::new(now);
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
        let mut live = Liveness::new(start);
        assert_eq!(live.check(start + 9 * SECOND), Health::Well);
        for expected in [Health::Ask, Health::Ask, Health::Over] {
            assert_eq!(live.check(live.due()), expected);
        }
        assert_eq!(live.due(), start + 30 * SECOND);
        live.heard(start + 31 * SECOND);
        assert_eq!(live.check(start + 40 * SECOND), Health::Well);
    }

    #[test]
    fn a_late_check_asks_before_it_gives_up() {
        let start = Instant::now();
        let mut live = Liveness::new(start);
        assert_eq!(live.check(start + 100 * SECOND), Health::Ask);
        assert_eq!(live.check(start + 101 * SECOND), Health::Well);
    }

    #[test]
    fn a_suspect_has_a_second() {
        let start = Instant::now();
        let mut live = Liveness::new(start);
        assert!(live.suspect(start));
        assert!(!live.suspect(start + SECOND / 2));
        assert_eq!(live.due(), start + SECOND);
        live.heard(start + SECOND / 2);
        assert_eq!(live.check(start + 2 * SECOND), Health::Well);
        assert!(live.suspect(start + 2 * SECOND));
        assert_eq!(live.check(start + 3 * SECOND), Health::Over);
    }
}
