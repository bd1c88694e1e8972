//! Signals as something to wait for: those that end the relay, and the end of children.

use std::os::fd::{AsFd, BorrowedFd};

use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::Result;

/// The signals at which the relay ends, besides HUP.
const ENDING: [Signal; 2] = [Signal::SIGTERM, Signal::SIGINT];

pub(crate) struct Signals(SignalFd);

/// What has come.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Heard {
    /// Whether the relay is to end.
    pub(crate) ends: bool,
    /// Whether a child may have ended.
    pub(crate) child: bool,
}

impl Signals {
    /// From now on, these signals are only noted. HUP stays ignored if it was, as nohup(1) wants it:
    /// a signal that is blocked comes also when it is ignored.
    pub(crate) fn new() -> Result<Self> {
        let mut mask: SigSet = ENDING.into_iter().collect();
        mask.add(Signal::SIGCHLD);
        if !is_ignored(Signal::SIGHUP) {
            mask.add(Signal::SIGHUP);
        }
        mask.thread_block()?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        Ok(Self(SignalFd::with_flags(&mask, flags)?))
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    pub(crate) fn hear(&self) -> Heard {
        let mut heard = Heard::default();
        while let Ok(Some(signal)) = self.0.read_signal() {
            match signal.ssi_signo as i32 {
                number if number == Signal::SIGCHLD as i32 => heard.child = true,
                _ => heard.ends = true,
            }
        }
        heard
    }
}

/// Whether whoever started us ignores a signal (proc_pid_status(5)).
fn is_ignored(signal: Signal) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask >> (signal as i32 - 1) & 1 == 1)
}

/// The next child that has ended.
pub(crate) fn reap() -> Option<(Pid, WaitStatus)> {
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Err(Errno::EINTR) => {}
            Ok(WaitStatus::StillAlive) | Err(_) => return None,
            Ok(status) => {
                if let Some(pid) = status.pid()
                    && matches!(status, WaitStatus::Exited(..) | WaitStatus::Signaled(..))
                {
                    return Some((pid, status));
                }
            }
        }
    }
}
