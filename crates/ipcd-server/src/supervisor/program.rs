//! One program of `[[exec]]`: its process, and how far it has come.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use ipcd_transport::{ChannelParts, PeerIdentity};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::epoll::Epoll;
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::{Pid, getegid, geteuid, pipe2};
use tracing::{info, warn};

use crate::Error;
use crate::backoff::Backoff;
use crate::coprocess::{self, ProgramLaunch};
use crate::exec::{ExecConfig, RestartPolicy};
use crate::ids::{AdmissionId, OwnerId};
use crate::link::Link;
use crate::privileges;
use crate::supervisor::event_source::{EventSource, watch};
use crate::supervisor::line_reader::{LineReader, ReadBounds, StderrPiece};
use crate::values::RetryPauses;

/// Pauses before a program is started again.
const PAUSES: RetryPauses =
    RetryPauses { first: Duration::from_secs(1), longest: Duration::from_secs(60) };
/// The time that a program has to end by itself after its session, and then after TERM.
const GRACE: Duration = Duration::from_secs(2);
/// The part of a program's standard error that goes to the log.
const STDERR: ReadBounds = ReadBounds { line_bytes: 1024, lines: 100, bytes: 256 * 1024 };

/// A program, and how far it has come.
pub(super) struct Program {
    pub(super) owner: OwnerId,
    pub(super) config: ExecConfig,
    backoff: Backoff,
    state: ProgramState,
    /// Why it could not be started. The log says it once.
    failure: Option<String>,
    /// Whether it is to end for good.
    pub(super) is_unwanted: bool,
}

enum ProgramState {
    /// It starts at this time.
    Due(Instant),
    /// It runs, or its peer or its last output is still there.
    Running(Box<ProgramProcess>),
    /// It has ended and is not started again.
    Over,
}

struct ProgramProcess {
    pid: Pid,
    since: Instant,
    stderr: LineReader,
    /// Until exec(2) is done: the link that tells of it, and our ends of its pipes.
    launch: Option<(Link, ChannelParts)>,
    /// Keeps the pipe open that ends with the process, where its standard output is not published.
    hold: Option<OwnedFd>,
    /// Its peer, while that is there.
    peer: Option<AdmissionId>,
    /// Whether the daemon has ended the session.
    was_cut_off: bool,
    exit: Option<ProcessExit>,
    next: Option<(Instant, EndStep)>,
}

/// The end of a process.
#[derive(Clone, Copy)]
pub(super) struct ProcessExit {
    pub(super) status: i32,
    pub(super) signal: Option<Signal>,
}

/// The next thing to do about a process that is to end.
#[derive(Clone, Copy)]
enum EndStep {
    Terminate,
    Kill,
    /// It has ended, but a descendant still holds its pipes.
    Settle,
}

/// The outcome of exec(2).
pub(super) enum LaunchOutcome {
    /// Not known yet.
    Pending,
    /// The program runs; these are our ends of its pipes.
    Started(ChannelParts),
}

impl Program {
    pub(super) fn new(owner: OwnerId, config: ExecConfig) -> Self {
        let (backoff, state) = (Backoff::new(PAUSES), ProgramState::Due(Instant::now()));
        Self { owner, config, backoff, state, failure: None, is_unwanted: false }
    }

    /// The time at which something is due.
    pub(super) fn next(&self) -> Option<Instant> {
        match &self.state {
            ProgramState::Due(at) => Some(*at),
            ProgramState::Running(process) => {
                let step = process.next.map(|(at, _)| at);
                step.into_iter().chain(process.stderr.next()).min()
            }
            ProgramState::Over => None,
        }
    }

