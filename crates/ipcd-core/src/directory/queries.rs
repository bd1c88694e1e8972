//! Questions of one worker to all workers, and the answers that are still missing.

use std::collections::HashMap;

use crate::directory::Directory;
use crate::directory::messages::{AddressedEvent, DirectoryEvent, QueryTicket};
use crate::directory::violation::{
    MAX_PARTS, MAX_QUESTIONS, ProtocolViolation, check_answer, check_query,
};
use crate::model::ids::{id_in, is_generation, place_of};
use ipcd_proto::control::{Answer, DaemonStatus, Query};

/// A question that workers are answering.
#[derive(Clone, Debug)]
pub(super) struct Question {
    query: Query,
    /// The workers that have not finished their answers, with the number of parts that each has
    /// sent.
    waiting: HashMap<u32, usize>,
}

impl Directory {
    /// Passes a worker's question on to the workers that it concerns.
    pub(super) fn ask(
        &mut self,
        slot: u32,
        ticket: u64,
        query: Query,
    ) -> Result<Vec<AddressedEvent>, ProtocolViolation> {
        check_query(&query)?;
        let asker = QueryTicket { slot, generation: self.state.generations[slot as usize], ticket };
        if self.questions.keys().filter(|known| known.slot == slot).count() >= MAX_QUESTIONS {
            return Err(ProtocolViolation::TooManyQueries);
        }
        let concerned = self.concerned_workers(&query);
        if concerned.is_empty() {
            let part = Some(missing_peer(&query));
            return Ok(vec![(slot, DirectoryEvent::Answer { asker, part, last: true })]);
        }
        let waiting = concerned.iter().map(|to| (*to, 0)).collect();
        self.questions.insert(asker, Question { query: query.clone(), waiting });
        let question = |to| (to, DirectoryEvent::Question { asker, query: query.clone() });
        Ok(concerned.into_iter().map(question).collect())
    }

    /// Returns the workers that a question concerns. A question about one peer goes only to the
    /// worker that serves it: any other worker could only give a wrong answer.
    fn concerned_workers(&self, query: &Query) -> Vec<u32> {
        let worker = match query {
            Query::Kick(id) => self.worker_of(*id),
            Query::Find(who) => match id_in(who) {
                Some(id) => self.worker_of(id),
                None => self.names.get(who).copied(),
            },
            _ => return self.living(),
        };
        worker.into_iter().collect()
    }

    /// Returns the slot of the worker that has assigned this id, if that generation is alive.
    fn worker_of(&self, id: u64) -> Option<u32> {
        let (slot, in_id) = place_of(id);
        let generation = self.state.generations.get(slot as usize)?;
        is_generation(*generation, in_id).then_some(slot)
    }

    /// Passes a part of an answer on. Parts for a question that the worker was not asked, or has
    /// finished answering, are ignored: its asker may have died meanwhile.
    pub(super) fn answer(
        &mut self,
        asker: QueryTicket,
        by: u32,
        part: Option<Answer>,
        last: bool,
    ) -> Result<Vec<AddressedEvent>, ProtocolViolation> {
        let mut told = Vec::new();
        let question = self.questions.get_mut(&asker);
        let said =
            question.and_then(|Question { query, waiting }| Some((query, waiting.get_mut(&by)?)));
        let Some((query, parts)) = said else { return Ok(told) };
        if let Some(answer) = &part {
            check_answer(query, answer)?;
            *parts += 1;
            if *parts > MAX_PARTS {
                return Err(ProtocolViolation::Parts);
            }
            told.push((asker.slot, DirectoryEvent::Answer { asker, part, last: false }));
        }
        told.extend(last.then(|| self.finish_answer(asker, by)).flatten());
        Ok(told)
    }

    /// Ends the questions of a dead worker, and its part in the questions of others. Returns the
    /// answers that are complete now.
    pub(super) fn end_questions(&mut self, slot: u32) -> Vec<AddressedEvent> {
        self.questions.retain(|asker, _| asker.slot != slot);
        let mut asked: Vec<QueryTicket> = self.questions.keys().copied().collect();
        // Hash order differs between runs. Sorted, a simulation is repeatable by its seed.
        asked.sort_unstable();
        asked.into_iter().filter_map(|asker| self.finish_answer(asker, slot)).collect()
    }

    /// Notes that a worker has finished its answer. Returns the final event once all have.
    fn finish_answer(&mut self, asker: QueryTicket, by: u32) -> Option<AddressedEvent> {
        let question = self.questions.get_mut(&asker)?;
        question.waiting.remove(&by);
        if !question.waiting.is_empty() {
            return None;
        }
        let Question { query, .. } = self.questions.remove(&asker)?;
        // The counters of ended workers are added here, because no living worker knows them.
        let ended = DaemonStatus { counters: self.ended.clone(), ..DaemonStatus::default() };
        let part = (query == Query::Status).then_some(Answer::Status(ended));
        Some((asker.slot, DirectoryEvent::Answer { asker, part, last: true }))
    }
}

/// Returns the answer about a peer that does not exist.
fn missing_peer(query: &Query) -> Answer {
    match query {
        Query::Kick(_) => Answer::Kicked(false),
        _ => Answer::Found(None),
    }
}
