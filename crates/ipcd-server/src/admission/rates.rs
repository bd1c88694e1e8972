//! Limits how often a source connects, with a token bucket for each.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use ipcd_core::Principal;

/// With so many sources, those with a full bucket are forgotten.
const MANY: usize = 4096;
/// With so many, all are forgotten: they cannot each be limited in bounded memory.
const MOST: usize = 16 * MANY;

/// The time at which each source's bucket is full.
#[derive(Debug, Default)]
pub(super) struct ConnectRates {
    full_at: HashMap<Principal, Instant>,
    /// The number of sources that were left after the last cleaning.
    known: usize,
}

impl ConnectRates {
    /// Whether a source may connect once more, if it may do so `most` times a second (0: as often
    /// as it likes). A second's worth may come at once.
    pub(super) fn allows(&mut self, source: Principal, most: u32, now: Instant) -> bool {
        if most == 0 {
            return true;
        }
        self.forget(now);
        let each = Duration::from_secs(1) / most;
        let full_at = self.full_at.entry(source).or_insert(now);
        // The bucket is one time: that at which it is full again. So an idle source needs no
        // update.
        let after = (*full_at).max(now) + each;
        let is_allowed = after <= now + Duration::from_secs(1).max(each);
        if is_allowed {
            *full_at = after;
        }
        is_allowed
    }

    fn forget(&mut self, now: Instant) {
        if self.full_at.len() < MANY.max(2 * self.known) {
            return;
        }
        self.full_at.retain(|_, full_at| *full_at > now);
        if self.full_at.len() >= MOST {
            // So many sources at once are an attack. Forgetting all is better than memory without a
            // bound.
            self.full_at.clear();
        }
        self.known = self.full_at.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_s_worth_at_once_and_then_by_the_clock() {
        let (mut rates, now) = (ConnectRates::default(), Instant::now());
        let (ann, bob) = (Principal::User(1), Principal::User(2));
        let count = |rates: &mut ConnectRates, source, at| {
            (0..100).filter(|_| rates.allows(source, 10, at)).count()
        };
        assert_eq!(count(&mut rates, ann, now), 10);
        assert_eq!(count(&mut rates, bob, now), 10);
        assert_eq!(count(&mut rates, ann, now + Duration::from_millis(200)), 2);
        assert_eq!(count(&mut rates, ann, now + Duration::from_secs(60)), 10);
        assert!((0..1000).all(|_| rates.allows(ann, 0, now)));
        assert!(
            rates.allows(Principal::Unknown, 1, now) && !rates.allows(Principal::Unknown, 1, now)
        );
    }

    #[test]
    fn remembers_a_bounded_number_of_sources() {
        let (mut rates, now) = (ConnectRates::default(), Instant::now());
        for uid in 0..3 * MOST as u32 {
            assert!(rates.allows(Principal::User(uid), 1, now));
            assert!(rates.full_at.len() <= MOST);
        }
        let later = now + Duration::from_secs(2);
        assert!((0..MOST as u32).all(|uid| rates.allows(Principal::User(uid), 1, later)));
        assert!(rates.full_at.len() <= MOST);
    }
}
