//! Routes: the receivers of a subject, here and on other workers, and a cache of recent ones.

use std::cell::Cell;
use std::collections::HashMap;
use std::rc::Rc;

use crate::routing::group_turns::GroupTurn;
use crate::routing::index::{LocalSubscriber, QueueGroup, WorkerInterest};
use foldhash::fast::RandomState;

/// Subjects whose routes are remembered. A client that invents subjects cannot use more memory.
const MAX_ROUTES: usize = 16 * 1024;
/// Receivers in all remembered routes: with many subscribers to everything, each route has as many.
const MAX_TARGETS: usize = 256 * 1024;
/// Nodes and members of the subscription index that are visited in a step.
pub(crate) const FOUND_IN_STEP: usize = 4;
/// Members that one worker may claim in a group. A compromised worker could otherwise draw all
/// messages.
const MAX_WEIGHT: u32 = 64 * 1024;

/// The receivers of a subject.
#[derive(Debug)]
pub(crate) struct RouteTargets {
    /// Subscriptions here that are in no group.
    pub(crate) members: Vec<LocalSubscriber>,
    /// Interests of other workers that are in no group, sorted by worker.
    pub(crate) remotes: Vec<WorkerInterest>,
    /// Groups, each of which gets one copy.
    pub(crate) groups: Vec<GroupRoute>,
}

impl RouteTargets {
    /// Returns the slots and generations of other workers.
    pub(crate) fn workers(&self) -> impl Iterator<Item = (u32, u32)> {
        let remotes = self.remotes.iter().map(|remote| (remote.slot, remote.generation));
        let candidates = self.groups.iter().flat_map(GroupRoute::candidates);
        remotes.chain(candidates.filter_map(|candidate| match candidate {
            GroupCandidate::Here(_) => None,
            GroupCandidate::There { slot, generation, .. } => Some((*slot, *generation)),
        }))
    }

    fn count(&self) -> usize {
        let candidates = self.groups.iter().map(|group| group.candidates.len());
        self.members.len() + self.remotes.len() + candidates.sum::<usize>()
    }
}

/// A group whose members get messages in turn.
#[derive(Debug)]
pub(crate) struct GroupRoute {
    pub(crate) group: Rc<QueueGroup>,
    /// Members here and other workers, each with the end position of its share.
    candidates: Vec<(u64, GroupCandidate)>,
    group_turn: Rc<GroupTurn>,
}

/// A candidate for a message of a group.
#[derive(Clone, Debug)]
pub(crate) enum GroupCandidate {
    /// A subscription of this router.
    Here(LocalSubscriber),
    /// Another worker, which chooses one of its members.
    There {
        /// The slot and the generation of the worker.
        slot: u32,
        generation: u32,
        /// The worker's number for the group.
        number: u32,
        /// Whether all members there are unable to take more.
        is_blocked: bool,
    },
}

impl GroupRoute {
    /// Creates a route to the members of a group. `turn_of` returns the group's turn, for this many
    /// positions.
    pub(crate) fn new(
        group: Rc<QueueGroup>,
        candidates: Vec<(u32, GroupCandidate)>,
        turn_of: impl FnOnce(&Rc<QueueGroup>, u64) -> Rc<GroupTurn>,
    ) -> Self {
        let candidates = add_up(candidates);
        let total = candidates.last().map_or(0, |(end, _)| *end);
        let group_turn = turn_of(&group, total);
        Self { group, candidates, group_turn }
    }

    /// Returns the next candidate in turn that is suitable. Unsuitable ones lose their turns.
    pub(crate) fn next(
        &self,
        is_good: impl Fn(&GroupCandidate) -> bool,
    ) -> Option<&GroupCandidate> {
        self.next_of(&self.group_turn.turn, is_good)
    }

    /// Returns the next candidate for a message that another worker has sent.
    pub(crate) fn next_arrival(
        &self,
        is_good: impl Fn(&GroupCandidate) -> bool,
    ) -> Option<&GroupCandidate> {
        self.next_of(&self.group_turn.arrivals, is_good)
    }

    fn next_of(
        &self,
        turns: &Cell<u64>,
        is_good: impl Fn(&GroupCandidate) -> bool,
    ) -> Option<&GroupCandidate> {
        let total = self.candidates.last()?.0;
        // The number of positions changes with the members.
        let turn = turns.get() % total;
        let first = self.candidates.partition_point(|(end, _)| *end <= turn);
        let indices = (first..self.candidates.len()).chain(0..first);
        let found = indices.into_iter().find(|&index| is_good(&self.candidates[index].1))?;
        let start = found.checked_sub(1).map_or(0, |before| self.candidates[before].0);
        // Candidates that were passed over lose their turns: one that is full for long would
        // otherwise get a long series once it is not.
        turns.set(if found == first { turn + 1 } else { start + 1 });
        Some(&self.candidates[found].1)
    }

    /// Returns all candidates.
    pub(crate) fn candidates(&self) -> impl Iterator<Item = &GroupCandidate> {
        self.candidates.iter().map(|(_, candidate)| candidate)
    }
}

/// A cache of routes. The last one is kept apart, because it is most often the next one, too.
#[derive(Debug, Default)]
pub(crate) struct RouteCache {
    found: HashMap<Box<[u8]>, Route, RandomState>,
    /// Receivers in all remembered routes.
    targets: usize,
    last: Option<(Vec<u8>, Route)>,
}

