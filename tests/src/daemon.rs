//! A daemon with a directory of its own.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};

use ipcd_client::{Client, Endpoint, Options, TokenSource};
use ipcd_proto::auth::Token;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

use crate::{
    CtlCommand, ProcessResult, RawConnection, RunningProcess, SCHEMES, children, eventually, ipcd,
    is_alive,
};

/// The configuration of a daemon before it starts.
#[derive(Clone, Debug, Default)]
pub struct DaemonSetup {
    schemes: Option<Vec<String>>,
    config: Option<String>,
    extra: Vec<String>,
    args: Vec<String>,
    wrapper: Option<String>,
}

impl DaemonSetup {
    /// A listener of every transport, unless another is configured.
    pub fn new() -> Self {
        Self::default()
    }

    /// Listeners of these transports only.
    pub fn listen(mut self, schemes: &[&str]) -> Self {
        self.schemes = Some(schemes.iter().map(|&scheme| scheme.into()).collect());
        self
    }

    /// Adds these listeners; `RUN` in them stands for the runtime directory.
    pub fn extra(mut self, listeners: &[&str]) -> Self {
        self.extra.extend(listeners.iter().map(|&listener| listener.into()));
        self
    }

    /// Sets the configuration file.
    pub fn config(mut self, text: &str) -> Self {
        self.config = Some(text.into());
        self
    }

    /// Adds these arguments.
    pub fn args(mut self, args: &[&str]) -> Self {
        self.args.extend(args.iter().map(|&arg| arg.into()));
        self
    }

    /// Starts it by this shell script, whose arguments are the daemon's command line.
    pub fn wrapper(mut self, script: &str) -> Self {
        self.wrapper = Some(script.into());
        self
    }

    /// Starts it in a new directory, and waits until it is ready.
    pub fn start(self) -> Daemon {
        let dir = crate::private_dir();
        self.start_in(dir)
    }

    /// Starts it in a directory that another daemon has used.
    pub fn start_in(self, dir: TempDir) -> Daemon {
        let process = self.spawn(dir.path());
        let json = self.args.iter().any(|arg| arg == "json");
        process.stderr.wait_until("that it is ready", |log| is_ready(log, json).then_some(()));
        let endpoints = listeners(&process.stderr.text(), json);
        Daemon { setup: self, process, endpoints, dir: Some(dir) }
    }

    /// Starts it without waiting.
    pub fn spawn(&self, dir: &Path) -> RunningProcess {
        let run = runtime_dir_in(dir);
        let mut command = match &self.wrapper {
            None => Command::new(ipcd()),
            Some(script) => {
                let mut shell = Command::new("sh");
                shell.args(["-c", script, "sh"]).arg(ipcd());
                shell
            }
        };
        command.arg("--runtime-dir").arg(&run);
        if let Some(text) = &self.config {
            fs::write(config_in(dir), text).expect("the directory is writable");
            command.arg("--config").arg(config_in(dir));
        }
        let schemes = self.schemes.clone().unwrap_or_else(|| SCHEMES.map(String::from));
        for scheme in schemes {
            command.arg("--listen").arg(endpoint(&scheme, &run).to_string());
        }
        for listener in &self.extra {
            let listener = listener.replace("RUN", &run.display().to_string());
            command.arg("--listen").arg(listener);
        }
        RunningProcess::start(command.args(&self.args))
    }
}

fn runtime_dir_in(dir: &Path) -> PathBuf {
    dir.join("run")
}

fn config_in(dir: &Path) -> PathBuf {
    dir.join("ipcd.toml")
}

/// The default endpoint of a transport, with a free port if it has one.
fn endpoint(scheme: &str, run: &Path) -> Endpoint {
    let transport = ipcd_transports::find(scheme).expect("the transport exists");
    transport.default_endpoint(run).expect("it has a default endpoint").with_any_port()
}

fn is_ready(log: &str, json: bool) -> bool {
    log.lines().any(|line| match json {
        false => line.ends_with(" INFO ready"),
        true => line.contains("\"message\":\"ready\""),
    })
}

