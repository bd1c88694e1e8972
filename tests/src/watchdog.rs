//! Waiting with a watchdog: for as long as it takes, but not for ever.

use std::time::{Duration, Instant};

/// How long anything may take before a test gives up. Not a promise of speed: machines are slow.
pub const PATIENCE: Duration = Duration::from_secs(100);

/// When a condition that nothing announces is looked at again; the pause doubles to the longest.
pub(crate) const FIRST_PAUSE: Duration = Duration::from_millis(1);
pub(crate) const LONGEST_PAUSE: Duration = Duration::from_millis(50);

/// Looks until there is something.
///
/// # Panics
/// When the watchdog barks.
pub fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let (start, mut pause) = (Instant::now(), FIRST_PAUSE);
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(start.elapsed() < PATIENCE, "watchdog: {what} did not come about");
        std::thread::sleep(pause);
        pause = (2 * pause).min(LONGEST_PAUSE);
    }
}
