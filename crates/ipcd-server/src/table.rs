//! The supervisor's copy of what all workers know, and who has heard how much of it. No I/O: it says
//! what is to be told to whom.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet, VecDeque};

use ipcd_core::{Change, Shared};
use ipcd_proto::control::Query;

use crate::link::{Asker, ToWorker};

/// Changes in one message to a worker.
const BATCH: usize = 128;

/// What all workers know.
#[derive(Debug)]
pub(crate) struct Table {
    pub(crate) shared: Shared,
    /// The number of the last batch of changes that was told.
    pub(crate) epoch: u64,
    /// Changes that nobody was told yet.
    pending: Vec<Change>,
    /// The last batch that each living worker has confirmed.
    seen: Vec<Option<u64>>,
    /// Interests that are to be confirmed, in the order of their batches.
    unconfirmed: VecDeque<Unconfirmed>,
    /// Names, and the worker whose peer has each.
    names: HashMap<String, u32>,
    /// Questions, and the workers that have not answered yet.
    questions: HashMap<Asker, HashSet<u32>>,
}

#[derive(Debug)]
struct Unconfirmed {
    slot: u32,
    life: u32,
    ticket: u64,
    epoch: u64,
}

/// A message for the worker in a slot.
pub(crate) type Told = (u32, ToWorker);

impl Table {
    pub(crate) fn new(slots: usize) -> Self {
        Self {
            shared: Shared::new(slots),
            epoch: 0,
            pending: Vec::new(),
            seen: vec![None; slots],
            unconfirmed: VecDeque::new(),
            names: HashMap::new(),
            questions: HashMap::new(),
        }
    }

    /// A worker is born with the table as it is.
    pub(crate) fn born(&mut self, slot: u32, life: u32) {
        self.change(Change::Life { slot, incarnation: life });
        self.seen[slot as usize] = Some(self.epoch);
    }

    /// A worker has died: it counts as having heard everything and answered all questions.
    pub(crate) fn died(&mut self, slot: u32) -> Vec<Told> {
        self.change(Change::Life { slot, incarnation: 0 });
        self.seen[slot as usize] = None;
        self.names.retain(|_, owner| *owner != slot);
        self.questions.retain(|asker, _| asker.slot != slot);
        let asked: Vec<Asker> = self.questions.keys().copied().collect();
        asked.into_iter().filter_map(|asker| self.answered(asker, slot)).collect()
    }

    pub(crate) fn interested(&mut self, slot: u32, ticket: u64, filter: String) {
        self.change(Change::Interested { slot, filter });
        let life = self.shared.lives[slot as usize];
        // It goes out with the next batches.
        let batches = self.pending.len().div_ceil(BATCH) as u64;
        let epoch = self.epoch + batches;
        self.unconfirmed.push_back(Unconfirmed { slot, life, ticket, epoch });
    }

    pub(crate) fn uninterested(&mut self, slot: u32, filter: String) {
        self.change(Change::Uninterested { slot, filter });
    }

    pub(crate) fn seen(&mut self, slot: u32, epoch: u64) {
        if let Some(seen) = &mut self.seen[slot as usize] {
            *seen = epoch.clamp(*seen, self.epoch);
        }
    }

    /// Whether a worker has not confirmed what it was told.
    pub(crate) fn is_behind(&self, slot: u32) -> bool {
        self.seen[slot as usize].is_some_and(|seen| seen < self.epoch)
    }

    /// Changes that nobody was told yet, and confirmations that are due.
    pub(crate) fn news(&mut self) -> Vec<Told> {
        let mut told = Vec::new();
        let pending = std::mem::take(&mut self.pending);
        for changes in pending.chunks(BATCH) {
            self.epoch += 1;
            for slot in self.living() {
                let changes = changes.to_vec();
                told.push((slot, ToWorker::Table { epoch: self.epoch, changes }));
            }
        }
        let known = self.seen.iter().flatten().min().copied().unwrap_or(self.epoch);
        while let Some(first) = self.unconfirmed.front()
            && first.epoch <= known
        {
            let Unconfirmed { slot, life, ticket, .. } = *first;
            self.unconfirmed.pop_front();
            told.push((slot, ToWorker::Confirmed { to: life, ticket }));
        }
        told
    }

    /// Gives a name to a worker's peer, if it is free.
    pub(crate) fn claim(&mut self, slot: u32, name: String) -> bool {
        match self.names.entry(name) {
            Entry::Occupied(_) => false,
            Entry::Vacant(free) => {
                free.insert(slot);
                true
            }
        }
    }

    /// A name is free again, if it is that worker's to give back.
    pub(crate) fn release(&mut self, slot: u32, name: &str) {
        if self.names.get(name) == Some(&slot) {
            self.names.remove(name);
        }
    }

    /// Passes a worker's question on to all that live.
    pub(crate) fn ask(&mut self, slot: u32, ticket: u64, query: &Query) -> Vec<Told> {
        let asker = Asker { slot, life: self.shared.lives[slot as usize], ticket };
        let living = self.living();
        self.questions.insert(asker, living.iter().copied().collect());
        living
            .into_iter()
            .map(|to| (to, ToWorker::Report { asker, query: query.clone() }))
            .collect()
    }

    /// A worker has no more to say to a question; what the asker is told once all have not.
    pub(crate) fn answered(&mut self, asker: Asker, by: u32) -> Option<Told> {
        let waiting = self.questions.get_mut(&asker)?;
        waiting.remove(&by);
        if !waiting.is_empty() {
            return None;
        }
        self.questions.remove(&asker);
        Some((asker.slot, ToWorker::Reported { asker, part: None, last: true }))
    }

    /// Whether a worker is expected to answer that question.
    pub(crate) fn is_asked(&self, asker: Asker, slot: u32) -> bool {
        self.questions.get(&asker).is_some_and(|waiting| waiting.contains(&slot))
    }

    /// Workers that live.
    pub(crate) fn living(&self) -> Vec<u32> {
        let slots = (0..).zip(&self.seen);
        slots.filter(|(_, seen)| seen.is_some()).map(|(slot, _)| slot).collect()
    }

    fn change(&mut self, change: Change) {
        self.shared.apply(&change, |_, _| false);
        self.pending.push(change);
    }
}
