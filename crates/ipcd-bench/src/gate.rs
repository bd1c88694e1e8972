//! What the bare servers wait for: input on some descriptors, or room on others.

use std::fs::File;
use std::io;

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

pub(crate) const INPUT: EpollFlags = EpollFlags::EPOLLIN;
pub(crate) const ROOM: EpollFlags = EpollFlags::EPOLLOUT;
pub(crate) const NOTHING: EpollFlags = EpollFlags::empty();

/// An epoll instance, and what it watches of each descriptor.
pub(crate) struct Gate<'a, const N: usize> {
    epoll: Epoll,
    files: [&'a File; N],
    watched: [EpollFlags; N],
}

impl<'a, const N: usize> Gate<'a, N> {
    pub(crate) fn new(files: [&'a File; N]) -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        for (place, file) in (0..).zip(files) {
            epoll.add(file, EpollEvent::new(NOTHING, place))?;
        }
        Ok(Self { epoll, files, watched: [NOTHING; N] })
    }

    /// Waits for any of these; says which descriptors are ready.
    pub(crate) fn wait(&mut self, wanted: [EpollFlags; N]) -> io::Result<[bool; N]> {
        for (place, flags) in wanted.into_iter().enumerate() {
            if std::mem::replace(&mut self.watched[place], flags) != flags {
                let mut event = EpollEvent::new(flags, place as u64);
                self.epoll.modify(self.files[place], &mut event)?;
            }
        }
        let mut events = [EpollEvent::empty(); N];
        let count = match self.epoll.wait(&mut events, EpollTimeout::NONE) {
            Err(Errno::EINTR) => 0,
            count => count?,
        };
        let mut ready = [false; N];
        for event in &events[..count] {
            ready[event.data() as usize] = true;
        }
        Ok(ready)
    }
}

impl Gate<'_, 2> {
    /// Waits for room on the second, or else for input on the first.
    pub(crate) fn wait_one_way(&mut self, wants_room: bool) -> io::Result<()> {
        self.wait(if wants_room { [NOTHING, ROOM] } else { [INPUT, NOTHING] }).map(drop)
    }
}

/// What a call on a non-blocking descriptor moved; nothing when it was not ready.
pub(crate) fn moved(outcome: io::Result<usize>) -> io::Result<Option<usize>> {
    match outcome {
        Ok(count) => Ok(Some(count)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
    }
}