#[derive(Clone, Debug)]
struct Route {
    version: u64,
    targets: Rc<RouteTargets>,
}

impl RouteCache {
    /// Returns the route of a subject, if it was found in this version of the tries.
    pub(crate) fn find(&mut self, subject: &[u8], version: u64) -> Option<Rc<RouteTargets>> {
        if let Some((last, route)) = &self.last
            && route.version == version
            && last == subject
        {
            return Some(Rc::clone(&route.targets));
        }
        let route = self.found.get(subject).filter(|route| route.version == version)?.clone();
        let targets = Rc::clone(&route.targets);
        self.set_last(subject, route);
        Some(targets)
    }

    pub(crate) fn remember(&mut self, subject: &[u8], version: u64, targets: &Rc<RouteTargets>) {
        // Clearing everything is rare, and costs less than keeping an order of use.
        if self.found.len() >= MAX_ROUTES || self.targets + targets.count() > MAX_TARGETS {
            self.found.clear();
            self.targets = 0;
        }
        self.targets += targets.count();
        let route = Route { version, targets: Rc::clone(targets) };
        let before = self.found.insert(subject.into(), route.clone());
        self.targets -= before.map_or(0, |before| before.targets.count());
        self.set_last(subject, route);
    }

    fn set_last(&mut self, subject: &[u8], route: Route) {
        // In place, so that the buffer of the previous subject is used again.
        let (last, last_route) = self.last.get_or_insert_with(|| (Vec::new(), route.clone()));
        last.clear();
        last.extend_from_slice(subject);
        *last_route = route;
    }
}

/// Turns the shares into end positions.
fn add_up(candidates: Vec<(u32, GroupCandidate)>) -> Vec<(u64, GroupCandidate)> {
    let mut end = 0;
    let ending = |(members, candidate): (u32, GroupCandidate)| {
        // A compromised worker could claim any number, and would draw nearly all messages.
        end += u64::from(members.clamp(1, MAX_WEIGHT));
        (end, candidate)
    };
    candidates.into_iter().map(ending).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use ipcd_proto::control::{Origin, OverflowPolicy};

    use super::*;
    use crate::config::{Config, DaemonInfo, PeerInfo};
    use crate::router::Router;

    #[test]
    fn remembers_a_bounded_number_of_routes() {
        let mut core = Router::new(Config::new(DaemonInfo::unknown(Instant::now())), None);
        for number in 0..2 * MAX_ROUTES {
            core.delivery.route(format!("made.up.{number}").as_bytes()).unwrap();
            assert!(core.delivery.routes.found.len() <= MAX_ROUTES);
        }
    }

    #[test]
    fn remembers_a_bounded_number_of_targets() {
        const MEMBERS: usize = 1000;
        let mut core = Router::new(Config::new(DaemonInfo::unknown(Instant::now())), None);
        let transport = "test".into();
        let origin =
            Origin { peer: 0, name: None, transport, pid: None, uid: None, gid: None, addr: None };
        let info = PeerInfo { listener: 0, origin, challenge: None, raw: None };
        let peer = core.attach(Instant::now(), info);
        let filter = ipcd_proto::Filter::parse(b">").unwrap();
        for number in 0..MEMBERS as u32 {
            let (overflow, origin, group) = (OverflowPolicy::Block, false, None);
            let member = LocalSubscriber { peer, subscription: number, overflow, origin, group };
            core.delivery.sessions.index.add(&filter, member);
        }
        for number in 0..2 * MAX_TARGETS / MEMBERS {
            core.delivery.sessions.index.touch();
            for subject in [format!("made.up.{number}"), "again.and.again".into()] {
                assert_eq!(core.delivery.route(subject.as_bytes()).unwrap().members.len(), MEMBERS);
            }
            let routes = core.delivery.routes.found.values();
            let remembered: usize = routes.map(|route| route.targets.count()).sum();
            assert!(remembered == core.delivery.routes.targets && remembered <= MAX_TARGETS);
        }
    }

    #[test]
    fn turns_are_shared_by_the_number_of_members() {
        let there =
            |slot| GroupCandidate::There { slot, generation: 1, number: 1, is_blocked: false };
        let filter = ipcd_proto::Filter::parse(b"work").unwrap();
        let group_route = GroupRoute {
            group: Rc::new(QueueGroup { filter, name: "g".into() }),
            candidates: add_up(vec![(1, there(0)), (3, there(1)), (0, there(2))]),
            group_turn: Rc::new(GroupTurn::beginning_at(0)),
        };
        let slot = |candidate: &GroupCandidate| match candidate {
            GroupCandidate::There { slot, .. } => *slot,
            GroupCandidate::Here(_) => unreachable!("none is here"),
        };
        let turns: Vec<u32> = (0..6).filter_map(|_| group_route.next(|_| true).map(slot)).collect();
        assert_eq!(turns, [0, 1, 1, 1, 2, 0]);
        let cluster: Vec<u32> = (0..4)
            .filter_map(|_| group_route.next(|candidate| slot(candidate) != 1).map(slot))
            .collect();
        assert_eq!(cluster, [2, 0, 2, 0]);
        assert!(group_route.next(|_| false).is_none());
    }
}
