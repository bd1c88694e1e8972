//! A program that tests interrupt, once it has started what it starts.

use std::fs;
use std::process::Child;
use std::time::{Duration, Instant};

use nix::unistd::Pid;

pub(crate) const WATCHDOG: Duration = Duration::from_secs(120);

/// Whether a process has at least so many children.
pub(crate) fn has_children(pid: Pid, least: usize) -> bool {
    let path = format!("/proc/{pid}/task/{pid}/children");
    fs::read_to_string(path).is_ok_and(|children| children.split_whitespace().count() >= least)
}

/// Looks again until it is so; fails if the program ends before.
pub(crate) fn wait_until(child: &mut Child, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + WATCHDOG;
    while !is_so() {
        assert!(Instant::now() < deadline, "it does not start");
        assert!(child.try_wait().unwrap().is_none(), "it has ended");
        std::thread::sleep(Duration::from_millis(5));
    }
}
