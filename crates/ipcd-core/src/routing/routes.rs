//! Routes: whom a subject concerns, here and at other workers; and those found lately.

use std::cell::Cell;
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

use crate::cluster::Cluster;
use crate::core::Router;
use crate::routing::group_turns::{GroupTurn, first_turn};
use crate::routing::trie::{LocalSubscriber, QueueGroup, WorkerInterest};
use foldhash::fast::RandomState;
use ipcd_proto::{BadSubject, Subject};

/// Subjects whose routes are remembered. A client that makes up subjects cannot take more memory.
const MAX_ROUTES: usize = 16 * 1024;
/// Targets in all of them: with many subscribers to everything, each route has as many.
const MAX_TARGETS: usize = 256 * 1024;
/// Nodes and members of the interest table that are looked at in a step.
const FOUND_IN_STEP: usize = 4;
/// Members of a worker that count when it is its turn, at the most: the number is its own word.
const MAX_WEIGHT: u32 = 64 * 1024;

/// Whom a subject concerns.
#[derive(Debug)]
pub(crate) struct RouteTargets {
    /// Subscriptions here that are in no group.
    pub(crate) members: Vec<LocalSubscriber>,
    /// Interests of other workers that are in no group; those of one worker stand together.
    pub(crate) remotes: Vec<WorkerInterest>,
    /// Groups, of which each gets one copy.
    pub(crate) groups: Vec<GroupRoute>,
}

impl RouteTargets {
    fn count(&self) -> usize {
        let choices = self.groups.iter().map(|group| group.choices.len());
        self.members.len() + self.remotes.len() + choices.sum::<usize>()
    }
}

/// A group whose members are offered a message in turn.
#[derive(Debug)]
pub(crate) struct GroupRoute {
    pub(crate) group: Rc<QueueGroup>,
    /// Members here and workers elsewhere, each with the end of its share of the turns.
    choices: Vec<(u64, GroupCandidate)>,
    rotation: Rc<GroupTurn>,
}

/// Who may get a message of a group.
#[derive(Clone, Debug)]
pub(crate) enum GroupCandidate {
    /// A subscription here.
    Here(LocalSubscriber),
    /// One of another worker's, which chooses it.
    There {
        /// The worker's place.
        slot: u32,
        /// Its number for the group.
        number: u32,
        /// Whether none of its members can take more.
        off: bool,
    },
}

impl GroupRoute {
    /// The next choice in turn that is good. Turns of those that are not are left out.
    pub(crate) fn next(
        &self,
        is_good: impl Fn(&GroupCandidate) -> bool,
    ) -> Option<&GroupCandidate> {
        self.next_of(&self.rotation.turn, is_good)
    }

    /// The same for a message that another worker has sent.
    pub(crate) fn next_arrival(
        &self,
        is_good: impl Fn(&GroupCandidate) -> bool,
    ) -> Option<&GroupCandidate> {
        self.next_of(&self.rotation.arrivals, is_good)
    }

    fn next_of(
        &self,
        turns: &Cell<u64>,
        is_good: impl Fn(&GroupCandidate) -> bool,
    ) -> Option<&GroupCandidate> {
        let total = self.choices.last()?.0;
        let turn = turns.get() % total;
        let first = self.choices.partition_point(|(end, _)| *end <= turn);
        let indices = (first..self.choices.len()).chain(0..first);
        let found = indices.into_iter().find(|&index| is_good(&self.choices[index].1))?;
        let start = found.checked_sub(1).map_or(0, |before| self.choices[before].0);
        turns.set(if found == first { turn + 1 } else { start + 1 });
        Some(&self.choices[found].1)
    }

    /// All choices.
    pub(crate) fn choices(&self) -> impl Iterator<Item = &GroupCandidate> {
        self.choices.iter().map(|(_, choice)| choice)
    }
}

/// The routes found lately, and the last one, which is most often the next one too.
#[derive(Debug, Default)]
pub(crate) struct RouteCache {
    found: HashMap<Box<[u8]>, Route, RandomState>,
    /// Targets in those.
    targets: usize,
    last: Option<(Vec<u8>, Route)>,
}

#[derive(Clone, Debug)]
struct Route {
    version: u64,
    targets: Rc<RouteTargets>,
}

impl Router {
    /// Whom a subject concerns.
    pub(crate) fn route(&mut self, subject: &[u8]) -> Result<Rc<RouteTargets>, BadSubject> {
        // Both only grow, so that their sum changes when either does.
        let cluster = self.cluster.as_ref().map_or(0, Cluster::version);
        let version = self.interests.version() + cluster;
        if let Some((last, route)) = &self.routes.last
            && route.version == version
            && last == subject
        {
            return Ok(Rc::clone(&route.targets));
        }
        let known = self.routes.found.get(subject).filter(|route| route.version == version);
        let route = match known {
            Some(route) => route.clone(),
            None => {
                let targets = Rc::new(self.find_targets(Subject::parse(subject)?));
                self.routes.remember(subject, Route { version, targets })
            }
        };
        let targets = Rc::clone(&route.targets);
        let (mut last, _) = self.routes.last.take().unwrap_or((Vec::new(), route.clone()));
        last.clear();
        last.extend_from_slice(subject);
        self.routes.last = Some((last, route));
        Ok(targets)
    }

