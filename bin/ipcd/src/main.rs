//! The ipcd daemon: arguments in, exit status out. What it does is in `ipcd-server`.

mod stdio;

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use ipcd_server::{
    Config, ConfigError, Error, ForkMode, Listen, LogFormat, LogLevel, MaxChildren, Reload, Socket,
    Start, Workers,
};

/// Relays messages between processes over pipes, FIFOs, Unix-domain sockets, TCP, UDP and TLS.
///
/// Without --listen, and without listeners in the file, it listens on the default endpoint of
/// every transport that has one: in the runtime directory, and on 127.0.0.1:7117 for TCP and UDP.
#[derive(Parser)]
#[command(name = "ipcd", version)]
struct Arguments {
    /// Configuration file (TOML).
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where to listen, as in unix:///run/x.sock or tcp://127.0.0.1:7117; may be repeated.
    #[arg(short, long = "listen", value_name = "ENDPOINT")]
    listeners: Vec<Listen>,
    /// Check the configuration, and do nothing else.
    #[arg(short, long)]
    test_config: bool,
    /// Print the configuration that would be in force, and do nothing else.
    #[arg(long)]
    print_config: bool,
    /// How peers are spread over workers: pool, or connection (a child for each).
    #[arg(long, value_name = "MODE", value_parser = ipcd_server::word::<ForkMode>)]
    fork: Option<ForkMode>,
    /// Workers of a pool; 0 for as many as fit the machine.
    #[arg(long, value_name = "N")]
    workers: Option<Workers>,
    /// Children at the most, with --fork connection.
    #[arg(long, value_name = "N")]
    max_children: Option<MaxChildren>,
    /// Run workers as this user, and group, when started as root.
    #[arg(long, value_name = "U[:G]")]
    user: Option<String>,
    /// Write the process id to this file.
    #[arg(long, value_name = "FILE")]
    pid_file: Option<PathBuf>,
    /// Where sockets, FIFOs and the token are.
    #[arg(long, value_name = "DIR")]
    runtime_dir: Option<PathBuf>,
    /// Write a newline to this descriptor when ready, and close it.
    #[arg(long, value_name = "N")]
    ready_fd: Option<i32>,
    /// Be no daemon, but the way to one: connect standard input and output to its Unix socket, as
    /// in `ipcctl --via 'pipe:ssh host ipcd --stdio'`.
    #[arg(long, conflicts_with_all = ["listeners", "test_config", "print_config"])]
    stdio: bool,
    /// error, warn, info, debug or trace.
    #[arg(long, value_name = "LEVEL", value_parser = ipcd_server::word::<LogLevel>)]
    log_level: Option<LogLevel>,
    /// text or json.
    #[arg(long, value_name = "FORMAT", value_parser = ipcd_server::word::<LogFormat>)]
    log_format: Option<LogFormat>,
}

/// The exit status when something failed.
const FAILED: u8 = 1;
/// The exit status for bad usage or configuration.
const USAGE: u8 = 2;
/// The exit status when there is no daemon.
const CANNOT_CONNECT: u8 = 3;

fn main() -> ExitCode {
    // It fails for no set of signals that there is.
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
            // The status tells it also where standard error does not take it.
            let _ = io::stderr().write_all(format!("{why}\n").as_bytes());
            ExitCode::from(status)
        }
    }
}

fn run(arguments: Arguments) -> Result<(), (u8, String)> {
    // What is wrong in a file stands at the start of the line, where editors look for it.
    let config = arguments.configure().map_err(|error| (USAGE, error.to_string()))?;
    if arguments.print_config {
        return print(&config.to_text());
    }
    let failed = |error: Error| (error.exit_status(), format!("ipcd: {error}"));
    if arguments.test_config {
        return ipcd_server::check(&config).map_err(|error| (USAGE, failed(error).1));
    }
    if arguments.stdio {
        // The daemon itself is good as process 1.
        let _ = ipcd_sys::leave_first_place();
        return stdio::run(&config).map_err(|why| (CANNOT_CONNECT, format!("ipcd: {why}")));
    }
    let sockets = ipcd_server::take_sockets().map_err(failed)?;
    let ready_fd = take_ready_fd(arguments.ready_fd, &sockets);
    let ready_fd = ready_fd.map_err(|error| (USAGE, format!("ipcd: --ready-fd: {error}")))?;
    close_strangers(&ready_fd, &sockets)
        .map_err(|error| (FAILED, format!("ipcd: close inherited descriptors: {error}")))?;
    ipcd_server::init_log(config.log);
    let has_file = arguments.config.is_some();
    let reload = has_file.then(|| Box::new(move || arguments.configure()) as Box<Reload>);
    ipcd_server::run(config, Start { reload, ready_fd, sockets }).map_err(failed)
}

/// Writes what was asked for to standard output.
fn print(text: &str) -> Result<(), (u8, String)> {
    let mut stdout = io::stdout();
    let written = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
    written.map_err(|error| (FAILED, format!("ipcd: write to standard output: {error}")))
}

/// Closes what whoever started us has left open: a lock, or the end of a pipe that another waits for,
/// would be held for as long as the daemon runs.
fn close_strangers(ready_fd: &Option<OwnedFd>, sockets: &[Socket]) -> io::Result<()> {
    let keep = ready_fd.iter().map(AsFd::as_fd).chain(sockets.iter().map(AsFd::as_fd));
    ipcd_sys::close_all_except(&keep.collect::<Vec<_>>())
}

fn take_ready_fd(number: Option<i32>, sockets: &[Socket]) -> io::Result<Option<OwnedFd>> {
    if number.is_some_and(|number| sockets.iter().any(|socket| socket.number() == number)) {
        return Err(io::Error::other("that is a socket which the service manager has passed"));
    }
    match number {
        Some(1) => take_stdout().map(Some),
        Some(0 | 2) => {
            Err(io::Error::other("0 is standard input, and 2 is for the log: give another"))
        }
        number => number.map(ipcd_sys::duplicate_fd).transpose(),
    }
}

/// Its number stays taken, so that nothing else gets it and is written to.
fn take_stdout() -> io::Result<OwnedFd> {
    let taken = io::stdout().as_fd().try_clone_to_owned()?;
    let null = File::options().write(true).open("/dev/null")?;
    nix::unistd::dup2_stdout(null)?;
    Ok(taken)
}

impl Arguments {
    /// The file, with the flags on top.
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
