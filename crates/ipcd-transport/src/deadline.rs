//! Points in time that lie a duration ahead, without overflow.

use std::time::{Duration, Instant};

/// The longest wait that a deadline expresses. Nothing outlives it, and every clock can hold it.
const LONGEST_WAIT: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// The instant `wait` after `start`. A wait of more than 100 years counts as 100 years: the plain
/// sum panics where it is later than the clock can express, as with [`Duration::MAX`].
pub fn later(start: Instant, wait: Duration) -> Instant {
    start + wait.min(LONGEST_WAIT)
}

/// The instant `wait` from now, as [`later`].
pub fn deadline_after(wait: Duration) -> Instant {
    later(Instant::now(), wait)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_beyond_the_clock_is_a_long_one() {
        let now = Instant::now();
        assert_eq!(later(now, Duration::from_secs(1)), now + Duration::from_secs(1));
        assert_eq!(later(now, Duration::MAX), now + LONGEST_WAIT);
        assert!(deadline_after(Duration::MAX) > now);
        // A deadline that has been saturated can be moved on, too.
        assert!(later(later(now, Duration::MAX), Duration::MAX) > later(now, Duration::MAX));
    }
}
