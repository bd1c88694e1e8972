//! Signals as events: those that end the relay, and the end of children.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::Instant;

use ipcd_sys::ONE_STOP;
use ipcd_sys::inherited::is_ignored;
use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::Result;

/// The signals at which the relay ends, besides HUP.
const ENDING: [Signal; 2] = [Signal::SIGTERM, Signal::SIGINT];

pub(crate) struct SignalWatch {
    came: SignalFd,
    /// The time of the first signal that ends the relay.
    first: Option<Instant>,
}

/// The signals since the last call.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct SignalSummary {
    /// Whether the relay is to end.
    pub(crate) ends: bool,
    /// Whether a child may have ended.
    pub(crate) child: bool,
}

impl SignalWatch {
    /// From now on these signals are only noted. An ignored HUP stays ignored, as nohup(1)
    /// requires: a blocked signal would be reported even if it is ignored.
    pub(crate) fn new() -> Result<Self> {
        let mut mask: SigSet = ENDING.into_iter().collect();
        // Ended children are events of the loop, too.
        mask.add(Signal::SIGCHLD);
        if !is_ignored(Signal::SIGHUP) {
            mask.add(Signal::SIGHUP);
        }
        mask.thread_block()?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        Ok(Self { came: SignalFd::with_flags(&mask, flags)?, first: None })
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.came.as_fd()
    }

    /// Reads the signals since the last call. A second one that ends the relay counts only after a
    /// moment: timeout(1) sends two at once.
    pub(crate) fn read_pending(&mut self) -> SignalSummary {
        let mut heard = SignalSummary::default();
        while let Ok(Some(signal)) = self.came.read_signal() {
            if signal.ssi_signo == Signal::SIGCHLD as u32 {
                heard.child = true;
                continue;
            }
            heard.ends |= self.first.is_none_or(|first| first.elapsed() >= ONE_STOP);
            self.first.get_or_insert_with(Instant::now);
        }
        heard
    }
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