    /// Whether it is to be started.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        matches!(self.state, ProgramState::Due(at) if at <= now)
    }

    /// Its process, until that has been waited for.
    pub(super) fn pid(&self) -> Option<Pid> {
        self.process().filter(|process| process.exit.is_none()).map(|process| process.pid)
    }

    pub(super) fn peer(&self) -> Option<AdmissionId> {
        self.process().and_then(|process| process.peer)
    }

    /// Whether it has a process, or something that a process has left.
    pub(super) fn is_running(&self) -> bool {
        self.process().is_some()
    }

    /// Whether exec(2) is still to come, or no process is there.
    pub(super) fn is_before_exec(&self) -> bool {
        self.process().is_none_or(|process| process.launch.is_some())
    }

    /// Sends a signal to the program and to everything in its process group.
    pub(super) fn signal(&self, signal: Signal) {
        let Some(pid) = self.pid() else { return };
        // Until setsid(2) it has no group of its own, and is alone.
        if killpg(pid, signal).is_err() {
            let _ = kill(pid, signal);
        }
    }

    pub(super) fn start(&mut self, user: Option<privileges::UserSwitch>, epoll: &Epoll) {
        match self.fork(user, epoll) {
            Ok(process) => {
                self.state = ProgramState::Running(Box::new(process));
                self.arm_stderr(epoll);
            }
            Err(error) => {
                self.note_failure(&error.to_string());
                self.pause(Duration::ZERO);
            }
        }
    }

    /// Reads whether exec(2) has gone well.
    pub(super) fn read_launch(&mut self) -> LaunchOutcome {
        let Some(process) = self.process_mut() else { return LaunchOutcome::Pending };
        let Some((link, _)) = &mut process.launch else { return LaunchOutcome::Pending };
        match coprocess::read_launch(link) {
            None => return LaunchOutcome::Pending,
            // The child ends by itself.
            Some(Err(why)) => {
                process.launch = None;
                self.note_failure(&why);
                return LaunchOutcome::Pending;
            }
            Some(Ok(())) => {}
        }
        let Some((_, parts)) = process.launch.take() else { return LaunchOutcome::Pending };
        let pid = process.pid.as_raw();
        info!(program = self.config.display_name(), pid, "program started");
        self.failure = None;
        if self.is_unwanted {
            self.signal(Signal::SIGKILL);
            return LaunchOutcome::Pending;
        }
        LaunchOutcome::Started(parts)
    }

    /// The outcome of admitting its pipes as a peer.
    pub(super) fn set_peer(&mut self, peer: Option<AdmissionId>) {
        if peer.is_none() {
            self.note_failure("no worker can take it now");
            self.signal(Signal::SIGKILL);
        }
        if let Some(process) = self.process_mut() {
            process.peer = peer;
        }
    }

    /// Its peer has gone: the program has closed its output, or the daemon has cut it off. Nothing
    /// reaches it any more, so it is to end now.
    pub(super) fn lose_peer(&mut self, gone: AdmissionId, was_cut_off: bool, epoll: &Epoll) {
        let Some(process) = self.process_mut().filter(|process| process.peer == Some(gone)) else {
            return;
        };
        process.peer = None;
        process.was_cut_off |= was_cut_off;
        match process.exit {
            Some(exit) => drop(self.settle(exit, epoll)),
            None if process.next.is_none() => {
                process.next = Some((Instant::now() + GRACE, EndStep::Terminate));
            }
            None => {}
        }
    }

    /// Its process has ended. It is settled only when its peer has gone, too: until then it is not
    /// known whether the daemon has cut it off.
    pub(super) fn note_exit(&mut self, exit: ProcessExit, epoll: &Epoll) {
        let Some(process) = self.process_mut() else { return };
        (process.exit, process.hold) = (Some(exit), None);
        match process.peer {
            None => drop(self.settle(exit, epoll)),
            Some(_) => process.next = Some((Instant::now() + GRACE, EndStep::Settle)),
        }
    }

    /// Reads standard error again if it said too much, and takes the next step to the end if that is
    /// due. The peer whose session has to end with it.
    #[must_use]
    pub(super) fn tick(&mut self, now: Instant, epoll: &Epoll) -> Option<AdmissionId> {
        let process = self.process_mut()?;
        let is_due = process.next.is_some_and(|(at, _)| at <= now);
        if process.stderr.next().is_some_and(|at| at <= now) {
            self.read_stderr(now, epoll);
        }
        if is_due { self.take_step(now, epoll) } else { None }
    }

    pub(super) fn read_stderr(&mut self, now: Instant, epoll: &Epoll) {
        if let ProgramState::Running(process) = &mut self.state {
            let heard = process.stderr.read(now);
            log_stderr(self.config.display_name(), process.pid, heard);
        }
        self.arm_stderr(epoll);
    }

    /// Has its process end: at once, or after `patience` if messages may still be on their way to it.
    pub(super) fn schedule_end(&mut self, patience: Duration) {
        let reads_nothing = self.config.raw_profile.reply.is_empty();
        if let Some(process) = self.process_mut().filter(|process| process.exit.is_none()) {
            let waits = !reads_nothing && process.peer.is_some();
            let patience = if waits { patience } else { Duration::ZERO };
            process.next = Some((Instant::now() + patience, EndStep::Terminate));
        }
    }

    fn process(&self) -> Option<&ProgramProcess> {
        match &self.state {
            ProgramState::Running(process) => Some(process),
            _ => None,
        }
    }

    fn process_mut(&mut self) -> Option<&mut ProgramProcess> {
        match &mut self.state {
            ProgramState::Running(process) => Some(process),
            _ => None,
        }
    }

    fn fork(
        &self,
        user: Option<privileges::UserSwitch>,
        epoll: &Epoll,
    ) -> Result<ProgramProcess, Error> {
        let failed = |error| Error::system("start a program", error);
        let (link, far_end) = Link::pair().map_err(failed)?;
        let (stdin, to_child) = pipe()?;
        let (from_child, stdout) = pipe()?;
        let (our_stderr, stderr) = pipe()?;
        // The flag belongs to the open file description, and each end of a pipe has its own: the
        // program's end stays blocking, as programs expect.
        fcntl(&our_stderr, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))
            .map_err(|error| failed(error.into()))?;
        watch(epoll, &link, EventSource::ProgramLaunch(self.owner))?;
        // Output that is not published goes to the log, too. The program may close it, so another
        // pipe tells when the process has ended.
        let (stdout, hold) = match self.config.raw_profile.subject {
            Some(_) => (stdout, None),
            None => (duplicate(&stderr)?, Some(stdout)),
        };
        let launch = ProgramLaunch {
            link: far_end,
            supervisor: Pid::this(),
            user,
            exec: &self.config,
            stdin: &stdin,
            stdout: &stdout,
            stderr: &stderr,
        };
        let pid = ipcd_sys::fork(|| coprocess::main(launch)).map_err(failed)?;
        let descriptors = vec![from_child, to_child];
        let parts =
            ChannelParts { descriptors, identity: identity_of(pid, user), state: Vec::new() };
        Ok(ProgramProcess {
            pid,
            since: Instant::now(),
            stderr: LineReader::new(our_stderr, STDERR),
            launch: Some((link, parts)),
            hold,
            peer: None,
            was_cut_off: false,
            exit: None,
            next: None,
        })
    }

    fn note_failure(&mut self, why: &str) {
        if self.failure.as_deref() != Some(why) {
            let command = &self.config.command[0];
            warn!(program = self.config.display_name(), command, why, "program not started");
            self.failure = Some(why.to_owned());
        }
    }

    fn take_step(&mut self, now: Instant, epoll: &Epoll) -> Option<AdmissionId> {
        let process = self.process_mut()?;
        let (_, step) = process.next.take()?;
        match (step, process.exit) {
            (EndStep::Terminate, None) => {
                process.next = Some((now + GRACE, EndStep::Kill));
                self.signal(Signal::SIGTERM);
                None
            }
            (EndStep::Kill, None) => {
                let (program, pid) = (self.config.display_name(), self.pid().map(Pid::as_raw));
                warn!(program, pid, "program does not end: killing it");
                self.signal(Signal::SIGKILL);
                None
            }
            (_, Some(exit)) => self.settle(exit, epoll),
            (EndStep::Settle, None) => None,
        }
    }

    /// Decides what becomes of the program after a process. The peer that is still there, whose
    /// session has to end.
    fn settle(&mut self, exit: ProcessExit, epoll: &Epoll) -> Option<AdmissionId> {
        let state = std::mem::replace(&mut self.state, ProgramState::Over);
        let ProgramState::Running(process) = state else { return None };
        let ProgramProcess { pid, since, mut stderr, peer, was_cut_off, .. } = *process;
        let ProcessExit { status, signal } = exit;
        // A descendant may hold the other end, and the pipe would stay in epoll.
        stderr.disarm(epoll);
        log_stderr(self.config.display_name(), pid, stderr.finish());
        let has_failed = was_cut_off || status != 0 || signal.is_some();
        // Of one that was never started the log has told why already.
        if self.failure.is_none() {
            let signal = signal.map(Signal::as_str);
            let (program, pid) = (self.config.display_name(), pid.as_raw());
            // One that the daemon has ended has not failed, whatever its status.
            match has_failed && !self.is_unwanted {
                true => warn!(program, pid, status, signal, was_cut_off, "program failed"),
                false => info!(program, pid, status, signal, "program ended"),
            }
        }
        let again = match self.config.restart {
            RestartPolicy::Always => true,
            RestartPolicy::OnFailure => has_failed,
            RestartPolicy::Never => false,
        };
        if again && !self.is_unwanted {
            self.pause(since.elapsed());
        }
        peer
    }

    fn pause(&mut self, lasted: Duration) {
        self.state = ProgramState::Due(self.backoff.after(lasted));
    }

    /// Has epoll watch standard error, unless it has said too much for now.
    fn arm_stderr(&mut self, epoll: &Epoll) {
        let source = EventSource::ProgramStderr(self.owner);
        if let Some(process) = self.process_mut() {
            process.stderr.arm(epoll, source);
        }
    }
}

/// The identity that a program's peer has: its process, and the user that it runs as.
fn identity_of(pid: Pid, user: Option<privileges::UserSwitch>) -> PeerIdentity {
    let own = || (geteuid().as_raw(), getegid().as_raw());
    let (uid, gid) = user.map_or_else(own, |user| user.ids());
    let pid = Some(pid.as_raw() as u32);
    PeerIdentity { pid, uid: Some(uid), gid: Some(gid), ..PeerIdentity::default() }
}

fn log_stderr(program: &str, pid: Pid, heard: Vec<StderrPiece>) {
    let pid = pid.as_raw();
    for heard in heard {
        match heard {
            StderrPiece::Line(line) => info!(program, pid, line, "program says"),
            StderrPiece::Dropped(lines) => {
                warn!(program, pid, lines, "lines of its standard error were dropped");
            }
        }
    }
}

fn pipe() -> Result<(OwnedFd, OwnedFd), Error> {
    pipe2(OFlag::O_CLOEXEC).map_err(|error: Errno| Error::system("make a standard stream", error))
}

fn duplicate(fd: &OwnedFd) -> Result<OwnedFd, Error> {
    fd.try_clone().map_err(|error| Error::system("duplicate a descriptor", error))
}
