//! Reads the messages of workers. A worker may have been taken over by a peer, so its messages are
//! typed, bounded, and about its own peers only; one that violates the protocol is ended.

use ipcd_core::DirectoryRequest;

use super::Supervisor;
use crate::authority::permits;
use crate::ids::SlotId;
use crate::link::{PEERS, ReceiveOutcome, ToSupervisor};

/// Messages read of a worker in a turn, so that the others get their share.
const READ_BUDGET: usize = 64;
/// Messages that a dead worker may have left: more than a socket holds.
const LAST_MESSAGES: usize = 4096;

impl Supervisor {
    /// Reads a worker's messages, and sends what waits for room on its link.
    pub(super) fn serve_worker(&mut self, slot: SlotId) {
        self.workers.slot(slot).flush();
        if !self.read_messages(slot, READ_BUDGET) {
            self.workers.slot(slot).kill();
        }
    }

    /// Reads all that a dead worker had sent, so that nothing of it is taken for its successor's. The
    /// worker must not be killed any more: its process id may be another's.
    pub(super) fn read_last_messages(&mut self, slot: SlotId) {
        let _ = self.read_messages(slot, LAST_MESSAGES);
    }

    /// Whether the worker is still to be believed.
    fn read_messages(&mut self, id: SlotId, most: usize) -> bool {
        self.workers.slot(id).has_unread = true;
        for _ in 0..most {
            let slot = self.workers.slot(id);
            let outcome = match slot.link.receive() {
                Ok(ReceiveOutcome::NotReady | ReceiveOutcome::Closed) => {
                    slot.has_unread = false;
                    break;
                }
                // It is being ended. Its messages are read all the same, or epoll would report them
                // again and again.
                Ok(ReceiveOutcome::Message(..)) if slot.is_condemned() => Ok(()),
                Ok(ReceiveOutcome::Message(message, fds)) if fds.is_empty() => {
                    self.handle_message(id, message)
                }
                Ok(ReceiveOutcome::Message(..)) => Err("it passed descriptors".to_owned()),
                Err(error) => Err(error.to_string()),
            };
            if let Err(why) = outcome {
                self.workers.slot(id).condemn(id, &why);
            }
        }
        !self.workers.slot(id).is_condemned()
    }

    fn handle_message(&mut self, id: SlotId, message: ToSupervisor) -> Result<(), String> {
        match message {
            ToSupervisor::Ready => {
                self.workers.slot(id).set_ready();
                if !self.is_ready && self.workers.is_ready() {
                    self.become_ready();
                }
            }
            ToSupervisor::Gone(gone) if gone.len() > PEERS => {
                return Err(format!("{} peers gone in one message", gone.len()));
            }
            ToSupervisor::Gone(gone) => {
                for gone in gone {
                    let lost = self.peer_intake().release(gone, id);
                    lost.into_iter().for_each(|lost| self.lose_peer(lost));
                }
            }
            ToSupervisor::Opened(numbers) if numbers.len() > PEERS => {
                return Err(format!("{} peers opened in one message", numbers.len()));
            }
            ToSupervisor::Opened(numbers) => self.admission.note_opened(&numbers, id),
            ToSupervisor::DirectoryRequest { by, request } => {
                let acl = &self.router_config.acl;
                let is_permitted = permits(acl, &self.admission, id, by, &request);
                let confirmed = match &request {
                    DirectoryRequest::Seen(epoch) => Some(*epoch),
                    _ => None,
                };
                let directory = &mut self.workers.directory;
                let events = match is_permitted {
                    true => directory.handle(id.0, request).map_err(|fault| fault.to_string())?,
                    false => directory.deny(id.0, request),
                };
                confirmed.into_iter().for_each(|epoch| self.workers.slot(id).note_confirmed(epoch));
                self.workers.send_events(events);
            }
            ToSupervisor::Quiet => self.workers.slot(id).is_quiet = self.shutdown.is_some(),
        }
        Ok(())
    }
}
