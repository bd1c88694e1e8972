//! What `ipcctl relay --raw` moves from one socket to another, beside socat.
//!
//! A process writes, another reads, and the relay between them listens at one end and connects to
//! the other, as users start it. Rounds of the programs are interleaved.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use ipcd_relay::{ClientOptions, Observer, Relay, Side};
use ipcd_transport::Endpoint;
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::cores::Allowed;
use crate::options::Options;
use crate::process::{Child, WATCHDOG, await_readable, end};
use crate::report;
use crate::round::{Took, cpu_of, pipe};
use crate::server::Via;

/// How long to wait before a program is looked for again that does not listen yet.
const STARTING_STEP: Duration = Duration::from_millis(2);
/// An address that nobody else uses: on a busy machine, others' clients try ports at random.
const LOOPBACK: &str = "127.82.76.1:0";
const GIB: f64 = (1 << 30) as f64;

/// What moves the bytes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Program {
    /// The engine of `ipcctl relay`, as it is there.
    Ours,
    /// socat with its own choice of a buffer, 8 KiB.
    Socat,
    /// socat with as much as is written at once.
    SocatLarge,
}

impl Program {
    pub(crate) const ALL: [Self; 3] = [Self::Ours, Self::Socat, Self::SocatLarge];
}

/// Measures all programs, in turn, and prints a table.
pub(crate) fn bench(options: &Options) -> io::Result<()> {
    let allowed = Allowed::find()?;
    let bytes = options.relayed();
    report::print_relay_head();
    for &cores in &options.cores {
        allowed.place(cores)?;
        for (via, written) in options.loads() {
            let (mut rates, mut costs) =
                (Program::ALL.map(|_| vec![]), Program::ALL.map(|_| vec![]));
            for _ in 0..options.rounds() {
                for (place, program) in Program::ALL.into_iter().enumerate() {
                    let Took { time, cpu } = round(program, via, written, bytes)?;
                    let gib = bytes as f64 / GIB;
                    rates[place].push(gib / time.as_secs_f64());
                    costs[place].push(1e3 * cpu.as_secs_f64() / gib);
                }
            }
            report::print_relay_row(cores, via, written, &rates, &costs);
        }
    }
    report::print_relay_targets();
    Ok(())
}

/// One round on a fresh relay, from the first byte written to the last one read.
pub(crate) fn round(program: Program, via: Via, written: usize, bytes: u64) -> io::Result<Took> {
    let failed = |error| io::Error::other(format!("{program:?} over {via:?}: {error}"));
    let stage = Stage::set(program, via).map_err(failed)?;
    stage.drive(written, bytes).map_err(failed)
}

/// A relay that runs, and what it connects.
struct Stage {
    writer: File,
    reader: File,
    relay: Process,
    _dir: TempDir,
}

/// A relay of ours or of others, ended when this is dropped.
enum Process {
    Ours(Child),
    Socat(Pid),
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Self::Socat(pid) = self {
            end(*pid);
        }
    }
}

impl Process {
    fn id(&self) -> u32 {
        match self {
            Self::Ours(child) => child.id(),
            Self::Socat(pid) => pid.as_raw() as u32,
        }
    }
}

impl Stage {
    fn set(program: Program, via: Via) -> io::Result<Self> {
        let dir = tempfile::tempdir()?;
        let to = Server::bind(via, dir.path())?;
        let from = Address::free(via, dir.path())?;
        let relay = match program {
            Program::Ours => start_ours(&from, &to.address)?,
            Program::Socat => start_socat(&[], &from, &to.address)?,
            Program::SocatLarge => start_socat(&["-b", "65536"], &from, &to.address)?,
        };
        let writer = from.connect()?;
        let reader = to.accept()?;
        Ok(Self { writer, reader, relay, _dir: dir })
    }

    fn drive(&self, written: usize, bytes: u64) -> io::Result<Took> {
        let Self { writer, reader, .. } = self;
        let (go, mut give_go) = pipe()?;
        let (done, say_done) = pipe()?;
        let sender = Child::start(c"bench-writer", &[go.as_fd(), writer.as_fd()], || {
            (&go).read_exact(&mut [0])?;
            write(writer, written, bytes)
        })?;
        let receiver = Child::start(c"bench-reader", &[say_done.as_fd(), reader.as_fd()], || {
            read(reader, written, bytes)?;
            (&say_done).write_all(&[1])
        })?;
        drop((go, say_done));
        let movers = [self.relay.id()];
        let cpu_before = cpu_of(&movers)?;
        let start = Instant::now();
        give_go.write_all(&[1])?;
        await_readable(&done, "end of the bytes")?;
        let time = start.elapsed();
        let cpu = cpu_of(&movers)?.saturating_sub(cpu_before);
        sender.join()?;
        receiver.join()?;
        Ok(Took { time, cpu })
    }
}

fn write(mut to: &File, at_once: usize, bytes: u64) -> io::Result<()> {
    let chunk = vec![7; at_once];
    let mut left = bytes;
    while left > 0 {
        let now = left.min(at_once as u64) as usize;
        to.write_all(&chunk[..now])?;
        left -= now as u64;
    }
    Ok(())
}

