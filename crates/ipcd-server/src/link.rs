//! The link between the supervisor and a worker: typed messages, one enum for each direction.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use bincode::config::{Configuration, Limit};
use ipcd_core::{Acl, AddressPrefixes, Config, DirectoryEvent, DirectoryRequest, TokenSet};
use ipcd_sys::{recv_with_fds, send_with_fds};
use ipcd_transport::PeerIdentity;
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, socketpair};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::ids::{AdmissionId, OwnerId};
use crate::listen::RawProfile;

/// The messages of the supervisor to a worker.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) enum ToWorker {
    /// Serve this peer; its descriptors come with the message.
    Admit {
        /// The supervisor's number for it.
        number: AdmissionId,
        /// The listener, server or program that it belongs to.
        owner: OwnerId,
        /// The transport.
        scheme: String,
        /// Its identity.
        identity: PeerIdentity,
        /// The state that its transport keeps for it.
        state: Vec<u8>,
        /// The profile of a raw peer; `None` for one that speaks frames.
        raw_profile: Option<RawProfile>,
    },
    /// End the session of this peer, by the supervisor's number; it gets what is left for it.
    Disconnect(AdmissionId),
    /// Let this peer go, by the supervisor's number: another wants its place.
    Evict {
        /// Which.
        number: AdmissionId,
        /// The reason that it receives.
        why: String,
        /// Whether it stays if its session is open.
        may_prove: bool,
    },
    /// End the sessions of peers that this listener knows by a certificate, because its authorities
    /// have changed. With `may_return` some of the peers may still be trusted.
    Distrust {
        /// The listener.
        owner: OwnerId,
        /// Whether another session may be opened with the same certificate.
        may_return: bool,
    },
    /// Read no more of peers; say [`ToSupervisor::Quiet`] when nothing is on its way to others.
    Pause,
    /// Say goodbye to all peers and end.
    Drain,
    /// The directory that all workers share has changed, and the like.
    DirectoryEvent(DirectoryEvent),
    /// The configuration has changed.
    Configure(Box<LiveConfig>),
    /// The raw peers of this listener have other subjects from now on.
    Redirect {
        /// The number of the listener.
        owner: OwnerId,
        /// The subjects.
        raw_profile: RawProfile,
    },
}

/// The part of the configuration that can change while workers run.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct LiveConfig {
    max_payload: usize,
    queue_limit: usize,
    max_subscriptions: usize,
    max_subscriptions_per_principal: u64,
    max_bytes_per_principal: u64,
    prefixes: AddressPrefixes,
    handshake_timeout: Duration,
    frame_timeout: Duration,
    idle_timeout: Option<Duration>,
    stall_timeout: Duration,
    tokens: TokenSet,
    acl: Acl,
    listeners: BTreeMap<usize, (String, String)>,
}

/// A message that the other end of a link would take for nonsense.
#[derive(Debug, thiserror::Error)]
#[error("a message of {bytes} bytes is too long for a link, which takes {most}")]
pub(crate) struct TooLong {
    bytes: usize,
    most: usize,
}

impl LiveConfig {
    /// Refuses a configuration that no worker could be told. Its access rules have a limit of their
    /// own.
    pub(crate) fn check(config: &Config) -> Result<(), Error> {
        let live = Self { acl: Acl::default(), ..Self::of(config) };
        let bytes = bincode::serde::encode_to_vec(live, CONFIG).map_or(usize::MAX, |all| all.len());
        if bytes <= LONGEST_SETTING {
            return Ok(());
        }
        let most = LONGEST_SETTING >> 10;
        Err(Error::Config(format!(
            "listeners and tokens take {} KiB together, of at most {most} KiB that a worker can be \
             told: have fewer of them, or shorter endpoints and names",
            bytes.div_ceil(1024)
        )))
    }

    /// That of a router's configuration.
    pub(crate) fn of(config: &Config) -> Self {
        let config = config.clone();
        Self {
            max_payload: config.max_payload,
            queue_limit: config.queue_limit,
            max_subscriptions: config.max_subscriptions,
            max_subscriptions_per_principal: config.max_subscriptions_per_principal,
            max_bytes_per_principal: config.max_bytes_per_principal,
            prefixes: config.prefixes,
            handshake_timeout: config.handshake_timeout,
            frame_timeout: config.frame_timeout,
            idle_timeout: config.idle_timeout,
            stall_timeout: config.stall_timeout,
            tokens: config.tokens,
            acl: config.acl,
            listeners: config.daemon.listeners,
        }
    }

