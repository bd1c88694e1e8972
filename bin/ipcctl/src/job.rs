//! One run of a handler: a child in a session of its own. It gets the payload on standard input, and
//! its output is read within limits of size and time.
//!
//! Nothing here waits: [`crate::jobs`] watches the descriptors, and a job advances when one of them is
//! ready. The child is reaped only after its process group was killed: the child's number is the
//! group's, and once reaped, the kernel may give it to another process.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use ipcd_client::Message;
use ipcd_server::TimeSpan;
use ipcd_sys::inherited::{CommandPlace, prepare};
use ipcd_transport::later;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::{Signal, kill, killpg};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::{Pid, pipe2};

/// The time that output of processes which outlive the child is waited for.
const GRACE: Duration = Duration::from_millis(500);
/// Bytes that are read at once.
const READ_BYTES: usize = 64 * 1024;
/// Reads in a turn, so that one busy child does not keep the others waiting.
const READS: usize = 16;

/// The status of a handler that took too long, as for timeout(1).
pub(crate) const TIMED_OUT: u8 = 124;
/// The status of a handler that wrote too much.
pub(crate) const TOO_MUCH: u8 = 125;
/// The status of a handler that could not be started, as in a shell.
const NOT_STARTED: u8 = 126;
/// The status of a handler that was removed after the start, as in a shell.
const NOT_FOUND: u8 = 127;
/// Added to the number of the signal that killed a child, as in a shell.
const SIGNALLED: i32 = 128;
/// The status of a child that was killed by a signal without a name.
const UNKNOWN_SIGNAL: u8 = 255;

/// The use of the output.
#[derive(Clone, Copy, Debug)]
pub(crate) enum OutputMode {
    /// The child writes to the standard output of this process.
    Shared,
    /// The output is gathered, up to this many bytes. At the end the process group is killed.
    Gathered(usize),
}

/// The limits of every run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct JobLimits {
    pub(crate) output: OutputMode,
    pub(crate) time: Option<Duration>,
}

/// The result of a run.
#[derive(Debug)]
pub(crate) struct JobResult {
    pub(crate) message: Message,
    /// The exit status; 0 only for success.
    pub(crate) status: u8,
    /// The reason for a failure that the status alone does not tell. Then there is no output.
    pub(crate) error: Option<String>,
    pub(crate) output: Vec<u8>,
}

/// A run that has not ended.
pub(crate) struct HandlerJob {
    message: Message,
    bounds: JobLimits,
    child: Pid,
    input: Option<File>,
    /// Bytes of the payload that are written to the child's standard input.
    fed: usize,
    output: Option<File>,
    gathered: Vec<u8>,
    deadline: Option<Instant>,
    /// The exit status of the child, and the time at which it was noticed.
    exited: Option<(u8, Instant)>,
}

impl HandlerJob {
    /// Starts the command.
    ///
    /// # Errors
    /// The result of the run, if the command cannot be started.
    pub(crate) fn start(
        command: Command,
        message: Message,
        bounds: JobLimits,
        now: Instant,
    ) -> Result<Self, Box<JobResult>> {
        match spawn_child(command, bounds.output) {
            Ok((child, input, output)) => Ok(Self {
                message,
                bounds,
                child,
                input: Some(input),
                fed: 0,
                output,
                gathered: Vec::new(),
                deadline: bounds.time.map(|time| later(now, time)),
                exited: None,
            }),
            Err(error) => {
                let is_gone = error.kind() == ErrorKind::NotFound;
                let status = if is_gone { NOT_FOUND } else { NOT_STARTED };
                let error = Some(format!("the command cannot be started: {error}"));
                Err(Box::new(JobResult { message, status, error, output: Vec::new() }))
            }
        }
    }

    /// The descriptors to watch: one for writing, and one for reading.
    pub(crate) fn descriptors(&self) -> (Option<&File>, Option<&File>) {
        (self.input.as_ref(), self.output.as_ref())
    }