    fn find_targets(&mut self, subject: Subject<'_>) -> RouteTargets {
        let mut groups = BTreeMap::<Rc<QueueGroup>, Vec<(u32, GroupCandidate)>>::new();
        let (mut members, looked_at) = self.interests.find_counted(subject);
        members.retain(|member| {
            if !self.may_hear(member.peer, subject) {
                return false;
            }
            if let Some(group) = &member.group {
                let choice = (1, GroupCandidate::Here(member.clone()));
                groups.entry(Rc::clone(group)).or_default().push(choice);
            }
            member.group.is_none()
        });
        // Those whose copies are alike together.
        members.sort_by_key(|member| member.subscription);
        let cluster = self.cluster.as_ref();
        let (mut remotes, more) = cluster.map_or((Vec::new(), 0), |cluster| cluster.find(subject));
        self.budget.spend((looked_at + more).div_ceil(FOUND_IN_STEP));
        remotes.retain(|remote| {
            if let Some(share) = &remote.share {
                let (slot, number, off) = (remote.slot, share.number, remote.off);
                let choice = (share.members, GroupCandidate::There { slot, number, off });
                groups.entry(Rc::clone(&share.group)).or_default().push(choice);
            }
            remote.share.is_none()
        });
        let (slot, generation) = (self.config.slot, self.config.generation);
        let groups = groups.into_iter().map(|(group, choices)| {
            let choices = add_up(choices);
            let total = choices.last().map_or(0, |(end, _)| *end);
            let rotation = self.rotations.of(&group, || first_turn(slot, generation, total));
            GroupRoute { group, choices, rotation }
        });
        RouteTargets { members, remotes, groups: groups.collect() }
    }
}

/// Shares of the turns, as the positions at which they end.
fn add_up(choices: Vec<(u32, GroupCandidate)>) -> Vec<(u64, GroupCandidate)> {
    let mut end = 0;
    let ending = |(members, choice): (u32, GroupCandidate)| {
        end += u64::from(members.clamp(1, MAX_WEIGHT));
        (end, choice)
    };
    choices.into_iter().map(ending).collect()
}

impl RouteCache {
    fn remember(&mut self, subject: &[u8], route: Route) -> Route {
        if self.found.len() >= MAX_ROUTES || self.targets + route.targets.count() > MAX_TARGETS {
            self.found.clear();
            self.targets = 0;
        }
        self.targets += route.targets.count();
        let before = self.found.insert(subject.into(), route.clone());
        self.targets -= before.map_or(0, |before| before.targets.count());
        route
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use ipcd_proto::control::{Origin, Overflow};

    use super::*;
    use crate::model::config::{Config, DaemonInfo, PeerInfo};

    #[test]
    fn remembers_a_bounded_number_of_routes() {
        let mut core = Router::new(Config::new(DaemonInfo::unknown(Instant::now())), None);
        for number in 0..2 * MAX_ROUTES {
            core.route(format!("made.up.{number}").as_bytes()).unwrap();
            assert!(core.routes.found.len() <= MAX_ROUTES);
        }
    }

    #[test]
    fn remembers_a_bounded_number_of_targets() {
        const MEMBERS: usize = 1000;
        let mut core = Router::new(Config::new(DaemonInfo::unknown(Instant::now())), None);
        let transport = "test".into();
        let origin =
            Origin { peer: 0, name: None, transport, pid: None, uid: None, gid: None, addr: None };
        let info = PeerInfo { listener: 0, origin, challenge: None, bare: None };
        let peer = core.attach(Instant::now(), info);
        let filter = ipcd_proto::Filter::parse(b">").unwrap();
        for number in 0..MEMBERS as u32 {
            let (overflow, origin, group) = (Overflow::Block, false, None);
            let member = LocalSubscriber { peer, subscription: number, overflow, origin, group };
            core.interests.add(&filter, member);
        }
        for number in 0..2 * MAX_TARGETS / MEMBERS {
            core.interests.touch();
            for subject in [format!("made.up.{number}"), "again.and.again".into()] {
                assert_eq!(core.route(subject.as_bytes()).unwrap().members.len(), MEMBERS);
            }
            let routes = core.routes.found.values();
            let remembered: usize = routes.map(|route| route.targets.count()).sum();
            assert!(remembered == core.routes.targets && remembered <= MAX_TARGETS);
        }
    }

    #[test]
    fn turns_are_shared_by_the_number_of_members() {
        let there = |slot| GroupCandidate::There { slot, number: 1, off: false };
        let filter = ipcd_proto::Filter::parse(b"work").unwrap();
        let sharing = GroupRoute {
            group: Rc::new(QueueGroup { filter, name: "g".into() }),
            choices: add_up(vec![(1, there(0)), (3, there(1)), (0, there(2))]),
            rotation: Rc::new(GroupTurn::beginning_at(0)),
        };
        let slot = |choice: &GroupCandidate| match choice {
            GroupCandidate::There { slot, .. } => *slot,
            GroupCandidate::Here(_) => unreachable!("none is here"),
        };
        let turns: Vec<u32> = (0..6).filter_map(|_| sharing.next(|_| true).map(slot)).collect();
        assert_eq!(turns, [0, 1, 1, 1, 2, 0]);
        let cluster: Vec<u32> =
            (0..4).filter_map(|_| sharing.next(|choice| slot(choice) != 1).map(slot)).collect();
        assert_eq!(cluster, [2, 0, 2, 0]);
        assert!(sharing.next(|_| false).is_none());
    }
}
