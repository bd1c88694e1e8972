//! Pauses between attempts that grow, and begin anew after one that went well.

use std::time::{Duration, Instant};

use crate::values::RetryPauses;

/// The time of the next attempt.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Backoff {
    pauses: RetryPauses,
    next: Duration,
}

impl Backoff {
    pub(crate) fn new(pauses: RetryPauses) -> Self {
        Self { pauses, next: pauses.first }
    }

    /// The time of the next attempt, after one that lasted so long. Each pause is twice the last
    /// one, until an attempt lasts longer than the longest pause.
    pub(crate) fn after(&mut self, lasted: Duration) -> Instant {
        if lasted > self.pauses.longest {
            self.next = self.pauses.first;
        }
        let pause = self.next;
        self.next = (2 * pause).min(self.pauses.longest);
        // Up to a quarter less, so that what failed together is not tried together for ever.
        Instant::now() + pause.mul_f64(1.0 - 0.25 * fastrand::f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_begin_anew() {
        let mut backoff = Backoff::new("1s..5s".parse().unwrap());
        let mut pause = |lasted| {
            let before = Instant::now();
            let due = backoff.after(Duration::from_secs(lasted));
            (due - before).as_secs_f64()
        };
        for (lasted, most) in [(0, 1.0), (1, 2.0), (5, 4.0), (0, 5.0), (0, 5.0), (6, 1.0), (0, 2.0)]
        {
            let pause = pause(lasted);
            assert!((0.75 * most..most + 0.5).contains(&pause), "{pause} of {most}");
        }
    }
}
