//! The lines that workers log. Each worker has a pipe of its own, which is read within bounds.

use std::os::fd::OwnedFd;

use nix::fcntl::OFlag;
use nix::unistd::{Pid, pipe2};
use tracing::warn;

use crate::supervisor::line_reader::{LineReader, ReadBounds, StderrPiece};
use crate::{Error, log};

/// The bounds of a worker's log. A line is longer than any that an honest worker writes.
const WORKER_LOG: ReadBounds = ReadBounds { line_bytes: 4096, lines: 1000, bytes: 1024 * 1024 };

/// The pipe that a worker logs through: the supervisor's end and the worker's. Both are non-blocking:
/// neither process ever waits for the other.
pub(super) fn pipe() -> Result<(OwnedFd, OwnedFd), Error> {
    pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)
        .map_err(|error| Error::system("prepare the log of a worker", error))
}

pub(super) fn reader(pipe: OwnedFd) -> LineReader {
    LineReader::new(pipe, WORKER_LOG)
}

/// Writes a worker's lines to the daemon's log.
pub(super) fn relay(worker: Pid, heard: Vec<StderrPiece>) {
    for heard in heard {
        match heard {
            StderrPiece::Line(line) => log::relay(worker, &line),
            StderrPiece::Dropped(lines) => {
                warn!(worker = worker.as_raw(), lines, "lines of a worker's log were dropped");
            }
        }
    }
}
