//! Other servers between the two processes, for comparison. Each is an installed program, started
//! on its own port, and its client does no more than necessary. ipcd has the same kind of client
//! here: its client library does more than the other servers' clients.

mod protocol;
mod python;
mod zmtp;

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::rc::Rc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{Shutdown, setsockopt, shutdown, sockopt};
use nix::sys::time::TimeVal;
use protocol::{ParsedItem, ServerProtocol};

use crate::children::{ForkedChild, fork};
use crate::daemon::EmbeddedDaemon;
use crate::end::{Lane, LaneSide, MessageEnd, PATIENCE};
use crate::plan::OtherServer;

/// The time that a server may take to listen.
const STARTING: Duration = Duration::from_secs(5);
/// The pause between tries to connect.
const RETRY: Duration = Duration::from_millis(2);
/// The pause between tries to reach oneself.
const PROBING: Duration = Duration::from_millis(20);
/// Bytes that are read at once, if they are there.
const READ: usize = 256 * 1024;

impl OtherServer {
    fn protocol(self, size: usize) -> ServerProtocol {
        match self {
            Self::IpcdUnix | Self::IpcdTcp => ServerProtocol::Ipcd,
            Self::Socat => ServerProtocol::Bytes(size),
            Self::Nats | Self::IpcdNats => ServerProtocol::Nats,
            Self::Mosquitto => ServerProtocol::Mqtt,
            Self::Redis => ServerProtocol::Redis,
            Self::Zeromq => ServerProtocol::Zmtp,
        }
    }

    fn command(self, ports: [u16; 2]) -> io::Result<Command> {
        let [port, second] = ports.map(|port| port.to_string());
        let (program, arguments) = match self {
            Self::IpcdUnix | Self::IpcdTcp | Self::IpcdNats => {
                return Err(ErrorKind::Unsupported.into());
            }
            Self::Socat => {
                let listen = |port| format!("TCP-LISTEN:{port},bind=127.0.0.1,nodelay,reuseaddr");
                (find_program("socat")?, vec!["-b65536".into(), listen(port), listen(second)])
            }
            Self::Nats => {
                let at = ["-a", "127.0.0.1", "-p"].map(str::to_owned);
                (find_program("nats-server")?, at.into_iter().chain([port]).collect())
            }
            Self::Mosquitto => (find_program("mosquitto")?, vec!["-p".into(), port]),
            Self::Zeromq => {
                let python = python::with_zmq()?;
                (python, vec!["-c".into(), include_str!("forwarder.py").into(), port, second])
            }
            Self::Redis => {
                let flags = [
                    ["--port", &port],
                    ["--bind", "127.0.0.1"],
                    ["--save", ""],
                    ["--appendonly", "no"],
                    ["--client-output-buffer-limit", "pubsub 0 0 0"],
                ];
                let flags = flags.concat().into_iter().map(str::to_owned).collect();
                (find_program("redis-server")?, flags)
            }
        };
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Ok(command)
    }
}

/// A server that runs for one measurement.
pub(crate) enum ServedPeer {
    Ours(Rc<EmbeddedDaemon>, &'static str),
    /// With the port for clients of NATS.
    OursForNats(EmbeddedDaemon, u16),
    Other(ForkedChild, [u16; 2]),
}

impl ServedPeer {
    /// Starts the server and, if it takes several connections at one port, waits until it listens.
    pub(crate) fn start(peer: OtherServer, dir: &Path) -> io::Result<Self> {
        match peer {
            OtherServer::IpcdUnix => Self::start_ours("unix", dir),
            OtherServer::IpcdTcp => Self::start_ours("tcp", dir),
            OtherServer::IpcdNats => Self::start_ours_for_nats(dir),
            _ => Self::start_other(peer),
        }
    }

    fn start_ours(scheme: &'static str, dir: &Path) -> io::Result<Self> {
        fs::create_dir(dir)?;
        Ok(Self::Ours(Rc::new(EmbeddedDaemon::start(dir, |_| {})?), scheme))
    }

    fn start_ours_for_nats(dir: &Path) -> io::Result<Self> {
        fs::create_dir(dir)?;
        let port = free_port()?;
        let listener = format!("tcp://127.0.0.1:{port}?codec=nats").parse();
        let listener = listener.map_err(io::Error::other)?;
        let daemon = EmbeddedDaemon::start(dir, |config| config.listeners.push(listener))?;
        Ok(Self::OursForNats(daemon, port))
    }

