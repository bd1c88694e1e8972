//! The end of patience: a wait that does not end fails the test, and says what it waited for.

use std::time::{Duration, Instant};

/// Longer than any wait takes, on however busy a machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A limit to one wait.
#[derive(Clone, Debug)]
pub struct Watchdog {
    what: String,
    deadline: Instant,
}

impl Watchdog {
    /// Starts to watch a wait for this.
    pub fn over(what: impl Into<String>) -> Self {
        Self { what: what.into(), deadline: Instant::now() + PATIENCE }
    }

    /// The end of its patience.
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// The time that is left.
    ///
    /// # Panics
    /// If nothing is.
    pub fn left(&self) -> Duration {
        let left = self.deadline.saturating_duration_since(Instant::now());
        assert!(!left.is_zero(), "waited in vain: {}", self.what);
        left
    }
}
