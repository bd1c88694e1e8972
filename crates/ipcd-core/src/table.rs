//! What all workers know, as the supervisor keeps it, and who has heard how much of it.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet, VecDeque};

use ipcd_proto::control::{Answer, Query, Status};
use serde::{Deserialize, Serialize};

use crate::charges::Spent;
use crate::peer::PeerKey;
use crate::report::add_counters;
use crate::shared::{Change, Interest, Part, Shared};
use crate::source::Source;

/// Changes in one message to a worker.
const BATCH: usize = 128;

/// What a worker tells the table.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum Request {
    /// It knows of the changes up to this epoch.
    Seen(u64),
    /// Its first subscription of an interest, or another number of members of a group.
    Interested {
        /// For the confirmation.
        ticket: u64,
        /// What it wants.
        interest: Interest,
        /// Its part in the group.
        share: Option<Part>,
    },
    /// Its last subscription of an interest has gone.
    Uninterested(Interest),
    /// What peers of a source take up there.
    Spent {
        /// The source.
        source: Source,
        /// How much.
        spent: Spent,
    },
    /// A peer asks for a name.
    ClaimName {
        /// The peer's place there.
        key: PeerKey,
        /// The peer.
        peer: u64,
        /// The name.
        name: String,
    },
    /// A name is free again.
    ReleaseName(String),
    /// It ends, and this is what it has counted.
    Counted(Vec<(String, u64)>),
    /// A question to all workers.
    Ask {
        /// Its number for the question.
        ticket: u64,
        /// What.
        query: Query,
    },
    /// Part of its answer to such a question.
    Answer {
        /// The question.
        asker: Asker,
        /// The part.
        part: Option<Answer>,
        /// Whether it has no more to say.
        last: bool,
    },
}

/// What a worker is told.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum News {
    /// What has changed for all.
    Changes {
        /// Numbers these batches.
        epoch: u64,
        /// What has changed.
        changes: Vec<Change>,
    },
    /// All workers know of its interests up to this ticket.
    Confirmed {
        /// The incarnation that asked.
        to: u32,
        /// The ticket.
        ticket: u64,
    },
    /// Whether a peer may have its name.
    Named {
        /// The incarnation that asked.
        to: u32,
        /// The peer's place there.
        key: PeerKey,
        /// The peer.
        peer: u64,
        /// The name.
        name: String,
        /// Whether it may.
        granted: bool,
    },
    /// A question that a worker asks of all.
    Question {
        /// Who asks.
        asker: Asker,
        /// What.
        query: Query,
    },
    /// Part of the answer to its own question.
    Answer {
        /// The question.
        asker: Asker,
        /// The part.
        part: Option<Answer>,
        /// Whether nothing more will come.
        last: bool,
    },
}

/// A question that a worker asks of all.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
pub struct Asker {
    /// Who asks.
    pub slot: u32,
    /// In which life.
    pub life: u32,
    /// Its number for the question.
    pub ticket: u64,
}

/// What all workers know.
#[derive(Clone, Debug)]
pub struct Table {
    shared: Shared,
    /// Changes that nobody was told yet.
    pending: Vec<Change>,
    /// The last batch that each living worker has confirmed.
    seen: Vec<Option<u64>>,
    /// Interests that are to be confirmed, in the order of their batches.
    unconfirmed: VecDeque<Unconfirmed>,
    /// Names, and the worker whose peer has each.
    names: HashMap<String, u32>,
    /// What workers that have ended had counted.
    ended: Vec<(String, u64)>,
    /// Questions, and the workers that have not answered yet.
    questions: HashMap<Asker, Question>,
}

/// A question that workers are answering.
#[derive(Clone, Debug)]
struct Question {
    /// Those that have more to say.
    waiting: HashSet<u32>,
    /// Whether what ended workers have counted belongs to the answer.
    is_status: bool,
}

#[derive(Clone, Debug)]
struct Unconfirmed {
    slot: u32,
    life: u32,
    ticket: u64,
    epoch: u64,
}

/// News, and the slot of the worker that they are for.
pub type Told = (u32, News);

impl Table {
    /// For this many workers, of which none lives yet.
    pub fn new(slots: usize) -> Self {
        Self {
            shared: Shared::new(slots),
            pending: Vec::new(),
            seen: vec![None; slots],
            unconfirmed: VecDeque::new(),
            names: HashMap::new(),
            ended: Vec::new(),
            questions: HashMap::new(),
        }
    }

    /// A worker is born with the table as it is.
    pub fn born(&mut self, slot: u32, life: u32) {
        self.change(Change::Life { slot, incarnation: life });
        self.seen[slot as usize] = Some(self.shared.epoch);
    }

    /// A worker has died: it counts as having heard everything and answered all questions.
    pub fn died(&mut self, slot: u32) -> Vec<Told> {
        let incarnation = self.shared.lives[slot as usize];
        self.change(Change::Died { slot, incarnation });
        self.seen[slot as usize] = None;
        self.names.retain(|_, owner| *owner != slot);
        self.questions.retain(|asker, _| asker.slot != slot);
        let mut asked: Vec<Asker> = self.questions.keys().copied().collect();
        // In an order that a simulation can repeat.
        asked.sort_unstable();
        asked.into_iter().filter_map(|asker| self.answered(asker, slot)).collect()
    }

