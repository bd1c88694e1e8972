//! What workers say. A worker may have been taken over by a peer, so what it says is typed, bounded
//! and its own affair; one that says anything else is ended.

use ipcd_core::DirectoryRequest;
use ipcd_proto::control::Who;
use tracing::{error, warn};

use super::Supervisor;
use crate::link::{PEERS, Received, ToSupervisor, is_gone};
use crate::slot::{Slot, WorkerState};

/// Messages heard of a worker in a turn, so that the others have theirs.
const HEAR_BUDGET: usize = 64;
/// Messages that a dead worker may have left: more than a socket holds.
const LAST_WORDS: usize = 4096;

impl Supervisor {
    pub(super) fn hear_worker(&mut self, index: usize) {
        if let Err(error) = self.slots[index].link.flush()
            && !is_gone(&error)
        {
            warn!(source = "hand over", %error, "a peer could not be handed to its worker");
        }
        if !self.hear(index, HEAR_BUDGET) {
            self.kill(index);
        }
    }

    /// Hears all that a dead worker had said, so that nothing of it is taken for its successor's.
    pub(super) fn hear_last_words(&mut self, index: usize) {
        // Its number may be another process's by now.
        let _ = self.hear(index, LAST_WORDS);
    }

    /// Whether the worker is still to be believed.
    fn hear(&mut self, index: usize, most: usize) -> bool {
        for _ in 0..most {
            let outcome = match self.slots[index].link.receive() {
                Ok(Received::NotReady | Received::Closed) => break,
                // It is being ended.
                Ok(Received::Message(..)) if self.slots[index].is_condemned => Ok(()),
                Ok(Received::Message(message, fds)) if fds.is_empty() => self.heed(index, message),
                Ok(Received::Message(..)) => Err("it passes descriptors".to_owned()),
                Err(error) => Err(error.to_string()),
            };
            if let Err(why) = outcome {
                self.condemn(index, &why);
            }
        }
        !self.slots[index].is_condemned
    }

    fn condemn(&mut self, index: usize, why: &str) {
        if !std::mem::replace(&mut self.slots[index].is_condemned, true) {
            error!(slot = index, why, "a worker says what none does: ending it");
        }
    }

    fn heed(&mut self, index: usize, message: ToSupervisor) -> Result<(), String> {
        match message {
            ToSupervisor::Ready => self.worker_is_ready(index),
            ToSupervisor::Gone(gone) if gone.len() > PEERS => {
                return Err(format!("{} peers have gone at once", gone.len()));
            }
            ToSupervisor::Gone(gone) => {
                gone.into_iter().for_each(|gone| self.release(gone, index));
            }
            ToSupervisor::Opened(numbers) if numbers.len() > PEERS => {
                return Err(format!("{} peers have proved tokens at once", numbers.len()));
            }
            ToSupervisor::Opened(numbers) => self.admission.opened(&numbers, index),
            ToSupervisor::DirectoryRequest { by, request } => {
                let slot = index as u32;
                let told = match self.permits(index, by, &request) {
                    true => self.table.heed(slot, request).map_err(|fault| fault.to_string())?,
                    false => self.table.deny(slot, request),
                };
                self.tell_news(told);
            }
            ToSupervisor::Quiet => self.slots[index].is_quiet = self.ending.is_some(),
        }
        Ok(())
    }

    /// Whether the peer for which a worker asks may do so. The worker has looked at that, but may have
    /// been taken over: who its peers are the supervisor knows by itself. Only what a peer has proved
    /// to the worker has to be believed, and that not of a peer that the kernel vouches for.
    fn permits(&self, index: usize, by: u64, request: &DirectoryRequest) -> bool {
        let acl = &self.core.acl;
        let Some(principal) = request.principal().filter(|_| !acl.rules.is_empty()) else {
            return true;
        };
        let Some(peer) = self.admission.peer_of(by, index) else { return false };
        let (uid, gid) = (peer.identity.uid, peer.identity.gid);
        let names = acl.listeners.get(&peer.listener);
        let proved = |what: &Option<String>| what.clone().filter(|_| uid.is_none());
        let who = Who {
            uid,
            gid,
            listener: names.and_then(|names| names.first().cloned()),
            token: proved(&principal.token),
            certificate: proved(&principal.certificate),
        };
        match request {
            DirectoryRequest::Ask { query, .. } => acl.may_ask(&who, query),
            DirectoryRequest::ClaimName { name, .. } => acl.may_be_named(&who, name),
            _ => true,
        }
    }

    fn worker_is_ready(&mut self, index: usize) {
        if let WorkerState::Running { is_ready, .. } = &mut self.slots[index].state {
            *is_ready = true;
        }
        let ready = |slot: &Slot| matches!(slot.state, WorkerState::Running { is_ready: true, .. });
        if !self.is_ready && self.slots.iter().all(ready) {
            self.say_ready();
        }
    }

    /// A worker that does not read what it is told would make us keep it all.
    pub(super) fn end_who_do_not_read(&mut self) {
        for at in 0..self.occupied.len() {
            let index = self.occupied[at];
            if self.slots[index].pid().is_some() && self.slots[index].link.is_overfull() {
                self.condemn(index, "it does not read its link");
                self.kill(index);
            }
        }
    }
}
