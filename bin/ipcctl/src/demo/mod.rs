//! `ipcctl demo`: a private daemon, and a sender and a receiver process on each transport. Every sender
//! sends to every receiver.

mod interrupts;
mod peer;
mod table;

use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use ipcd_client::{Answer, Client, Endpoint, Options, Query};
use ipcd_server::{Config, LogLevel, StartOptions};
use ipcd_transport::{deadline_after, poll_until};
use nix::poll::PollFlags;
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::args::{DemoArgs, DemoPeerArgs};
use crate::context::Context;
use crate::exit::{Failure, FailureKind, Outcome};
use crate::inspect::print;
use crate::output::say;
use interrupts::SignalGuard;

/// The time that the daemon and each process get to start.
const STARTING: Duration = Duration::from_secs(20);

/// The result of one pair.
#[derive(Clone, Debug, Deserialize, Serialize)]
struct PairResult {
    from: String,
    to: String,
    messages: u64,
    bytes: u64,
    /// The median.
    round_trip_us: Option<f64>,
    error: Option<String>,
}

pub(crate) fn run(context: &Context, load: &DemoArgs) -> Outcome {
    let cells = measure(load)?;
    print(context, &table::render(&cells), || {
        serde_json::to_value(&cells).expect("cells are plain values")
    })?;
    match cells.iter().filter(|cell| cell.error.is_some()).count() {
        0 => Ok(()),
        failed => {
            let why = format!("{failed} of {} pairs failed", cells.len());
            Err(Failure::new(FailureKind::Internal, why))
        }
    }
}

/// Starts all processes, measures each pair, and ends all processes, also at a signal.
fn measure(load: &DemoArgs) -> Outcome<Vec<PairResult>> {
    // Made first and dropped last: a signal must not end us before the directory is removed.
    let interrupts = SignalGuard::put_off()?;
    let dir = tempfile::Builder::new().prefix("ipcd-demo-").tempdir()?;
    let daemon = PrivateDaemon::start(dir.path())?;
    let endpoints = daemon.endpoints(dir.path())?;
    let demo = DemoRun { dir: dir.path(), load, interrupts: &interrupts };
    let spawn_all = |verb| endpoints.iter().map(|at| demo.spawn(verb, at)).collect::<Outcome<_>>();
    let receivers: Vec<PeerProcess> = spawn_all("demo-receiver")?;
    let mut senders: Vec<PeerProcess> = spawn_all("demo-sender")?;
    let mut cells = Vec::new();
    for (from, sender) in endpoints.iter().zip(&mut senders) {
        for to in &endpoints {
            cells.push(sender.send_to(from.scheme(), to.scheme()));
        }
    }
    // The daemon goes last: its peers would otherwise report that it is gone.
    drop((senders, receivers, daemon));
    Ok(cells)
}

pub(crate) fn sender(context: &Context, args: &DemoPeerArgs) -> Outcome {
    peer::DemoSender::new(context, args)?.run()
}

pub(crate) fn receiver(context: &Context, args: &DemoPeerArgs) -> Outcome {
    peer::DemoReceiver::new(context, args)?.run()
}

/// A daemon in a forked child, with a runtime directory and ports of its own.
struct PrivateDaemon(Pid);

