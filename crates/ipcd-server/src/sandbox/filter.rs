//! The system calls that a worker may make: moving bytes, waiting, memory and ending. Any other
//! fails with EPERM, which code that only tries something survives; a call that no worker ever
//! tries ends it.
//!
//! The kernel remembers which calls it lets pass whatever their arguments (since Linux 5.11), so
//! the filter costs nothing where messages move.

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64"))]
mod calls;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64"))]
mod tree;

use std::ops::RangeInclusive;
use std::os::fd::RawFd;

use nix::unistd::Pid;
use seccompiler::{BpfProgram, apply_filter};

/// A program for the kernel, compiled once and installed by each worker.
#[derive(Clone, Debug)]
pub(super) struct CallFilter {
    program: BpfProgram,
}

/// Stand in a compiled program for the worker's own process, and for the first and last descriptor
/// that it shares with others. No process or descriptor has such a number (`PID_MAX_LIMIT` is 2^22,
/// `sysctl_nr_open_max` less than 2^31).
const OWN_PROCESS: u32 = 0x7fff_fff0;
const FIRST_SHARED: u32 = 0x7fff_fff1;
const LAST_SHARED: u32 = 0x7fff_fff2;

impl CallFilter {
    /// For this architecture, if we know its calls.
    pub(super) fn compile() -> Result<Self, String> {
        calls::compile()
    }

    /// Confines this process for good. It cannot change the state of its shared descriptors.
    pub(super) fn install(mut self, shared: RangeInclusive<RawFd>) -> Result<(), String> {
        for step in &mut self.program {
            step.k = match step.k {
                OWN_PROCESS => Pid::this().as_raw() as u32,
                FIRST_SHARED => *shared.start() as u32,
                LAST_SHARED => *shared.end() as u32,
                other => other,
            };
        }
        apply_filter(&self.program).map_err(|error| error.to_string())
    }
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64")))]
mod calls {
    use super::CallFilter;

    pub(super) fn compile() -> Result<CallFilter, String> {
        Err(format!("there is no filter for {} yet", std::env::consts::ARCH))
    }
}
