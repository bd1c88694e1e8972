//! Counts the allocations and system calls of the daemon's worker for each message.
//!
//! The daemon contains nothing for it. The kernel counts reads and writes, and strace(1) counts all
//! calls in a second run. The worker is forked from this program, so its counting allocator has the
//! counter at the same address, and /proc/PID/mem shows it.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader};
use std::os::unix::fs::FileExt;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};

use ipcd_sys::alloc_count::ALLOCATIONS;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::contender::{RelayContender, Via};
use super::load::LoadShape;
use super::{RoundContext, drive};

/// The worker's costs of a load.
#[derive(Clone, Copy, Debug)]
pub(super) struct WorkerCosts {
    pub(super) messages: u64,
    pub(super) allocations: u64,
    /// Reads and writes.
    pub(super) transfers: u64,
    /// System calls of any kind, in a separate run; `None` without strace.
    pub(super) calls: Option<u64>,
}

impl WorkerCosts {
    pub(super) fn per_message(&self, count: u64) -> f64 {
        count as f64 / self.messages as f64
    }

    pub(super) fn most_per_message(&self) -> f64 {
        let most = self.allocations.max(self.transfers).max(self.calls.unwrap_or(0));
        self.per_message(most)
    }
}

/// Runs a load through a daemon and counts; with `traces`, once more under strace(1).
pub(super) fn run(
    bench: &RoundContext,
    via: Via,
    load: LoadShape,
    traces: bool,
) -> io::Result<WorkerCosts> {
    if ALLOCATIONS.load(Ordering::Relaxed) == 0 {
        return Err(io::Error::other("this program has no counting allocator"));
    }
    let mut stage = RelayContender::Ipcd.start(bench, via, load)?;
    let mover = stage.movers[0];
    let (allocations, transfers) = (allocations_of(mover)?, transfers_of(mover)?);
    drive(bench, &mut stage, load)?;
    Ok(WorkerCosts {
        messages: load.count,
        allocations: allocations_of(mover)? - allocations,
        transfers: transfers_of(mover)? - transfers,
        calls: if traces { trace(bench, via, load)? } else { None },
    })
}

/// Reads the counter of a process that was forked from this one.
fn allocations_of(pid: u32) -> io::Result<u64> {
    // fork(2) keeps addresses, so the counter of the worker has the same one as ours.
    let address = std::ptr::from_ref::<AtomicU64>(&ALLOCATIONS).addr();
    let mut bytes = [0; size_of::<u64>()];
    File::open(format!("/proc/{pid}/mem"))?.read_exact_at(&mut bytes, address as u64)?;
    Ok(u64::from_ne_bytes(bytes))
}

/// Reads and writes so far (proc_pid_io(5)).
fn transfers_of(pid: u32) -> io::Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/io"))?;
    let value = |line: &str| {
        let value = line.strip_prefix("syscr: ").or_else(|| line.strip_prefix("syscw: "))?;
        value.parse::<u64>().ok()
    };
    Ok(text.lines().filter_map(value).sum())
}

/// Counts all system calls of a worker.
fn trace(bench: &RoundContext, via: Via, load: LoadShape) -> io::Result<Option<u64>> {
    let mut stage = RelayContender::Ipcd.start(bench, via, load)?;
    let table = tempfile::NamedTempFile::new()?;
    let strace = Command::new("strace")
        .args(["-c", "-U", "calls,name", "-p", &stage.movers[0].to_string(), "-o"])
        .arg(table.path())
        .stderr(Stdio::piped())
        .spawn();
    let mut strace = match strace {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        strace => strace?,
    };
    // Its first line says that it is attached.
    let stderr = strace.stderr.take().expect("it was asked for");
    BufReader::new(stderr).read_line(&mut String::new())?;
    let driven = drive(bench, &mut stage, load);
    kill(Pid::from_raw(strace.id() as i32), Signal::SIGINT)?;
    strace.wait()?;
    driven?;
    let text = fs::read_to_string(table.path())?;
    let total = text.lines().find_map(|line| line.trim().strip_suffix(" total"));
    let total = total.and_then(|count| count.trim().parse().ok());
    total.map(Some).ok_or_else(|| io::Error::other(format!("read the total of strace: {text}")))
}
