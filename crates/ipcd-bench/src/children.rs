//! The processes of one measurement. They are forked, report that they are ready, start together,
//! report their findings, and end.
//!
//! The parent only coordinates. Each of its waits has a deadline and ends with a signal.

use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use ipcd_sys::inherited::ending;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::prctl::{set_name, set_pdeathsig, set_timerslack};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::job::ProcessFindings;

/// The time limit for everything except measuring.
pub(crate) const WATCHDOG: Duration = Duration::from_secs(20);

/// The time that a process may take to end after TERM, before KILL.
const ENDING: Duration = Duration::from_secs(10);
const ENDING_STEP: Duration = Duration::from_micros(200);

/// A process writes this when it is ready.
const READY: u8 = b'R';
/// Tells the process to begin, and later to end.
const GO: [u8; 1] = [b'G'];

/// The signals that end a measurement. They are blocked, so that the parent can clean up first.
pub(crate) struct InterruptSignals {
    signals: SignalFd,
}

impl InterruptSignals {
    pub(crate) fn catch() -> io::Result<Self> {
        let set = ending();
        set.thread_block()?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        Ok(Self { signals: SignalFd::with_flags(&set, flags)? })
    }

    /// Fails if a signal has come.
    pub(crate) fn check(&self) -> io::Result<()> {
        match self.signals.read_signal()? {
            None => Ok(()),
            Some(about) => Err(interrupted(about.ssi_signo as i32)),
        }
    }

