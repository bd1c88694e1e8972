//! What all workers know of each other: interests, and which life each place is in.

use std::collections::HashMap;
use std::rc::Rc;

use ipcd_proto::Filter;
use serde::{Deserialize, Serialize};

use crate::charges::Spent;
use crate::interest::{Group, Interests, Remote, Share};
use crate::source::Source;

/// What a worker wants: a filter, for itself or for its members of a group.
#[derive(Clone, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
pub struct Interest {
    /// The filter.
    pub filter: String,
    /// The group's name.
    pub group: Option<String>,
}

/// A worker's part in a group, as it tells others.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Part {
    /// Its number for the group.
    pub number: u32,
    /// How many members it has.
    pub members: u32,
}

/// A change of what all workers know.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum Change {
    /// A worker has its first subscription of an interest, or another number of members of one.
    Interested {
        /// The worker's place.
        slot: u32,
        /// What it wants.
        interest: Interest,
        /// Its part in the group, if it is one.
        share: Option<Part>,
    },
    /// A worker has lost its last subscription of an interest.
    Uninterested {
        /// The worker's place.
        slot: u32,
        /// What it wanted.
        interest: Interest,
    },
    /// A source takes up so much at a worker.
    Spent {
        /// The worker's place.
        slot: u32,
        /// The source.
        source: Source,
        /// How much.
        spent: Spent,
    },
    /// A worker was born.
    Life {
        /// The worker's place.
        slot: u32,
        /// Which life of that place.
        incarnation: u32,
    },
    /// A worker serves no peer any more, and ends as soon as it has what is on its way to it.
    Leaving {
        /// The worker's place.
        slot: u32,
        /// Which life of that place.
        incarnation: u32,
    },
    /// A worker has died, with its interests. It says which life that was: who has heard of the
    /// next one already must not take its death for that one's.
    Died {
        /// The worker's place.
        slot: u32,
        /// Which life of that place.
        incarnation: u32,
        /// Whether all that it had to say to other workers is in their inboxes.
        has_finished: bool,
    },
}

impl Change {
    /// Whether a worker has died of which all that it had to say is still to be heard.
    pub(crate) fn tells_the_rest(&self) -> bool {
        matches!(self, Self::Died { has_finished: true, .. })
    }

    /// Whether what sources take up may have changed with it.
    pub(crate) fn is_about_charges(&self) -> bool {
        !matches!(self, Self::Interested { .. } | Self::Uninterested { .. })
    }
}

/// What every worker is born with, and the supervisor keeps up to date: the interests of all, and
/// which life each place is in.
#[derive(Clone, Debug, Default)]
pub struct Shared {
    /// The interests of all workers.
    pub interests: Interests<Remote>,
    /// The incarnation in each slot; 0 where nobody lives.
    pub lives: Vec<u32>,
    /// What each source takes up at which worker.
    pub spent: HashMap<Source, Vec<(u32, Spent)>>,
    /// The last batch of changes that is in it.
    pub epoch: u64,
    /// Which workers are leaving: no message goes to them any more.
    leaving: Vec<bool>,
    /// How many interests each worker has.
    held: Vec<usize>,
    /// How many workers live.
    living: u64,
}

impl Shared {
    /// What is known when nobody lives yet.
    pub fn new(slots: usize) -> Self {
        let (lives, leaving, held) = (vec![0; slots], vec![false; slots], vec![0; slots]);
        Self { lives, leaving, held, ..Self::default() }
    }

    /// How many workers live.
    pub(crate) fn living(&self) -> u64 {
        self.living
    }

    /// Whether a worker is leaving.
    pub(crate) fn is_leaving(&self, slot: u32) -> bool {
        self.leaving.get(slot as usize).copied().unwrap_or(false)
    }

    /// How many interests a worker has.
    pub(crate) fn held(&self, slot: u32) -> usize {
        self.held.get(slot as usize).copied().unwrap_or(0)
    }

    /// Applies a change; one that is known already changes nothing.
    pub fn apply(&mut self, change: &Change, off: impl FnOnce(u32, &Interest) -> bool) {
        match change {
            Change::Interested { slot, interest, share } => {
                let Ok(filter) = Filter::parse(interest.filter.as_bytes()) else { return };
                self.withdraw(*slot, interest, &filter);
                let off = off(*slot, interest);
                let share = share.zip(interest.group.clone()).map(|(part, name)| Share {
                    group: Rc::new(Group { filter: filter.clone(), name }),
                    number: part.number,
                    members: part.members,
                });
                self.interests.add(&filter, Remote { slot: *slot, off, share });
                if let Some(held) = self.held.get_mut(*slot as usize) {
                    *held += 1;
                }
            }
            Change::Uninterested { slot, interest } => {
                if let Ok(filter) = Filter::parse(interest.filter.as_bytes()) {
                    self.withdraw(*slot, interest, &filter);
                }
            }
            Change::Life { slot, incarnation } => {
                // Also when that life is known already, from the worker itself: what is in the
                // table then may have been told before it, but of the life before.
                self.set_life(*slot, *incarnation);
            }
            Change::Leaving { slot, .. } => {
                self.forget(*slot);
                if let Some(leaving) = self.leaving.get_mut(*slot as usize) {
                    *leaving = true;
                }
            }
            Change::Died { slot, .. } => self.set_life(*slot, 0),
            Change::Spent { slot, source, spent } => self.set_spent(*slot, *source, *spent),
        }
    }

    fn withdraw(&mut self, slot: u32, interest: &Interest, filter: &Filter) {
        self.interests.touch();
        let gone = self.interests.remove(filter, &(slot, interest.group.clone()));
        if let Some(held) = self.held.get_mut(slot as usize) {
            *held -= usize::from(gone.is_some());
        }
    }

    fn set_life(&mut self, slot: u32, life: u32) {
        if let Some(known) = self.lives.get_mut(slot as usize) {
            self.living = self.living + u64::from(life > 0) - u64::from(*known > 0);
            *known = life;
        }
        if let Some(leaving) = self.leaving.get_mut(slot as usize) {
            *leaving = false;
        }
        self.forget(slot);
    }

    /// Forgets what a worker wants and its peers take up.
    fn forget(&mut self, slot: u32) {
        // With a worker for each connection many lives have no interest, and there are many.
        match self.held.get_mut(slot as usize) {
            Some(0) => self.interests.touch(),
            held => {
                held.map(std::mem::take);
                self.interests.remove_all(|remote| remote.slot == slot);
            }
        }
        self.forget_spent(slot);
    }
}
