//! The servers that are compared, started and wired to a publisher and a subscriber.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use clap::ValueEnum;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::{setsockopt, sockopt};
use tempfile::TempDir;

use crate::line::Line;
use crate::load::Load;
use crate::process::Child;
use crate::session::Session;
use crate::{daemon, datagrams, relay, yardstick};

/// Bytes of a bare pipe: as many as anybody may ask for (pipe(7)), so that it is a limit.
const PIPE_BYTES: i32 = 1024 * 1024;

/// Bytes that a bare TCP socket holds, as many as one of ipcd's on the loopback: with the kernel's own
/// choice it is slower than ipcd, and no limit.
const NEAR_BYTES: usize = 128 * 1024;

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
    /// Anonymous pipes.
    Pipe,
    /// FIFOs.
    Fifo,
    /// UDP on the loopback, paced by credit.
    Udp,
}

/// A server that runs, and the far ends of its connections.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) publisher: Line,
    pub(crate) subscribers: Vec<Line>,
    /// The processes that move the messages.
    pub(crate) movers: Vec<u32>,
    pub(crate) _server: Child,
    pub(crate) _dir: Option<TempDir>,
    /// Its peers, whose other descriptors stay open as long as it runs.
    pub(crate) _sessions: Vec<Session>,
}

impl Server {
    /// Whether it is there for such a load: on two workers there is one peer each, and of
    /// datagrams there is the bare limit only.
    pub(crate) fn serves(self, via: Via, load: Load) -> bool {
        match self {
            Self::Relay | Self::Ipcd => true,
            Self::Yardstick => via != Via::Udp,
            Self::Crossing => load.subscribers == 1,
        }
    }

    /// Starts a server for these subscribers.
    pub(crate) fn start(self, via: Via, load: Load) -> io::Result<Running> {
        match self {
            Self::Relay => {
                let serve = if via == Via::Udp { datagrams::serve } else { relay::serve };
                start_bare(c"bench-relay", via, load.subscribers, serve)
            }
            Self::Yardstick => {
                start_bare(c"bench-yardstick", via, load.subscribers, yardstick::serve)
            }
            Self::Ipcd => daemon::start(via, 1, load),
            Self::Crossing => daemon::start(via, 2, load),
        }
    }
}

/// Starts a server that is given its ends of the connections.
pub(crate) fn start_bare(
    name: &CStr,
    via: Via,
    subscribers: usize,
    serve: fn(&File, &[File]) -> io::Result<()>,
) -> io::Result<Running> {
    let (publisher, from) = connected(via)?;
    let pairs = (0..subscribers).map(|_| connected(via)).collect::<io::Result<Vec<_>>>()?;
    let line = if via == Via::Udp { Line::Datagrams } else { Line::Stream };
    let (to, subscribers): (Vec<File>, Vec<Line>) =
        pairs.into_iter().map(|(to, subscriber)| (to, line(subscriber))).unzip();
    let keep: Vec<_> = std::iter::once(&from).chain(&to).map(AsFd::as_fd).collect();
    let server = Child::start(name, &keep, || {
        set_blocking(&from, false)?;
        to.iter().try_for_each(|file| set_blocking(file, false))?;
        serve(&from, &to)
    })?;
    let (movers, _dir, _sessions) = (vec![server.id()], None, Vec::new());
    let publisher = line(publisher);
    Ok(Running { publisher, subscribers, movers, _server: server, _dir, _sessions })
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

/// Makes calls on the descriptor wait, or not.
pub(crate) fn set_blocking(file: &File, is_blocking: bool) -> io::Result<()> {
    let mut flags = OFlag::from_bits_retain(fcntl(file, FcntlArg::F_GETFL)?);
    flags.set(OFlag::O_NONBLOCK, !is_blocking);
    fcntl(file, FcntlArg::F_SETFL(flags))?;
    Ok(())
}
