//! The end of the daemon: how far it has come.

use std::time::{Duration, Instant};

use ipcd_sys::ONE_STOP;

/// The time that workers have to send on what they have accepted.
const FORWARDING: Duration = Duration::from_secs(2);

/// The progress of the daemon's end.
#[derive(Clone, Copy, Debug)]
pub(super) struct ShutdownState {
    since: Instant,
    /// Workers send on what they have accepted, until then at the latest. `None` once they drain.
    forwards_until: Option<Instant>,
    deadline: Instant,
}

impl ShutdownState {
    /// The first signal has come.
    pub(super) fn new(now: Instant, drain_timeout: Duration) -> Self {
        let deadline = now + drain_timeout;
        let forwards_until = Some((now + FORWARDING).min(deadline));
        Self { since: now, forwards_until, deadline }
    }

    /// Whether another signal is one more request to end, and not the same one: timeout(1) and service
    /// managers signal a process and its group.
    pub(super) fn is_repeated(&self) -> bool {
        self.since.elapsed() >= ONE_STOP
    }

    /// Whether workers have to drain now; true once. `is_quiet` says that all have sent on everything.
    pub(super) fn must_drain(&mut self, now: Instant, is_quiet: bool) -> bool {
        self.forwards_until.take_if(|until| is_quiet || now >= *until).is_some()
    }

    /// Whether the time is up.
    pub(super) fn is_overdue(&self, now: Instant) -> bool {
        now >= self.deadline
    }

    /// The time at which something is due.
    pub(super) fn next(&self) -> Instant {
        self.forwards_until.unwrap_or(self.deadline)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_drain_once_and_not_later_than_the_deadline_allows() {
        let now = Instant::now();
        let mut quiet = ShutdownState::new(now, Duration::from_secs(10));
        assert!(!quiet.must_drain(now, false) && quiet.must_drain(now, true));
        assert!(!quiet.must_drain(now + FORWARDING, true), "they drain already");
        assert_eq!(quiet.next(), now + Duration::from_secs(10));
        let mut hurried = ShutdownState::new(now, Duration::ZERO);
        assert!(hurried.must_drain(now, false) && hurried.is_overdue(now));
    }
}
