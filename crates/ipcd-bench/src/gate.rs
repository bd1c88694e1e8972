//! What the bare servers wait for: input on one descriptor, or room on the other.

use std::io;
use std::os::fd::AsFd;

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

/// An epoll instance with an input and an output, of which it watches one.
pub(crate) struct Gate<'a, F> {
    epoll: Epoll,
    input: &'a F,
    output: &'a F,
    wants_room: bool,
}

impl<'a, F: AsFd> Gate<'a, F> {
    pub(crate) fn new(input: &'a F, output: &'a F) -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        epoll.add(input, EpollEvent::new(EpollFlags::EPOLLIN, 0))?;
        epoll.add(output, EpollEvent::empty())?;
        Ok(Self { epoll, input, output, wants_room: false })
    }

    /// Waits for room on the output, or else for input.
    pub(crate) fn wait(&mut self, wants_room: bool) -> io::Result<()> {
        if std::mem::replace(&mut self.wants_room, wants_room) != wants_room {
            let only = |wanted, flags| if wanted { flags } else { EpollFlags::empty() };
            let input = only(!wants_room, EpollFlags::EPOLLIN);
            let output = only(wants_room, EpollFlags::EPOLLOUT);
            self.epoll.modify(self.input, &mut EpollEvent::new(input, 0))?;
            self.epoll.modify(self.output, &mut EpollEvent::new(output, 0))?;
        }
        match self.epoll.wait(&mut [EpollEvent::empty()], EpollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
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
