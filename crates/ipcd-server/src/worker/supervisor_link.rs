//! A worker's end of its link: what it reports to the supervisor, and waiting for room.

use std::os::fd::OwnedFd;

use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};
use tracing::error;

use crate::Error;
use crate::ids::AdmissionId;
use crate::lacking::is_exhaustion;
use crate::link::{
    GonePeer, Link, PEERS, PeerEnd, ReceiveOutcome, ToSupervisor, ToWorker, is_too_long,
};
use crate::worker::connection::EventToken;

/// The link to the supervisor.
pub(super) struct SupervisorLink {
    link: Link,
    token: EventToken,
    is_blocked: bool,
    /// Peers that have gone and were not reported yet.
    gone: Vec<GonePeer>,
    /// Peers that have proved their tokens, likewise.
    opened: Vec<AdmissionId>,
}

impl SupervisorLink {
    /// Has epoll report under this token that messages have come.
    pub(super) fn new(link: Link, token: EventToken, epoll: &Epoll) -> Result<Self, Error> {
        let event = EpollEvent::new(EpollFlags::EPOLLIN, token.to_u64());
        epoll.add(&link, event).map_err(|error| Error::system("watch the link", error))?;
        Ok(Self { link, token, is_blocked: false, gone: Vec::new(), opened: Vec::new() })
    }

    pub(super) fn receive(&mut self) -> Result<ReceiveOutcome<ToWorker>, Error> {
        self.link.receive().map_err(|error| Error::system("read the link", error))
    }

    /// Sends what waits for room.
    pub(super) fn flush(&mut self) -> Result<(), Error> {
        self.link.flush().map_err(|error| Error::system("write to the link", error))
    }

    pub(super) fn send(&mut self, message: &ToSupervisor) -> Result<(), Error> {
        match self.link.send(message, Vec::<OwnedFd>::new()) {
            // The peer that waits for the answer runs into a time-out. To end the worker would be
            // worse: all its peers would lose their sessions.
            Err(error) if is_too_long(&error) => {
                error!(%error, "cannot send a message to the supervisor");
                Ok(())
            }
            sent => sent.map_err(|error| Error::system("write to the link", error)),
        }
    }

    /// Notes a peer that has gone, for the next report.
    pub(super) fn note_gone(&mut self, number: AdmissionId, end: PeerEnd) {
        self.gone.push(GonePeer { number, end });
    }

    /// Notes a peer that has proved its token, for the next report.
    pub(super) fn note_opened(&mut self, number: AdmissionId) {
        self.opened.push(number);
    }

    /// Reports the peers that were noted.
    pub(super) fn report(&mut self) -> Result<(), Error> {
        while !self.opened.is_empty() {
            let batch = self.opened.split_off(self.opened.len().saturating_sub(PEERS));
            self.send(&ToSupervisor::Opened(batch))?;
        }
        while !self.gone.is_empty() {
            let batch = self.gone.split_off(self.gone.len().saturating_sub(PEERS));
            self.send(&ToSupervisor::Gone(batch))?;
        }
        Ok(())
    }

    /// Has epoll report room while something waits for it. Whether the kernel had no memory: then it
    /// is to be tried again after a pause.
    pub(super) fn arm(&mut self, epoll: &Epoll) -> Result<bool, Error> {
        let lacks_memory = self.link.lacks_memory();
        let is_blocked = self.link.waiting() > 0 && !lacks_memory;
        if self.is_blocked == is_blocked {
            return Ok(lacks_memory);
        }
        let write = if is_blocked { EpollFlags::EPOLLOUT } else { EpollFlags::empty() };
        let mut event = EpollEvent::new(EpollFlags::EPOLLIN | write, self.token.to_u64());
        match epoll.modify(&self.link, &mut event) {
            Ok(()) => self.is_blocked = is_blocked,
            Err(error) if is_exhaustion(error) => return Ok(true),
            Err(error) => return Err(Error::system("watch the link", error)),
        }
        Ok(lacks_memory)
    }
}
