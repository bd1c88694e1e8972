//! One program: how far we are with it, and its process.

use std::os::fd::OwnedFd;
use std::time::Instant;

use ipcd_transport::ChannelParts;
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use tracing::{info, warn};

use super::line_reader::{Bounds, Heard, LineReader};
use crate::backoff::Backoff;
use crate::exec::Exec;
use crate::link::Link;

/// How much of a program's standard error goes to the log.
pub(super) const STDERR: Bounds = Bounds { line_bytes: 1024, lines: 100, bytes: 256 * 1024 };

/// A program, and how far we are with it.
pub(super) struct Child {
    pub(super) number: usize,
    pub(super) asked: Exec,
    pub(super) backoff: Backoff,
    pub(super) stage: Stage,
    /// Why it could not be started: the log is told once.
    pub(super) failure: Option<String>,
    /// Whether it is to end for good.
    pub(super) is_unwanted: bool,
}

pub(super) enum Stage {
    /// It is to be started then.
    Due(Instant),
    /// It runs, or what it has left is still looked at.
    Running(Box<Process>),
    /// It has ended, and is not started again.
    Over,
}

pub(super) struct Process {
    pub(super) pid: Pid,
    pub(super) since: Instant,
    pub(super) stderr: LineReader,
    /// Until exec(2) is done: what tells of it, and our ends of its pipes.
    pub(super) launch: Option<(Link, ChannelParts)>,
    /// Our hold on what ends with the process, if its own output is none of the bus's.
    pub(super) hold: Option<OwnedFd>,
    /// The supervisor's number for it while it is a peer.
    pub(super) peer: Option<u64>,
    /// Whether it is we who have ended the session.
    pub(super) was_cut_off: bool,
    /// How it has ended.
    pub(super) exit: Option<Exit>,
    pub(super) next: Option<(Instant, Step)>,
}

#[derive(Clone, Copy)]
pub(super) struct Exit {
    pub(super) status: i32,
    pub(super) signal: Option<Signal>,
}

/// What is done with a process when its time is over.
#[derive(Clone, Copy)]
pub(super) enum Step {
    Terminate,
    Kill,
    /// It has ended, but something that it has left behind holds its pipes.
    Settle,
}

impl Child {
    /// When something is to be done about it.
    pub(super) fn next(&self) -> Option<Instant> {
        match &self.stage {
            Stage::Due(at) => Some(*at),
            Stage::Running(process) => {
                let step = process.next.map(|(at, _)| at);
                step.into_iter().chain(process.stderr.next()).min()
            }
            Stage::Over => None,
        }
    }

    /// Its process, if that was not waited for.
    pub(super) fn pid(&self) -> Option<Pid> {
        self.process().filter(|process| process.exit.is_none()).map(|process| process.pid)
    }

    pub(super) fn process(&self) -> Option<&Process> {
        match &self.stage {
            Stage::Running(process) => Some(process),
            _ => None,
        }
    }

    pub(super) fn process_mut(&mut self) -> Option<&mut Process> {
        match &mut self.stage {
            Stage::Running(process) => Some(process),
            _ => None,
        }
    }

    /// Sends a signal to the program and to what it has started.
    pub(super) fn signal(&self, signal: Signal) {
        let Some(pid) = self.pid() else { return };
        // Before it has a group of its own it is alone.
        if killpg(pid, signal).is_err() {
            let _ = kill(pid, signal);
        }
    }

    pub(super) fn hear_stderr(&mut self, now: Instant) {
        let shown = self.asked.shown().to_owned();
        if let Some(process) = self.process_mut() {
            let heard = process.stderr.read(now);
            say(&shown, process.pid, heard);
        }
    }
}

/// Logs what a program says.
pub(super) fn say(program: &str, pid: Pid, heard: Vec<Heard>) {
    let pid = pid.as_raw();
    for heard in heard {
        match heard {
            Heard::Line(line) => info!(program, pid, line, "program says"),
            Heard::Dropped(lines) => {
                warn!(program, pid, lines, "lines of its standard error were dropped");
            }
        }
    }
}
