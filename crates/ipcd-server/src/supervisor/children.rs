//! Coprocesses: programs that the daemon runs, whose standard input and output are peers like any
//! other. They are started again when they end, and ended with the daemon.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use ipcd_sys::Keeper;
use ipcd_transport::{ChannelParts, PeerIdentity};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::{Pid, getegid, geteuid, pipe2};
use tracing::{info, warn};

use super::child::{Child, Exit, Process, STDERR, Stage, Step, say};
use super::line_reader::LineReader;
use super::{FIRST_LAUNCH, FIRST_STDERR, Supervisor, watch};
use crate::Error;
use crate::backoff::Backoff;
use crate::coprocess::{self, Launch, NotStarted};
use crate::exec::{Exec, Restart};
use crate::link::{Link, Received};
use crate::values::Pauses;

/// Pauses before a program is started again.
const PAUSES: Pauses = Pauses { first: Duration::from_secs(1), longest: Duration::from_secs(60) };
/// How long a program may take to end by itself when it is no peer any more, and to heed TERM.
const GRACE: Duration = Duration::from_secs(2);

impl Supervisor {
    /// Makes these the programs that run: those that are the same are left alone.
    pub(super) fn set_programs(&mut self, mut wanted: Vec<Exec>) {
        for index in 0..self.children.len() {
            let child = &self.children[index];
            let found = wanted.iter().position(|exec| !child.is_unwanted && *exec == child.asked);
            match found {
                Some(found) => drop(wanted.remove(found)),
                None => self.retire(index),
            }
        }
        self.forget_programs();
        for asked in wanted {
            let number = self.take_number();
            let (backoff, stage) = (Backoff::new(PAUSES), Stage::Due(Instant::now()));
            let (failure, is_unwanted) = (None, false);
            self.children.push(Child { number, asked, backoff, stage, failure, is_unwanted });
        }
    }

    /// Does what is due: starts programs, ends them, and listens again to those that said too much.
    pub(super) fn tend_programs(&mut self) {
        let now = Instant::now();
        for index in 0..self.children.len() {
            let child = &mut self.children[index];
            match &child.stage {
                Stage::Due(at) if *at <= now => self.start_program(index),
                Stage::Running(process) => {
                    let is_due = process.next.is_some_and(|(at, _)| at <= now);
                    if process.stderr.next().is_some_and(|at| at <= now) {
                        child.hear_stderr(now);
                    }
                    if is_due {
                        self.take_step(index, now);
                    }
                }
                _ => {}
            }
            self.arm_stderr(index);
        }
        self.forget_programs();
    }

    /// Hears whether exec(2) went well.
    pub(super) fn hear_launch(&mut self, number: usize) {
        let Some(index) = self.program(number) else { return };
        let Some(process) = self.children[index].process_mut() else { return };
        let Some((link, _)) = &mut process.launch else { return };
        match link.receive() {
            Ok(Received::NotReady) => {}
            // It ends by itself.
            Ok(Received::Message(NotStarted(why), _)) => {
                process.launch = None;
                self.note_failure(index, &why);
            }
            Ok(Received::Closed) | Err(_) => self.started(index),
        }
    }

    pub(super) fn hear_stderr(&mut self, number: usize) {
        if let Some(index) = self.program(number) {
            self.children[index].hear_stderr(Instant::now());
            self.arm_stderr(index);
        }
    }

    /// A program is no peer any more: it has closed its output, or we have cut it off. It is to
    /// end now, for it cannot be reached.
    pub(super) fn program_lost(&mut self, number: usize, gone: u64, was_cut_off: bool) {
        let Some(index) = self.program(number) else { return };
        let Some(process) = self.children[index].process_mut() else { return };
        if process.peer != Some(gone) {
            return;
        }
        process.peer = None;
        process.was_cut_off |= was_cut_off;
        match process.exit {
            Some(exit) => self.settle(index, exit),
            None if process.next.is_none() => {
                process.next = Some((Instant::now() + GRACE, Step::Terminate));
            }
            None => {}
        }
    }

    /// Ends what programs that have ended leave behind in their groups. They were not waited for
    /// yet, so that the group's number is still theirs.
    pub(super) fn end_leftovers(&self) {
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        for pid in self.children.iter().filter_map(Child::pid) {
            let waited = waitid(Id::Pid(pid), flags);
            if matches!(waited, Ok(WaitStatus::Exited(..) | WaitStatus::Signaled(..))) {
                let _ = killpg(pid, Signal::SIGKILL);
            }
        }
    }

