//! The ipcd daemon: arguments in, exit status out. The daemon itself is in `ipcd-server`.

mod stdio;

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use ipcd_server::{
    Config, ConfigError, ConfigLoader, Error, ForkMode, ListenConfig, LogFormat, LogLevel,
    MaxChildren, PassedSocket, StartOptions, WorkerCount,
};

/// Relay messages between processes over local sockets, pipes, FIFOs and networks.
///
/// Without --listen, and without listeners in the configuration file, ipcd listens on the default
/// endpoints: in the runtime directory, and on port 7117 of 127.0.0.1.
#[derive(Parser)]
#[command(name = "ipcd", version)]
struct Arguments {
    /// Read the configuration from this TOML file. Options override it.
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Listen at this endpoint, such as unix:///run/x.sock or tcp://127.0.0.1:7117. May be repeated.
    #[arg(short, long = "listen", value_name = "ENDPOINT")]
    listeners: Vec<ListenConfig>,
    /// Check the configuration, and exit.
    #[arg(short, long)]
    test_config: bool,
    /// Print the effective configuration, and exit.
    #[arg(long)]
    print_config: bool,
    /// Serve peers by a pool of workers (pool), or by a child process for each (connection).
    #[arg(long, value_name = "MODE", value_parser = ipcd_server::word::<ForkMode>)]
    fork: Option<ForkMode>,
    /// Start this many workers, with --fork pool; 0 for a number that fits the machine.
    #[arg(long, value_name = "N")]
    workers: Option<WorkerCount>,
    /// Run at most this many children, with --fork connection.
    #[arg(long, value_name = "N")]
    max_children: Option<MaxChildren>,
    /// Run workers as this user and group, when started as root.
    #[arg(long, value_name = "U[:G]")]
    user: Option<String>,
    /// Write the process id to this file.
    #[arg(long, value_name = "FILE")]
    pid_file: Option<PathBuf>,
    /// Keep sockets, FIFOs and the token in this directory.
    #[arg(long, value_name = "DIR")]
    runtime_dir: Option<PathBuf>,
    /// Write a newline to this file descriptor when ready, and close it.
    #[arg(long, value_name = "N")]
    ready_fd: Option<i32>,
    /// Proxy standard input and output to the Unix socket of a running daemon, and start none. Use it
    /// through ssh: ipcctl --via 'pipe:ssh host ipcd --stdio'.
    #[arg(long, conflicts_with_all = ["listeners", "test_config", "print_config"])]
    stdio: bool,
    /// Log at this level and above: error, warn, info, debug or trace.
    #[arg(long, value_name = "LEVEL", value_parser = ipcd_server::word::<LogLevel>)]
    log_level: Option<LogLevel>,
    /// Write the log as text or json.
    #[arg(long, value_name = "FORMAT", value_parser = ipcd_server::word::<LogFormat>)]
    log_format: Option<LogFormat>,
}

/// The exit status of a failure.
const FAILED: u8 = 1;
/// The exit status of bad usage or configuration.
const USAGE: u8 = 2;
/// The exit status of `--stdio` without a daemon.
const CANNOT_CONNECT: u8 = 3;

