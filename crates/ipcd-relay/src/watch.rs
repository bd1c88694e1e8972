//! What the loop waits for: an epoll instance that is told of changes only.

use std::os::fd::BorrowedFd;
use std::time::Instant;

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use crate::Result;

pub(crate) const INPUT: EpollFlags = EpollFlags::EPOLLIN;
/// The same where only what is new counts.
pub(crate) const EDGES: EpollFlags = EpollFlags::EPOLLIN.union(EpollFlags::EPOLLET);
pub(crate) const ROOM: EpollFlags = EpollFlags::EPOLLOUT;
/// Hang-ups and errors come in any case.
pub(crate) const ONLY_THE_END: EpollFlags = EpollFlags::empty();

/// Events taken in a turn.
const EVENTS: usize = 64;

/// Whose descriptor an event is about.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Token {
    Listener,
    Signals,
    /// Somebody who connects.
    Connecting(usize),
    /// One of the two ends of a pair.
    Pair(usize, usize),
}

impl Token {
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
pub(crate) struct Woken {
    pub(crate) token: Token,
    /// Whether the other side is gone for both directions.
    pub(crate) is_gone: bool,
}

/// What is watched of a descriptor; `None` for nothing at all.
pub(crate) type Wanted = Option<EpollFlags>;

pub(crate) struct Watch(Epoll);

impl Watch {
    pub(crate) fn new() -> Result<Self> {
        Ok(Self(Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?))
    }

    /// Changes what is watched of a descriptor from what `was` watched before. What epoll(7) does
    /// not take, such as `/dev/null`, is always ready, and nobody ever waits for it.
    pub(crate) fn set(
        &self,
        fd: BorrowedFd<'_>,
        token: Token,
        was: Wanted,
        wanted: Wanted,
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
    pub(crate) fn wait(&self, deadline: Option<Instant>) -> Result<Vec<Woken>> {
        let mut events = [EpollEvent::empty(); EVENTS];
        let count = match self.0.wait(&mut events, timeout(deadline)) {
            Err(Errno::EINTR) => 0,
            count => count?,
        };
        let gone = EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR;
        let woken = |event: &EpollEvent| Woken {
            token: Token::unpack(event.data()),
            is_gone: event.events().intersects(gone),
        };
        Ok(events[..count].iter().map(woken).collect())
    }
}

fn timeout(deadline: Option<Instant>) -> EpollTimeout {
    let Some(deadline) = deadline else { return EpollTimeout::NONE };
    let left = deadline.saturating_duration_since(Instant::now());
    // Rounded up, so that a last fraction of a millisecond does not spin.
    let millis = left.as_micros().div_ceil(1000).min(i32::MAX as u128) as i32;
    EpollTimeout::try_from(millis).unwrap_or(EpollTimeout::NONE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_come_back_as_they_went() {
        let tokens = [Token::Listener, Token::Signals, Token::Connecting(0), Token::Pair(0, 0)];
        let more = [Token::Connecting(7), Token::Pair(0, 1), Token::Pair(9, 0), Token::Pair(9, 1)];
        for token in tokens.into_iter().chain(more) {
            assert_eq!(Token::unpack(token.pack()), token);
        }
    }
}
