//! Moving bytes from descriptor to descriptor without copying them: splice(2) through a pipe.
//!
//! It pays when there is much to move. A pipe is lent to a direction while bytes are in it; one that
//! is idle, or moves little, has none.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, SpliceFFlags, fcntl, splice};
use nix::unistd::{pipe2, read};

/// Bytes that a pipe is made for. Who is not root has a limit for all their pipes
/// (`pipe-user-pages-soft`, pipe(7)); beyond it they are smaller, and do as well.
const PIPE_BYTES: usize = 1024 * 1024;
/// A read that brings so much is a sign that there is more.
const MUCH: usize = 32 * 1024;
/// What is moved at once when it is not worth it any more.
const LITTLE: usize = 8 * 1024;
/// Empty pipes that are kept.
const SPARE: usize = 8;

/// A pipe, and how much fits.
pub(crate) struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
    capacity: usize,
}

/// Empty pipes.
#[derive(Default)]
pub(crate) struct Pipes(Vec<Pipe>);

impl Pipes {
    fn lend(&mut self) -> io::Result<Pipe> {
        match self.0.pop() {
            Some(pipe) => Ok(pipe),
            None => Pipe::new(),
        }
    }

    fn take_back(&mut self, pipe: Pipe) {
        if self.0.len() < SPARE {
            self.0.push(pipe);
        }
    }
}

impl Pipe {
    fn new() -> io::Result<Self> {
        let (read, write) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
        let wished = fcntl(&write, FcntlArg::F_SETPIPE_SZ(PIPE_BYTES as i32));
        let capacity = wished.or_else(|_| fcntl(&write, FcntlArg::F_GETPIPE_SZ))? as usize;
        Ok(Self { read, write, capacity })
    }
}

/// One direction's way of moving bytes.
#[derive(Default)]
pub(crate) struct Splice {
    way: Way,
    pipe: Option<Pipe>,
    /// Bytes in the pipe.
    held: usize,
}

#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
enum Way {
    /// By read and write, as long as there is little to move.
    #[default]
    Copying,
    Splicing,
    /// By read and write, for good: the kernel does not splice these descriptors.
    OnlyCopying,
}

/// What came of moving.
#[derive(Debug)]
pub(crate) enum Moved {
    /// So many bytes have left; there may be more.
    Bytes(usize),
    /// Nothing comes, or nothing goes: [`Splice::holds`] tells which.
    Nothing,
    /// Nothing more will come, and all has left.
    End,
    /// This is not the way: what was held is in the bytes, and is still to be written.
    Otherwise(Vec<u8>),
    /// Nothing can be read any more, and all has left.
    ReadFailed(io::Error),
    /// Nothing can be written any more.
    WriteFailed(io::Error),
}

impl Splice {
    /// Whether bytes should be moved by [`Splice::turn`].
    pub(crate) fn is_on(&self) -> bool {
        self.way == Way::Splicing
    }

    /// Whether bytes have been taken and not been written.
    pub(crate) fn holds(&self) -> bool {
        self.held > 0
    }

    /// So much was read at once.
    pub(crate) fn note_read(&mut self, bytes: usize) {
        if self.way == Way::Copying && bytes >= MUCH {
            self.way = Way::Splicing;
        }
    }

    /// Moves what comes at once, as far as it goes.
    pub(crate) fn turn(
        &mut self,
        from: BorrowedFd<'_>,
        to: BorrowedFd<'_>,
        pipes: &mut Pipes,
    ) -> Moved {
        let Some(pipe) = self.pipe.take().or_else(|| pipes.lend().ok()) else {
            return self.give_up(Vec::new());
        };
        let filled = if self.held == 0 { self.fill(&pipe, from) } else { Ok(None) };
        let moved = match filled {
            Ok(Some(0)) => Moved::End,
            Ok(None) if self.held == 0 => Moved::Nothing,
            Ok(_) => self.drain(&pipe, to),
            Err(Errno::EINVAL) => self.give_up(Vec::new()),
            Err(error) => Moved::ReadFailed(error.into()),
        };
        match self.held {
            0 => pipes.take_back(pipe),
            _ => self.pipe = Some(pipe),
        }
        if matches!(moved, Moved::Bytes(bytes) if bytes < LITTLE) && self.held == 0 {
            self.way = Way::Copying;
        }
        moved
    }

