//! Moves bytes from descriptor to descriptor without copying them: splice(2) through a pipe.
//!
//! It pays when there is much to move. A direction has a pipe only while bytes are in it, so idle
//! directions have none.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, SpliceFFlags, fcntl, splice};
use nix::unistd::{pipe2, read};

/// The wanted size of a pipe. Without privileges all pipes of a user share a limit
/// (`pipe-user-pages-soft`, pipe(7)); beyond it they are smaller, and work as well.
const PIPE_BYTES: usize = 1024 * 1024;
/// The size of a read from which on splicing begins.
const MUCH: usize = 32 * 1024;
/// The number of bytes of a move below which splicing ends.
const LITTLE: usize = 8 * 1024;
/// Empty pipes that are kept for reuse.
const SPARE: usize = 8;

/// A pipe and its capacity.
pub(crate) struct SplicePipe {
    read: OwnedFd,
    write: OwnedFd,
    capacity: usize,
}

/// Empty pipes.
#[derive(Default)]
pub(crate) struct PipePool(Vec<SplicePipe>);

impl PipePool {
    fn take_pipe(&mut self) -> io::Result<SplicePipe> {
        match self.0.pop() {
            Some(pipe) => Ok(pipe),
            None => SplicePipe::new(),
        }
    }

    fn take_back(&mut self, pipe: SplicePipe) {
        if self.0.len() < SPARE {
            self.0.push(pipe);
        }
    }
}

impl SplicePipe {
    fn new() -> io::Result<Self> {
        let (read, write) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
        // Beyond the limit the call fails, and the pipe keeps its default size.
        let wished = fcntl(&write, FcntlArg::F_SETPIPE_SZ(PIPE_BYTES as i32));
        let capacity = wished.or_else(|_| fcntl(&write, FcntlArg::F_GETPIPE_SZ))? as usize;
        Ok(Self { read, write, capacity })
    }
}

/// The state of splicing in one direction.
#[derive(Default)]
pub(crate) struct SpliceState {
    mode: SpliceMode,
    pipe: Option<SplicePipe>,
    /// Bytes in the pipe.
    held: usize,
}

#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
enum SpliceMode {
    /// By read and write, while there is little to move.
    #[default]
    Copying,
    Splicing,
    /// By read and write, for good: the kernel does not splice these descriptors.
    OnlyCopying,
}

/// The outcome of a move.
#[derive(Debug)]
pub(crate) enum SpliceOutcome {
    /// This number of bytes was written; there may be more.
    Bytes(usize),
    /// No input, or no room: [`SpliceState::holds`] tells which.
    Nothing,
    /// The end of the input; all bytes were written.
    End,
    /// The kernel cannot splice these descriptors. The bytes that the pipe held are still to be
    /// written.
    Otherwise(Vec<u8>),
    /// Reading has failed; all earlier bytes were written.
    ReadFailed(io::Error),
    /// Writing has failed.
    WriteFailed(io::Error),
}

impl SpliceState {
    /// Whether bytes should be moved by [`SpliceState::turn`].
    pub(crate) fn is_on(&self) -> bool {
        self.mode == SpliceMode::Splicing
    }

    /// Whether the pipe holds bytes that are not written yet.
    pub(crate) fn holds(&self) -> bool {
        self.held > 0
    }

    /// Notes the size of a read.
    pub(crate) fn note_read(&mut self, bytes: usize) {
        if self.mode == SpliceMode::Copying && bytes >= MUCH {
            self.mode = SpliceMode::Splicing;
        }
    }

    /// Moves the available bytes once.
    pub(crate) fn turn(
        &mut self,
        from: BorrowedFd<'_>,
        to: BorrowedFd<'_>,
        pipes: &mut PipePool,
    ) -> SpliceOutcome {
        let Some(pipe) = self.pipe.take().or_else(|| pipes.take_pipe().ok()) else {
            // No descriptors are left for a pipe. Copying needs none.
            return self.give_up(Vec::new());
        };
        let filled = if self.held == 0 { self.fill(&pipe, from) } else { Ok(None) };
        let moved = match filled {
            Ok(Some(0)) => SpliceOutcome::End,
            Ok(None) if self.held == 0 => SpliceOutcome::Nothing,
            Ok(_) => self.drain(&pipe, to),
            // The kernel cannot splice from this descriptor.
            Err(Errno::EINVAL) => self.give_up(Vec::new()),
            Err(error) => SpliceOutcome::ReadFailed(error.into()),
        };
        match self.held {
            0 => pipes.take_back(pipe),
            _ => self.pipe = Some(pipe),
        }
        // Splicing takes two calls for each move, and copying few bytes costs less than one.
        if matches!(moved, SpliceOutcome::Bytes(bytes) if bytes < LITTLE) && self.held == 0 {
            self.mode = SpliceMode::Copying;
        }
        moved
    }

