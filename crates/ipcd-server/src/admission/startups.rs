//! Limits the peers that have to prove a token and have not yet.
//!
//! This follows sshd's `MaxStartups`: beyond a first number a peer is evicted with a probability
//! that grows, and a second number is never passed. But the peer that has waited longest is
//! evicted, not the new one: a peer with a token proves it at once, and is not disturbed by others.
//! It is a peer of the busiest source: a flood from one address evicts its own peers.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use ipcd_core::Principal;

use crate::admission::crowd::PeersBySource;
use crate::counts::MaxStartups;
use crate::ids::AdmissionId;

/// The time that a peer may take before it has to make room when there is none left.
const GRACE: Duration = Duration::from_secs(1);

/// Those that are there, by their numbers, and since when.
#[derive(Debug, Default)]
pub(super) struct PendingStartups {
    crowd: PeersBySource,
    waiting: HashMap<AdmissionId, (Principal, Instant)>,
}

/// The outcome of asking for room for one more.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum StartupRoom {
    /// There is room.
    There,
    /// This one has to go for it.
    Of(AdmissionId),
    /// There is none.
    None,
}

impl PendingStartups {
    /// Whether there is room for one more of this source. `percent` is drawn when it is needed, from
    /// 0 to 99.
    pub(super) fn find_room(
        &self,
        max: MaxStartups,
        source: Principal,
        now: Instant,
        percent: impl FnOnce() -> u32,
    ) -> StartupRoom {
        let count = self.crowd.len();
        let Some(longest) = self.of_the_busiest(source) else {
            return if max.full == 0 { StartupRoom::None } else { StartupRoom::There };
        };
        // Also with this one its source has fewer.
        let is_fair = self.crowd.busiest_count() > self.crowd.count(source) + 1;
        match count {
            _ if count < max.start && count < max.full => StartupRoom::There,
            _ if count < max.full && percent() >= max.chance(count) => StartupRoom::There,
            _ if count < max.full || is_fair || self.is_overdue(longest, now) => {
                StartupRoom::Of(longest)
            }
            _ => StartupRoom::None,
        }
    }

    pub(super) fn add(&mut self, number: AdmissionId, source: Principal, now: Instant) {
        self.crowd.add(source, number);
        self.waiting.insert(number, (source, now));
    }

    /// One has proved its token, or has gone.
    pub(super) fn remove(&mut self, number: AdmissionId) {
        if let Some((source, _)) = self.waiting.remove(&number) {
            self.crowd.remove(source, number);
        }
    }

    /// One is of another source than it was.
    pub(super) fn move_to(&mut self, number: AdmissionId, source: Principal) {
        if let Some((before, since)) = self.waiting.get(&number).copied() {
            self.crowd.remove(before, number);
            self.crowd.add(source, number);
            self.waiting.insert(number, (source, since));
        }
    }

    /// The one of a source that has waited longest.
    pub(super) fn longest_of(&self, source: Principal) -> Option<AdmissionId> {
        self.crowd.oldest(source)
    }

    /// The one that has waited longest of the sources that have most, if it has had its time.
    pub(super) fn overdue(&self, now: Instant) -> Option<AdmissionId> {
        let oldest = self.crowd.busiest().filter_map(|source| self.crowd.oldest(source)).min();
        oldest.filter(|number| self.is_overdue(*number, now))
    }

    /// The peer that has waited longest of the busiest sources; one of this source, if it is among
    /// these.
    fn of_the_busiest(&self, source: Principal) -> Option<AdmissionId> {
        if self.crowd.count(source) == self.crowd.busiest_count() {
            return self.crowd.oldest(source);
        }
        self.crowd.busiest().filter_map(|busy| self.crowd.oldest(busy)).min()
    }