    fn start_other(peer: OtherServer) -> io::Result<Self> {
        let ports = [free_port()?, free_port()?];
        let mut command = peer.command(ports)?;
        let child = fork(c"bench-peer", || Err(command.exec()))?;
        if peer.has_subjects() {
            connect(ports[0])?;
        }
        Ok(Self::Other(child, ports))
    }

    pub(crate) fn processes(&self) -> Vec<u32> {
        match self {
            Self::Ours(daemon, _) => daemon.processes.clone(),
            Self::OursForNats(daemon, _) => daemon.processes.clone(),
            Self::Other(child, _) => vec![child.process()],
        }
    }

    /// A way through it.
    pub(crate) fn lane(
        &self,
        peer: OtherServer,
        subject: String,
        size: usize,
        batch: usize,
    ) -> PeerLane {
        let way = match (self, peer) {
            (Self::Ours(daemon, scheme), _) => PeerPath::Session(Rc::clone(daemon), scheme),
            (&Self::OursForNats(_, port), _) => PeerPath::Ports([(port, port); 2]),
            (&Self::Other(_, [first, second]), OtherServer::Socat) => {
                PeerPath::Ports([(first, first), (second, second)])
            }
            (&Self::Other(_, [first, second]), OtherServer::Zeromq) => {
                PeerPath::Ports([(first, second); 2])
            }
            (&Self::Other(_, [first, _]), _) => PeerPath::Ports([(first, first); 2]),
        };
        PeerLane { protocol: peer.protocol(size), way, subject, batch }
    }
}

/// Servers are often where only root looks for programs.
pub(crate) fn find_program(name: &str) -> io::Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let further = ["/usr/local/sbin", "/usr/sbin"].map(PathBuf::from);
    let mut places = std::env::split_paths(&path).chain(further).map(|dir| dir.join(name));
    let missing = || io::Error::new(ErrorKind::NotFound, format!("{name} is not installed"));
    places.find(|place| place.is_file()).ok_or_else(missing)
}

/// A port that was free a moment ago.
fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

fn connect(port: u16) -> io::Result<TcpStream> {
    let deadline = Instant::now() + STARTING;
    loop {
        match TcpStream::connect(("127.0.0.1", port)) {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Err(error) if Instant::now() >= deadline => return Err(error),
            Err(_) => std::thread::sleep(RETRY),
        }
    }
}

pub(crate) struct PeerLane {
    protocol: ServerProtocol,
    way: PeerPath,
    subject: String,
    batch: usize,
}

/// The connections of both sides.
enum PeerPath {
    /// By a session of ipcd's own protocol.
    Session(Rc<EmbeddedDaemon>, &'static str),
    /// The ports of each side: for sending, and for subscribing.
    Ports([(u16, u16); 2]),
}

impl Lane for PeerLane {
    fn open(&mut self, side: LaneSide) -> io::Result<Box<dyn MessageEnd>> {
        let (there, back) = (format!("{}.there", self.subject), format!("{}.back", self.subject));
        let (to, from) = if side == LaneSide::Near { (there, back) } else { (back, there) };
        let (protocol, batch) = (self.protocol, self.batch);
        let (writer, reader, mut input) = match &self.way {
            PeerPath::Session(daemon, scheme) => {
                let mut session = daemon.session(scheme)?;
                session.subscribe([from])?;
                let (reader, writer) = session.stream()?;
                (writer.try_clone()?, reader.try_clone()?, Vec::new())
            }
            PeerPath::Ports(ports) => {
                open(protocol, ports[usize::from(side == LaneSide::Far)], &from)?
            }
        };
        let filled = input.len();
        input.resize(filled + READ, 0);
        set_patience(&reader, PATIENCE)?;
        let output = Vec::new();
        Ok(Box::new(PeerEnd { protocol, reader, writer, to, batch, input, filled, output }))
    }
}

/// Connects and subscribes. Returns also the input that came meanwhile.
fn open(
    protocol: ServerProtocol,
    (sending, subscribing): (u16, u16),
    from: &str,
) -> io::Result<(File, File, Vec<u8>)> {
    let mut writer = connect(sending)?;
    let mut hello = Vec::new();
    protocol.open(&mut hello);
    let mut reader = match protocol.has_two_connections() {
        true => {
            send_greeting(protocol, &mut writer, &std::mem::take(&mut hello))?;
            connect(subscribing)?
        }
        false => writer.try_clone()?,
    };
    protocol.subscribe(&mut hello, from);
    send_greeting(protocol, &mut reader, &hello)?;
    let input = await_subscribed(protocol, &reader, &mut writer)?;
    let file = |stream: TcpStream| File::from(OwnedFd::from(stream));
    Ok((file(writer), file(reader), input))
}

fn set_patience(socket: &File, patience: Duration) -> io::Result<()> {
    let time = TimeVal::new(patience.as_secs() as i64, i64::from(patience.subsec_micros()));
    Ok(setsockopt(socket, sockopt::ReceiveTimeout, &time)?)
}

/// Waits until the subscription is in force, and returns the unread input that came meanwhile.
fn await_subscribed(
    protocol: ServerProtocol,
    mut reader: &TcpStream,
    writer: &mut TcpStream,
) -> io::Result<Vec<u8>> {
    let (mut input, mut filled) = ([0; 4096], 0);
    let (deadline, mut probe) = (Instant::now() + STARTING, Vec::new());
    protocol.probe(&mut probe);
    reader.set_read_timeout(Some(if probe.is_empty() { STARTING } else { PROBING }))?;
    while !protocol.is_subscribed(&input[..filled]) {
        writer.write_all(&probe)?;
        match reader.read(&mut input[filled..]) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(count) => filled += count,
            Err(error) if error.kind() != ErrorKind::WouldBlock => return Err(error),
            Err(_) if Instant::now() >= deadline => return Err(ErrorKind::TimedOut.into()),
            Err(_) => {}
        }
    }
    // A server that confirms sends nothing else before the start.
    Ok(if probe.is_empty() { Vec::new() } else { input[..filled].to_vec() })
}