impl PrivateDaemon {
    fn start(dir: &Path) -> Outcome<Self> {
        let mut config = Config::default();
        config.log.level = LogLevel::Warn;
        config.daemon.runtime_dir = Some(dir.to_owned());
        config.listeners = ipcd_transports::default_endpoints(dir)
            .map(|endpoint| {
                // A running daemon is not disturbed.
                endpoint
                    .with_any_port()
                    .to_string()
                    .parse()
                    .map_err(|error| Failure::new(FailureKind::Internal, error))
            })
            .collect::<Outcome<_>>()?;
        let (ready, ready_fd) = nix::unistd::pipe().map_err(std::io::Error::from)?;
        let mut start = Some(StartOptions { ready_fd: Some(ready_fd), ..StartOptions::default() });
        let child = ipcd_sys::fork(|| {
            let start = start.take().expect("a child is born once");
            // If the demo is killed (SIGKILL), the daemon ends as well.
            let _ = set_pdeathsig(Signal::SIGTERM);
            ipcd_server::init_log(config.log);
            match ipcd_server::run(config, start) {
                Ok(()) => 0,
                Err(error) => {
                    say(&format!("ipcctl: the demo's daemon: {error}"));
                    1
                }
            }
        })?;
        let daemon = Self(child);
        // Our copy of the writing end must not keep the pipe open when the daemon fails.
        drop(start);
        let came = poll_until(&ready.as_fd(), PollFlags::POLLIN, deadline_after(STARTING))?;
        let mut newline = [0];
        if !came || nix::unistd::read(&ready, &mut newline) != Ok(1) {
            return Err(Failure::new(
                FailureKind::CannotConnect,
                "the demo's daemon did not start",
            ));
        }
        Ok(daemon)
    }

    /// The real endpoints, with the ports that the kernel chose.
    fn endpoints(&self, dir: &Path) -> Outcome<Vec<Endpoint>> {
        let first = ipcd_transports::ALL[0].default_endpoint(dir)?;
        let answers = Client::connect(&first, Options::default())?.query(&Query::Status)?;
        let Some(Answer::Status(status)) = answers.first() else {
            return Err(Failure::new(
                FailureKind::BadMessage,
                "the daemon did not tell its listeners",
            ));
        };
        let parse = |text: &String| Ok(text.parse()?);
        status.listeners.iter().map(|listener| parse(&listener.endpoint)).collect()
    }
}

impl Drop for PrivateDaemon {
    fn drop(&mut self) {
        // The child is not reaped yet, so the number still belongs to it.
        let _ = kill(self.0, Signal::SIGTERM);
        let _ = waitpid(self.0, None);
    }
}

struct DemoRun<'a> {
    dir: &'a Path,
    load: &'a DemoArgs,
    interrupts: &'a SignalGuard,
}

impl<'a> DemoRun<'a> {
    /// Starts a process of the demo and waits until it is connected.
    fn spawn(&self, verb: &str, at: &Endpoint) -> Outcome<PeerProcess<'a>> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg(verb)
            .arg(format!("--messages={}", self.load.messages))
            .arg(format!("--size={}", self.load.size))
            .arg(format!("--pings={}", self.load.pings))
            .arg(format!("--via={at}"))
            .arg("--runtime-dir")
            .arg(self.dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let orders = child.stdin.take().expect("its standard input is a pipe");
        let reports = BufReader::new(child.stdout.take().expect("its standard output is a pipe"));
        let mut peer = PeerProcess { child, orders, reports, interrupts: self.interrupts };
        match peer.report()?.trim() {
            "ready" => Ok(peer),
            _ => Err(Failure::new(
                FailureKind::CannotConnect,
                format!("{verb} on {at} did not start"),
            )),
        }
    }
}

/// A process of the demo. It takes commands on standard input, one per line.
struct PeerProcess<'a> {
    child: Child,
    orders: ChildStdin,
    reports: BufReader<ChildStdout>,
    interrupts: &'a SignalGuard,
}

impl PeerProcess<'_> {
    fn send_to(&mut self, from: &str, to: &str) -> PairResult {
        let failed = |error: String| PairResult {
            from: from.into(),
            to: to.into(),
            messages: 0,
            bytes: 0,
            round_trip_us: None,
            error: Some(error),
        };
        if let Err(error) = writeln!(self.orders, "{to}") {
            return failed(error.to_string());
        }
        match self.report().map(|line| serde_json::from_str(&line)) {
            Ok(Ok(cell)) => cell,
            _ => failed("the sender process died".into()),
        }
    }

    fn report(&mut self) -> Outcome<String> {
        // poll(2) does not see lines that the reader has buffered.
        if self.reports.buffer().is_empty() {
            self.interrupts.wait(self.reports.get_ref())?;
        }
        let mut line = String::new();
        self.reports.read_line(&mut line)?;
        Ok(line)
    }
}

impl Drop for PeerProcess<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
