//! Peers by the sources that they are of, and which sources have most of them.

use std::collections::{BTreeSet, HashMap};

use ipcd_core::Principal;

use crate::ids::AdmissionId;

/// Peers, by their numbers. A later peer has a larger one.
#[derive(Debug, Default)]
pub(super) struct PeersBySource {
    of: HashMap<Principal, BTreeSet<AdmissionId>>,
    by_count: BTreeSet<(usize, Principal)>,
    count: usize,
}

impl PeersBySource {
    /// The number of peers.
    pub(super) fn len(&self) -> usize {
        self.count
    }

    /// The number of peers of a source.
    pub(super) fn count(&self, source: Principal) -> usize {
        self.of.get(&source).map_or(0, BTreeSet::len)
    }

    /// The number of peers of the busiest source.
    pub(super) fn busiest_count(&self) -> usize {
        self.by_count.last().map_or(0, |(count, _)| *count)
    }

    /// The sources that have as many.
    pub(super) fn busiest(&self) -> impl Iterator<Item = Principal> {
        let most = self.busiest_count();
        let from_most = self.by_count.iter().rev();
        from_most.take_while(move |(count, _)| *count == most).map(|(_, source)| *source)
    }

    /// The one of a source that came first.
    pub(super) fn oldest(&self, source: Principal) -> Option<AdmissionId> {
        self.of.get(&source)?.first().copied()
    }

    /// The one that came last.
    pub(super) fn newest(&self, source: Principal) -> Option<AdmissionId> {
        self.of.get(&source)?.last().copied()
    }

    pub(super) fn add(&mut self, source: Principal, number: AdmissionId) {
        let before = self.count(source);
        if self.of.entry(source).or_default().insert(number) {
            self.recount(source, before, before + 1);
        }
    }

    /// One goes; whether it was there.
    pub(super) fn remove(&mut self, source: Principal, number: AdmissionId) -> bool {
        let before = self.count(source);
        let was_there = self.of.get_mut(&source).is_some_and(|all| all.remove(&number));
        if was_there {
            self.recount(source, before, before - 1);
        }
        was_there
    }

    fn recount(&mut self, source: Principal, before: usize, now: usize) {
        self.by_count.remove(&(before, source));
        match now {
            0 => drop(self.of.remove(&source)),
            _ => drop(self.by_count.insert((now, source))),
        }
        self.count = self.count - before + now;
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn knows_who_has_most(steps in vec((any::<bool>(), 0..4_u32, 0..8_u64), 0..200)) {
            let (mut crowd, mut naive) = (PeersBySource::default(), BTreeSet::new());
            for (comes, user, number) in steps {
                let source = Principal::User(user);
                match comes {
                    true => {
                        crowd.add(source, AdmissionId(number));
                        naive.insert((user, number));
                    }
                    false => {
                        let was_there = naive.remove(&(user, number));
                        prop_assert_eq!(crowd.remove(source, AdmissionId(number)), was_there);
                    }
                }
                let count = |user| naive.iter().filter(|(of, _)| *of == user).count();
                let most = (0..4).map(count).max().unwrap_or(0);
                prop_assert_eq!((crowd.len(), crowd.busiest_count()), (naive.len(), most));
                let mut busiest: Vec<_> = crowd.busiest().collect();
                busiest.sort();
                let expected: Vec<_> =
                    (0..4).filter(|u| most > 0 && count(*u) == most).map(Principal::User).collect();
                prop_assert_eq!(busiest, expected);
            }
        }
    }
}
