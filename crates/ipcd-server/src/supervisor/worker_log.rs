//! The lines that workers log. Each worker has a pipe of its own, which is read within bounds.

use std::os::fd::OwnedFd;
use std::time::Instant;

use nix::fcntl::OFlag;
use nix::unistd::{Pid, pipe2};
use tracing::warn;

use super::line_reader::{Bounds, Heard, LineReader};
use super::{FIRST_WORKER_LOG, Supervisor};
use crate::{Error, log};

/// The bounds of a worker's log. A line is longer than any that an honest worker writes.
const WORKER_LOG: Bounds = Bounds { line_bytes: 4096, lines: 1000, bytes: 1024 * 1024 };

/// The pipe that a worker logs through: where it is read, and where the worker writes. Both ends are
/// non-blocking: neither process ever waits for the other.
pub(super) fn pipe() -> Result<(OwnedFd, OwnedFd), Error> {
    pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)
        .map_err(|error| Error::system("prepare the log of a worker", error))
}

pub(super) fn reader(pipe: OwnedFd) -> LineReader {
    LineReader::new(pipe, WORKER_LOG)
}

impl Supervisor {
    /// Logs what a worker has written.
    pub(super) fn hear_log(&mut self, index: usize) {
        let slot = &mut self.slots[index];
        if let (Some(pid), Some(log)) = (slot.pid(), &mut slot.log) {
            relay(pid, log.read(Instant::now()));
            self.arm_log(index);
        }
    }

    /// Logs what a dead worker had written, and lets go of its pipe.
    pub(super) fn finish_log(&mut self, index: usize, pid: Pid) {
        if let Some(mut log) = self.slots[index].log.take() {
            log.disarm(&self.epoll);
            relay(pid, log.finish());
        }
    }

    pub(super) fn arm_log(&mut self, index: usize) {
        if let Some(log) = &mut self.slots[index].log {
            log.arm(&self.epoll, FIRST_WORKER_LOG + index as u64);
        }
    }

    /// The time at which something about the log is due.
    pub(super) fn next_of_logs(&self) -> Option<Instant> {
        let logs = self.occupied.iter().filter_map(|index| self.slots[*index].log.as_ref());
        logs.filter_map(LineReader::next).chain(log::next()).min()
    }

    /// Listens again to workers that wrote too much, and writes what standard error did not take.
    pub(super) fn tend_logs(&mut self) {
        let now = Instant::now();
        for at in 0..self.occupied.len() {
            let index = self.occupied[at];
            let next = self.slots[index].log.as_ref().and_then(LineReader::next);
            if next.is_some_and(|at| at <= now) {
                self.hear_log(index);
            }
        }
        log::tick(now);
    }
}

fn relay(worker: Pid, heard: Vec<Heard>) {
    for heard in heard {
        match heard {
            Heard::Line(line) => log::relay(worker, &line),
            Heard::Dropped(lines) => {
                warn!(worker = worker.as_raw(), lines, "lines of a worker's log were dropped");
            }
        }
    }
}
