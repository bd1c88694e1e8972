//! The turns of queue groups. A turn outlives the routes of the group's subjects: routes are made
//! again whenever an index changes, and there is one for each subject that the group's filter
//! matches.

use std::cell::Cell;
use std::collections::HashMap;
use std::rc::Rc;

use crate::routing::index::QueueGroup;
use foldhash::fast::RandomState;

/// Groups whose turns are kept before those without a route are forgotten.
const FEW: usize = 1024;

/// The position of a group's next message among the members' shares.
#[derive(Debug)]
pub(crate) struct GroupTurn {
    /// The position for messages that are published here.
    pub(crate) turn: Cell<u64>,
    /// The position for messages that other workers have sent for a member here. They have had
    /// their turn at the publisher's worker, and must not take one from messages that are published
    /// here.
    pub(crate) arrivals: Cell<u64>,
}

/// The turns of all groups.
#[derive(Debug, Default)]
pub(crate) struct GroupTurns {
    known: HashMap<Rc<QueueGroup>, Rc<GroupTurn>, RandomState>,
    /// The number of entries at which unused ones are removed.
    most: usize,
}

impl GroupTurn {
    pub(crate) fn beginning_at(turn: u64) -> Self {
        Self { turn: Cell::new(turn), arrivals: Cell::new(turn) }
    }
}

impl GroupTurns {
    /// Returns the turn of a group. A new one begins at `first`.
    pub(crate) fn of(
        &mut self,
        group: &Rc<QueueGroup>,
        first: impl FnOnce() -> u64,
    ) -> Rc<GroupTurn> {
        if let Some(known) = self.known.get(group) {
            return Rc::clone(known);
        }
        if self.known.len() >= self.most {
            // Only routes hold another reference.
            self.known.retain(|_, group_turn| Rc::strong_count(group_turn) > 1);
            // Doubling keeps the cost of these searches constant for each new group.
            self.most = FEW.max(2 * self.known.len());
        }
        let group_turn = Rc::new(GroupTurn::beginning_at(first()));
        self.known.insert(Rc::clone(group), Rc::clone(&group_turn));
        group_turn
    }
}

/// Returns the position at which a generation begins, out of this many. With `--fork connection` a
/// generation may publish a single message. So the starting positions must be spread evenly over
/// the generations, even over every second or third of them. Multiples of an irrational number are
/// (Weyl's theorem): here of the golden ratio and the root of 2.
pub(crate) fn first_turn(slot: u32, generation: u32, turns: u64) -> u64 {
    const GOLDEN: u32 = 0x9e37_79b9;
    const ROOT: u32 = 0x6a09_e667;
    let spread = slot.wrapping_mul(GOLDEN).wrapping_add(generation.wrapping_mul(ROOT));
    let place = (u128::from(spread) * u128::from(turns)) >> u32::BITS;
    u64::try_from(place).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use ipcd_proto::Filter;

    use super::*;

    fn group(name: &str) -> Rc<QueueGroup> {
        let filter = Filter::parse(b"w").unwrap();
        Rc::new(QueueGroup { filter, name: name.into() })
    }

    #[test]
    fn a_turn_is_kept_while_a_route_knows_the_group_and_few_others_are() {
        let mut rotations = GroupTurns::default();
        let kept = rotations.of(&group("kept"), || 7);
        kept.turn.set(9);
        for number in 0..10 * FEW {
            rotations.of(&group(&number.to_string()), || 0);
            assert!(rotations.known.len() <= FEW);
        }
        assert_eq!(rotations.of(&group("kept"), || 0).turn.get(), 9);
    }

    #[test]
    fn lives_of_one_message_reach_all_members_whichever_of_them_publish() {
        for (members, step) in [(2, 1), (2, 2), (3, 3), (5, 4), (8, 2), (7, 7)] {
            let mut got = vec![0_usize; members];
            for generation in 0..400_u32 {
                let (slot, generation) = (generation * step % 64, 1 + generation * step / 64);
                got[first_turn(slot, generation, members as u64) as usize] += 1;
            }
            let even = 400 / members;
            let is_even = |count: &usize| (even / 2..=2 * even).contains(count);
            assert!(got.iter().all(is_even), "{members} members, each {step}th life: {got:?}");
        }
    }
}