/// The real endpoints, by scheme; the first one if there are several.
fn listeners(log: &str, json: bool) -> BTreeMap<String, String> {
    let begin = if json { "\"endpoint\":\"" } else { "listening endpoint=" };
    let mut endpoints = BTreeMap::new();
    for (_, rest) in log.lines().filter_map(|line| line.split_once(begin)) {
        let end = rest.find(['"', ' ']).unwrap_or(rest.len());
        let (scheme, _) = rest.split_once(':').expect("an endpoint has a scheme");
        endpoints.entry(scheme.to_owned()).or_insert_with(|| rest[..end].to_owned());
    }
    endpoints
}

/// A worker, as `status -j` shows it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct WorkerInfo {
    /// Its slot.
    pub slot: u64,
    /// Its process.
    pub pid: i32,
    /// Its generation.
    pub generation: u64,
    /// The number of its peers.
    pub peers: u64,
}

impl WorkerInfo {
    fn of(value: &Value) -> Self {
        let field = |name: &str| value[name].as_u64().expect("a worker has four numbers");
        let pid = field("pid") as i32;
        Self { slot: field("slot"), pid, generation: field("generation"), peers: field("peers") }
    }
}

/// A running daemon.
#[derive(Debug)]
pub struct Daemon {
    setup: DaemonSetup,
    /// The supervisor.
    pub process: RunningProcess,
    endpoints: BTreeMap<String, String>,
    dir: Option<TempDir>,
}

impl Daemon {
    /// Starts a daemon with listeners of all transports.
    pub fn start() -> Self {
        DaemonSetup::new().start()
    }

    /// Its runtime directory.
    pub fn runtime_dir(&self) -> PathBuf {
        runtime_dir_in(self.dir())
    }

    /// The directory that its runtime directory and configuration file are in.
    ///
    /// # Panics
    /// After [`Daemon::into_dir`] has taken it.
    pub fn dir(&self) -> &Path {
        self.dir.as_ref().expect("a daemon has its directory until it is taken").path()
    }

    /// Its configuration file.
    pub fn config_file(&self) -> PathBuf {
        config_in(self.dir())
    }

    /// Its real endpoint of a transport; without such a listener, an endpoint that no process
    /// serves.
    pub fn via(&self, scheme: &str) -> String {
        match self.endpoints.get(scheme) {
            Some(endpoint) => endpoint.clone(),
            None if self.dir.is_some() => {
                let endpoint = endpoint(scheme, &self.runtime_dir());
                match endpoint.host_and_port() {
                    // No other process has this address, so any port is closed.
                    Ok(_) => endpoint.with_address("127.86.75.30:7117").to_string(),
                    Err(_) => endpoint.to_string(),
                }
            }
            None => unreachable!("a daemon without its directory has no endpoint"),
        }
    }

    /// The transports that it listens on.
    pub fn schemes(&self) -> Vec<String> {
        self.endpoints.keys().cloned().collect()
    }

    /// The address of its listener on a network transport.
    ///
    /// # Panics
    /// If it has no such listener.
    pub fn address(&self, scheme: &str) -> String {
        let (_, address) =
            self.endpoints[scheme].split_once("://").expect("the endpoint has a scheme");
        address.to_owned()
    }

    /// `ipcctl` with these arguments over this transport.
    pub fn ctl(&self, scheme: &str, args: &[&str]) -> CtlCommand {
        CtlCommand::new(self, scheme).args(args)
    }

    /// A receiver that is subscribed.
    pub fn recv(&self, scheme: &str, args: &[&str]) -> RunningProcess {
        self.ctl(scheme, &["recv", "-E"]).args(args).spawn_subscribed()
    }

    /// Sends a message over the Unix socket.
    #[track_caller]
    pub fn send(&self, subject: &str, body: &str) {
        self.ctl("unix", &["send", subject, body]).run().expect(0);
    }