fn read(mut from: &File, at_once: usize, bytes: u64) -> io::Result<()> {
    let mut chunk = vec![0; at_once];
    let mut left = bytes;
    while left > 0 {
        match from.read(&mut chunk)? as u64 {
            0 => return Err(io::Error::other(format!("the end with {left} bytes missing"))),
            count => left = left.saturating_sub(count),
        }
    }
    Ok(())
}

/// Where something listens.
enum Address {
    Unix(PathBuf),
    Tcp(SocketAddr),
}

impl Address {
    /// One where nobody listens yet.
    fn free(via: Via, dir: &Path) -> io::Result<Self> {
        match via {
            Via::Unix => Ok(Self::Unix(dir.join("a.sock"))),
            Via::Tcp => Ok(Self::Tcp(TcpListener::bind(LOOPBACK)?.local_addr()?)),
            Via::Pipe | Via::Fifo | Via::Udp => Err(no_sockets()),
        }
    }

    fn endpoint(&self) -> String {
        match self {
            Self::Unix(path) => format!("unix://{}", path.display()),
            Self::Tcp(address) => format!("tcp://{address}"),
        }
    }

    /// Connects as soon as somebody listens.
    fn connect(&self) -> io::Result<File> {
        let deadline = Instant::now() + WATCHDOG;
        loop {
            match self.try_connect() {
                Ok(socket) => return Ok(socket.into()),
                Err(error) if Instant::now() > deadline => return Err(error),
                Err(_) => thread::sleep(STARTING_STEP),
            }
        }
    }

    fn try_connect(&self) -> io::Result<OwnedFd> {
        match self {
            Self::Unix(path) => Ok(UnixStream::connect(path)?.into()),
            Self::Tcp(address) => {
                let stream = TcpStream::connect(address)?;
                // Where nobody listens, a socket may meet itself.
                match stream.local_addr()? == *address {
                    true => Err(io::ErrorKind::ConnectionRefused.into()),
                    false => Ok(stream.into()),
                }
            }
        }
    }
}

fn no_sockets() -> io::Error {
    io::Error::other("relays are measured between sockets: unix or tcp")
}

/// What the relay connects to.
struct Server {
    listener: Listener,
    address: Address,
}

enum Listener {
    Unix(UnixListener),
    Tcp(TcpListener),
}

impl Server {
    fn bind(via: Via, dir: &Path) -> io::Result<Self> {
        match via {
            Via::Unix => {
                let path = dir.join("b.sock");
                let listener = Listener::Unix(UnixListener::bind(&path)?);
                Ok(Self { listener, address: Address::Unix(path) })
            }
            Via::Tcp => {
                let listener = TcpListener::bind(LOOPBACK)?;
                let address = Address::Tcp(listener.local_addr()?);
                Ok(Self { listener: Listener::Tcp(listener), address })
            }
            Via::Pipe | Via::Fifo | Via::Udp => Err(no_sockets()),
        }
    }

    fn accept(&self) -> io::Result<File> {
        let socket: OwnedFd = match &self.listener {
            Listener::Unix(listener) => {
                await_readable(listener, "relay")?;
                listener.accept()?.0.into()
            }
            Listener::Tcp(listener) => {
                await_readable(listener, "relay")?;
                listener.accept()?.0.into()
            }
        };
        Ok(socket.into())
    }
}

/// Hears of nothing, but says what fails.
struct Quiet;

impl Observer for Quiet {
    fn listening(&self, _at: &Endpoint) {}

    fn trouble(&self, what: &str) {
        eprintln!("relay: {what}");
    }
}

fn start_ours(from: &Address, to: &Address) -> io::Result<Process> {
    let relay = Relay {
        from: Side::listening(&from.endpoint()).map_err(io::Error::other)?,
        to: Side::connecting(&to.endpoint()).map_err(io::Error::other)?,
        is_raw: true,
        codec: None,
        children: None,
        ucspi: false,
        timeout: WATCHDOG,
        daemon: "unix:///nowhere".parse().map_err(io::Error::other)?,
        client: ClientOptions::default(),
    };
    let run = || relay.run(&Quiet).map_err(io::Error::other);
    Ok(Process::Ours(Child::start(c"bench-relay", &[], run)?))
}

fn start_socat(options: &[&str], from: &Address, to: &Address) -> io::Result<Process> {
    let from = match from {
        Address::Unix(path) => format!("UNIX-LISTEN:{}", path.display()),
        Address::Tcp(address) => {
            format!("TCP-LISTEN:{},bind={},reuseaddr", address.port(), address.ip())
        }
    };
    let to = match to {
        Address::Unix(path) => format!("UNIX-CONNECT:{}", path.display()),
        Address::Tcp(address) => format!("TCP:{address}"),
    };
    let started = Command::new("socat").args(options).args([from, to]).stdin(Stdio::null()).spawn();
    let started = started.map_err(|error| {
        io::Error::other(format!("start socat: {error} (install it to compare with it)"))
    })?;
    Ok(Process::Socat(Pid::from_raw(started.id() as i32)))
}
