//! `ipcctl relay`: any endpoint to any other, on the real binary.

mod bytes;
mod messages;
mod processes;
mod servers;
mod words;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

use ipcd_tests::{Daemon, PATIENCE, ProcessResult, RunningProcess, ipcctl};
use nix::sys::signal::Signal;
use tempfile::TempDir;

/// Both ways of serving peers.
const WAYS: [&[&str]; 2] = [&[], &["--fork"]];

/// A relay that listens.
struct RunningRelay {
    process: RunningProcess,
    /// Its endpoint, by its own report.
    at: String,
}

impl RunningRelay {
    fn start(args: &[&str]) -> Self {
        let process = spawn(args, &[]);
        Self::listening(process)
    }

    /// A relay that knows the runtime directory of a daemon.
    fn beside(daemon: &Daemon, args: &[&str]) -> Self {
        let via = daemon.via("unix");
        let process = spawn(&[&["--via", &via], args].concat(), &[]);
        Self::listening(process)
    }

    fn listening(process: RunningProcess) -> Self {
        let at = process.stderr.wait_until("where it listens", |text| {
            let at = text.strip_prefix("listening on ")?;
            at.split_once('\n').map(|(at, _)| at.to_owned())
        });
        Self { process, at }
    }

    fn tcp(&self) -> TcpStream {
        let (_, address) = self.at.split_once("://").expect("the endpoint has a scheme");
        let stream = TcpStream::connect(address).expect("the listener accepts a connection");
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket has a timeout");
        stream
    }

    fn terminate(&mut self) -> ProcessResult {
        self.process.signal(Signal::SIGTERM);
        self.process.wait()
    }
}

fn spawn(args: &[&str], variables: &[(&str, &str)]) -> RunningProcess {
    let mut command = Command::new(ipcctl());
    command.arg("relay").args(args).stdin(Stdio::null()).env_remove("IPCD_VIA");
    RunningProcess::start(command.envs(variables.iter().copied()))
}

fn dir() -> TempDir {
    ipcd_tests::private_dir()
}

fn unix(path: &Path) -> String {
    format!("unix://{}", path.display())
}

/// A server on a Unix socket that handles this number of connections, each in a thread.
fn server(dir: &TempDir, peers: usize, handle: fn(UnixStream)) -> PathBuf {
    let path = dir.path().join("server.sock");
    let listener = UnixListener::bind(&path).expect("the path is free");
    thread::spawn(move || {
        for stream in listener.incoming().take(peers) {
            let stream = stream.expect("a peer comes");
            thread::spawn(move || handle(stream));
        }
    });
    path
}

fn echo(mut stream: UnixStream) {
    let mut from = stream.try_clone().expect("a descriptor is left");
    // The other side may close at any time.
    let _ = std::io::copy(&mut from, &mut stream);
    let _ = stream.shutdown(Shutdown::Write);
}

/// Bytes without repetitions.
fn noise(count: usize, seed: u64) -> Vec<u8> {
    let mut x = seed | 1;
    let mut word = || {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        x
    };
    (0..count.div_ceil(8)).flat_map(|_| word().to_le_bytes()).take(count).collect()
}

/// Sends these bytes while it reads to the end.
fn exchange(stream: TcpStream, bytes: &[u8]) -> Vec<u8> {
    thread::scope(|scope| {
        scope.spawn(|| {
            (&stream).write_all(bytes).expect("the peer reads the bytes");
            stream.shutdown(Shutdown::Write).expect("the socket is open");
        });
        let mut heard = Vec::new();
        (&stream).read_to_end(&mut heard).expect("the stream ends");
        heard
    })
}
