//! Remembers sources that were being served when workers died, again and again.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use ipcd_core::Principal;

/// Deaths count that are not longer ago than this.
const MEMORY: Duration = Duration::from_secs(60);
/// Deaths before a source is refused: one may be chance.
const PATIENCE: u32 = 3;
/// For how long it is refused at first; it doubles with each further death.
const FIRST_PENALTY: Duration = Duration::from_secs(1);
const LONGEST_PENALTY: Duration = Duration::from_secs(300);
/// Sources that are remembered.
const MOST: usize = 1024;

/// The sources, and what is held against them.
#[derive(Debug, Default)]
pub(super) struct SuspectSources(HashMap<Principal, SourceSuspicion>);

#[derive(Debug)]
struct SourceSuspicion {
    deaths: u32,
    last: Instant,
    refused_until: Option<Instant>,
}

impl SuspectSources {
    /// A worker has died while it served a peer of this source.
    pub(super) fn note(&mut self, source: Principal, now: Instant) {
        self.forget(now);
        if self.0.len() >= MOST {
            return;
        }
        let fresh = SourceSuspicion { deaths: 0, last: now, refused_until: None };
        let suspicion = self.0.entry(source).or_insert(fresh);
        suspicion.deaths += 1;
        suspicion.last = now;
        if let Some(beyond) = suspicion.deaths.checked_sub(PATIENCE) {
            let penalty = FIRST_PENALTY * 2_u32.saturating_pow(beyond.min(20));
            suspicion.refused_until = Some(now + penalty.min(LONGEST_PENALTY));
        }
    }

    /// For how much longer a source is refused.
    pub(super) fn refused_for(&self, source: Principal, now: Instant) -> Option<Duration> {
        let until = self.0.get(&source)?.refused_until?;
        until.checked_duration_since(now).filter(|left| !left.is_zero())
    }

    /// Forgets old deaths. The time of a penalty does not count.
    fn forget(&mut self, now: Instant) {
        self.0.retain(|_, suspicion| {
            let since = suspicion.refused_until.unwrap_or(suspicion.last).max(suspicion.last);
            now.saturating_duration_since(since) < MEMORY
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn penalties_grow_and_are_forgotten() {
        let (mut suspects, mut now) = (SuspectSources::default(), Instant::now());
        let (bad, other) = (Principal::User(1), Principal::User(2));
        suspects.note(bad, now);
        suspects.note(bad, now);
        assert_eq!(suspects.refused_for(bad, now), None);
        for seconds in [1, 2, 4, 8] {
            suspects.note(bad, now);
            assert_eq!(suspects.refused_for(bad, now), Some(Duration::from_secs(seconds)));
            assert_eq!(suspects.refused_for(other, now), None);
            now += Duration::from_secs(seconds);
            assert_eq!(suspects.refused_for(bad, now), None);
        }
        now += MEMORY;
        suspects.note(bad, now);
        assert_eq!(suspects.refused_for(bad, now), None, "it begins anew");
        (0..40).for_each(|_| suspects.note(bad, now));
        assert_eq!(suspects.refused_for(bad, now), Some(LONGEST_PENALTY));
    }

    #[test]
    fn deaths_that_are_far_apart_are_chance() {
        let (mut suspects, now) = (SuspectSources::default(), Instant::now());
        for turn in 0..10 {
            suspects.note(Principal::User(1), now + turn * MEMORY);
        }
        assert_eq!(suspects.refused_for(Principal::User(1), now + 9 * MEMORY), None);
    }
}
