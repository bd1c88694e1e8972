//! Which cores the processes of a measurement run on.

use std::io;

use clap::ValueEnum;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

/// Where the processes run. On one core only work counts, and figures hardly vary. On all of them
/// they are what users see, with the kernel's luck in placing and waking processes.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum Cores {
    /// All of them on the same.
    One,
    /// As the kernel likes.
    All,
}

/// The cores that this process was started with.
#[derive(Clone, Copy)]
pub(crate) struct Allowed(CpuSet);

impl Allowed {
    pub(crate) fn find() -> io::Result<Self> {
        Ok(Self(sched_getaffinity(Pid::this())?))
    }

    /// Places this process, and those that it forks from now on.
    pub(crate) fn place(self, cores: Cores) -> io::Result<()> {
        let mut set = self.0;
        if cores == Cores::One {
            let first = (0..CpuSet::count()).find(|&core| self.0.is_set(core).unwrap_or(false));
            set = CpuSet::new();
            set.set(first.expect("this process runs somewhere"))?;
        }
        Ok(sched_setaffinity(Pid::this(), &set)?)
    }
}
