//! The real daemon, embedded: its supervisor is a forked child, its worker the child's child.

use std::fs::{self, File};
use std::io::{self, Read};
use std::net::{TcpListener, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use ipcd_proto::auth::Token;
use ipcd_server::{Config, ForkMode, Listen, Start, TOKEN_FILE};
use ipcd_transport::Endpoint;
use tempfile::TempDir;

use crate::load::{FILTER, Load, SUBJECT};
use crate::process::{Child, await_readable};
use crate::server::{Running, Via};
use crate::session::Session;

/// Peers that subscribe to what nobody publishes, and subscriptions of each: as many as the daemon
/// allows by default.
const CROWD: usize = 10;
const SUBSCRIPTIONS_EACH: usize = 10_000;

/// How the daemon spreads its peers.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Mode {
    /// Over so many workers.
    Pool(u32),
    /// A child for each.
    Connection,
}

/// A daemon in a private directory, with one listener.
pub(crate) struct Private {
    endpoint: Endpoint,
    token: Token,
    server: Child,
    dir: TempDir,
}

impl Private {
    pub(crate) fn start(via: Via, mode: Mode) -> io::Result<Self> {
        let dir = tempfile::tempdir()?;
        let endpoint = endpoint(via, dir.path())?;
        let server = launch(dir.path(), &endpoint, mode)?;
        let token = Token::from_text(&fs::read(dir.path().join(TOKEN_FILE))?)
            .ok_or_else(|| io::Error::other("the daemon's token is too short"))?;
        Ok(Self { endpoint, token, server, dir })
    }

    pub(crate) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    pub(crate) fn token(&self) -> &Token {
        &self.token
    }

    /// Opens a session.
    pub(crate) fn session(&self) -> io::Result<Session> {
        Session::open(&self.endpoint, &self.token)
    }
}

/// Starts a daemon and opens the sessions of a load: on one worker, or with two workers one on
/// each, since peers go to each in turn.
pub(crate) fn start(via: Via, workers: u32, load: Load) -> io::Result<Running> {
    let daemon = Private::start(via, Mode::Pool(workers))?;
    let mut publisher = daemon.session()?;
    let filter = if load.has_many_subjects { FILTER } else { SUBJECT };
    let mut sessions = Vec::new();
    for _ in 0..load.subscribers {
        let mut session = daemon.session()?;
        session.subscribe([filter])?;
        sessions.push(session);
    }
    let subscribers = sessions.iter_mut().map(Session::incoming).collect::<io::Result<_>>()?;
    if load.has_crowd {
        sessions.extend(crowd(&daemon)?);
    }
    let peers = 1 + sessions.len() as u64;
    let movers = publisher.workers(peers / u64::from(workers))?;
    let writer = publisher.outgoing()?;
    sessions.push(publisher);
    let Private { server, dir, .. } = daemon;
    let (_dir, _sessions) = (Some(dir), sessions);
    Ok(Running { publisher: writer, subscribers, movers, _server: server, _dir, _sessions })
}

/// Peers with 100,000 subscriptions in all, of which one in ten has a wildcard. None of them
/// matches a subject of the load, but all begin as these do.
fn crowd(daemon: &Private) -> io::Result<Vec<Session>> {
    (0..CROWD)
        .map(|peer| {
            let filters = (0..SUBSCRIPTIONS_EACH).map(|number| match number % 20 {
                0 => format!("*.{peer}.{number}"),
                10 => format!("bench.{peer}.{number}.>"),
                _ => format!("bench.{peer}.{number}"),
            });
            let mut session = daemon.session()?;
            session.subscribe(filters)?;
            Ok(session)
        })
        .collect()
}

fn endpoint(via: Via, dir: &Path) -> io::Result<Endpoint> {
    let text = match via {
        Via::Unix => format!("unix://{}", dir.join("bench.sock").display()),
        // The daemon cannot tell us the port that it would get for 0.
        Via::Tcp => format!("tcp://{}", TcpListener::bind("127.0.0.1:0")?.local_addr()?),
        Via::Udp => format!("udp://{}", UdpSocket::bind("127.0.0.1:0")?.local_addr()?),
        Via::Pipe => format!("pipe://{}", dir.join("bench.pipe").display()),
        Via::Fifo => format!("fifo://{}", dir.join("bench.fifo").display()),
    };
    text.parse().map_err(io::Error::other)
}

/// Forks the daemon, and waits until it serves.
fn launch(dir: &Path, endpoint: &Endpoint, mode: Mode) -> io::Result<Child> {
    let listen: Listen = endpoint.to_string().parse().map_err(io::Error::other)?;
    let mut config = Config { listeners: vec![listen], ..Config::default() };
    config.daemon.runtime_dir = Some(dir.into());
    match mode {
        Mode::Pool(workers) => {
            config.daemon.workers = workers.try_into().map_err(io::Error::other::<String>)?;
        }
        Mode::Connection => config.daemon.fork = ForkMode::Connection,
    }
    let (mut ready, ready_fd) = io::pipe()?;
    let ready_fd = File::from(OwnedFd::from(ready_fd));
    let server = Child::start(c"bench-ipcd", &[ready_fd.as_fd()], || {
        let ready_fd = Some(ready_fd.try_clone()?.into());
        ipcd_server::run(config, Start { ready_fd, ..Start::default() }).map_err(io::Error::other)
    })?;
    drop(ready_fd);
    await_readable(&ready, "READY from the daemon")?;
    ready.read_exact(&mut [0])?;
    Ok(server)
}