    fn is_overdue(&self, number: AdmissionId, now: Instant) -> bool {
        let since = self.waiting.get(&number).map(|(_, since)| *since);
        since.is_some_and(|since| now.saturating_duration_since(since) >= GRACE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANN: Principal = Principal::User(1);
    const BOB: Principal = Principal::User(2);

    #[test]
    fn the_one_that_has_waited_longest_makes_room() {
        let (max, now) = ("2:50:3".parse().unwrap(), Instant::now());
        let mut startups = PendingStartups::default();
        assert_eq!(startups.find_room(max, ANN, now, || 0), StartupRoom::There);
        startups.add(AdmissionId(7), ANN, now);
        startups.add(AdmissionId(8), ANN, now);
        assert_eq!(startups.find_room(max, ANN, now, || 50), StartupRoom::There);
        assert_eq!(startups.find_room(max, ANN, now, || 49), StartupRoom::Of(AdmissionId(7)));
        startups.add(AdmissionId(9), ANN, now);
        assert_eq!(
            startups.find_room(max, ANN, now, || 0),
            StartupRoom::None,
            "all have only just come"
        );
        assert_eq!(
            startups.find_room(max, ANN, now + GRACE, || 0),
            StartupRoom::Of(AdmissionId(7))
        );
        startups.remove(AdmissionId(7));
        assert_eq!(startups.find_room(max, ANN, now, || 0), StartupRoom::Of(AdmissionId(8)));
        let none = "0:100:0".parse().unwrap();
        assert_eq!(PendingStartups::default().find_room(none, ANN, now, || 0), StartupRoom::None);
    }

    #[test]
    fn never_more_than_full_and_whoever_logs_in_at_once_gets_in() {
        let (max, now) = (MaxStartups::default(), Instant::now());
        let mut startups = PendingStartups::default();
        for number in 0..5000_u64 {
            // Evenly spread, as a good source of randomness would have it.
            match startups.find_room(max, ANN, now, || (number * 37 % 100) as u32) {
                StartupRoom::There => {}
                StartupRoom::Of(oldest) => startups.remove(oldest),
                StartupRoom::None => continue,
            }
            startups.add(AdmissionId(number), ANN, now);
            assert!(startups.waiting.len() <= 500);
        }
        assert!(startups.waiting.len() > 300);
    }

    #[test]
    fn a_flood_displaces_itself_and_nobody_else() {
        let (max, mut now) = (MaxStartups::default(), Instant::now());
        let mut startups = PendingStartups::default();
        let come = |startups: &mut PendingStartups, number: u64, source, now| {
            let room = startups.find_room(max, source, now, || (number * 37 % 100) as u32);
            match room {
                StartupRoom::Of(other) => startups.remove(other),
                StartupRoom::None => return false,
                StartupRoom::There => {}
            }
            startups.add(AdmissionId(number), source, now);
            true
        };
        for number in 0..1000 {
            come(&mut startups, number, ANN, now);
        }
        // No peer of the flood has waited long, and the others come in all the same.
        assert!((1000..1010).all(|number| come(&mut startups, number, BOB, now)));
        for number in 1010..3000 {
            now += GRACE / 1000;
            come(&mut startups, number, ANN, now);
        }
        assert_eq!(startups.crowd.count(BOB), 10, "they have the time that they need");
        assert!(startups.crowd.len() <= 500);
    }

    #[test]
    fn sources_with_one_each_take_turns() {
        let (max, now) = ("3:100:3".parse().unwrap(), Instant::now());
        let mut startups = PendingStartups::default();
        (0..3).for_each(|user| startups.add(AdmissionId(user), Principal::User(user as u32), now));
        assert_eq!(startups.find_room(max, Principal::User(9), now, || 0), StartupRoom::None);
        assert_eq!(
            startups.find_room(max, Principal::User(9), now + GRACE, || 0),
            StartupRoom::Of(AdmissionId(0))
        );
        assert_eq!(
            startups.find_room(max, Principal::User(2), now + GRACE, || 0),
            StartupRoom::Of(AdmissionId(2))
        );
        startups.move_to(AdmissionId(0), Principal::User(2));
        assert_eq!(
            startups.find_room(max, Principal::User(9), now, || 0),
            StartupRoom::Of(AdmissionId(0))
        );
        startups.remove(AdmissionId(0));
        assert_eq!((startups.crowd.len(), startups.waiting.len()), (2, 2));
    }
}