    /// What a worker is born with. The parent keeps its own.
    pub fn take_shared(&mut self) -> Shared {
        std::mem::take(&mut self.shared)
    }

    /// Heeds a worker, and says what is to be told to whom at once.
    pub fn heed(&mut self, slot: u32, request: Request) -> Vec<Told> {
        match request {
            Request::Seen(epoch) => self.seen(slot, epoch),
            Request::Interested { ticket, interest, share } => {
                self.change(Change::Interested { slot, interest, share });
                self.confirm_when_known(slot, ticket);
            }
            Request::Uninterested(interest) => self.change(Change::Uninterested { slot, interest }),
            Request::Spent { source, spent } => self.change(Change::Spent { slot, source, spent }),
            Request::ClaimName { key, peer, name } => {
                let to = self.shared.lives[slot as usize];
                let granted = self.claim(slot, name.clone());
                return vec![(slot, News::Named { to, key, peer, name, granted })];
            }
            Request::ReleaseName(name) => self.release(slot, &name),
            Request::Counted(counters) => add_counters(&mut self.ended, &counters),
            Request::Ask { ticket, query } => return self.ask(slot, ticket, &query),
            Request::Answer { asker, part, last } => return self.answer(asker, slot, part, last),
        }
        Vec::new()
    }

    fn confirm_when_known(&mut self, slot: u32, ticket: u64) {
        let life = self.shared.lives[slot as usize];
        // It goes out with the next batches.
        let batches = self.pending.len().div_ceil(BATCH) as u64;
        let epoch = self.shared.epoch + batches;
        self.unconfirmed.push_back(Unconfirmed { slot, life, ticket, epoch });
    }

    fn seen(&mut self, slot: u32, epoch: u64) {
        if let Some(seen) = &mut self.seen[slot as usize] {
            *seen = epoch.clamp(*seen, self.shared.epoch);
        }
    }

    /// Whether a worker has not confirmed what it was told.
    pub fn is_behind(&self, slot: u32) -> bool {
        self.seen[slot as usize].is_some_and(|seen| seen < self.shared.epoch)
    }

    /// Changes that nobody was told yet, and confirmations that are due.
    pub fn news(&mut self) -> Vec<Told> {
        let mut told = Vec::new();
        let pending = std::mem::take(&mut self.pending);
        for changes in pending.chunks(BATCH) {
            self.shared.epoch += 1;
            for slot in self.living() {
                let changes = changes.to_vec();
                told.push((slot, News::Changes { epoch: self.shared.epoch, changes }));
            }
        }
        let known = self.seen.iter().flatten().min().copied().unwrap_or(self.shared.epoch);
        while let Some(first) = self.unconfirmed.front()
            && first.epoch <= known
        {
            let Unconfirmed { slot, life, ticket, .. } = *first;
            self.unconfirmed.pop_front();
            told.push((slot, News::Confirmed { to: life, ticket }));
        }
        told
    }

    /// Gives a name to a worker's peer, if it is free.
    fn claim(&mut self, slot: u32, name: String) -> bool {
        match self.names.entry(name) {
            Entry::Occupied(_) => false,
            Entry::Vacant(free) => {
                free.insert(slot);
                true
            }
        }
    }

    /// A name is free again, if it is that worker's to give back.
    fn release(&mut self, slot: u32, name: &str) {
        if self.names.get(name) == Some(&slot) {
            self.names.remove(name);
        }
    }

    /// Passes a worker's question on to all that live.
    fn ask(&mut self, slot: u32, ticket: u64, query: &Query) -> Vec<Told> {
        let asker = Asker { slot, life: self.shared.lives[slot as usize], ticket };
        let living = self.living();
        let waiting = living.iter().copied().collect();
        let is_status = *query == Query::Status;
        self.questions.insert(asker, Question { waiting, is_status });
        living.into_iter().map(|to| (to, News::Question { asker, query: query.clone() })).collect()
    }

    /// Passes part of an answer on; what a worker says to a question that it was not asked, or has
    /// answered, is ignored.
    fn answer(&mut self, asker: Asker, by: u32, part: Option<Answer>, last: bool) -> Vec<Told> {
        let mut told = Vec::new();
        if self.questions.get(&asker).is_some_and(|question| question.waiting.contains(&by)) {
            let passed_on = part.is_some().then_some(News::Answer { asker, part, last: false });
            told.extend(passed_on.map(|news| (asker.slot, news)));
            told.extend(last.then(|| self.answered(asker, by)).flatten());
        }
        told
    }

    /// A worker has no more to say to a question; what the asker is told once all have not.
    fn answered(&mut self, asker: Asker, by: u32) -> Option<Told> {
        let question = self.questions.get_mut(&asker)?;
        question.waiting.remove(&by);
        if !question.waiting.is_empty() {
            return None;
        }
        let Question { is_status, .. } = self.questions.remove(&asker)?;
        let ended = Status { counters: self.ended.clone(), ..Status::default() };
        let part = is_status.then_some(Answer::Status(ended));
        Some((asker.slot, News::Answer { asker, part, last: true }))
    }

    /// Workers that live.
    fn living(&self) -> Vec<u32> {
        let slots = (0..).zip(&self.seen);
        slots.filter(|(_, seen)| seen.is_some()).map(|(slot, _)| slot).collect()
    }

    fn change(&mut self, change: Change) {
        self.shared.apply(&change, |_, _| false);
        self.pending.push(change);
    }
}
