//! The real daemon, embedded: its supervisor is a forked child, its worker the child's child.

use std::fs::{self, File};
use std::io::{self, Read};
use std::net::TcpListener;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use ipcd_proto::auth::Token;
use ipcd_server::{Config, ForkMode, Listen, Start, TOKEN_FILE};
use ipcd_transport::Endpoint;
use tempfile::TempDir;

use crate::process::{Child, await_readable};
use crate::server::{Running, Via};
use crate::session::Session;

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

/// Starts a daemon and opens two sessions: on the same worker, or with two workers on different
/// ones, since peers go to each in turn.
pub(crate) fn start(via: Via, workers: u32) -> io::Result<Running> {
    let daemon = Private::start(via, Mode::Pool(workers))?;
    let (mut publisher, mut subscriber) = (daemon.session()?, daemon.session()?);
    subscriber.subscribe()?;
    let movers = publisher.workers(2 / u64::from(workers))?;
    let (publisher, subscriber) = (publisher.into_socket(), subscriber.into_socket());
    let Private { server, dir, .. } = daemon;
    Ok(Running { publisher, subscriber, movers, _server: server, _dir: Some(dir) })
}

fn endpoint(via: Via, dir: &Path) -> io::Result<Endpoint> {
    let text = match via {
        Via::Unix => format!("unix://{}", dir.join("bench.sock").display()),
        // The daemon cannot tell us the port that it would get for 0.
        Via::Tcp => format!("tcp://{}", TcpListener::bind("127.0.0.1:0")?.local_addr()?),
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