    /// `None` when nothing is there.
    fn fill(&mut self, pipe: &SplicePipe, from: BorrowedFd<'_>) -> nix::Result<Option<usize>> {
        match splice(from, None, &pipe.write, None, pipe.capacity, flags()) {
            Ok(count) => {
                self.held = count;
                Ok(Some(count))
            }
            Err(Errno::EAGAIN | Errno::EINTR) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn drain(&mut self, pipe: &SplicePipe, to: BorrowedFd<'_>) -> SpliceOutcome {
        let mut moved = 0;
        while self.held > 0 {
            let asked = self.held;
            match splice(&pipe.read, None, to, None, asked, flags()) {
                Ok(count) => {
                    self.held -= count;
                    moved += count;
                    // The receiver had no room for all bytes.
                    if count < asked {
                        break;
                    }
                }
                Err(Errno::EAGAIN | Errno::EINTR) => break,
                // The kernel cannot splice to this descriptor, such as a file in append mode.
                Err(Errno::EINVAL) => return self.empty(pipe),
                Err(error) => return SpliceOutcome::WriteFailed(error.into()),
            }
        }
        if moved > 0 { SpliceOutcome::Bytes(moved) } else { SpliceOutcome::Nothing }
    }

    /// Takes the bytes out of the pipe, to be written by write(2).
    fn empty(&mut self, pipe: &SplicePipe) -> SpliceOutcome {
        let mut bytes = vec![0; self.held];
        let count = read(&pipe.read, &mut bytes).unwrap_or(0);
        bytes.truncate(count);
        self.held = 0;
        self.give_up(bytes)
    }

    fn give_up(&mut self, held: Vec<u8>) -> SpliceOutcome {
        self.mode = SpliceMode::OnlyCopying;
        SpliceOutcome::Otherwise(held)
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

    fn splicing() -> SpliceState {
        let mut splice = SpliceState::default();
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
        let (mut splice, mut pipes) = (splicing(), PipePool::default());
        let mut turn = || splice.turn(from.as_fd(), to.as_fd(), &mut pipes);
        assert!(matches!(turn(), SpliceOutcome::Nothing));
        sender.write_all(&[7; 100_000]).unwrap();
        let mut left = 100_000;
        while left > 0 {
            match turn() {
                SpliceOutcome::Bytes(count) => left -= count,
                other => panic!("{other:?} with {left} bytes left"),
            }
        }
        sender.shutdown(std::net::Shutdown::Write).unwrap();
        assert!(matches!(turn(), SpliceOutcome::End));
        assert!(!splice.holds() && pipes.0.len() == 1);
        let mut bytes = vec![0; 100_000];
        receiver.read_exact(&mut bytes).unwrap();
        assert!(bytes.iter().all(|&byte| byte == 7));
    }

    #[test]
    fn holds_no_more_than_a_pipe_for_one_that_does_not_read() {
        let (mut sender, from) = streams();
        let (receiver, to) = streams();
        let (mut splice, mut pipes) = (splicing(), PipePool::default());
        sender.set_nonblocking(true).unwrap();
        let mut sent = 0;
        for _ in 0..1000 {
            sent += sender.write(&[1; 60_000]).unwrap_or(0);
            splice.turn(from.as_fd(), to.as_fd(), &mut pipes);
        }
        assert!(splice.holds() && splice.held <= PIPE_BYTES, "{}", splice.held);
        assert!(sent < 4 * PIPE_BYTES, "{sent} bytes went somewhere");
        drop(receiver);
        assert!(matches!(
            splice.turn(from.as_fd(), to.as_fd(), &mut pipes),
            SpliceOutcome::WriteFailed(_)
        ));
    }

    #[test]
    fn what_the_kernel_does_not_splice_is_handed_out() {
        let (mut sender, from) = streams();
        // A file that is written at its end takes nothing from a pipe (splice(2)).
        let name = tempfile::NamedTempFile::new().unwrap();
        let to = File::options().append(true).open(name.path()).unwrap();
        sender.write_all(&[3; 10_000]).unwrap();
        let (mut splice, mut pipes) = (splicing(), PipePool::default());
        match splice.turn(from.as_fd(), to.as_fd(), &mut pipes) {
            SpliceOutcome::Otherwise(bytes) => assert_eq!(bytes, [3; 10_000]),
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
        let (mut splice, mut pipes) = (splicing(), PipePool::default());
        sender.write_all(b"little").unwrap();
        let moved = splice.turn(from.as_fd(), to.as_fd(), &mut pipes);
        assert!(matches!(moved, SpliceOutcome::Bytes(6)) && !splice.is_on());
    }
}
