//! The link between the supervisor and a worker: typed messages, one enum for each direction.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use bincode::config::{Configuration, Limit};
use ipcd_core::{Config, News, Request, Tokens};
use ipcd_sys::{recv_with_fds, send_with_fds};
use ipcd_transport::Identity;
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, socketpair};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::listen::Dialect;

/// What the supervisor tells a worker.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) enum ToWorker {
    /// Serve this peer; its descriptors come with the message.
    Admit {
        /// The supervisor's number for it.
        number: u64,
        /// Which listener it came in by.
        listener: usize,
        /// The transport.
        scheme: String,
        /// Who it is.
        identity: Identity,
        /// What its transport has to remember.
        state: Vec<u8>,
        /// What it says and hears, if it is a bare one.
        dialect: Option<Dialect>,
    },
    /// Read no more of peers; say [`ToSupervisor::Quiet`] when nothing is on its way to others.
    Quiesce,
    /// Say goodbye to all peers and end.
    Drain,
    /// What all workers know has changed, and the like.
    News(News),
    /// The configuration has changed.
    Configure(Box<Live>),
}

/// What of the configuration can change while workers run.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Live {
    max_payload: usize,
    outbox: usize,
    max_subscriptions: usize,
    handshake_timeout: Duration,
    frame_timeout: Duration,
    idle_timeout: Option<Duration>,
    stall_timeout: Duration,
    tokens: Tokens,
    listeners: BTreeMap<usize, (String, String)>,
}

impl Live {
    /// That of a router's configuration.
    pub(crate) fn of(config: &Config) -> Self {
        let config = config.clone();
        Self {
            max_payload: config.max_payload,
            outbox: config.outbox,
            max_subscriptions: config.max_subscriptions,
            handshake_timeout: config.handshake_timeout,
            frame_timeout: config.frame_timeout,
            idle_timeout: config.idle_timeout,
            stall_timeout: config.stall_timeout,
            tokens: config.tokens,
            listeners: config.daemon.listeners,
        }
    }

    /// Puts it in force.
    pub(crate) fn apply(self, config: &mut Config) {
        config.max_payload = self.max_payload;
        config.outbox = self.outbox;
        config.max_subscriptions = self.max_subscriptions;
        config.handshake_timeout = self.handshake_timeout;
        config.frame_timeout = self.frame_timeout;
        config.idle_timeout = self.idle_timeout;
        config.stall_timeout = self.stall_timeout;
        config.tokens = self.tokens;
        config.daemon.listeners = self.listeners;
    }
}

/// What a worker tells the supervisor.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) enum ToSupervisor {
    /// It serves.
    Ready,
    /// These peers have gone, by the supervisor's numbers.
    Gone(Vec<u64>),
    /// What it wants all workers to know, and the like.
    Request(Request),
    /// Nothing is on its way from it to other workers.
    Quiet,
}

/// Numbers in one [`ToSupervisor::Gone`].
pub(crate) const GONE_BATCH: usize = 1024;

/// Bytes of the longest message: a transport's state, or a part of an answer.
const LONGEST: usize = 128 * 1024;

const CONFIG: Configuration<
    bincode::config::LittleEndian,
    bincode::config::Varint,
    Limit<LONGEST>,
> = bincode::config::standard().with_limit::<LONGEST>();

thread_local! {
    /// Where messages are received. One for all links, and never cleared: with hundreds of children
    /// the supervisor would spend a third of its time on that, and each child keep its own.
    static RECEIVED: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// One end of a link. Sending never blocks: what the kernel does not take now waits here.
#[derive(Debug)]
pub(crate) struct Link {
    socket: OwnedFd,
    backlog: VecDeque<(Vec<u8>, Vec<OwnedFd>)>,
}

/// What was received.
#[derive(Debug)]
pub(crate) enum Received<T> {
    /// A message and its descriptors.
    Message(T, Vec<OwnedFd>),
    /// Nothing now.
    NotReady,
    /// The other process is gone.
    Closed,
}

impl Link {
    /// Both ends of a link.
    pub(crate) fn pair() -> io::Result<(Self, Self)> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let (a, b) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)?;
        let end = |socket| Self { socket, backlog: VecDeque::new() };
        Ok((end(a), end(b)))
    }

    /// The same end, for a forked child to keep while it closes everything else.
    ///
    /// # Panics
    /// If the process has no descriptor left.
    pub(crate) fn share(&self) -> Self {
        let socket = self.socket.try_clone().expect("a worker has a descriptor for its link");
        Self { socket, backlog: VecDeque::new() }
    }

    /// Sends a message, now or as soon as there is room.
    pub(crate) fn send<T: Serialize>(&mut self, message: &T, fds: Vec<OwnedFd>) -> io::Result<()> {
        let bytes = bincode::serde::encode_to_vec(message, CONFIG).map_err(io::Error::other)?;
        self.backlog.push_back((bytes, fds));
        self.flush()
    }

    /// Sends what waits, as far as there is room.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        while let Some((bytes, fds)) = self.backlog.front() {
            let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
            match send_with_fds(self.socket.as_fd(), bytes, &fds) {
                Ok(()) => drop(self.backlog.pop_front()),
                Err(error) if is_for_later(&error) => break,
                Err(error) => {
                    self.backlog.pop_front();
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// Messages that wait for room.
    pub(crate) fn waiting(&self) -> usize {
        self.backlog.len()
    }

    /// The next message.
    ///
    /// # Errors
    /// If it is none, which is a fault of the other process.
    pub(crate) fn receive<T: DeserializeOwned>(&mut self) -> io::Result<Received<T>> {
        RECEIVED.with_borrow_mut(|bytes| {
            bytes.resize(LONGEST, 0);
            let received = recv_with_fds(self.socket.as_fd(), bytes, MsgFlags::MSG_DONTWAIT);
            let (count, fds) = match received {
                Ok((0, _)) => return Ok(Received::Closed),
                Ok(received) => received,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Ok(Received::NotReady);
                }
                Err(error) => return Err(error),
            };
            Ok(Received::Message(decode(&bytes[..count])?, fds))
        })
    }
}

/// Reads a message.
pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> io::Result<T> {
    match bincode::serde::decode_from_slice(bytes, CONFIG) {
        Ok((message, used)) if used == bytes.len() => Ok(message),
        Ok(_) => Err(io::Error::other("a message on a link is too long")),
        Err(error) => Err(io::Error::other(error)),
    }
}

/// Whether a message may be sent later: there is no room now, the kernel has no memory for it, or
/// too many descriptors are on their way. One that was left out would be missed for ever: a peer
/// would count as there, and be served by nobody.
fn is_for_later(error: &io::Error) -> bool {
    let codes = [Errno::EAGAIN, Errno::ENOMEM, Errno::ENOBUFS, Errno::ETOOMANYREFS];
    error.raw_os_error().is_some_and(|code| codes.contains(&Errno::from_raw(code)))
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