    /// The time at which the job has to advance, even if no descriptor is ready.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.exited.map(|(_, since)| later(since, GRACE)).or(self.deadline)
    }

    /// Does as much as is possible without waiting. Returns whether the run is over.
    pub(crate) fn advance(&mut self, now: Instant) -> bool {
        self.feed_input();
        self.gather_output();
        if self.exited.is_none()
            && let Some(status) = exit_status_of(self.child)
        {
            self.exited = Some((status, now));
            // The rest of the payload was for the child. A process that it left behind must not read
            // it, and our end must not keep that one's standard input open.
            self.input = None;
            self.gather_output();
        }
        let is_late = self.deadline().is_some_and(|deadline| deadline <= now);
        let is_complete = self.exited.is_some() && self.output.is_none();
        is_complete || is_late || self.has_too_much()
    }

    /// Ends the run. Returns the child, which has to be reaped, and the result.
    pub(crate) fn end(self) -> (Pid, JobResult) {
        // With shared output, processes that the handler left in the background go on: a script may
        // start a server. With gathered output they would hold the pipe of a finished reply.
        if self.exited.is_none() || matches!(self.bounds.output, OutputMode::Gathered(_)) {
            self.kill();
        }
        let (status, error) = match (self.exited, self.bounds) {
            (_, JobLimits { output: OutputMode::Gathered(most), .. }) if self.has_too_much() => {
                (TOO_MUCH, Some(format!("the output has more than {most} bytes")))
            }
            (Some((status, _)), _) => (status, None),
            (None, bounds) => {
                let time = TimeSpan::new(bounds.time.unwrap_or_default());
                (TIMED_OUT, Some(format!("timed out after {time}")))
            }
        };
        let output = if error.is_none() { self.gathered } else { Vec::new() };
        (self.child, JobResult { message: self.message, status, error, output })
    }

    /// Kills the child and its group.
    pub(crate) fn kill(&self) {
        // Both may have ended. The child is not reaped, so the numbers still belong to it.
        // The child may have left its group (setpgid(2)), so it gets a signal of its own.
        let _ = killpg(self.child, Signal::SIGKILL);
        let _ = kill(self.child, Signal::SIGKILL);
    }

    fn has_too_much(&self) -> bool {
        matches!(self.bounds.output, OutputMode::Gathered(most) if self.gathered.len() > most)
    }

    /// Writes the rest of the payload. A child need not read it.
    fn feed_input(&mut self) {
        let Some(input) = &mut self.input else { return };
        let mut left = &self.message.payload()[self.fed..];
        while !left.is_empty() {
            match input.write(left) {
                Ok(count) => left = &left[count..],
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                // EPIPE: the handler has closed its standard input. It has what it wants.
                Err(_) => left = &[],
            }
        }
        self.fed = self.message.payload().len() - left.len();
        if left.is_empty() {
            self.input = None;
        }
    }

    /// Reads the output that is there.
    fn gather_output(&mut self) {
        let mut chunk = [0; READ_BYTES];
        for _ in 0..READS {
            let Some(output) = &mut self.output else { return };
            match output.read(&mut chunk) {
                Ok(0) => self.output = None,
                Ok(count) => self.gathered.extend_from_slice(&chunk[..count]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(_) => self.output = None,
            }
            // Checked after each read, so that at most one read beyond the limit is in memory.
            if self.has_too_much() {
                return;
            }
        }
    }
}

/// The exit status of a child that has ended. WNOWAIT leaves it to be reaped later (waitid(2)).
fn exit_status_of(child: Pid) -> Option<u8> {
    let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    match waitid(Id::Pid(child), flags) {
        Ok(WaitStatus::Exited(_, status)) => Some(u8::try_from(status).unwrap_or(u8::MAX)),
        Ok(WaitStatus::Signaled(_, signal, _)) => {
            Some(u8::try_from(SIGNALLED + signal as i32).unwrap_or(UNKNOWN_SIGNAL))
        }
        Ok(_) => None,
        // nix fails here for real-time signals, which it has no names for.
        Err(_) => Some(UNKNOWN_SIGNAL),
    }
}

/// Starts the command. Returns its number, and our ends of its standard input and output.
fn spawn_child(mut command: Command, output: OutputMode) -> io::Result<(Pid, File, Option<File>)> {
    let (their_input, our_input) = pipe()?;
    let our_input = set_nonblocking(our_input)?;
    command.stdin(Stdio::from(their_input));
    let mut our_output = None;
    if let OutputMode::Gathered(_) = output {
        let (ours, theirs) = pipe()?;
        command.stdout(Stdio::from(theirs));
        our_output = Some(set_nonblocking(ours)?);
    }
    prepare(&mut command, CommandPlace::Session, true);
    let child = command.spawn()?;
    Ok((Pid::from_raw(child.id() as i32), our_input, our_output))
}

fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(pipe2(OFlag::O_CLOEXEC)?)
}

/// Makes our end of a pipe non-blocking. Each end has its own flags (pipe(7)), so the handler's end
/// still blocks, as programs expect.
fn set_nonblocking(fd: OwnedFd) -> io::Result<File> {
    let set = fcntl(fd.as_fd(), FcntlArg::F_SETFL(OFlag::O_NONBLOCK));
    set.map_err(io::Error::from)?;
    Ok(File::from(fd))
}
