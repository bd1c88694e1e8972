//! The monotonic clock, which is one for all processes of a machine, clock_gettime(2).

use std::io;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, ClockNanosleepFlags, clock_gettime, clock_nanosleep};

/// The delay of a timer, in ns. The last part of a wait is spent polling the clock.
const LATE: u64 = 60_000;

/// Nanoseconds since some time before the start of all processes.
pub(crate) fn now() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("every system has this clock");
    now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64
}

/// Waits until then. The last moment is spent polling, since a timer comes late.
pub(crate) fn wait_until(then: u64) -> io::Result<()> {
    while now() + LATE < then {
        let wake = TimeSpec::from_duration(Duration::from_nanos(then - LATE));
        match clock_nanosleep(ClockId::CLOCK_MONOTONIC, ClockNanosleepFlags::TIMER_ABSTIME, &wake) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    while now() < then {
        // Spinning on one core would keep the receiver from it.
        std::thread::yield_now();
    }
    Ok(())
}

/// The cost of one reading, and the smallest step seen, in ns.
pub(crate) fn cost_and_step() -> (u64, u64) {
    const READS: u64 = 20_000;
    let start = now();
    let (mut last, mut step) = (start, u64::MAX);
    for _ in 0..READS {
        let this = now();
        if this > last {
            step = step.min(this - last);
        }
        last = this;
    }
    ((last - start) / READS, step)
}
