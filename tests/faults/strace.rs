//! The kernel's refusals: strace(1) makes system calls of a running process fail.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use ipcd_tests::{Running, eventually};
use nix::sys::signal::Signal;
use nix::unistd::Uid;

/// A strace that lets calls fail, until it is dropped.
pub(crate) struct Strace {
    process: Running,
    pids: Vec<i32>,
}

impl Strace {
    /// Makes these calls of the processes fail, as strace's `inject=` says it. `None` where strace is
    /// missing, or may not trace: then the reason is printed.
    pub(crate) fn attach(pids: &[i32], inject: &str) -> Option<Self> {
        // What it has traced is of no interest, and would be a lot.
        Self::attach_noting(pids, inject, Path::new("/dev/null"))
    }

    /// The same, and notes in a file which calls the processes make; those that fail end in
    /// `(INJECTED)`.
    pub(crate) fn attach_noting(pids: &[i32], inject: &str, notes: &Path) -> Option<Self> {
        if let Some(why) = refusal() {
            skip(&why);
            return None;
        }
        let mut command = Command::new("strace");
        command.arg("-o").arg(notes).args(["-e", &format!("inject={inject}")]);
        for pid in pids {
            command.args(["-p", &pid.to_string()]);
        }
        let process = Running::start(command.stdin(Stdio::null()));
        for pid in pids {
            process.stderr.wait_for(&format!("Process {pid} attached"));
        }
        Some(Self { process, pids: pids.to_vec() })
    }
}

impl Drop for Strace {
    fn drop(&mut self) {
        if self.process.has_ended().is_none() {
            self.process.signal(Signal::SIGTERM);
            self.process.wait();
        }
        if !std::thread::panicking() {
            eventually("that nobody is traced", || {
                self.pids.iter().all(|pid| tracer(*pid).is_none_or(|by| by == 0)).then_some(())
            });
        }
    }
}

/// Who traces a process; 0 if nobody does, `None` if there is no such process.
fn tracer(pid: i32) -> Option<i32> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    text.lines().find_map(|line| line.strip_prefix("TracerPid:"))?.trim().parse().ok()
}

fn refusal() -> Option<String> {
    let version = Command::new("strace").arg("-V").stdout(Stdio::null()).status();
    if !version.is_ok_and(|status| status.success()) {
        return Some("strace is not installed".into());
    }
    let scope = std::fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope").unwrap_or_default();
    let may = Uid::effective().is_root() || matches!(scope.trim(), "" | "0");
    (!may).then(|| format!("only root may trace here (ptrace_scope is {})", scope.trim()))
}

/// Says that a case was left out, also where the test runner keeps what is printed to itself.
pub(crate) fn skip(why: &str) {
    let name = std::thread::current().name().unwrap_or("a case").to_owned();
    let _ = writeln!(std::io::stderr(), "skipped: {name}: {why}");
}
