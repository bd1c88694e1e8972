//! Limits the peers that have to prove a token and have not yet.
//!
//! This follows sshd's `MaxStartups`: beyond a first number a peer is evicted with a probability
//! that grows, and a second number is never passed. But the peer that has waited longest is
//! evicted, not the new one: a peer with a token proves it at once, and is not disturbed by others.
//! It is a peer of the busiest source: a flood from one address evicts its own peers.

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;
use std::time::{Duration, Instant};

use ipcd_core::Principal;
use serde::{Deserialize, Serialize};

use super::crowd::PeersBySource;
use crate::ids::AdmissionId;

/// The time that a peer may take before it has to make room when there is none left.
const GRACE: Duration = Duration::from_secs(1);

/// The numbers: `start:rate:full`.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct MaxStartups {
    start: usize,
    rate: u32,
    full: usize,
}

impl Default for MaxStartups {
    fn default() -> Self {
        Self { start: 100, rate: 30, full: 500 }
    }
}

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

impl MaxStartups {
    /// The most that may be there.
    pub(super) fn hard_limit(self) -> usize {
        self.full
    }

    /// In percent, that one is let go where there are so many.
    fn chance(self, count: usize) -> u32 {
        let (beyond, range) = (count - self.start.min(count), self.full.saturating_sub(self.start));
        let growth = (100 - self.rate) as usize * beyond / range.max(1);
        self.rate + (growth as u32).min(100 - self.rate)
    }
}

impl FromStr for MaxStartups {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("{text}: write START:RATE:FULL, as in 100:30:500, or FULL alone");
        let numbers: Option<Vec<u32>> = text.split(':').map(|part| part.parse().ok()).collect();
        match numbers.as_deref() {
            Some(&[full]) => Ok(Self { start: full as usize, rate: 100, full: full as usize }),
            Some(&[start, rate, full]) if rate <= 100 && start <= full => {
                Ok(Self { start: start as usize, rate, full: full as usize })
            }
            _ => Err(bad()),
        }
    }
}

impl TryFrom<String> for MaxStartups {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<MaxStartups> for String {
    fn from(max: MaxStartups) -> Self {
        max.to_string()
    }
}

impl fmt::Display for MaxStartups {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.start, self.rate, self.full)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANN: Principal = Principal::User(1);
    const BOB: Principal = Principal::User(2);

    #[test]
    fn chances_grow_from_the_rate_to_certainty() {
        let max = MaxStartups::default();
        assert_eq!([100, 300, 500].map(|count| max.chance(count)), [30, 65, 100]);
        assert_eq!("10".parse::<MaxStartups>().unwrap().chance(10), 100);
        for text in ["10:101:20", "20:30:10", "1:2", "a:b:c", "", "1:2:3:4"] {
            assert!(text.parse::<MaxStartups>().is_err(), "{text}");
        }
        assert_eq!("1:50:7".parse::<MaxStartups>().unwrap().to_string(), "1:50:7");
    }

    #[test]
    fn the_one_that_has_waited_longest_makes_room() {
        let (max, now) = (MaxStartups { start: 2, rate: 50, full: 3 }, Instant::now());
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
        let none = MaxStartups { start: 0, rate: 100, full: 0 };
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
        let (max, now) = (MaxStartups { start: 3, rate: 100, full: 3 }, Instant::now());
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