    /// Puts it in force.
    pub(crate) fn apply(self, config: &mut Config) {
        config.max_payload = self.max_payload;
        config.queue_limit = self.queue_limit;
        config.max_subscriptions = self.max_subscriptions;
        config.max_subscriptions_per_principal = self.max_subscriptions_per_principal;
        config.max_bytes_per_principal = self.max_bytes_per_principal;
        config.prefixes = self.prefixes;
        config.handshake_timeout = self.handshake_timeout;
        config.frame_timeout = self.frame_timeout;
        config.idle_timeout = self.idle_timeout;
        config.stall_timeout = self.stall_timeout;
        config.tokens = self.tokens;
        config.acl = self.acl;
        config.daemon.listeners = self.listeners;
    }
}

/// The messages of a worker to the supervisor.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) enum ToSupervisor {
    /// It serves.
    Ready,
    /// These peers have gone.
    Gone(Vec<GonePeer>),
    /// These have proved their tokens, by the supervisor's numbers.
    Opened(Vec<AdmissionId>),
    /// A change of the directory, or a question about it.
    DirectoryRequest {
        /// The peer that it is for; [`AdmissionId::NONE`] if it is for none.
        by: AdmissionId,
        /// What.
        request: DirectoryRequest,
    },
    /// Nothing is on its way from it to other workers.
    Quiet,
}

/// A peer that has gone.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub(crate) struct GonePeer {
    /// The supervisor's number for it.
    pub(crate) number: AdmissionId,
    pub(crate) end: PeerEnd,
}

/// The kind of end of a peer's session.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) enum PeerEnd {
    /// The peer went by itself.
    Departed,
    /// It was disconnected, or was never served.
    CutOff,
    /// It was disconnected because others had to wait for it.
    Stalled,
}

/// Peers in one [`ToSupervisor::Gone`] or [`ToSupervisor::Opened`].
pub(crate) const PEERS: usize = 1024;

/// Bytes of the longest message: a transport's state, or a part of an answer.
const LONGEST: usize = 128 * 1024;
/// Bytes of the longest message of a worker. It is shorter than the other one, so that it still
/// fits when the supervisor passes it on with an addition.
const LONGEST_OF_WORKER: usize = 96 * 1024;
/// Bytes of what a configuration says of listeners and tokens: it travels to a worker in one message,
/// beside the access rules, and what it says of listeners travels back in a status.
const LONGEST_SETTING: usize = 48 * 1024;
/// Bytes that may wait for a worker's link. One that leaves so much unread will not read it.
const MAX_BACKLOG: usize = 64 * 1024 * 1024;

const CONFIG: Configuration<
    bincode::config::LittleEndian,
    bincode::config::Varint,
    Limit<LONGEST>,
> = bincode::config::standard().with_limit::<LONGEST>();