/// Says hello, and first the greeting, if there is one: libzmq hangs up if more comes with it.
fn send_greeting(protocol: ServerProtocol, stream: &mut TcpStream, hello: &[u8]) -> io::Result<()> {
    let (greeting, rest) = hello.split_at(protocol.greeting());
    stream.write_all(greeting)?;
    stream.read_exact(&mut vec![0; greeting.len()])?;
    stream.write_all(rest)
}

struct PeerEnd {
    protocol: ServerProtocol,
    reader: File,
    writer: File,
    to: String,
    batch: usize,
    input: Vec<u8>,
    filled: usize,
    output: Vec<u8>,
}

impl MessageEnd for PeerEnd {
    fn send(&mut self, message: &[u8]) -> io::Result<()> {
        self.protocol.publish(&mut self.output, &self.to, message);
        if self.output.len() >= self.batch { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.write_all(&self.output)?;
        self.output.clear();
        Ok(())
    }

    /// The server's output on a connection that only sends is not read meanwhile. Closing it with
    /// unread input would be a reset, and the server would lose the bytes that it has not read yet
    /// (tcp(7)).
    fn finish(&mut self) -> io::Result<()> {
        self.flush()?;
        if self.protocol.has_two_connections() {
            match shutdown(self.writer.as_raw_fd(), Shutdown::Write) {
                Ok(()) | Err(Errno::ENOTCONN) => {}
                Err(error) => return Err(error.into()),
            }
            set_patience(&self.writer, STARTING)?;
            while matches!(self.writer.read(&mut self.input[self.filled..]), Ok(1..)) {}
        }
        Ok(())
    }

    fn receive(&mut self, take: &mut dyn FnMut(&[u8])) -> io::Result<usize> {
        loop {
            if self.filled == self.input.len() {
                self.input.resize(2 * self.filled, 0);
            }
            match self.reader.read(&mut self.input[self.filled..]) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(count) => self.filled += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(0),
                Err(error) => return Err(error),
            }
            match self.take_messages(take) {
                0 => {}
                count => return Ok(count),
            }
        }
    }
}

impl PeerEnd {
    fn take_messages(&mut self, take: &mut dyn FnMut(&[u8])) -> usize {
        let (mut at, mut count) = (0, 0);
        loop {
            let input = &self.input[at..self.filled];
            match self.protocol.find(input) {
                ParsedItem::Message(payload, length) => {
                    take(&input[payload]);
                    (at, count) = (at + length, count + 1);
                }
                ParsedItem::Other(length) => at += length,
                ParsedItem::Incomplete => break,
            }
        }
        self.input.copy_within(at..self.filled, 0);
        self.filled -= at;
        count
    }
}
