//! The servers that are compared, started and wired to a publisher and subscribers.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use ipcd_server::{Config, ForkMode};
use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::socket::{setsockopt, sockopt};

use super::line::ClientLine;
use super::load::{FILTER, LoadShape, SUBJECT};
use super::{RoundContext, datagrams, forwarder, yardstick};
use crate::children::{ForkedChild, WATCHDOG, fork};
use crate::daemon::EmbeddedDaemon;
use crate::session::{Session, set_blocking};

/// Bytes of a bare pipe: the most that an unprivileged process may request (pipe(7)).
const PIPE_BYTES: i32 = 1024 * 1024;
/// Bytes that a bare TCP socket holds, as many as one of ipcd's on the loopback: with the kernel's own
/// choice it is slower than ipcd, and no limit.
const NEAR_BYTES: usize = 128 * 1024;
/// Peers that subscribe to subjects without messages, and subscriptions of each: as many as the
/// daemon allows by default.
const CROWD: usize = 10;
const SUBSCRIPTIONS_EACH: usize = 10_000;
/// The pause before the daemon is asked again where its peers are.
const SETTLING_STEP: Duration = Duration::from_millis(2);

/// A server that relays the messages.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum RelayContender {
    /// Moves bytes: the upper limit of the machine.
    Relay,
    /// Routes frames and does nothing else: the limit that ipcd is compared with.
    Yardstick,
    /// The daemon, with one worker.
    Ipcd,
    /// The daemon, with publisher and subscriber on different workers.
    Crossing,
}

impl RelayContender {
    pub(super) const ALL: [Self; 4] = [Self::Relay, Self::Yardstick, Self::Ipcd, Self::Crossing];
}

/// The daemon's distribution of peers.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum WorkerMode {
    /// Over a number of workers.
    Pool(u32),
    /// A child for each.
    Connection,
}

/// The transport of the messages.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum Via {
    /// Unix-domain stream sockets.
    Unix,
    /// TCP on the loopback.
    Tcp,
    /// Anonymous pipes.
    Pipe,
    /// FIFOs.
    Fifo,
    /// UDP on the loopback, paced by credit.
    Udp,
}

impl Via {
    pub(super) fn scheme(self) -> &'static str {
        match self {
            Self::Unix => "unix",
            Self::Tcp => "tcp",
            Self::Pipe => "pipe",
            Self::Fifo => "fifo",
            Self::Udp => "udp",
        }
    }
}

/// A server that runs, and the clients' ends of its connections.
pub(super) struct RelayStage {
    pub(super) publisher: ClientLine,
    pub(super) subscribers: Vec<ClientLine>,
    /// The processes that move the messages.
    pub(super) movers: Vec<u32>,
    _crowd: Vec<Session>,
    _server: StageServer,
}

/// A server that ends when this is dropped.
#[expect(dead_code, reason = "held until the end")]
enum StageServer {
    Bare(ForkedChild),
    Daemon(EmbeddedDaemon),
}

impl RelayContender {
    /// Whether it exists for such a load: on two workers there is one peer each, and datagrams have
    /// the bare relay only.
    pub(super) fn serves(self, via: Via, load: LoadShape) -> bool {
        match self {
            Self::Relay | Self::Ipcd => true,
            Self::Yardstick => via != Via::Udp,
            Self::Crossing => load.subscribers == 1,
        }
    }

    /// Starts a server for these subscribers.
    pub(super) fn start(
        self,
        bench: &RoundContext,
        via: Via,
        load: LoadShape,
    ) -> io::Result<RelayStage> {
        match self {
            Self::Relay => {
                let serve = if via == Via::Udp { datagrams::serve } else { forwarder::serve };
                start_bare(c"bench-relay", via, load.subscribers, serve)
            }
            Self::Yardstick => {
                start_bare(c"bench-yardstick", via, load.subscribers, yardstick::serve)
            }
            Self::Ipcd => start_ipcd(bench, via, 1, load),
            Self::Crossing => start_ipcd(bench, via, 2, load),
        }
    }
}

/// Starts a daemon in a new directory. It listens at `via`, and over unix for status requests.
pub(super) fn start_daemon(
    bench: &RoundContext,
    via: Via,
    mode: WorkerMode,
) -> io::Result<EmbeddedDaemon> {
    let mut outcome = Ok(());
    let daemon = EmbeddedDaemon::start(&bench.dir()?, |config| {
        let is_wanted = |scheme: &str| scheme == "unix" || scheme == via.scheme();
        config.listeners.retain(|listen| is_wanted(listen.endpoint.scheme()));
        outcome = spread(config, mode);
    })?;
    outcome.map(|()| daemon)
}

fn spread(config: &mut Config, mode: WorkerMode) -> io::Result<()> {
    match mode {
        WorkerMode::Pool(workers) => {
            config.daemon.workers = workers.try_into().map_err(io::Error::other::<String>)?;
        }
        WorkerMode::Connection => config.daemon.fork = ForkMode::Connection,
    }
    Ok(())
}

