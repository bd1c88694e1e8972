//! Running `ipcctl`.

use std::ffi::OsString;
use std::process::{Command, Stdio};

use crate::{Daemon, ProcessResult, RunningProcess, ipcctl};

/// An `ipcctl` command before it runs.
#[derive(Clone, Debug)]
pub struct CtlCommand {
    via: String,
    runtime_dir: OsString,
    args: Vec<OsString>,
}

impl CtlCommand {
    /// A command for a daemon over one of its transports, or for an endpoint. Its time-out is long,
    /// unless a test sets another, because the machine may be slow, and tests do not judge the
    /// speed of an answer.
    pub fn new(daemon: &Daemon, via: &str) -> Self {
        let via = if via.contains(':') { via.to_owned() } else { daemon.via(via) };
        Self { via, runtime_dir: daemon.runtime_dir().into(), args: Vec::new() }
    }

    /// Adds these arguments.
    #[must_use]
    pub fn args<S: Into<OsString>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    fn command(&self) -> Command {
        let mut command = Command::new(ipcctl());
        command.env_remove("IPCD_VIA").env("IPCD_RUNTIME_DIR", &self.runtime_dir);
        command.args(["--via", &self.via]);
        if !self.args.iter().any(|arg| arg == "--timeout") {
            command.args(["--timeout", "60s"]);
        }
        command.args(&self.args);
        command
    }

    /// Starts it, with nothing on standard input.
    pub fn spawn(self) -> RunningProcess {
        RunningProcess::start(self.command().stdin(Stdio::null()))
    }

    /// Starts it, with standard input from the test.
    pub fn spawn_fed(self) -> RunningProcess {
        RunningProcess::start(self.command().stdin(Stdio::piped()))
    }

    /// Runs it to its end, with nothing on standard input.
    pub fn run(self) -> ProcessResult {
        self.spawn().wait()
    }

    /// Runs it to its end, with this on standard input.
    pub fn run_fed(self, input: &[u8]) -> ProcessResult {
        self.spawn_fed().feed(input)
    }

    /// Starts a receiver, and waits until it is subscribed: the arguments have `-E`.
    pub fn spawn_subscribed(self) -> RunningProcess {
        let running = self.spawn();
        running.stderr.wait_for("subscribed\n");
        running
    }
}
