//! The servers that are compared, started and wired to a publisher and a subscriber.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use clap::ValueEnum;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use tempfile::TempDir;

use crate::process::Child;
use crate::{daemon, relay, yardstick};

/// What relays the messages.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Server {
    /// Moves bytes: what the machine could do at the most.
    Relay,
    /// Routes frames and nothing else: what ipcd is measured by.
    Yardstick,
    /// The daemon, with one worker.
    Ipcd,
    /// The daemon, with publisher and subscriber on different workers.
    Crossing,
}

impl Server {
    pub(crate) const ALL: [Self; 4] = [Self::Relay, Self::Yardstick, Self::Ipcd, Self::Crossing];
}

/// What the messages travel over.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum Via {
    /// Unix-domain stream sockets.
    Unix,
    /// TCP on the loopback.
    Tcp,
}

/// A server that runs, and the far ends of its two connections.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) publisher: File,
    pub(crate) subscriber: File,
    /// The processes that move the messages.
    pub(crate) movers: Vec<u32>,
    pub(crate) _server: Child,
    pub(crate) _dir: Option<TempDir>,
}

impl Server {
    pub(crate) fn start(self, via: Via) -> io::Result<Running> {
        match self {
            Self::Relay => start_bare(c"bench-relay", via, relay::serve),
            Self::Yardstick => start_bare(c"bench-yardstick", via, yardstick::serve),
            Self::Ipcd => daemon::start(via, 1),
            Self::Crossing => daemon::start(via, 2),
        }
    }
}

/// Starts a server that is given its ends of two connections.
pub(crate) fn start_bare(
    name: &CStr,
    via: Via,
    serve: fn(&File, &File) -> io::Result<()>,
) -> io::Result<Running> {
    let (publisher, from) = connected(via)?;
    let (subscriber, to) = connected(via)?;
    let keep = [from.as_fd(), to.as_fd()];
    let server = Child::start(name, &keep, || {
        set_blocking(&from, false)?;
        set_blocking(&to, false)?;
        serve(&from, &to)
    })?;
    Ok(Running { publisher, subscriber, movers: vec![server.id()], _server: server, _dir: None })
}

/// Two ends of a connection.
fn connected(via: Via) -> io::Result<(File, File)> {
    let (near, far): (OwnedFd, OwnedFd) = match via {
        Via::Unix => UnixStream::pair().map(|(near, far)| (near.into(), far.into()))?,
        Via::Tcp => {
            let listener = TcpListener::bind("127.0.0.1:0")?;
            let near = TcpStream::connect(listener.local_addr()?)?;
            let (far, _) = listener.accept()?;
            near.set_nodelay(true)?;
            far.set_nodelay(true)?;
            (near.into(), far.into())
        }
    };
    Ok((near.into(), far.into()))
}

/// Makes calls on the descriptor wait, or not.
pub(crate) fn set_blocking(file: &File, is_blocking: bool) -> io::Result<()> {
    let mut flags = OFlag::from_bits_retain(fcntl(file, FcntlArg::F_GETFL)?);
    flags.set(OFlag::O_NONBLOCK, !is_blocking);
    fcntl(file, FcntlArg::F_SETFL(flags))?;
    Ok(())
}