    /// A child that was no worker has ended.
    pub(super) fn program_ended(&mut self, pid: Pid, status: i32, signal: Option<Signal>) {
        let Some(index) = self.children.iter().position(|child| child.pid() == Some(pid)) else {
            return;
        };
        self.keeper.iter().for_each(|keeper| keeper.ended(pid));
        // It may have been a program for a short while, which had something to say.
        self.hear_launch(self.children[index].number);
        let exit = Exit { status, signal };
        let Some(process) = self.children[index].process_mut() else { return };
        (process.exit, process.hold) = (Some(exit), None);
        match process.peer {
            None => self.settle(index, exit),
            Some(_) => process.next = Some((Instant::now() + GRACE, Step::Settle)),
        }
    }

    /// Starts no program any more.
    pub(super) fn stop_programs(&mut self) {
        for child in &mut self.children {
            child.is_unwanted = true;
            if child.process().is_none_or(|process| process.launch.is_some()) {
                child.signal(Signal::SIGKILL);
            }
        }
        self.forget_programs();
    }

    /// Ends the programs: what is for them goes to them, and then their input ends. Half of the
    /// time that draining may take is theirs; one that hears nothing has nothing to wait for.
    pub(super) fn end_programs(&mut self) {
        (0..self.children.len()).for_each(|index| self.schedule_end(index));
    }

    /// Ends the programs that are left at the end.
    pub(super) fn kill_programs(&mut self) {
        for child in self.children.drain(..) {
            child.signal(Signal::SIGKILL);
            if let Some(pid) = child.pid() {
                warn!(
                    program = child.asked.shown(),
                    pid = pid.as_raw(),
                    "program did not end in time"
                );
                let _ = waitpid(pid, None);
            }
        }
    }

    fn program(&self, number: usize) -> Option<usize> {
        self.children.iter().position(|child| child.number == number)
    }

    /// Programs that are unwanted, and of which nothing is left.
    fn forget_programs(&mut self) {
        self.children.retain(|child| !child.is_unwanted || child.process().is_some());
        if self.children.is_empty() {
            self.keeper.take().into_iter().for_each(Keeper::leave);
        }
    }

    fn start_program(&mut self, index: usize) {
        match self.fork_program(index) {
            Ok(process) => {
                self.children[index].stage = Stage::Running(Box::new(process));
                self.arm_stderr(index);
            }
            Err(error) => {
                self.note_failure(index, &error.to_string());
                self.rest(index, Duration::ZERO);
            }
        }
    }

