//! Signals that end the demo. They wait until its processes have ended and its directory is removed.

use std::os::fd::AsFd;

use ipcd_sys::inherited::ending;
use ipcd_transport::poll_some;
use nix::poll::{PollFd, PollFlags};
use nix::sys::signal::SigSet;
use nix::sys::signalfd::{SfdFlags, SignalFd};

use crate::exit::{Failure, FailureKind, Outcome};

/// Blocks the signals while it lives. When it is dropped, the process dies of a signal that has come.
pub(super) struct SignalGuard {
    set: SigSet,
    pending: SignalFd,
}

impl SignalGuard {
    pub(super) fn put_off() -> Outcome<Self> {
        let set = ending();
        let pending = SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC);
        let pending = pending.map_err(std::io::Error::from)?;
        set.thread_block().map_err(std::io::Error::from)?;
        Ok(Self { set, pending })
    }

    /// Waits until there is something to read, and fails when a signal has come.
    pub(super) fn wait(&self, source: &impl AsFd) -> Outcome {
        let readable = |fd| PollFd::new(fd, PollFlags::POLLIN);
        // The descriptor is polled, never read: reading consumes the signal (signalfd(2)), and the
        // process would not die of it.
        let mut fds = [readable(self.pending.as_fd()), readable(source.as_fd())];
        poll_some(&mut fds, None)?;
        match fds[0].any().unwrap_or(false) {
            true => Err(Failure::new(FailureKind::Internal, "demo: interrupted by a signal")),
            false => Ok(()),
        }
    }
}

impl Drop for SignalGuard {
    fn drop(&mut self) {
        let _ = self.set.thread_unblock();
    }
}