    /// Waits until one of these is readable or at its end, or a signal has come.
    fn wait(&self, pipes: &[&PipeReader], deadline: Instant) -> io::Result<Vec<bool>> {
        loop {
            let mut fds = vec![PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)];
            fds.extend(pipes.iter().map(|pipe| PollFd::new(pipe.as_fd(), PollFlags::POLLIN)));
            let left = deadline.saturating_duration_since(Instant::now());
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            match poll(&mut fds, timeout) {
                Ok(0) => return Err(io::ErrorKind::TimedOut.into()),
                Ok(_) => {
                    self.check()?;
                    return Ok(fds[1..].iter().map(|fd| fd.any().unwrap_or(false)).collect());
                }
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Ends this process by the signal that it had been kept from.
    pub(crate) fn die_of(signal: Signal) -> io::Error {
        let mut set = SigSet::empty();
        set.add(signal);
        let outcome = set.thread_unblock().and_then(|()| nix::sys::signal::raise(signal));
        outcome.map_or_else(io::Error::from, |()| interrupted(signal as i32))
    }
}

/// A measurement was told to end.
#[derive(Debug, thiserror::Error)]
#[error("interrupted by {0}")]
pub struct Interrupted(pub Signal);

fn interrupted(number: i32) -> io::Error {
    let signal = Signal::try_from(number).unwrap_or(Signal::SIGTERM);
    io::Error::new(io::ErrorKind::Interrupted, Interrupted(signal))
}

/// Forks a process that dies with this one.
pub(crate) fn fork(
    name: &std::ffi::CStr,
    body: impl FnOnce() -> io::Result<()>,
) -> io::Result<ForkedChild> {
    let pid = ipcd_sys::fork(|| {
        let outcome = set_pdeathsig(Signal::SIGKILL)
            // The parent blocks signals so that it can clean up. Its children have to end by them.
            .and_then(|()| SigSet::empty().thread_set_mask())
            .and_then(|()| set_name(name))
            .map_err(io::Error::from)
            .and_then(|()| body());
        match outcome {
            Ok(()) => 0,
            Err(error) => {
                eprintln!("{}: {error}", name.to_string_lossy());
                1
            }
        }
    })?;
    Ok(ForkedChild(pid))
}

/// A forked process, ended when this is dropped.
#[derive(Debug)]
pub(crate) struct ForkedChild(Pid);

impl ForkedChild {
    pub(crate) fn process(&self) -> u32 {
        self.0.as_raw() as u32
    }
}

impl Drop for ForkedChild {
    /// A daemon reaps its workers before it ends, so it is asked to before it is forced to.
    fn drop(&mut self) {
        // A signal can fail only because the process has ended already.
        let _ = kill(self.0, Signal::SIGTERM);
        let deadline = Instant::now() + ENDING;
        while let Ok(WaitStatus::StillAlive) = waitpid(self.0, Some(WaitPidFlag::WNOHANG)) {
            if Instant::now() >= deadline {
                let _ = kill(self.0, Signal::SIGKILL);
            }
            std::thread::sleep(ENDING_STEP);
        }
    }
}

/// Waits in a child until all are ready.
pub(crate) type StartSignal<'a> = dyn FnMut() -> io::Result<()> + 'a;

/// The processes of one measurement.
#[derive(Default)]
pub(crate) struct ProcessTeam {
    members: Vec<TeamMember>,
}

struct TeamMember {
    _child: ForkedChild,
    orders: PipeWriter,
    reports: PipeReader,
    heard: Vec<u8>,
    findings: Option<ProcessFindings>,
}

impl ProcessTeam {
    /// Adds a process. Its body opens its connections, calls the function that it is given, and
    /// then measures.
    pub(crate) fn add(
        &mut self,
        name: &std::ffi::CStr,
        core: Option<usize>,
        body: impl FnOnce(&mut StartSignal<'_>) -> io::Result<ProcessFindings>,
    ) -> io::Result<()> {
        let (mut from_parent, orders) = io::pipe()?;
        let (reports, mut to_parent) = io::pipe()?;
        let child = fork(name, || {
            let mut start = || {
                to_parent.write_all(&[READY])?;
                from_parent.read_exact(&mut [0])
            };
            let found = prepare(core).and_then(|()| body(&mut start));
            let mut report = serde_json::to_vec(&found.map_err(|error| error.to_string()))?;
            report.push(b'\n');
            to_parent.write_all(&report)?;
            // Another process may still read from this one's connections, so this one stays until
            // it is told to end.
            from_parent.read_exact(&mut [0])
        })?;
        let (heard, findings) = (Vec::new(), None);
        self.members.push(TeamMember { _child: child, orders, reports, heard, findings });
        Ok(())
    }

    /// Starts all processes once each is ready, waits for their findings, and lets them end.
    /// Getting ready may take `grace`, and measuring `limit` and `grace`.
    pub(crate) fn run(
        mut self,
        interrupts: &InterruptSignals,
        grace: Duration,
        limit: Duration,
    ) -> io::Result<Vec<ProcessFindings>> {
        let mut deadline = Instant::now() + grace;
        let is_ready = |member: &TeamMember| member.heard.first() == Some(&READY);
        while !self.members.iter().all(is_ready) {
            self.hear(interrupts, deadline, "to be ready")?;
        }
        self.tell()?;
        deadline = Instant::now() + limit + grace;
        while self.members.iter().any(|member| member.findings.is_none()) {
            self.hear(interrupts, deadline, "to end")?;
        }
        self.tell()?;
        Ok(self.members.into_iter().filter_map(|member| member.findings).collect())
    }

    fn tell(&mut self) -> io::Result<()> {
        self.members.iter_mut().try_for_each(|member| member.orders.write_all(&GO))
    }

    fn hear(
        &mut self,
        interrupts: &InterruptSignals,
        deadline: Instant,
        what: &str,
    ) -> io::Result<()> {
        let waiting: Vec<usize> = (0..self.members.len())
            .filter(|&index| self.members[index].findings.is_none())
            .collect();
        let pipes: Vec<&PipeReader> =
            waiting.iter().map(|&index| &self.members[index].reports).collect();
        let ready = interrupts.wait(&pipes, deadline).map_err(|error| match error.kind() {
            io::ErrorKind::TimedOut => {
                io::Error::other(format!("timed out waiting for a measuring process {what}"))
            }
            _ => error,
        })?;
        for (index, is_ready) in waiting.into_iter().zip(ready) {
            if is_ready {
                self.members[index].hear()?;
            }
        }
        Ok(())
    }
}

impl TeamMember {
    fn hear(&mut self) -> io::Result<()> {
        let mut bytes = [0; 65536];
        match self.reports.read(&mut bytes)? {
            0 => return Err(io::Error::other("a measuring process has ended early")),
            count => self.heard.extend_from_slice(&bytes[..count]),
        }
        if self.heard.last() != Some(&b'\n') {
            return Ok(());
        }
        let json = self.heard.strip_prefix(&[READY]).unwrap_or(&self.heard);
        let found: Result<ProcessFindings, String> = serde_json::from_slice(json)?;
        self.findings = Some(found.map_err(io::Error::other)?);
        Ok(())
    }
}

fn prepare(core: Option<usize>) -> io::Result<()> {
    // Timers of a normal process may be late by 50 µs on purpose (prctl(2)).
    set_timerslack(1)?;
    core.map_or(Ok(()), |core| pin(Pid::this(), &[core]))
}

/// Lets a process run on these cores only.
pub(crate) fn pin(process: Pid, cores: &[usize]) -> io::Result<()> {
    let mut set = CpuSet::new();
    cores.iter().try_for_each(|&core| set.set(core))?;
    Ok(sched_setaffinity(process, &set)?)
}
