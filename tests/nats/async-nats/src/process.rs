//! A server's process: its start, its end, and its log, which tells its port.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::thread;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::config::ServerConfig;
use crate::{ipcd, nats, program};

/// A process that serves clients.
pub(crate) struct ServerProcess {
    config: PathBuf,
    extra: Vec<String>,
    child: Child,
    dir: TempDir,
    pub(crate) port: u16,
    pub(crate) has_tls: bool,
    is_ipcd: bool,
}

impl ServerProcess {
    /// Starts one and waits until its log says that clients can connect. `None` takes a free port.
    pub(crate) fn start(config: &Path, port: Option<u16>, extra: &[String]) -> Self {
        let dir = TempDir::new().expect("a directory can be made");
        let (_, is_ipcd) = program();
        let parsed = ServerConfig::read(config);
        let mut server = Self {
            config: config.to_owned(),
            extra: extra.to_vec(),
            child: spawn(&mut command(&parsed, config, &dir, port, extra)),
            dir,
            port: 0,
            has_tls: parsed.tls.is_some(),
            is_ipcd,
        };
        server.await_port();
        server
    }

    pub(crate) fn restart(&mut self) {
        self.end();
        let parsed = ServerConfig::read(&self.config);
        let port = Some(self.port);
        self.child = spawn(&mut command(&parsed, &self.config, &self.dir, port, &self.extra));
        self.await_port();
    }

    pub(crate) fn signal_lame_duck(&self) {
        let signal = if self.is_ipcd { Signal::SIGTERM } else { Signal::SIGUSR2 };
        let pid = i32::try_from(self.child.id()).expect("a pid is small");
        kill(Pid::from_raw(pid), signal).expect("a child that was not waited for has its pid");
    }

    fn await_port(&mut self) {
        let marks = if self.is_ipcd { &ipcd::MARKS } else { &nats::MARKS };
        let log = self.child.stderr.take().expect("standard error is piped");
        self.port = read_port(log, marks, self.dir.path().join("log"));
    }

    fn end(&mut self) {
        // It may have ended already, which is no failure of ours.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        self.end();
    }
}

/// Texts of a log: before the port, and that clients are served.
pub(crate) struct LogMarks {
    pub(crate) port: &'static [&'static str],
    pub(crate) ready: &'static str,
}

fn command(
    parsed: &ServerConfig,
    config: &Path,
    dir: &TempDir,
    port: Option<u16>,
    extra: &[String],
) -> Command {
    let (path, is_ipcd) = program();
    let mut command = Command::new(path);
    if is_ipcd {
        ipcd::configure(&mut command, parsed, dir.path(), port);
    } else {
        nats::configure(&mut command, config, dir.path(), port);
        command.args(extra);
    }
    command
}

fn spawn(command: &mut Command) -> Child {
    let command = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

/// Reads the log until clients are served; a thread copies the rest, so that the pipe stays empty.
fn read_port(log: ChildStderr, marks: &LogMarks, copy: PathBuf) -> u16 {
    let mut reader = BufReader::new(log);
    let (mut port, mut said, mut line) = (None, String::new(), String::new());
    while !line.contains(marks.ready) || port.is_none() {
        said += &line;
        line.clear();
        let count = reader.read_line(&mut line).expect("a log is text");
        assert_ne!(count, 0, "the server has ended:\n{said}");
        port = port.or_else(|| port_in(&line, marks));
    }
    thread::spawn(move || copy_rest(reader, copy));
    port.expect("the loop ends with a port")
}

fn port_in(line: &str, marks: &LogMarks) -> Option<u16> {
    let (_, rest) = marks.port.iter().find_map(|mark| line.split_once(mark))?;
    let (_, port) = rest.split_whitespace().next()?.split('?').next()?.rsplit_once(':')?;
    port.parse().ok()
}

fn copy_rest(mut reader: impl Read, copy: PathBuf) {
    if let Ok(mut file) = File::create(copy) {
        // The directory goes with the server; then the copy ends.
        let _ = std::io::copy(&mut reader, &mut file);
    }
}

/// Ports that are free now. All are held until all are known, so that they differ.
pub(crate) fn free_ports<const N: usize>() -> [u16; N] {
    let held = [(); N].map(|()| TcpListener::bind("127.0.0.1:0").expect("a port is free"));
    held.map(|socket| socket.local_addr().expect("it is bound").port())
}
