//! The descriptors that the supervisor waits for, as epoll names them.

use std::os::fd::AsFd;

use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};

use crate::Error;
use crate::ids::{OwnerId, SlotId};

/// The subject of an event.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum EventSource {
    /// The signals.
    Signals,
    /// Peers wait at a listener.
    Listener(OwnerId),
    /// A worker's link.
    WorkerLink(SlotId),
    /// The pipe that a worker logs through.
    WorkerLog(SlotId),
    /// The link of a dialler.
    Dialler(OwnerId),
    /// The link that tells whether exec(2) has gone well.
    ProgramLaunch(OwnerId),
    /// A program's standard error.
    ProgramStderr(OwnerId),
}

/// Bits of the number in the 64 that epoll keeps for an event; those above say of what kind it is.
const NUMBER_BITS: u32 = 32;

impl EventSource {
    pub(crate) fn to_u64(self) -> u64 {
        let (kind, number) = match self {
            Self::Signals => (0, 0),
            Self::Listener(OwnerId(owner)) => (1, owner as u64),
            Self::WorkerLink(SlotId(slot)) => (2, u64::from(slot)),
            Self::WorkerLog(SlotId(slot)) => (3, u64::from(slot)),
            Self::Dialler(OwnerId(owner)) => (4, owner as u64),
            Self::ProgramLaunch(OwnerId(owner)) => (5, owner as u64),
            Self::ProgramStderr(OwnerId(owner)) => (6, owner as u64),
        };
        kind << NUMBER_BITS | number
    }

    /// `None` for bits that no source has.
    pub(crate) fn from_u64(bits: u64) -> Option<Self> {
        let number = bits as u32;
        let (owner, slot) = (OwnerId(number as usize), SlotId(number));
        Some(match bits >> NUMBER_BITS {
            0 => Self::Signals,
            1 => Self::Listener(owner),
            2 => Self::WorkerLink(slot),
            3 => Self::WorkerLog(slot),
            4 => Self::Dialler(owner),
            5 => Self::ProgramLaunch(owner),
            6 => Self::ProgramStderr(owner),
            _ => return None,
        })
    }

    /// The event that reports this source.
    pub(crate) fn event(self, flags: EpollFlags) -> EpollEvent {
        EpollEvent::new(flags, self.to_u64())
    }
}

/// Has epoll report when a descriptor is readable.
pub(crate) fn watch(epoll: &Epoll, fd: &impl AsFd, source: EventSource) -> Result<(), Error> {
    let added = epoll.add(fd, source.event(EpollFlags::EPOLLIN));
    added.map_err(|error| Error::system("watch a descriptor", error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_survive_the_way_through_the_kernel() {
        let (owner, slot) = (OwnerId(u32::MAX as usize), SlotId(7));
        for source in [
            EventSource::Signals,
            EventSource::Listener(owner),
            EventSource::WorkerLink(slot),
            EventSource::WorkerLog(slot),
            EventSource::Dialler(owner),
            EventSource::ProgramLaunch(owner),
            EventSource::ProgramStderr(owner),
        ] {
            assert_eq!(EventSource::from_u64(source.to_u64()), Some(source));
        }
        assert_eq!(EventSource::from_u64(u64::MAX), None);
    }
}