    fn fork_program(&mut self, index: usize) -> Result<Process, Error> {
        let failed = |error| Error::system("start a program", error);
        if self.keeper.is_none() {
            // Without it, which takes a process, programs end if this one is killed, and what they have
            // started does not.
            self.keeper = Keeper::start().ok();
        }
        let child = &self.children[index];
        let (link, far_end) = Link::pair().map_err(failed)?;
        let (stdin, to_child) = pipe()?;
        let (from_child, stdout) = pipe()?;
        let (said, stderr) = pipe()?;
        // A flag of our end's description alone: each end of a pipe has its own.
        fcntl(&said, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map_err(|error| failed(error.into()))?;
        watch(&self.epoll, &link, FIRST_LAUNCH + child.number as u64)?;
        let (supervisor, user) = (Pid::this(), self.user);
        // Where nothing is published the output goes to the log, too, and may be closed at will.
        let (stdout, hold) = match child.asked.dialect.subject {
            Some(_) => (stdout, None),
            None => (duplicate(&stderr)?, Some(stdout)),
        };
        let (stdin, stdout, stderr) = (&stdin, &stdout, &stderr);
        let exec = &child.asked;
        let launch = Launch { link: far_end, supervisor, user, exec, stdin, stdout, stderr };
        let pid = ipcd_sys::fork(|| coprocess::main(launch)).map_err(failed)?;
        let (uid, gid) = user.map_or((geteuid().as_raw(), getegid().as_raw()), |user| user.ids());
        let (pid_, uid, gid) = (Some(pid.as_raw() as u32), Some(uid), Some(gid));
        let identity = PeerIdentity { pid: pid_, uid, gid, ..PeerIdentity::default() };
        let (descriptors, state) = (vec![from_child, to_child], Vec::new());
        let parts = ChannelParts { descriptors, identity, state };
        Ok(Process {
            pid,
            since: Instant::now(),
            stderr: LineReader::new(said, STDERR),
            launch: Some((link, parts)),
            hold,
            peer: None,
            was_cut_off: false,
            exit: None,
            next: None,
        })
    }

    /// The program runs: now it is a peer.
    fn started(&mut self, index: usize) {
        let child = &mut self.children[index];
        let (number, dialect) = (child.number, child.asked.dialect.clone());
        let shown = child.asked.shown().to_owned();
        let Some(process) = child.process_mut() else { return };
        let Some((_, parts)) = process.launch.take() else { return };
        info!(program = shown, pid = process.pid.as_raw(), "program started");
        child.failure = None;
        if child.is_unwanted {
            return child.signal(Signal::SIGKILL);
        }
        let transport = ipcd_transports::CHILD;
        let slot = self.slot_for_peer();
        let peer = slot.and_then(|slot| self.admit(number, transport, slot, parts, Some(dialect)));
        if peer.is_none() {
            self.note_failure(index, "no worker can take it now");
            self.children[index].signal(Signal::SIGKILL);
        }
        if let Some(process) = self.children[index].process_mut() {
            process.peer = peer;
        }
    }

    fn note_failure(&mut self, index: usize, why: &str) {
        let child = &mut self.children[index];
        if child.failure.as_deref() != Some(why) {
            let command = &child.asked.command[0];
            warn!(program = child.asked.shown(), command, why, "program not started");
            child.failure = Some(why.to_owned());
        }
    }

    /// Does the next thing that is needed to get rid of a process.
    fn take_step(&mut self, index: usize, now: Instant) {
        let child = &mut self.children[index];
        let Some(process) = child.process_mut() else { return };
        let Some((_, step)) = process.next.take() else { return };
        match (step, process.exit) {
            (Step::Terminate, None) => {
                process.next = Some((now + GRACE, Step::Kill));
                child.signal(Signal::SIGTERM);
            }
            (Step::Kill, None) => {
                let (program, pid) = (child.asked.shown(), child.pid().map(Pid::as_raw));
                warn!(program, pid, "program does not end: killing it");
                child.signal(Signal::SIGKILL);
            }
            (_, Some(exit)) => self.settle(index, exit),
            (Step::Settle, None) => {}
        }
    }

    /// A process is done with: what is to become of its program?
    fn settle(&mut self, index: usize, exit: Exit) {
        let child = &mut self.children[index];
        let stage = std::mem::replace(&mut child.stage, Stage::Over);
        let Stage::Running(process) = stage else { return };
        let Process { pid, since, mut stderr, peer, was_cut_off, .. } = *process;
        let Exit { status, signal } = exit;
        stderr.disarm(&self.epoll);
        say(child.asked.shown(), pid, stderr.finish());
        let has_failed = was_cut_off || status != 0 || signal.is_some();
        // Why it was not even started has been said.
        if child.failure.is_none() {
            let signal = signal.map(Signal::as_str);
            let (program, pid) = (child.asked.shown(), pid.as_raw());
            // One that we have ended has not failed, however it took that.
            match has_failed && !child.is_unwanted {
                true => warn!(program, pid, status, signal, was_cut_off, "program failed"),
                false => info!(program, pid, status, signal, "program ended"),
            }
        }
        let again = match child.asked.restart {
            Restart::Always => true,
            Restart::OnFailure => has_failed,
            Restart::Never => false,
        };
        if again && !child.is_unwanted {
            self.rest(index, since.elapsed());
        }
        if let Some(peer) = peer {
            self.let_go(peer);
        }
    }

    fn rest(&mut self, index: usize, lasted: Duration) {
        let child = &mut self.children[index];
        child.stage = Stage::Due(child.backoff.after(lasted));
    }

    /// A program is not wanted any more.
    fn retire(&mut self, index: usize) {
        let child = &mut self.children[index];
        if std::mem::replace(&mut child.is_unwanted, true) {
            return;
        }
        info!(program = child.asked.shown(), "running it no more");
        if let Some(peer) = child.process().and_then(|process| process.peer) {
            self.let_go(peer);
        }
        self.schedule_end(index);
    }

    fn schedule_end(&mut self, index: usize) {
        let child = &mut self.children[index];
        let patience = match child.asked.dialect.reply.is_empty() {
            true => Duration::ZERO,
            false => self.config.daemon.drain_timeout.duration() / 2,
        };
        if let Some(process) = child.process_mut().filter(|process| process.exit.is_none()) {
            // Without a peer nothing is on its way to it.
            let patience = if process.peer.is_some() { patience } else { Duration::ZERO };
            process.next = Some((Instant::now() + patience, Step::Terminate));
        }
    }

    /// Listens to a program's standard error, or not for now.
    fn arm_stderr(&mut self, index: usize) {
        let child = &mut self.children[index];
        let data = FIRST_STDERR + child.number as u64;
        let Some(process) = child.process_mut() else { return };
        process.stderr.arm(&self.epoll, data);
    }
}

fn pipe() -> Result<(OwnedFd, OwnedFd), Error> {
    pipe2(OFlag::O_CLOEXEC).map_err(|error: Errno| Error::system("make a standard stream", error))
}

fn duplicate(fd: &OwnedFd) -> Result<OwnedFd, Error> {
    fd.try_clone().map_err(|error| Error::system("duplicate a descriptor", error))
}
