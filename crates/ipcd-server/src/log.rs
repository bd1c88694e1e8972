//! The log: lines on standard error. Writing one never waits and never fails a caller: a line that
//! standard error does not take is kept for a while, then counted as lost, and the count is told
//! when lines are taken again.
//!
//! The supervisor alone writes to standard error. A worker's standard error is a pipe of its own that
//! the supervisor reads within bounds, so that a worker which was taken over can neither silence the
//! log nor fill it. Lines that peers cause name their source, and a source has a rate.

mod format;
mod outlet;
mod quotas;

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use nix::unistd::{Pid, dup2_stderr, dup2_stdin, dup2_stdout, write};
use tracing::level_filters::LevelFilter;

use self::format::{LineFormat, SourcedLine, unmarked};
pub use self::outlet::LogOutlet;
pub use self::quotas::LogQuotas;
use crate::config::{LogConfig, LogFormat, LogLevel};

/// The log of this process. It is locked for the time of one line, never across a fork.
static JOURNAL: Mutex<ProcessLog> = Mutex::new(ProcessLog::Off);

/// The destination of lines.
enum ProcessLog {
    /// There is no log.
    Off,
    /// To standard error.
    Daemon(Box<DaemonLog>),
    /// To the supervisor, by way of the pipe that is standard error.
    Worker {
        format: LineFormat,
        /// Lines that the pipe had no room for and that were not told yet.
        lost: u64,
    },
}

struct DaemonLog {
    format: LineFormat,
    outlet: LogOutlet,
    quotas: LogQuotas,
}

/// Starts logging; what is logged earlier, or after a second call, is lost.
pub fn init(log: LogConfig) {
    let level = match log.level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    let format = LineFormat { is_json: log.format == LogFormat::Json };
    let lines = tracing_subscriber::fmt()
        .with_writer(|| ProcessLogWriter)
        .with_max_level(level)
        .log_internal_errors(false)
        .event_format(format);
    // The only error is that a log was started already, which stays in force.
    if lines.try_init().is_ok() {
        let told: fn(u64) -> String = match format.is_json {
            true => |lines| unmarked(&LineFormat { is_json: true }.lost(lines)).to_owned(),
            false => |lines| unmarked(&LineFormat { is_json: false }.lost(lines)).to_owned(),
        };
        let (outlet, quotas) = (LogOutlet::stderr(told), LogQuotas::default());
        *journal() = ProcessLog::Daemon(Box::new(DaemonLog { format, outlet, quotas }));
    }
}

/// Gives a freshly forked worker standard descriptors of its own: nothing to read, and a pipe to
/// the supervisor for its log.
///
/// # Errors
/// As dup2(2).
pub(crate) fn become_worker(null: &File, pipe: &OwnedFd) -> io::Result<()> {
    dup2_stdin(null)?;
    dup2_stdout(null)?;
    dup2_stderr(pipe)?;
    let mut journal = journal();
    if let ProcessLog::Daemon(log) = &*journal {
        let worker = ProcessLog::Worker { format: log.format, lost: 0 };
        // Its descriptors are the parent's; their numbers are closed in this process.
        std::mem::forget(std::mem::replace(&mut *journal, worker));
    }
    Ok(())
}

/// Logs a line that a worker wrote into its pipe.
pub(crate) fn relay(worker: Pid, line: &str) {
    match SourcedLine::parse(line) {
        Some(marked) => journal().relay(worker, &marked),
        // A panic, say.
        None => tracing::error!(worker = worker.as_raw(), line, "worker says"),
    }
}

/// Does what is due: writes what standard error did not take, and tells what was suppressed.
pub(crate) fn tick(now: Instant) {
    if let ProcessLog::Daemon(log) = &mut *journal() {
        log.tick(now);
    }
}

/// The time at which something is due. Standard error is tried again by the clock, because it may be what epoll
/// does not take, such as a file on a full disk.
pub(crate) fn next() -> Option<Instant> {
    match &*journal() {
        ProcessLog::Daemon(log) => log.outlet.next().into_iter().chain(log.quotas.next()).min(),
        ProcessLog::Off | ProcessLog::Worker { .. } => None,
    }
}

fn journal() -> MutexGuard<'static, ProcessLog> {
    JOURNAL.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The library writes each line to it in one call.
struct ProcessLogWriter;

impl io::Write for ProcessLogWriter {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        journal().take(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl ProcessLog {
    fn take(&mut self, line: &[u8]) {
        match self {
            Self::Off => {}
            Self::Daemon(log) => {
                let line = String::from_utf8_lossy(line);
                if let Some(marked) = SourcedLine::parse(line.trim_end_matches('\n')) {
                    log.write(&marked, Instant::now());
                }
            }
            Self::Worker { format, lost } => {
                if *lost > 0 {
                    let report = format.lost(*lost);
                    if write_to_pipe(report.as_bytes()) {
                        *lost = 0;
                    }
                }
                if *lost > 0 || !write_to_pipe(line) {
                    *lost += 1;
                }
            }
        }
    }

    fn relay(&mut self, worker: Pid, marked: &SourcedLine<'_>) {
        if let Self::Daemon(log) = self {
            let text = log.format.with_worker(marked.text, worker);
            log.write(&SourcedLine { source: marked.source, text: &text }, Instant::now());
        }
    }
}

/// Whether the supervisor's pipe took a line, whole: it is shorter than what a pipe takes at once
/// (pipe(7), `PIPE_BUF`).
fn write_to_pipe(line: &[u8]) -> bool {
    write(io::stderr(), line).is_ok()
}

impl DaemonLog {
    fn write(&mut self, marked: &SourcedLine<'_>, now: Instant) {
        if marked.source.is_empty() || self.quotas.allows(marked.source, now) {
            self.outlet.write(marked.text, now);
        }
    }

    fn tick(&mut self, now: Instant) {
        for (source, lines) in self.quotas.report(now) {
            let line = self.format.suppressed(&source, lines);
            self.outlet.write(unmarked(&line), now);
        }
        if self.outlet.next().is_some_and(|at| at <= now) {
            self.outlet.flush(now);
        }
    }
}
