//! What the supervisor waits for, and what it tries again when the kernel had no memory.

use std::time::Instant;

use nix::sys::epoll::{EpollEvent, EpollFlags};
use tracing::warn;

use super::admitting::LINK_BACKLOG;
use super::{FIRST_LINK, FIRST_LISTENER, Supervisor};
use crate::Error;
use crate::lacking::{PAUSE, is_exhaustion};
use crate::link::is_gone;

impl Supervisor {
    /// Waits for room on the links where something waits for it, and for peers where they can be
    /// handed over.
    pub(super) fn arm(&mut self) -> Result<(), Error> {
        let failed = |error| Error::system("watch a descriptor", error);
        let now = Instant::now();
        for index in self.occupied.iter().copied() {
            let (slot, data) = (&mut self.slots[index], FIRST_LINK + index as u64);
            if slot.link.lacks_memory() {
                self.retry_at.get_or_insert(now + PAUSE);
            }
            let is_blocked = slot.link.waiting() > 0 && !slot.link.lacks_memory();
            if is_blocked != slot.is_blocked {
                let write = EpollFlags::EPOLLOUT;
                let write = if is_blocked { write } else { EpollFlags::empty() };
                let mut event = EpollEvent::new(EpollFlags::EPOLLIN | write, data);
                match self.epoll.modify(&slot.link, &mut event) {
                    Ok(()) => slot.is_blocked = is_blocked,
                    Err(error) if is_exhaustion(error) => {
                        self.retry_at.get_or_insert(now + PAUSE);
                    }
                    Err(error) => return Err(failed(error)),
                }
            }
        }
        let has_room = self.slots.iter().any(|slot| slot.link.waiting() < LINK_BACKLOG);
        for listening in &mut self.listeners {
            listening.paused.take_if(|until| *until <= now);
            let is_open = has_room && listening.paused.is_none();
            if is_open == listening.armed {
                continue;
            }
            let (fd, data) = (listening.listener.fd(), FIRST_LISTENER + listening.number as u64);
            let changed = match is_open {
                true => self.epoll.add(fd, EpollEvent::new(EpollFlags::EPOLLIN, data)),
                false => self.epoll.delete(fd),
            };
            match changed {
                Ok(()) => listening.armed = is_open,
                Err(error) if is_exhaustion(error) => {
                    self.retry_at.get_or_insert(now + PAUSE);
                }
                Err(error) => return Err(failed(error)),
            }
        }
        Ok(())
    }

    /// Tries again, after a pause, what the kernel had no memory for. What it could not wait for,
    /// [`Supervisor::arm`] does.
    pub(super) fn send_refused(&mut self) {
        if self.retry_at.take_if(|at| *at <= Instant::now()).is_none() {
            return;
        }
        for slot in self.slots.iter_mut().filter(|slot| slot.link.lacks_memory()) {
            if let Err(error) = slot.link.flush()
                && !is_gone(&error)
            {
                warn!(source = "hand over", %error, "a peer could not be handed to its worker");
            }
        }
    }
}