thread_local! {
    /// The buffer that messages are received in. There is one for all links, and it is never
    /// cleared: with hundreds of children the supervisor would spend a third of its time on that,
    /// and each child would keep its own.
    static RECEIVED: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// One end of a link. Sending never blocks: what the kernel does not take now waits here.
#[derive(Debug)]
pub(crate) struct Link {
    socket: Option<OwnedFd>,
    backlog: VecDeque<QueuedMessage>,
    /// Bytes in it.
    backlog_bytes: usize,
    /// Messages that the kernel has taken.
    sent: u64,
    /// Whether the kernel had no memory for the first message that waits: there is room for it all
    /// the same, so that waiting for some would be in vain.
    lacks_memory: bool,
    /// Peers that could not be handed over.
    lost: Vec<AdmissionId>,
    /// Bytes of the longest message that is received here, and there.
    longest: usize,
    longest_there: usize,
}

/// A message that is to be sent.
#[derive(Debug)]
struct QueuedMessage {
    bytes: Vec<u8>,
    fds: Vec<OwnedFd>,
    /// The peer that is handed over with it.
    peer: Option<AdmissionId>,
}

/// The outcome of reading a link.
#[derive(Debug)]
pub(crate) enum ReceiveOutcome<T> {
    /// A message and its descriptors.
    Message(T, Vec<OwnedFd>),
    /// Nothing now.
    NotReady,
    /// The other process is gone.
    Closed,
}

impl Link {
    /// Both ends of a link: the supervisor's and the worker's.
    pub(crate) fn pair() -> io::Result<(Self, Self)> {
        // SEQPACKET keeps messages apart, with their descriptors, and tells of the other end's
        // death.
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let (a, b) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)?;
        let (here, there) = (LONGEST_OF_WORKER, LONGEST);
        Ok((Self::from_socket(a, here, there), Self::from_socket(b, there, here)))
    }

    /// The same end, for a forked child to keep while it closes everything else.
    ///
    /// # Errors
    /// As fcntl(2), `F_DUPFD_CLOEXEC`.
    pub(crate) fn duplicate(&self) -> io::Result<Self> {
        let socket = self.as_fd().try_clone_to_owned()?;
        Ok(Self::from_socket(socket, self.longest, self.longest_there))
    }

    /// One that leads nowhere.
    pub(crate) fn unconnected() -> Self {
        Self {
            socket: None,
            backlog: VecDeque::new(),
            backlog_bytes: 0,
            sent: 0,
            lacks_memory: false,
            lost: Vec::new(),
            longest: 0,
            longest_there: 0,
        }
    }

    fn from_socket(socket: OwnedFd, longest: usize, longest_there: usize) -> Self {
        Self { socket: Some(socket), longest, longest_there, ..Self::unconnected() }
    }

    /// Sends a message, now or as soon as there is room. A message that is [`TooLong`] is not sent:
    /// the receiver would take it for a violation of the protocol.
    pub(crate) fn send<T: Serialize>(&mut self, message: &T, fds: Vec<OwnedFd>) -> io::Result<()> {
        self.queue(message, fds, None)
    }

    /// The same with a message that hands a peer over. If it cannot be sent, now or later,
    /// [`Link::take_lost`] says so.
    pub(crate) fn hand_over<T: Serialize>(
        &mut self,
        message: &T,
        fds: Vec<OwnedFd>,
        peer: AdmissionId,
    ) -> io::Result<()> {
        self.queue(message, fds, Some(peer))
    }

    /// Peers that could not be handed over since this was last asked.
    pub(crate) fn take_lost(&mut self) -> Vec<AdmissionId> {
        std::mem::take(&mut self.lost)
    }

    fn queue<T: Serialize>(
        &mut self,
        message: &T,
        fds: Vec<OwnedFd>,
        peer: Option<AdmissionId>,
    ) -> io::Result<()> {
        let encoded = bincode::serde::encode_to_vec(message, CONFIG).map_err(io::Error::other);
        let bytes = encoded.and_then(|bytes| self.check(bytes)).inspect_err(|_| {
            // The descriptors close with the message, so that the peer has gone.
            self.lost.extend(peer);
        })?;
        self.backlog_bytes += bytes.len();
        self.backlog.push_back(QueuedMessage { bytes, fds, peer });
        self.flush()
    }

    fn check(&self, message: Vec<u8>) -> io::Result<Vec<u8>> {
        let (bytes, most) = (message.len(), self.longest_there);
        match bytes <= most {
            true => Ok(message),
            false => Err(io::Error::new(io::ErrorKind::InvalidInput, TooLong { bytes, most })),
        }
    }

    /// Sends what waits, as far as there is room.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        self.lacks_memory = false;
        while let Some(first) = self.backlog.front() {
            let fds: Vec<_> = first.fds.iter().map(AsFd::as_fd).collect();
            match send_with_fds(self.as_fd(), &first.bytes, &fds) {
                Ok(()) => {
                    self.sent += 1;
                    self.pop_sent();
                }
                Err(error) if is_for_later(&error) => {
                    // Without memory the socket is writable all the same, so that waiting for room
                    // would spin.
                    self.lacks_memory = error.kind() != io::ErrorKind::WouldBlock;
                    break;
                }
                Err(error) => {
                    let peer = self.pop_sent();
                    self.lost.extend(peer);
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// Takes the first message out; the peer that was to be handed over with it.
    fn pop_sent(&mut self) -> Option<AdmissionId> {
        let done = self.backlog.pop_front()?;
        self.backlog_bytes -= done.bytes.len();
        done.peer
    }

    /// Whether more waits than the other process can be meant to read.
    pub(crate) fn is_overfull(&self) -> bool {
        self.backlog_bytes > MAX_BACKLOG
    }

    /// Whether what waits is to be tried again after a while, and not when there is room.
    pub(crate) fn lacks_memory(&self) -> bool {
        self.lacks_memory
    }

    /// Messages that the kernel has taken.
    pub(crate) fn sent(&self) -> u64 {
        self.sent
    }

    /// Messages that wait for room.
    pub(crate) fn waiting(&self) -> usize {
        self.backlog.len()
    }

    /// The next message.
    ///
    /// # Errors
    /// If it is none, which is a fault of the other process.
    pub(crate) fn receive<T: DeserializeOwned>(&mut self) -> io::Result<ReceiveOutcome<T>> {
        let Some(socket) = &self.socket else { return Ok(ReceiveOutcome::Closed) };
        RECEIVED.with_borrow_mut(|bytes| {
            // A message that does not fit would be cut, and no enlarged buffer could get its rest.
            bytes.resize(LONGEST, 0);
            let room = &mut bytes[..self.longest];
            let mut receive = || recv_with_fds(socket.as_fd(), room, MsgFlags::MSG_DONTWAIT);
            // That the other one ended with messages unread is told once, and ahead of what it had
            // still said (unix_release_sock).
            let received = match receive() {
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => receive(),
                received => received,
            };
            let (count, fds) = match received {
                Ok((0, _)) => return Ok(ReceiveOutcome::Closed),
                Ok(received) => received,
                Err(error) if is_for_later(&error) => return Ok(ReceiveOutcome::NotReady),
                Err(error) => return Err(error),
            };
            Ok(ReceiveOutcome::Message(decode(&bytes[..count])?, fds))
        })
    }
}

/// Reads a message.
pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> io::Result<T> {
    match bincode::serde::decode_from_slice(bytes, CONFIG) {
        // Bytes behind the message mean that the other side encodes another type.
        Ok((message, used)) if used == bytes.len() => Ok(message),
        Ok(_) => Err(io::Error::other("a message on a link is too long")),
        Err(error) => Err(io::Error::other(error)),
    }
}

/// Whether a message may be sent or received later: there is no room or none there now, the kernel
/// has no memory for it, or too many descriptors are on their way. A message that was left out
/// would be missed for ever: its peer would count as admitted, and no worker would serve it.
fn is_for_later(error: &io::Error) -> bool {
    let codes = [Errno::EAGAIN, Errno::ENOMEM, Errno::ENOBUFS, Errno::ETOOMANYREFS];
    error.raw_os_error().is_some_and(|code| codes.contains(&Errno::from_raw(code)))
}

/// Whether a message was not sent because it is [`TooLong`].
pub(crate) fn is_too_long(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|error| error.is::<TooLong>())
}

/// Whether a message could not be sent because the other process has ended.
pub(crate) fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset)
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_ref().expect("only a link that leads somewhere is used").as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::io::IoSlice;
    use std::os::fd::AsRawFd;

    use nix::sys::socket::{ControlMessage, UnixAddr, sendmsg};
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    /// Sends what no [`Link`] would.
    fn say(link: &Link, bytes: &[u8], fds: usize) {
        let raw = vec![0; fds];
        let rights = [ControlMessage::ScmRights(&raw)];
        let control = if fds == 0 { &[][..] } else { &rights[..] };
        let (parts, flags) = ([IoSlice::new(bytes)], MsgFlags::MSG_DONTWAIT);
        sendmsg::<UnixAddr>(link.as_fd().as_raw_fd(), &parts, control, flags, None).unwrap();
    }

    proptest! {
        /// Any bytes with any descriptors: a message, or an error.
        #[test]
        fn takes_any_bytes_of_a_worker(
            mut bytes in vec(any::<u8>(), 1..400),
            kind in 0..5_u8,
            fds in 0..7_usize,
        ) {
            // So that it is a message of some kind more often than not.
            bytes[0] = kind;
            let (mut here, there) = Link::pair().unwrap();
            say(&there, &bytes, fds);
            match here.receive::<ToSupervisor>() {
                Ok(ReceiveOutcome::Message(_, passed)) => prop_assert_eq!(passed.len(), fds),
                Ok(other) => prop_assert!(false, "{other:?}"),
                Err(_) => {}
            }
            prop_assert!(matches!(here.receive::<ToSupervisor>(), Ok(ReceiveOutcome::NotReady)));
        }
    }

    #[test]
    fn a_worker_says_less_at_once_than_it_is_told() {
        let (mut here, mut there) = Link::pair().unwrap();
        say(&there, &vec![0; LONGEST_OF_WORKER + 1], 0);
        assert!(here.receive::<ToSupervisor>().is_err());
        let long = "x".repeat(LONGEST - 16);
        here.send(&long, Vec::new()).unwrap();
        let Ok(ReceiveOutcome::Message(heard, _)) = there.receive::<String>() else {
            panic!("it is not too long for a worker");
        };
        assert_eq!(heard, long);
    }

    #[test]
    fn what_would_be_too_long_there_is_not_sent() {
        let (mut here, mut there) = Link::pair().unwrap();
        let error = here.hand_over(&"x".repeat(LONGEST), Vec::new(), AdmissionId(7)).unwrap_err();
        assert!(is_too_long(&error), "{error}");
        assert_eq!(
            (here.take_lost(), here.waiting(), here.backlog_bytes),
            (vec![AdmissionId(7)], 0, 0)
        );
        assert!(matches!(there.receive::<String>(), Ok(ReceiveOutcome::NotReady)));
        let long = "x".repeat(LONGEST_OF_WORKER);
        assert!(is_too_long(&there.send(&long, Vec::new()).unwrap_err()));
        // Three bytes say how long it is.
        there.send(&&long[5..], Vec::new()).unwrap();
        assert!(matches!(here.receive::<String>(), Ok(ReceiveOutcome::Message(..))));
    }

    #[test]
    fn a_configuration_that_no_worker_could_be_told_is_refused() {
        let daemon = ipcd_core::DaemonInfo {
            supervisor: 0,
            worker: 0,
            version: String::new(),
            started: std::time::Instant::now(),
            listeners: BTreeMap::new(),
            sandbox: String::new(),
        };
        let mut config = Config::new(daemon);
        let endpoint = format!("unix:///{}", "x".repeat(90));
        while LiveConfig::check(&config).is_ok() {
            let number = config.daemon.listeners.len();
            assert!(number < 1000, "as many as this are never too many");
            config.daemon.listeners.insert(number, (endpoint.clone(), "frame".into()));
        }
        let why = LiveConfig::check(&config).unwrap_err().to_string();
        assert!(why.contains("49 KiB") && why.contains("at most 48 KiB"), "{why}");
        // The last one that is not, with all access rules there can be, is not too long.
        config.daemon.listeners.pop_last();
        let rules = bincode::serde::encode_to_vec(LiveConfig::of(&config), CONFIG).unwrap().len();
        assert!(rules + crate::access::MAX_BYTES < LONGEST);
    }

    #[test]
    fn a_peer_that_cannot_be_handed_over_is_known_also_when_it_has_waited() {
        let (mut here, there) = Link::pair().unwrap();
        let mut sent = 0;
        while here.waiting() < 2 {
            sent += 1;
            here.hand_over(&"a peer".to_owned(), Vec::new(), AdmissionId(sent)).unwrap();
        }
        here.send(&"news".to_owned(), Vec::new()).unwrap();
        drop(there);
        here.hand_over(&"a peer".to_owned(), Vec::new(), AdmissionId(sent + 1)).unwrap_err();
        while here.waiting() > 0 {
            here.flush().unwrap_err();
        }
        assert_eq!(here.take_lost(), [sent - 1, sent, sent + 1].map(AdmissionId));
        assert_eq!((here.take_lost(), here.backlog_bytes), (vec![], 0));
    }

    #[test]
    fn a_claimed_length_claims_no_memory() {
        let (mut here, there) = Link::pair().unwrap();
        // Gone, of 2^64 - 1 numbers.
        say(&there, &[&[1, 253][..], &[255; 8]].concat(), 0);
        assert!(here.receive::<ToSupervisor>().is_err());
    }

    #[test]
    fn what_it_had_said_is_heard_of_one_that_left_something_unread() {
        let (mut here, mut there) = Link::pair().unwrap();
        here.send(&ToWorker::Drain, Vec::new()).unwrap();
        there.send(&ToSupervisor::Quiet, Vec::new()).unwrap();
        drop(there);
        let heard = here.receive();
        assert!(matches!(heard, Ok(ReceiveOutcome::Message(ToSupervisor::Quiet, _))), "{heard:?}");
        assert!(matches!(here.receive::<ToSupervisor>(), Ok(ReceiveOutcome::Closed)));
    }

    #[test]
    fn what_waits_for_a_link_is_counted() {
        let (mut here, mut there) = Link::pair().unwrap();
        let long = "x".repeat(LONGEST - 16);
        while !here.is_overfull() {
            here.send(&long, Vec::new()).unwrap();
        }
        while here.waiting() > 0 {
            assert!(matches!(there.receive::<String>(), Ok(ReceiveOutcome::Message(..))));
            here.flush().unwrap();
        }
        assert_eq!(here.backlog_bytes, 0);
    }
}