fn main() -> ExitCode {
    // A parent may have left signals ignored or blocked, SIGCHLD for instance: then no worker would
    // ever be reaped. This fails for no valid set of signals.
    let _ = ipcd_sys::inherited::reset();
    let done = match Arguments::try_parse() {
        Ok(arguments) => run(arguments),
        Err(error) if error.use_stderr() => error.exit(),
        // Help or the version.
        Err(error) => print(&error.render().to_string()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err((status, why)) => {
            // A closed or full standard error must not cause a panic: the status tells, too.
            let _ = io::stderr().write_all(format!("{why}\n").as_bytes());
            ExitCode::from(status)
        }
    }
}

fn run(arguments: Arguments) -> Result<(), (u8, String)> {
    // An error in a file begins with FILE:LINE:COLUMN, where editors look for it, so no prefix.
    let config = arguments.configure().map_err(|error| (USAGE, error.to_string()))?;
    if arguments.print_config {
        return print(&config.to_text());
    }
    let failed = |error: Error| (error.exit_status(), format!("ipcd: {error}"));
    if arguments.test_config {
        return ipcd_server::check(&config).map_err(|error| (USAGE, failed(error).1));
    }
    if arguments.stdio {
        // As process 1 of a container the proxy would not die of TERM, nor reap orphans. The daemon
        // handles both itself.
        let _ = ipcd_sys::leave_first_place();
        return stdio::run(&config).map_err(|why| (CANNOT_CONNECT, format!("ipcd: {why}")));
    }
    // Before any descriptor is opened or closed: the numbers are the service manager's.
    let sockets = ipcd_server::take_sockets().map_err(failed)?;
    let ready_fd = take_ready_fd(arguments.ready_fd, &sockets);
    let ready_fd = ready_fd.map_err(|error| (USAGE, format!("ipcd: --ready-fd: {error}")))?;
    close_inherited(&ready_fd, &sockets)
        .map_err(|error| (FAILED, format!("ipcd: close inherited descriptors: {error}")))?;
    ipcd_server::init_log(config.log);
    let has_file = arguments.config.is_some();
    let reload = has_file.then(|| Box::new(move || arguments.configure()) as Box<ConfigLoader>);
    ipcd_server::run(config, StartOptions { reload, ready_fd, sockets }).map_err(failed)
}

/// Writes to standard output. A full disk or a closed pipe is an error, not a panic.
fn print(text: &str) -> Result<(), (u8, String)> {
    let mut stdout = io::stdout();
    let written = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
    written.map_err(|error| (FAILED, format!("ipcd: write to standard output: {error}")))
}

/// Closes descriptors that the parent has left open. The daemon would otherwise hold a parent's lock,
/// or the end of a pipe that another process waits for, as long as it runs.
fn close_inherited(ready_fd: &Option<OwnedFd>, sockets: &[PassedSocket]) -> io::Result<()> {
    let keep = ready_fd.iter().map(AsFd::as_fd).chain(sockets.iter().map(AsFd::as_fd));
    ipcd_sys::close_all_except(&keep.collect::<Vec<_>>())
}

fn take_ready_fd(number: Option<i32>, sockets: &[PassedSocket]) -> io::Result<Option<OwnedFd>> {
    if number.is_some_and(|number| sockets.iter().any(|socket| socket.number() == number)) {
        return Err(io::Error::other("this is a socket that the service manager has passed"));
    }
    match number {
        Some(1) => take_stdout().map(Some),
        Some(0 | 2) => {
            Err(io::Error::other("0 is standard input and 2 is the log: give another descriptor"))
        }
        number => number.map(ipcd_sys::duplicate_fd).transpose(),
    }
}

/// Takes standard output, and puts `/dev/null` in its place: an unused number 1 would go to the next
/// file that is opened, and a stray print would write into it.
fn take_stdout() -> io::Result<OwnedFd> {
    let taken = io::stdout().as_fd().try_clone_to_owned()?;
    let null = File::options().write(true).open("/dev/null")?;
    nix::unistd::dup2_stdout(null)?;
    Ok(taken)
}

impl Arguments {
    /// The configuration file, with the options applied over it.
    fn configure(&self) -> Result<Config, ConfigError> {
        let mut config =
            self.config.as_deref().map_or_else(|| Ok(Config::default()), Config::load)?;
        if !self.listeners.is_empty() {
            config.listeners.clone_from(&self.listeners);
        }
        let daemon = &mut config.daemon;
        daemon.fork = self.fork.unwrap_or(daemon.fork);
        daemon.workers = self.workers.unwrap_or(daemon.workers);
        daemon.max_children = self.max_children.unwrap_or(daemon.max_children);
        daemon.pid_file = self.pid_file.clone().or(daemon.pid_file.take());
        daemon.runtime_dir = self.runtime_dir.clone().or(daemon.runtime_dir.take());
        if let Some(user) = &self.user {
            let (user, group) = user
                .split_once(':')
                .map_or((user.as_str(), None), |(user, group)| (user, Some(group.to_owned())));
            daemon.user = Some(user.to_owned());
            daemon.group = group;
        }
        config.log.level = self.log_level.unwrap_or(config.log.level);
        config.log.format = self.log_format.unwrap_or(config.log.format);
        Ok(config)
    }
}
