//! The time at which a worker wakes up although no event comes.
//!
//! A time-out for epoll_wait(2) makes the kernel arm and disarm a timer at each call, which costs a
//! tenth of a round trip; and the next deadline is nearly always later than the one that is set.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

/// A timer that is readable from its time on.
pub(crate) struct WakeupTimer {
    timer: TimerFd,
    at: Option<Instant>,
}

impl WakeupTimer {
    pub(crate) fn new() -> nix::Result<Self> {
        let flags = TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK;
        Ok(Self { timer: TimerFd::new(ClockId::CLOCK_MONOTONIC, flags)?, at: None })
    }

    /// Rings at that time, or before: one that is set earlier stays.
    pub(crate) fn set(&mut self, at: Instant) -> nix::Result<()> {
        if self.at.is_some_and(|earlier| earlier <= at) {
            return Ok(());
        }
        // Nothing left would mean never (timerfd_settime(2)).
        let left = at.saturating_duration_since(Instant::now()).max(Duration::from_nanos(1));
        let once = Expiration::OneShot(TimeSpec::from_duration(left));
        self.timer.set(once, TimerSetTimeFlags::empty())?;
        self.at = Some(at);
        Ok(())
    }

    /// It has rung.
    pub(crate) fn stop(&mut self) -> nix::Result<()> {
        self.at = None;
        match self.timer.wait() {
            // EAGAIN: it was set anew after the event was reported.
            Err(Errno::EAGAIN | Errno::EINTR | Errno::ENOMEM) => Ok(()),
            waited => waited,
        }
    }
}

impl AsFd for WakeupTimer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.timer.as_fd()
    }
}
