//! Waiting for the connection and for something else at the same time.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use ipcd_client::{Client, Result};
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};

use crate::exit::Outcome;

/// How long an event may go unnoticed while another descriptor is waited for.
const PACE: Duration = Duration::from_millis(1);

/// What came first.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Woken {
    /// An event waits to be taken.
    Event,
    /// The descriptor is readable.
    Ready,
    /// Nothing, by the deadline.
    Late,
}

/// Waits for an event or until the descriptor is readable.
///
/// # Errors
/// If the connection is lost, and no event is left.
pub(crate) fn event_or(
    client: &mut Client,
    fd: BorrowedFd<'_>,
    deadline: Option<Instant>,
) -> Result<Woken> {
    loop {
        if client.has_event() {
            return Ok(Woken::Event);
        }
        let pace = Instant::now() + PACE;
        let until = deadline.map_or(pace, |deadline| deadline.min(pace));
        match client.wait_for(fd, Some(until)) {
            Ok(true) => return Ok(Woken::Ready),
            Err(error) if !client.has_event() => return Err(error),
            _ if deadline.is_some_and(|deadline| deadline <= Instant::now()) => {
                return Ok(if client.has_event() { Woken::Event } else { Woken::Late });
            }
            _ => {}
        }
    }
}

/// Waits until the descriptor can be written.
///
/// # Errors
/// If the connection is lost before it can.
pub(crate) fn writable(client: &mut Client, fd: BorrowedFd<'_>) -> Outcome {
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(io::Error::from)?;
    match epoll.add(fd, EpollEvent::new(EpollFlags::EPOLLOUT, 0)) {
        Ok(()) => drop(client.wait_for(epoll.0.as_fd(), None)?),
        // It is of a kind that can always be written.
        Err(Errno::EPERM) => {}
        Err(error) => return Err(io::Error::from(error).into()),
    }
    Ok(())
}