    /// A connection on which a test can send any bytes.
    pub fn raw(&self, scheme: &str) -> RawConnection {
        match scheme {
            "unix" => RawConnection::unix(&self.runtime_dir().join("ipcd.sock")),
            "tcp" => RawConnection::tcp(&self.address(scheme)),
            other => {
                RawConnection::over(&self.via(other).parse().expect("the text is an endpoint"))
            }
        }
    }

    /// The daemon's own token.
    ///
    /// # Panics
    /// If it has no token.
    pub fn token(&self) -> Token {
        let text = fs::read(self.runtime_dir().join("token")).expect("the file can be read");
        Token::from_text(&text).expect("it is long enough")
    }

    /// As [`Daemon::raw`], with an open session.
    ///
    /// # Panics
    /// If the daemon refuses.
    pub fn session(&self, scheme: &str) -> RawConnection {
        match scheme {
            "tcp" => self.raw(scheme).open_with(&self.token()),
            _ => self.raw(scheme).open(),
        }
    }

    /// A client in the test's own process.
    ///
    /// # Panics
    /// If it cannot connect.
    pub fn client(&self, scheme: &str) -> Client {
        self.client_as(scheme, None)
    }

    /// As [`Daemon::client`], with a name.
    ///
    /// # Panics
    /// If it cannot connect.
    pub fn client_as(&self, scheme: &str, name: Option<&str>) -> Client {
        let token = TokenSource::File(self.runtime_dir().join("token"));
        let name = name.map(str::to_owned);
        let options = Options { name, token, timeout: crate::PATIENCE, ..Options::default() };
        let endpoint: Endpoint = self.via(scheme).parse().expect("the text is an endpoint");
        let connected = Client::connect(&endpoint, options);
        connected.unwrap_or_else(|error| panic!("{endpoint}: {error}\n{}", self.log()))
    }

    /// The output of `ipcctl status -j`.
    #[track_caller]
    pub fn status(&self) -> Value {
        self.json(&["status", "-j"])
    }

    /// The output of `ipcctl clients -j`.
    #[track_caller]
    pub fn clients(&self) -> Vec<Value> {
        let clients = self.json(&["clients", "-j"]);
        clients.as_array().expect("clients -j is an array").clone()
    }

    #[track_caller]
    fn json(&self, args: &[&str]) -> Value {
        let scheme = self.endpoints.keys().next_back().expect("it has a listener");
        let ended = self.ctl(scheme, args).run().expect(0);
        serde_json::from_slice(&ended.stdout).expect("the text is JSON")
    }

    /// A counter of `status -j`.
    #[track_caller]
    pub fn counter(&self, name: &str) -> u64 {
        self.status()["counters"][name].as_u64().expect("the counter exists")
    }

    /// Its workers, as `status -j` shows them.
    #[track_caller]
    pub fn workers(&self) -> Vec<WorkerInfo> {
        let status = self.status();
        let workers = status["workers"].as_array().expect("status -j has the workers");
        workers.iter().map(WorkerInfo::of).collect()
    }

    /// The process of the first worker.
    #[track_caller]
    pub fn worker(&self) -> i32 {
        self.workers()[0].pid
    }

    /// The worker in a slot, once one runs there.
    pub fn worker_in(&self, slot: u64) -> WorkerInfo {
        eventually("a worker in the slot", || {
            self.workers().into_iter().find(|worker| worker.slot == slot)
        })
    }

    /// Sends a signal to a worker, or to a child that serves one peer.
    ///
    /// # Panics
    /// If the process is not a child of this daemon, or has ended.
    #[track_caller]
    pub fn signal_worker(&self, pid: i32, signal: Signal) {
        let ours = children(self.process.pid());
        assert!(ours.contains(&pid), "{pid} is not one of {ours:?}");
        kill(Pid::from_raw(pid), signal).expect("a child of ours that its parent has not reaped");
    }

    /// The entry of the peer with a name in `clients -j`, once there is one.
    pub fn peer_named(&self, name: &str) -> Value {
        eventually(&format!("a peer {name}"), || {
            self.clients().into_iter().find(|client| client["name"] == name)
        })
    }

    /// The slot of the worker that serves the peer with a name.
    pub fn slot_of(&self, name: &str) -> u64 {
        self.peer_named(name)["worker"].as_u64().expect("worker is the slot")
    }

