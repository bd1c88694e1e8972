//! Process 1 of a container that has no other: it goes on as a child, and keeps house here.
//!
//! The kernel gives process 1 no signal that it has no handler for, and every orphan to reap
//! (pid_namespaces(7)). No program counts on either.

use std::io;
use std::process::exit;

use nix::sys::signal::{SigSet, SigmaskHow, Signal, kill, sigprocmask};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, setpgid, tcsetpgrp};

use crate::fork_here;

/// A shell adds this to the number of the signal that ended a process.
const SIGNALLED: i32 = 128;

/// If this is process 1, goes on in a child; process 1 itself passes signals on to that, reaps whatever
/// ends, and ends as the child does. All else ends with it.
///
/// # Errors
/// If there can be no process.
///
/// # Panics
/// As [`fork`](crate::fork).
pub fn leave_first_place() -> io::Result<()> {
    if Pid::this().as_raw() != 1 {
        return Ok(());
    }
    let mut before = SigSet::empty();
    // Before the fork: a signal in between would be lost.
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), Some(&mut before))?;
    match fork_here()? {
        Some(child) => keep_house(child),
        None => {
            // The terminal's signals are for it, and come once.
            let _ = setpgid(Pid::from_raw(0), Pid::from_raw(0));
            let _ = tcsetpgrp(io::stdin(), Pid::this());
            sigprocmask(SigmaskHow::SIG_SETMASK, Some(&before), None)?;
            Ok(())
        }
    }
}

fn keep_house(child: Pid) -> ! {
    loop {
        match SigSet::all().wait() {
            Ok(Signal::SIGCHLD) => reap(child),
            Ok(signal) => drop(kill(child, signal)),
            // A real-time signal, for which nix has no name.
            Err(_) => {}
        }
    }
}

/// Reaps all that has ended, and ends as the child has.
fn reap(child: Pid) {
    while let Ok(status) = waitpid(None, Some(WaitPidFlag::WNOHANG)) {
        match status {
            WaitStatus::Exited(pid, status) if pid == child => exit(status),
            WaitStatus::Signaled(pid, signal, _) if pid == child => exit(SIGNALLED + signal as i32),
            WaitStatus::StillAlive => return,
            _ => {}
        }
    }
}
