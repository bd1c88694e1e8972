//! Processes of a measurement: forked, alone with their descriptors, and ended with their owner.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl::{set_name, set_pdeathsig};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

/// How long anything may take before the measurement is given up.
pub(crate) const WATCHDOG: Duration = Duration::from_secs(120);

/// How long a process that was told to end may take.
const ENDING: Duration = Duration::from_secs(10);
const ENDING_STEP: Duration = Duration::from_micros(200);

/// A forked process, told to end when this is dropped.
#[derive(Debug)]
pub(crate) struct Child {
    pid: Pid,
    is_reaped: bool,
}

impl Child {
    /// Forks a process that has only these descriptors and runs `body`. The name tells it and its
    /// children apart in a profile.
    pub(crate) fn start(
        name: &CStr,
        keep: &[BorrowedFd<'_>],
        body: impl FnOnce() -> io::Result<()>,
    ) -> io::Result<Self> {
        let pid = ipcd_sys::fork(|| match alone(name, keep).and_then(|()| body()) {
            Ok(()) => 0,
            Err(error) => {
                eprintln!("{error}");
                1
            }
        })?;
        Ok(Self { pid, is_reaped: false })
    }

    pub(crate) fn id(&self) -> u32 {
        self.pid.as_raw() as u32
    }

    /// Waits for the process, which is about to end.
    pub(crate) fn join(mut self) -> io::Result<()> {
        let status = waitpid(self.pid, None)?;
        self.is_reaped = true;
        match status {
            WaitStatus::Exited(_, 0) => Ok(()),
            status => Err(io::Error::other(format!("a process ended with {status:?}"))),
        }
    }
}

impl Drop for Child {
    /// A daemon reaps its worker before it ends, so it is asked to before it is forced to.
    fn drop(&mut self) {
        if self.is_reaped {
            return;
        }
        end(self.pid);
    }
}

/// Ends a child: by asking it to, and after a while by force.
pub(crate) fn end(pid: Pid) {
    // A failure of either signal means that it has gone already.
    let _ = kill(pid, Signal::SIGTERM);
    let deadline = Instant::now() + ENDING;
    while let Ok(WaitStatus::StillAlive) = waitpid(pid, Some(WaitPidFlag::WNOHANG)) {
        if Instant::now() >= deadline {
            let _ = kill(pid, Signal::SIGKILL);
        }
        thread::sleep(ENDING_STEP);
    }
}

fn alone(name: &CStr, keep: &[BorrowedFd<'_>]) -> io::Result<()> {
    set_name(name)?;
    set_pdeathsig(Signal::SIGKILL)?;
    ipcd_sys::close_all_except(keep)
}

/// Waits until the descriptor is readable, or at its end.
pub(crate) fn await_readable(fd: &impl AsFd, what: &str) -> io::Result<()> {
    let timeout = PollTimeout::try_from(WATCHDOG).map_err(io::Error::other)?;
    loop {
        match poll(&mut [PollFd::new(fd.as_fd(), PollFlags::POLLIN)], timeout) {
            Ok(0) => return Err(io::Error::new(io::ErrorKind::TimedOut, format!("no {what}"))),
            Ok(_) => return Ok(()),
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