    /// `None` when nothing is there.
    fn fill(&mut self, pipe: &Pipe, from: BorrowedFd<'_>) -> nix::Result<Option<usize>> {
        match splice(from, None, &pipe.write, None, pipe.capacity, flags()) {
            Ok(count) => {
                self.held = count;
                Ok(Some(count))
            }
            Err(Errno::EAGAIN | Errno::EINTR) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn drain(&mut self, pipe: &Pipe, to: BorrowedFd<'_>) -> Moved {
        let mut moved = 0;
        while self.held > 0 {
            let asked = self.held;
            match splice(&pipe.read, None, to, None, asked, flags()) {
                Ok(count) => {
                    self.held -= count;
                    moved += count;
                    // There was no room for the rest.
                    if count < asked {
                        break;
                    }
                }
                Err(Errno::EAGAIN | Errno::EINTR) => break,
                Err(Errno::EINVAL) => return self.empty(pipe),
                Err(error) => return Moved::WriteFailed(error.into()),
            }
        }
        if moved > 0 { Moved::Bytes(moved) } else { Moved::Nothing }
    }

    /// Takes what is in the pipe, to be written in another way.
    fn empty(&mut self, pipe: &Pipe) -> Moved {
        let mut bytes = vec![0; self.held];
        let count = read(&pipe.read, &mut bytes).unwrap_or(0);
        bytes.truncate(count);
        self.held = 0;
        self.give_up(bytes)
    }

    fn give_up(&mut self, held: Vec<u8>) -> Moved {
        self.way = Way::OnlyCopying;
        Moved::Otherwise(held)
    }
}

fn flags() -> SpliceFFlags {
    SpliceFFlags::SPLICE_F_MOVE | SpliceFFlags::SPLICE_F_NONBLOCK
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read, Write};
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    fn streams() -> (UnixStream, UnixStream) {
        let (near, far) = UnixStream::pair().unwrap();
        far.set_nonblocking(true).unwrap();
        (near, far)
    }

    fn splicing() -> Splice {
        let mut splice = Splice::default();
        splice.note_read(MUCH - 1);
        assert!(!splice.is_on());
        splice.note_read(MUCH);
        assert!(splice.is_on());
        splice
    }

    #[test]
    fn moves_all_and_gives_the_pipe_back() {
        let (mut sender, from) = streams();
        let (mut receiver, to) = streams();
        let (mut splice, mut pipes) = (splicing(), Pipes::default());
        let mut turn = || splice.turn(from.as_fd(), to.as_fd(), &mut pipes);
        assert!(matches!(turn(), Moved::Nothing));
        sender.write_all(&[7; 100_000]).unwrap();
        let mut left = 100_000;
        while left > 0 {
            match turn() {
                Moved::Bytes(count) => left -= count,
                other => panic!("{other:?} with {left} bytes left"),
            }
        }
        sender.shutdown(std::net::Shutdown::Write).unwrap();
        assert!(matches!(turn(), Moved::End));
        assert!(!splice.holds() && pipes.0.len() == 1);
        let mut bytes = vec![0; 100_000];
        receiver.read_exact(&mut bytes).unwrap();
        assert!(bytes.iter().all(|&byte| byte == 7));
    }

    #[test]
    fn holds_no_more_than_a_pipe_for_one_that_does_not_read() {
        let (mut sender, from) = streams();
        let (receiver, to) = streams();
        let (mut splice, mut pipes) = (splicing(), Pipes::default());
        sender.set_nonblocking(true).unwrap();
        let mut sent = 0;
        for _ in 0..1000 {
            sent += sender.write(&[1; 60_000]).unwrap_or(0);
            splice.turn(from.as_fd(), to.as_fd(), &mut pipes);
        }
        assert!(splice.holds() && splice.held <= PIPE_BYTES, "{}", splice.held);
        assert!(sent < 4 * PIPE_BYTES, "{sent} bytes went somewhere");
        drop(receiver);
        assert!(matches!(splice.turn(from.as_fd(), to.as_fd(), &mut pipes), Moved::WriteFailed(_)));
    }

    #[test]
    fn what_the_kernel_does_not_splice_is_handed_out() {
        let (mut sender, from) = streams();
        // A file that is written at its end takes nothing from a pipe (splice(2)).
        let name = tempfile::NamedTempFile::new().unwrap();
        let to = File::options().append(true).open(name.path()).unwrap();
        sender.write_all(&[3; 10_000]).unwrap();
        let (mut splice, mut pipes) = (splicing(), Pipes::default());
        match splice.turn(from.as_fd(), to.as_fd(), &mut pipes) {
            Moved::Otherwise(bytes) => assert_eq!(bytes, [3; 10_000]),
            other => panic!("{other:?}"),
        }
        assert!(!splice.is_on() && !splice.holds());
        splice.note_read(MUCH);
        assert!(!splice.is_on(), "it was told once");
    }

    #[test]
    fn little_is_copied_again() {
        let (mut sender, from) = streams();
        let (_receiver, to) = streams();
        let (mut splice, mut pipes) = (splicing(), Pipes::default());
        sender.write_all(b"little").unwrap();
        let moved = splice.turn(from.as_fd(), to.as_fd(), &mut pipes);
        assert!(matches!(moved, Moved::Bytes(6)) && !splice.is_on());
    }
}