    /// Calls `start` with new names, again and again, until the worker that serves the peer is in a
    /// slot that fits. Returns the peer and that slot.
    pub fn on_slot<T>(
        &self,
        fits: impl Fn(u64) -> bool,
        mut start: impl FnMut(&str) -> T,
    ) -> (T, u64) {
        static PEERS: AtomicU64 = AtomicU64::new(0);
        eventually("a peer on a worker that fits", || {
            let number = PEERS.fetch_add(1, Ordering::Relaxed);
            let name = format!("peer-{number}");
            let peer = start(&name);
            let slot = self.slot_of(&name);
            if fits(slot) {
                return Some((peer, slot));
            }
            // Peers go to workers in turn. Two peers in a steady rhythm would always reach the same
            // workers, so the rhythm is broken.
            for _ in 0..number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 62 {
                self.ctl("unix", &["ping"]).run().expect(0);
            }
            None
        })
    }

    /// A client in the test's own process, on a worker in a slot that fits.
    pub fn client_on(&self, scheme: &str, fits: impl Fn(u64) -> bool) -> (Client, u64) {
        self.on_slot(fits, |name| self.client_as(scheme, Some(name)))
    }

    /// Waits until this number of peers is connected, without the peer that asks.
    pub fn wait_for_peers(&self, wanted: usize) {
        eventually(&format!("{wanted} peers"), || {
            let peers: u64 = self.workers().iter().map(|worker| worker.peers).sum();
            (peers == wanted as u64 + 1).then_some(())
        });
    }

    /// Its log so far.
    pub fn log(&self) -> String {
        self.process.stderr.text()
    }

    /// Reloads with this configuration, which must succeed.
    pub fn reload(&self, text: &str) {
        self.configure(text, "INFO reloaded");
    }

    /// Reloads with this configuration, and waits until the log reports the result.
    ///
    /// # Panics
    /// If its directory cannot be written to.
    pub fn configure(&self, text: &str, said: &str) {
        fs::write(self.config_file(), text).expect("the directory is writable");
        self.hang_up(said);
    }

    /// Sends HUP, and waits until the log has this text once more.
    ///
    /// # Panics
    /// If the daemon has ended.
    pub fn hang_up(&self, said: &str) {
        let before = self.log().matches(said).count();
        kill(Pid::from_raw(self.process.pid()), Signal::SIGHUP).expect("the process runs");
        let is_said = |log: &str| (log.matches(said).count() > before).then_some(());
        self.process.stderr.wait_until(said, is_said);
    }

    /// Sends TERM, and waits for the end.
    pub fn terminate(&mut self) -> ProcessResult {
        self.process.signal(Signal::SIGTERM);
        self.process.wait()
    }

    /// Its directory, once it has ended.
    ///
    /// # Panics
    /// If the directory was taken before.
    pub fn into_dir(mut self) -> TempDir {
        self.dir.take().expect("a daemon has its directory until it is taken")
    }

    /// Starts another daemon in the same directory. This one must have ended.
    pub fn start_again(mut self) -> Self {
        let dir = self.dir.take().expect("a daemon has its directory until it is taken");
        self.setup.clone().start_in(dir)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let log = self.log();
        if std::thread::panicking() {
            eprintln!("--- log of the daemon\n{log}---");
        } else {
            assert!(!log.contains("panicked at"), "the daemon panicked:\n{log}");
        }
        // The last worker's number is in the log; all workers end with the supervisor.
        let (_, worker) = log.rsplit_once("worker started pid=").unwrap_or_default();
        let mut workers: Vec<i32> =
            worker.split(' ').next().and_then(|pid| pid.parse().ok()).into_iter().collect();
        if self.process.has_ended().is_none() {
            workers.extend(children(self.process.pid()));
            self.process.signal(Signal::SIGKILL);
        }
        if !std::thread::panicking() {
            eventually("the workers' end", || {
                workers.iter().all(|pid| !is_alive(*pid)).then_some(())
            });
        }
    }
}
