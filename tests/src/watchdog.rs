//! Waits with a watchdog: long, but not for ever.

use std::time::{Duration, Instant};

/// The time after which a test gives up. It promises no speed: machines are slow.
pub const PATIENCE: Duration = Duration::from_secs(100);

/// The first and the longest pause before a condition is checked again; the pause doubles.
pub(crate) const FIRST_PAUSE: Duration = Duration::from_millis(1);
pub(crate) const LONGEST_PAUSE: Duration = Duration::from_millis(50);

/// Checks until there is a result.
///
/// # Panics
/// If the watchdog fires.
pub fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let (start, mut pause) = (Instant::now(), FIRST_PAUSE);
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(start.elapsed() < PATIENCE, "watchdog: waited in vain: {what}");
        std::thread::sleep(pause);
        pause = (2 * pause).min(LONGEST_PAUSE);
    }
}