/// Opens the sessions of a load on a fresh daemon: on one worker, or with two workers one on each,
/// since peers go to each in turn.
fn start_ipcd(
    bench: &RoundContext,
    via: Via,
    workers: u32,
    load: LoadShape,
) -> io::Result<RelayStage> {
    let daemon = start_daemon(bench, via, WorkerMode::Pool(workers))?;
    let mut publisher = daemon.session(via.scheme())?;
    let filter = if load.has_many_subjects { FILTER } else { SUBJECT };
    let subscriber = |_| {
        let mut session = daemon.session(via.scheme())?;
        session.subscribe([filter])?;
        Ok(ClientLine::Session(session))
    };
    let subscribers = (0..load.subscribers).map(subscriber).collect::<io::Result<Vec<_>>>()?;
    let crowd = if load.has_crowd { crowd(&daemon, via)? } else { Vec::new() };
    let peers = 1 + subscribers.len() + crowd.len();
    // A wrong spread would measure another kind of delivery.
    let movers = await_spread(&mut publisher, peers as u64 / u64::from(workers))?;
    let publisher = ClientLine::Session(publisher);
    let server = StageServer::Daemon(daemon);
    Ok(RelayStage { publisher, subscribers, movers, _crowd: crowd, _server: server })
}

/// The workers' processes, once each of them serves as many peers. The peer that has asked for the
/// status at the start may leave a moment later than the others come.
fn await_spread(session: &mut Session, peers_each: u64) -> io::Result<Vec<u32>> {
    let deadline = Instant::now() + WATCHDOG;
    loop {
        let workers = session.workers()?;
        if workers.iter().all(|(_, peers)| *peers == peers_each) {
            return Ok(workers.into_iter().map(|(pid, _)| pid).collect());
        }
        if Instant::now() >= deadline {
            let why = format!(
                "the daemon spread its peers as {workers:?} (pid, peers), and not {peers_each} to each worker"
            );
            return Err(io::Error::other(why));
        }
        std::thread::sleep(SETTLING_STEP);
    }
}

/// Peers with 100,000 subscriptions in all, of which one in ten has a wildcard. None of them
/// matches a subject of the load, but all begin as these do.
fn crowd(daemon: &EmbeddedDaemon, via: Via) -> io::Result<Vec<Session>> {
    (0..CROWD)
        .map(|peer| {
            let filters = (0..SUBSCRIPTIONS_EACH).map(|number| match number % 20 {
                0 => format!("*.{peer}.{number}"),
                10 => format!("bench.{peer}.{number}.>"),
                _ => format!("bench.{peer}.{number}"),
            });
            let mut session = daemon.session(via.scheme())?;
            session.subscribe(filters)?;
            Ok(session)
        })
        .collect()
}

/// Starts a server that is given its ends of the connections.
pub(super) fn start_bare(
    name: &CStr,
    via: Via,
    subscribers: usize,
    serve: fn(&File, &[File]) -> io::Result<()>,
) -> io::Result<RelayStage> {
    let (publisher, from) = connected(via)?;
    let pairs = (0..subscribers).map(|_| connected(via)).collect::<io::Result<Vec<_>>>()?;
    let line = if via == Via::Udp { ClientLine::Datagrams } else { ClientLine::Stream };
    let (to, subscribers): (Vec<File>, Vec<ClientLine>) =
        pairs.into_iter().map(|(to, subscriber)| (to, line(subscriber))).unzip();
    let child = fork(name, || {
        // The flag belongs to the open file, so the clients' ends still wait.
        set_blocking(&from, false)?;
        to.iter().try_for_each(|file| set_blocking(file, false))?;
        serve(&from, &to)
    })?;
    let (movers, publisher) = (vec![child.process()], line(publisher));
    let server = StageServer::Bare(child);
    Ok(RelayStage { publisher, subscribers, movers, _crowd: Vec::new(), _server: server })
}

/// Two ends of a connection; of a pipe, the first is written to.
fn connected(via: Via) -> io::Result<(File, File)> {
    let (near, far): (OwnedFd, OwnedFd) = match via {
        Via::Unix => UnixStream::pair().map(|(near, far)| (near.into(), far.into()))?,
        Via::Tcp => {
            let listener = TcpListener::bind("127.0.0.1:0")?;
            let near = TcpStream::connect(listener.local_addr()?)?;
            let (far, _) = listener.accept()?;
            for socket in [&near, &far] {
                // Nagle's algorithm would delay the last part of each batch (tcp(7)).
                socket.set_nodelay(true)?;
                setsockopt(socket, sockopt::SndBuf, &NEAR_BYTES)?;
            }
            (near.into(), far.into())
        }
        Via::Udp => {
            let [near, far] = [UdpSocket::bind("127.0.0.1:0")?, UdpSocket::bind("127.0.0.1:0")?];
            near.connect(far.local_addr()?)?;
            far.connect(near.local_addr()?)?;
            (near.into(), far.into())
        }
        // A FIFO is a pipe that has a name.
        Via::Pipe | Via::Fifo => {
            let (reader, writer) = io::pipe()?;
            fcntl(&writer, FcntlArg::F_SETPIPE_SZ(PIPE_BYTES))?;
            (writer.into(), reader.into())
        }
    };
    Ok((near.into(), far.into()))
}
