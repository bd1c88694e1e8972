//! Counts what is held against a source, and says for how long it is refused: for workers that died
//! while they served it, and for peers that made others wait until they were disconnected.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::{Duration, Instant};

/// Strikes after which a source is refused: fewer may be chance.
const PATIENCE: u32 = 3;
/// The longest time for which a source is refused.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);
/// Sources that are remembered.
const MOST: usize = 1024;

/// The times for which strikes count, and the lengths of the pauses.
#[derive(Clone, Copy, Debug)]
pub(super) struct StrikePolicy {
    /// A source without a strike for this time begins anew. The time of a pause does not count.
    memory: Duration,
    /// Strikes that are no further apart than this are one.
    together: Duration,
    /// The first pause. It doubles with each further strike.
    first_pause: Duration,
}

impl StrikePolicy {
    /// The deaths of workers, each of which ends the sessions of all their peers.
    pub(super) const DEATHS: Self = Self {
        memory: Duration::from_secs(60),
        together: Duration::ZERO,
        first_pause: Duration::from_secs(1),
    };

    /// Peers that did not read for `stall_timeout`, during which others waited for them. A source is
    /// counted by each of `workers` for itself, and its peers go to them in turn.
    pub(super) fn of_stalls(stall_timeout: Duration, workers: usize) -> Self {
        let workers = u32::try_from(workers).unwrap_or(u32::MAX);
        // A source that stalls more seldom keeps others waiting for less than a sixth of the time.
        let memory = stall_timeout.saturating_mul(6).saturating_mul(workers);
        // Peers that stop together, as when their network fails, make others wait only once.
        Self { memory, together: Duration::from_secs(1), first_pause: stall_timeout }
    }
}

/// The sources that have strikes, by a key of theirs.
#[derive(Debug)]
pub(super) struct StrikeCounts<K> {
    pub(super) policy: StrikePolicy,
    counts: HashMap<K, StrikeCount>,
}

#[derive(Debug)]
struct StrikeCount {
    strikes: u32,
    last: Instant,
    refused_until: Option<Instant>,
}

impl<K: Copy + Eq + Hash> StrikeCounts<K> {
    pub(super) fn new(policy: StrikePolicy) -> Self {
        Self { policy, counts: HashMap::new() }
    }

    /// Counts a strike; returns the pause that begins with it, if one does.
    pub(super) fn note(&mut self, source: K, now: Instant) -> Option<Duration> {
        self.forget(now);
        if self.counts.len() >= MOST && !self.counts.contains_key(&source) {
            return None;
        }
        let fresh = StrikeCount { strikes: 0, last: now, refused_until: None };
        let count = self.counts.entry(source).or_insert(fresh);
        if count.strikes > 0 && now.saturating_duration_since(count.last) < self.policy.together {
            return None;
        }
        count.strikes += 1;
        count.last = now;
        let beyond = count.strikes.checked_sub(PATIENCE)?;
        let pause = self.policy.first_pause.saturating_mul(2_u32.saturating_pow(beyond.min(20)));
        let pause = pause.min(LONGEST_PAUSE);
        count.refused_until = Some(now + pause);
        Some(pause)
    }

    /// For how much longer a source is refused.
    pub(super) fn refused_for(&self, source: K, now: Instant) -> Option<Duration> {
        let until = self.counts.get(&source)?.refused_until?;
        until.checked_duration_since(now).filter(|left| !left.is_zero())
    }

    fn forget(&mut self, now: Instant) {
        let memory = self.policy.memory;
        self.counts.retain(|_, count| {
            let since = count.refused_until.unwrap_or(count.last).max(count.last);
            now.saturating_duration_since(since) < memory
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEMORY: Duration = StrikePolicy::DEATHS.memory;
    const STALL: Duration = Duration::from_secs(10);

    fn stalls(workers: usize) -> StrikeCounts<u32> {
        StrikeCounts::new(StrikePolicy::of_stalls(STALL, workers))
    }

    #[test]
    fn penalties_grow_and_are_forgotten() {
        let (mut deaths, mut now) = (StrikeCounts::new(StrikePolicy::DEATHS), Instant::now());
        assert_eq!([(); 2].map(|()| deaths.note(1, now)), [None; 2]);
        assert_eq!(deaths.refused_for(1, now), None);
        for seconds in [1, 2, 4, 8] {
            let pause = Some(Duration::from_secs(seconds));
            assert_eq!(deaths.note(1, now), pause);
            assert_eq!(deaths.refused_for(1, now), pause);
            assert_eq!(deaths.refused_for(2, now), None);
            now += Duration::from_secs(seconds);
            assert_eq!(deaths.refused_for(1, now), None);
        }
        now += MEMORY;
        assert_eq!(deaths.note(1, now), None, "it begins anew");
        assert!((0..40).all(|_| deaths.note(1, now) <= Some(LONGEST_PAUSE)));
        assert_eq!(deaths.refused_for(1, now), Some(LONGEST_PAUSE));
    }

    #[test]
    fn deaths_that_are_far_apart_are_chance() {
        let (mut deaths, now) = (StrikeCounts::new(StrikePolicy::DEATHS), Instant::now());
        assert!((0..10).all(|turn| deaths.note(1, now + turn * MEMORY).is_none()));
    }

    #[test]
    fn peers_that_stall_together_count_once() {
        let (mut stalls, now) = (stalls(1), Instant::now());
        assert!((0..100).all(|_| stalls.note(1, now).is_none()));
        assert_eq!(stalls.note(1, now + STALL), None);
        assert_eq!(stalls.note(1, now + 2 * STALL), Some(STALL));
        assert_eq!(stalls.note(1, now + 2 * STALL), None, "it is the same stall");
        assert_eq!(stalls.note(1, now + 3 * STALL), Some(2 * STALL));
    }

    #[test]
    fn a_source_that_stalls_now_and_then_is_not_refused() {
        for workers in [1, 8] {
            let (mut counts, mut now) = (stalls(workers), Instant::now());
            let seldom = 6 * STALL * workers as u32;
            for _ in 0..100 {
                assert_eq!(counts.note(1, now), None);
                now += seldom;
            }
            // A little more often, and it is.
            let paused = (0..3).filter_map(|turn| counts.note(1, now + turn * (seldom - STALL)));
            assert_eq!(paused.collect::<Vec<_>>(), [STALL]);
        }
    }

    #[test]
    fn a_bounded_number_of_sources_is_remembered() {
        let (mut stalls, now) = (stalls(1), Instant::now());
        assert!((0..2000).all(|source| stalls.note(source, now).is_none()));
        assert_eq!(stalls.counts.len(), MOST);
        // Those that are remembered are still counted.
        assert_eq!(stalls.note(0, now + STALL), None);
        assert_eq!(stalls.note(0, now + 2 * STALL), Some(STALL));
    }
}
