//! An epoll instance that is changed only when the wanted events change.

use std::os::fd::BorrowedFd;
use std::time::Instant;

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use crate::Result;

pub(crate) const INPUT: EpollFlags = EpollFlags::EPOLLIN;
/// Edge-triggered input, for channels that report new input only.
pub(crate) const EDGES: EpollFlags = EpollFlags::EPOLLIN.union(EpollFlags::EPOLLET);
pub(crate) const ROOM: EpollFlags = EpollFlags::EPOLLOUT;
/// epoll reports hang-ups and errors in any case.
pub(crate) const ONLY_THE_END: EpollFlags = EpollFlags::empty();

/// Events of one turn.
const EVENTS: usize = 64;

/// The owner of a watched descriptor.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum WatchToken {
    Listener,
    Signals,
    /// A process that connects.
    Connecting(usize),
    /// One of the two ends of a pair.
    Pair(usize, usize),
}

impl WatchToken {
    fn pack(self) -> u64 {
        match self {
            Self::Listener => 0,
            Self::Signals => 1,
            Self::Connecting(key) => 4 * key as u64 + 4,
            Self::Pair(key, end) => 4 * key as u64 + 6 + end as u64,
        }
    }

    fn unpack(bits: u64) -> Self {
        let key = (bits / 4).saturating_sub(1) as usize;
        match bits % 4 {
            0 if bits == 0 => Self::Listener,
            1 => Self::Signals,
            0 => Self::Connecting(key),
            end => Self::Pair(key, end as usize - 2),
        }
    }
}

/// An event.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ReadyEvent {
    pub(crate) token: WatchToken,
    /// Whether the other side has gone in both directions.
    pub(crate) is_gone: bool,
}

/// The watched events of a descriptor; `None` if it is not watched.
pub(crate) type WatchedFlags = Option<EpollFlags>;

pub(crate) struct EpollWatch(Epoll);

impl EpollWatch {
    pub(crate) fn new() -> Result<Self> {
        Ok(Self(Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?))
    }

    /// Changes the watched events of a descriptor from `was` to `wanted`. A descriptor that
    /// epoll(7) refuses, such as `/dev/null`, is always ready and need not be watched.
    pub(crate) fn set(
        &self,
        fd: BorrowedFd<'_>,
        token: WatchToken,
        was: WatchedFlags,
        wanted: WatchedFlags,
    ) -> Result<()> {
        let changed = match (was, wanted) {
            (was, wanted) if was == wanted => Ok(()),
            (None, Some(flags)) => self.0.add(fd, EpollEvent::new(flags, token.pack())),
            (Some(_), Some(flags)) => self.0.modify(fd, &mut EpollEvent::new(flags, token.pack())),
            (_, None) => self.0.delete(fd),
        };
        match changed {
            Err(Errno::EPERM | Errno::ENOENT) => Ok(()),
            changed => Ok(changed?),
        }
    }

    /// Waits for events, until the deadline if there is one.
    pub(crate) fn wait(&self, deadline: Option<Instant>) -> Result<Vec<ReadyEvent>> {
        let mut events = [EpollEvent::empty(); EVENTS];
        let count = match self.0.wait(&mut events, timeout(deadline)) {
            Err(Errno::EINTR) => 0,
            count => count?,
        };
        let gone = EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR;
        let woken = |event: &EpollEvent| ReadyEvent {
            token: WatchToken::unpack(event.data()),
            is_gone: event.events().intersects(gone),
        };
        Ok(events[..count].iter().map(woken).collect())
    }
}

fn timeout(deadline: Option<Instant>) -> EpollTimeout {
    let Some(deadline) = deadline else { return EpollTimeout::NONE };
    let left = deadline.saturating_duration_since(Instant::now());
    // Rounded up: a wait for a fraction of a millisecond would return at once, again and again.
    let millis = left.as_micros().div_ceil(1000).min(i32::MAX as u128) as i32;
    EpollTimeout::try_from(millis).unwrap_or(EpollTimeout::NONE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_come_back_as_they_went() {
        let tokens = [
            WatchToken::Listener,
            WatchToken::Signals,
            WatchToken::Connecting(0),
            WatchToken::Pair(0, 0),
        ];
        let more = [
            WatchToken::Connecting(7),
            WatchToken::Pair(0, 1),
            WatchToken::Pair(9, 0),
            WatchToken::Pair(9, 1),
        ];
        for token in tokens.into_iter().chain(more) {
            assert_eq!(WatchToken::unpack(token.pack()), token);
        }
    }
}
