//! Makes another process do system calls, as an attacker that has taken it over would, by
//! ptrace(2).

use std::time::Instant;

use nix::errno::Errno;
use nix::libc;
use nix::libc::user_regs_struct;
use nix::sys::ptrace::{self, AddressType, Options};
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::PATIENCE;

/// The calls in which a process waits for events.
const WAITING: [i64; 2] = [libc::SYS_epoll_wait, libc::SYS_epoll_pwait];

/// A process that is held in the system call in which it waits.
#[derive(Debug)]
pub struct TracedProcess {
    pid: Pid,
    before: user_regs_struct,
}

/// The result of a call.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum CallResult {
    /// It returned this.
    Returned(i64),
    /// It failed.
    Failed(Errno),
    /// The process died of it.
    Killed(Signal),
}

impl TracedProcess {
    /// Stops a process and holds it; `None` if this user may not trace at all.
    ///
    /// # Panics
    /// If it cannot be held for another reason.
    pub fn hold(pid: i32) -> Option<Self> {
        let pid = Pid::from_raw(pid);
        match ptrace::seize(pid, Options::empty()) {
            Err(Errno::EPERM) => return None,
            seized => seized.expect("the process runs"),
        }
        let give_up = Instant::now() + PATIENCE;
        loop {
            ptrace::interrupt(pid).expect("the process is traced");
            let stopped = waitpid(pid, None).expect("the process is traced");
            assert!(matches!(stopped, WaitStatus::PtraceEvent(..)), "{stopped:?}");
            let before = ptrace::getregs(pid).expect("the process is stopped");
            // It may still be working: then it is not in a call that waits.
            if WAITING.contains(&(before.orig_rax as i64)) {
                return Some(Self { pid, before });
            }
            assert!(Instant::now() < give_up, "it never waits");
            ptrace::cont(pid, None).expect("the process is stopped");
        }
    }

    /// Memory that it may read and write: its stack.
    pub fn stack(&self) -> u64 {
        self.before.rsp
    }

    /// Writes eight bytes into unused memory of it, and returns their address.
    ///
    /// # Panics
    /// If it has died.
    pub fn poke(&self, value: i64) -> u64 {
        // Below the red zone, which the ABI of x86-64 lets a function use without a reservation.
        let at = self.before.rsp - 4096;
        ptrace::write(self.pid, at as AddressType, value).expect("the process is stopped");
        at
    }

    /// Makes it do a system call.
    ///
    /// # Panics
    /// If it does not stop after the call.
    pub fn call(&self, number: i64, args: [u64; 6]) -> CallResult {
        let [rdi, rsi, rdx, r10, r8, r9] = args;
        // The instruction pointer is behind the call in which it waits. -1 keeps the kernel from
        // restarting that call.
        let (rip, rax) = (self.before.rip - 2, number as u64);
        let regs = user_regs_struct {
            rip,
            rax,
            orig_rax: u64::MAX,
            rdi,
            rsi,
            rdx,
            r10,
            r8,
            r9,
            ..self.before
        };
        ptrace::setregs(self.pid, regs).expect("the process is stopped");
        self.step()
    }

    /// Makes it do a system call through the 32-bit interface.
    ///
    /// # Panics
    /// If it does not stop after the call.
    pub fn call_32(&self, number: i64) -> CallResult {
        let at = (self.before.rip - 2) as AddressType;
        let code = ptrace::read(self.pid, at).expect("the process is stopped");
        // int 0x80
        let int_80 = (code & !0xffff) | 0x80cd;
        ptrace::write(self.pid, at, int_80).expect("a tracer may write code");
        self.call(number, [0; 6])
    }

    fn step(&self) -> CallResult {
        ptrace::step(self.pid, None).expect("the process is stopped");
        match waitpid(self.pid, None).expect("the process is traced") {
            WaitStatus::Signaled(_, signal, _) => CallResult::Killed(signal),
            WaitStatus::Stopped(_, Signal::SIGTRAP) => {
                let value = ptrace::getregs(self.pid).expect("the process is stopped").rax as i64;
                match value {
                    -4095..0 => CallResult::Failed(Errno::from_raw(-value as i32)),
                    _ => CallResult::Returned(value),
                }
            }
            WaitStatus::Stopped(pid, signal) => {
                ptrace::kill(pid).expect("the process is stopped");
                CallResult::Killed(signal)
            }
            other => panic!("it is neither stopped nor dead: {other:?}"),
        }
    }

    /// Lets it continue where it was, unless it has died.
    pub fn let_go(self) {
        let is_held = ptrace::setregs(self.pid, self.before).is_ok();
        if !is_held || ptrace::detach(self.pid, None).is_err() {
            // Its parent learns of its end only after its tracer has.
            let _ = waitpid(self.pid, None);
        }
    }

    /// Lets it continue where it was.
    ///
    /// # Panics
    /// If it has died.
    pub fn release(self) {
        ptrace::setregs(self.pid, self.before).expect("the process is stopped");
        ptrace::detach(self.pid, None).expect("the process is stopped");
    }
}
