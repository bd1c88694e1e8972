//! Measures `ipcctl relay --raw` between two sockets, beside socat.
//!
//! A process writes and another reads. The relay between them listens for the first and connects to
//! the second, as users start it.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use ipcd_relay::{ClientOptions, Observer, Relay, RelaySide};
use ipcd_transport::{Endpoint, poll_until};
use nix::poll::PollFlags;

use super::contender::Via;
use super::{LIMIT, RoundContext, RoundResult, named};
use crate::children::{ForkedChild, ProcessTeam, WATCHDOG, fork};
use crate::clock;
use crate::job::ProcessFindings;
use crate::peers::find_program;
use crate::usage::UsageMeter;

/// The pause between attempts to connect to a relay that does not listen yet.
const STARTING_STEP: Duration = Duration::from_millis(2);
/// An address that no other program uses: on a busy machine, others' clients try ports at random.
const LOOPBACK: &str = "127.82.76.1:0";

/// A program that moves the bytes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum RelayProgram {
    /// The engine of `ipcctl relay`, as users have it.
    Ours,
    /// socat with its own choice of a buffer, 8 KiB.
    Socat,
    /// socat with as much as is written at once.
    SocatLarge,
}

impl RelayProgram {
    pub(super) const ALL: [Self; 3] = [Self::Ours, Self::Socat, Self::SocatLarge];

    fn start(self, from: &SocketAddress, to: &SocketAddress) -> io::Result<ForkedChild> {
        match self {
            Self::Ours => start_ours(from, to),
            Self::Socat => start_socat(&[], from, to),
            Self::SocatLarge => start_socat(&["-b", "65536"], from, to),
        }
    }
}

/// One round on a fresh relay, from the first byte written to the last one read.
pub(super) fn round(
    bench: &RoundContext,
    program: RelayProgram,
    via: Via,
    written: usize,
    bytes: u64,
) -> io::Result<RoundResult> {
    let moved = try_round(bench, program, via, written, bytes);
    moved.map_err(|error| named(error, &format!("{program:?} over {via:?}")))
}

fn try_round(
    bench: &RoundContext,
    program: RelayProgram,
    via: Via,
    written: usize,
    bytes: u64,
) -> io::Result<RoundResult> {
    let dir = bench.dir()?;
    let listener = SocketListener::bind(via, &dir)?;
    let from = SocketAddress::free(via, &dir)?;
    let relay = program.start(&from, &listener.address()?)?;
    let (writer, reader) = (from.connect()?, listener.accept()?);
    let movers = [relay.process()];
    let mut team = ProcessTeam::default();
    team.add(c"bench-reader", None, |start| {
        // The relay is idle until the start.
        let meter = UsageMeter::start(&movers);
        start()?;
        read(&reader, written, bytes)?;
        let last = clock::now();
        let (usage, daemon) = meter.stop(&movers);
        Ok(ProcessFindings { last, usage, daemon, ..ProcessFindings::default() })
    })?;
    team.add(c"bench-writer", None, |start| {
        start()?;
        let first = clock::now();
        write(&writer, written, bytes)?;
        Ok(ProcessFindings { first, last: clock::now(), ..ProcessFindings::default() })
    })?;
    Ok(RoundResult::of(&team.run(&bench.interrupts, WATCHDOG, LIMIT)?))
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

/// A place for a socket.
enum SocketAddress {
    Unix(PathBuf),
    Tcp(SocketAddr),
}

impl SocketAddress {
    /// One without a listener yet.
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

    /// Connects as soon as the relay listens.
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
                // Without a listener, a socket may connect to itself: TCP's simultaneous open.
                match stream.local_addr()? == *address {
                    true => Err(io::ErrorKind::ConnectionRefused.into()),
                    false => Ok(stream.into()),
                }
            }
        }
    }
}

fn no_sockets() -> io::Error {
    io::Error::other("relays are measured between sockets: --via unix or tcp")
}

/// The server that the relay connects to.
enum SocketListener {
    Unix(UnixListener, PathBuf),
    Tcp(TcpListener),
}

impl SocketListener {
    fn bind(via: Via, dir: &Path) -> io::Result<Self> {
        match via {
            Via::Unix => {
                let path = dir.join("b.sock");
                Ok(Self::Unix(UnixListener::bind(&path)?, path))
            }
            Via::Tcp => Ok(Self::Tcp(TcpListener::bind(LOOPBACK)?)),
            Via::Pipe | Via::Fifo | Via::Udp => Err(no_sockets()),
        }
    }

    fn address(&self) -> io::Result<SocketAddress> {
        match self {
            Self::Unix(_, path) => Ok(SocketAddress::Unix(path.clone())),
            Self::Tcp(listener) => Ok(SocketAddress::Tcp(listener.local_addr()?)),
        }
    }

    fn accept(&self) -> io::Result<File> {
        let deadline = Instant::now() + WATCHDOG;
        let has_come = match self {
            Self::Unix(listener, _) => poll_until(listener, PollFlags::POLLIN, deadline),
            Self::Tcp(listener) => poll_until(listener, PollFlags::POLLIN, deadline),
        };
        if !has_come.map_err(io::Error::other)? {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "the relay did not connect"));
        }
        let socket: OwnedFd = match self {
            Self::Unix(listener, _) => listener.accept()?.0.into(),
            Self::Tcp(listener) => listener.accept()?.0.into(),
        };
        Ok(socket.into())
    }
}

/// Prints failures only.
struct FailurePrinter;

impl Observer for FailurePrinter {
    fn listening(&self, _at: &Endpoint) {}

    fn trouble(&self, what: &str) {
        eprintln!("relay: {what}");
    }
}

fn start_ours(from: &SocketAddress, to: &SocketAddress) -> io::Result<ForkedChild> {
    let relay = Relay {
        from: RelaySide::listening(&from.endpoint()).map_err(io::Error::other)?,
        to: RelaySide::connecting(&to.endpoint()).map_err(io::Error::other)?,
        is_raw: true,
        codec: None,
        children: None,
        ucspi: false,
        timeout: WATCHDOG,
        daemon: "unix:///nowhere".parse().map_err(io::Error::other)?,
        client: ClientOptions::default(),
    };
    fork(c"bench-relay", || relay.run(&FailurePrinter).map_err(io::Error::other))
}

fn start_socat(
    options: &[&str],
    from: &SocketAddress,
    to: &SocketAddress,
) -> io::Result<ForkedChild> {
    let from = match from {
        SocketAddress::Unix(path) => format!("UNIX-LISTEN:{}", path.display()),
        SocketAddress::Tcp(address) => {
            format!("TCP-LISTEN:{},bind={},reuseaddr", address.port(), address.ip())
        }
    };
    let to = match to {
        SocketAddress::Unix(path) => format!("UNIX-CONNECT:{}", path.display()),
        SocketAddress::Tcp(address) => format!("TCP:{address}"),
    };
    let mut command = Command::new(find_program("socat")?);
    command.args(options).args([from, to]).stdin(Stdio::null());
    fork(c"bench-socat", || Err(command.exec()))
}
