//! The bare servers wait here: for input on some descriptors, or room on others.

use std::fs::File;
use std::io;

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

pub(super) const INPUT: EpollFlags = EpollFlags::EPOLLIN;
pub(super) const ROOM: EpollFlags = EpollFlags::EPOLLOUT;
pub(super) const NOTHING: EpollFlags = EpollFlags::empty();

/// An epoll instance, and the events that it watches of each descriptor.
pub(super) struct ReadyGate<'a> {
    epoll: Epoll,
    files: Vec<&'a File>,
    watched: Vec<EpollFlags>,
    events: Vec<EpollEvent>,
    ready: Vec<bool>,
}

impl<'a> ReadyGate<'a> {
    pub(super) fn new(files: impl IntoIterator<Item = &'a File>) -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let files: Vec<_> = files.into_iter().collect();
        let watched = vec![NOTHING; files.len()];
        let (events, ready) = (vec![EpollEvent::empty(); files.len()], vec![false; files.len()]);
        Ok(Self { epoll, files, watched, events, ready })
    }

    /// Waits for any of these, in the order of the descriptors; says which are ready.
    pub(super) fn wait(
        &mut self,
        wanted: impl IntoIterator<Item = EpollFlags>,
    ) -> io::Result<&[bool]> {
        for (place, flags) in wanted.into_iter().enumerate() {
            let before = std::mem::replace(&mut self.watched[place], flags);
            if before != flags {
                self.watch(place, before, flags)?;
            }
        }
        let count = match self.epoll.wait(&mut self.events, EpollTimeout::NONE) {
            Err(Errno::EINTR) => 0,
            count => count?,
        };
        self.ready.fill(false);
        for event in &self.events[..count] {
            self.ready[event.data() as usize] = true;
        }
        Ok(&self.ready)
    }

    /// A descriptor without wanted events is removed: otherwise the kernel would report the hang-up
    /// of a pipe again and again.
    fn watch(&self, place: usize, before: EpollFlags, flags: EpollFlags) -> io::Result<()> {
        let mut event = EpollEvent::new(flags, place as u64);
        match (before, flags) {
            (NOTHING, _) => self.epoll.add(self.files[place], event)?,
            (_, NOTHING) => self.epoll.delete(self.files[place])?,
            _ => self.epoll.modify(self.files[place], &mut event)?,
        }
        Ok(())
    }

    /// Waits for input on the first, or, where it is wanted, for room on one of the others.
    pub(super) fn wait_one_way(&mut self, rooms: impl Iterator<Item = bool>) -> io::Result<()> {
        let rooms = rooms.map(|wants_room| if wants_room { ROOM } else { NOTHING });
        let rooms: Vec<_> = rooms.collect();
        let input = if rooms.contains(&ROOM) { NOTHING } else { INPUT };
        self.wait(std::iter::once(input).chain(rooms)).map(drop)
    }
}

/// The bytes that a call on a non-blocking descriptor has moved; `None` if it was not ready.
pub(super) fn bytes_moved(outcome: io::Result<usize>) -> io::Result<Option<usize>> {
    match outcome {
        Ok(count) => Ok(Some(count)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
    }
}
