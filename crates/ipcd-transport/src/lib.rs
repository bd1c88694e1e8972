//! The message-transport trait of ipcd, and what every transport shares.
//!
//! A transport moves batches of whole frames between two processes over non-blocking descriptors,
//! without a runtime. All it knows of a frame is that it begins with its own length, a `u32` in
//! little-endian order that counts the whole frame ([`frame_len`]). What a frame means, and where
//! it goes, is none of its business.
//!
//! The contract, which `ipcd-conformance` checks for every transport:
//!
//! * What is read is what the other side wrote, in order. An unreliable transport may lose whole
//!   frames, never parts of one, and never delivers one twice or out of turn.
//! * No call blocks, except [`Transport::connect`] and [`Transport::connect_bare`], which end by
//!   their deadline, but for the time that the system takes to resolve a name.
//! * A write may be taken in part; the caller offers the rest again, unchanged, with more behind it.
//! * The end of the stream is reported once all that was received before it has been read.
//! * What a channel says it has taken, the kernel has: it arrives even if this process dies.
//! * A channel can be taken apart ([`Channel::into_parts`]) and put together in another process: an
//!   encrypted one only before it was used, any other at any time.
//! * No input from the peer makes a channel panic or hold more memory than the read buffer allows.

mod blocking_file;
mod buffer;
mod claim;
mod deadline;
mod endpoint;
mod error;
mod found_file;
mod identity;
mod inet;
pub mod inherited_fd;
mod local;
mod path_rights;
mod record_channel;
mod records;
mod secret;
mod send_buffer;
mod socket;
mod stream;
mod trusted;

use std::io::IoSlice;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Instant;

pub use blocking_file::BlockingFile;
pub use buffer::ReadBuffer;
pub use claim::{FileKind, PathClaim, open_lock};
pub use deadline::{deadline_after, later};
pub use endpoint::Endpoint;
pub use error::{Error, Result, is_of_the_network};
pub use found_file::{FoundFile, reopen};
pub use identity::PeerIdentity;
pub use inet::{InetListener, connect_inet};
pub use inherited_fd::InheritedFd;
pub use local::{
    accept_local, bind_local, check_length, connect_local, guard_of_passed, peer_credentials,
    set_local_access,
};
pub use path_rights::PathRights;
pub use record_channel::{RecordChannel, SilenceLimit};
pub use records::{RecordJoiner, RecordSplitter, SplitRecord};
pub use secret::{Exposure, SecretFile};
pub use send_buffer::grow_send_buffer;
pub use socket::{
    PendingReset, connect_until, end_socket, poll_some, poll_until, receive_record, tells_records,
};
pub use stream::StreamChannel;
pub use trusted::{TrustedDir, check_server, is_trusted};

/// A way to move frames between processes. One value per scheme, known to the registry.
pub trait Transport: Sync {
    /// The name of the transport and the scheme of its endpoints, such as `tcp`.
    fn scheme(&self) -> &'static str;

    /// What the transport promises.
    fn capabilities(&self) -> Capabilities;

    /// The options that an endpoint of this transport may carry.
    fn options(&self) -> &'static [&'static str];

    /// Those of them that have an effect where the endpoint is used for this.
    fn options_for(&self, _purpose: EndpointPurpose) -> &'static [&'static str] {
        self.options()
    }

    /// Whether the endpoint can be used for this, without asking the system.
    fn check(&self, endpoint: &Endpoint, purpose: EndpointPurpose) -> Result<()>;

    /// Whether what a listener there needs beside its address is at hand, such as the directory of
    /// its path, or its certificates. Nothing is made, and nothing bound.
    fn check_listen(&self, at: &Endpoint) -> Result<()> {
        match at.path() {
            Ok(path) => TrustedDir::of(path).map(drop),
            Err(_) => Ok(()),
        }
    }

    /// Where a daemon with this runtime directory listens when nothing else is said.
    ///
    /// # Errors
    /// If the transport needs to be told more; the error says what to write.
    fn default_endpoint(&self, runtime_dir: &Path) -> Result<Endpoint>;

    /// Binds the endpoint.
    fn listen(&self, at: &Endpoint) -> Result<Box<dyn Listener>>;

    /// Connects to the endpoint, and fails with [`Error::TimedOut`] at the deadline.
    fn connect(&self, to: &Endpoint, deadline: Instant) -> Result<Box<dyn Channel>>;

    /// Makes a channel again of what [`Listener::accept`] or [`Channel::into_parts`] returned,
    /// perhaps in another process.
    fn adopt(&self, parts: ChannelParts) -> Result<Box<dyn Channel>>;

    /// Whether bare peers can be at the endpoint, programs that know nothing of frames, and whether
    /// their bytes can go this way, without asking the system. Returns the endpoint to open, which
    /// says the way if the transport has to know it.
    fn check_bare(&self, at: &Endpoint, _flow: RawDirections) -> Result<Endpoint> {
        Err(at.error(format_args!("{} takes frames only", self.scheme())))
    }

    /// Binds the endpoint for bare peers.
    fn listen_bare(&self, at: &Endpoint) -> Result<Box<dyn Listener>> {
        Err(at.error(format_args!("{} takes frames only", self.scheme())))
    }

    /// The endpoint of a descriptor that another process has bound, if this transport could listen
    /// on it.
    fn endpoint_of(&self, _passed: &InheritedFd) -> Option<Endpoint> {
        None
    }

    /// Whether such a descriptor is bound to this endpoint.
    fn is_at(&self, at: &Endpoint, passed: &InheritedFd) -> bool {
        let same = |found: Endpoint| {
            (found.address(), found.is_opaque()) == (at.address(), at.is_opaque())
        };
        self.endpoint_of(passed).is_some_and(same)
    }

    /// Listens on what another process has bound, such as a service manager. Its path, if it has
    /// one, is that process' to remove. The endpoint says what is wanted; where it is bound is
    /// [`Listener::local`].
    fn inherit(&self, at: &Endpoint, passed: OwnedFd) -> Result<Box<dyn Listener>> {
        let passed = InheritedFd::of(passed.as_fd());
        Err(passed.refused(at, "a listener that ipcd opens itself"))
    }

    /// The same for bare peers.
    fn inherit_bare(&self, at: &Endpoint, _passed: OwnedFd) -> Result<Box<dyn Listener>> {
        Err(at.error(format_args!("{} takes frames only", self.scheme())))
    }

    /// Connects to a bare server: a program that knows nothing of frames. Fails with
    /// [`Error::TimedOut`] at the deadline. [`Transport::adopt_bare`] makes the channel.
    fn connect_bare(&self, to: &Endpoint, _deadline: Instant) -> Result<ChannelParts> {
        Err(to.error(format_args!("{} takes frames only", self.scheme())))
    }

    /// The same on behalf of somebody: a program that is started for it has these variables in its
    /// environment, and not those without a value. Others than programs are not told.
    fn connect_bare_for(
        &self,
        to: &Endpoint,
        deadline: Instant,
        _variables: &[EnvVariable],
    ) -> Result<ChannelParts> {
        self.connect_bare(to, deadline)
    }

    /// Makes a channel to a bare peer of what such a listener, or [`Transport::connect_bare`],
    /// returned.
    fn adopt_bare(&self, parts: ChannelParts) -> Result<RawChannel> {
        Ok(RawChannel::stream(self.adopt(parts)?))
    }
}

/// What an endpoint is for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum EndpointPurpose {
    /// Peers that speak frames are listened for there.
    Listen,
    /// Bare peers are.
    ListenRaw,
    /// One who speaks frames connects to it.
    Connect,
    /// One who does not, does.
    ConnectRaw,
}

impl EndpointPurpose {
    /// Whether peers come in there.
    pub fn listens(self) -> bool {
        matches!(self, Self::Listen | Self::ListenRaw)
    }

    /// Whether what goes that way is not frames.
    pub fn is_bare(self) -> bool {
        matches!(self, Self::ListenRaw | Self::ConnectRaw)
    }
}

/// Which way the bytes of bare peers go.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct RawDirections {
    /// Whether they are heard.
    pub inward: bool,
    /// Whether they are spoken to.
    pub outward: bool,
}

/// A variable of a program's environment; without a value, one that it must not have.
pub type EnvVariable = (String, Option<String>);

/// A channel that moves any bytes, where others move frames: what is read is what the peer wrote.
pub struct RawChannel {
    /// The channel.
    pub channel: Box<dyn Channel>,
    /// Whether each read brings one record, and each write makes one.
    pub keeps_records: bool,
    /// Whether the peer says when it is done: the end of a stream.
    pub has_end: bool,
    /// Bytes of the largest record.
    pub largest: Option<usize>,
    /// The process that was started for this channel, in a process group of its own. Whoever adopts
    /// the channel reaps it; dropping the channel does not end it.
    pub child: Option<u32>,
}

impl RawChannel {
    /// A byte stream that has an end.
    pub fn stream(channel: Box<dyn Channel>) -> Self {
        Self { channel, keeps_records: false, has_end: true, largest: None, child: None }
    }

    /// Datagrams of so many bytes at the most, of which none is the last.
    pub fn datagrams(channel: Box<dyn Channel>, largest: Option<usize>) -> Self {
        Self { keeps_records: true, has_end: false, largest, ..Self::stream(channel) }
    }
}

/// Accepts channels at one endpoint.
pub trait Listener {
    /// Readable when [`Listener::accept`] has something to do.
    fn fd(&self) -> BorrowedFd<'_>;

    /// The endpoint as bound: with the real port when port 0 was asked for.
    fn local(&self) -> &Endpoint;

    /// The next peer, or `None` when there is none now. An error concerns one peer, not the
    /// listener: the caller reports it and goes on.
    fn accept(&mut self) -> Result<Option<ChannelParts>>;

    /// The process that served this peer has died, and its descriptors with it. Where the kernel
    /// does not tell the peer, the listener does. Identity and state are of the parts accepted.
    fn orphaned(&mut self, _identity: &PeerIdentity, _state: &[u8]) {}

    /// Whether there is one peer only: until it is [released](Listener::released), there is none to
    /// be accepted, and after that it is there again.
    fn has_one_peer(&self) -> bool {
        false
    }

    /// Nobody serves this peer any more, for whatever reason.
    fn released(&mut self, _identity: &PeerIdentity, _state: &[u8]) {}

    /// The peer was not let in, and its descriptors are closed.
    fn refused(&mut self, _identity: &PeerIdentity, _state: &[u8]) {}

    /// Goes on at the same address with the options of this endpoint, for peers that speak frames or
    /// bare ones. False if it cannot and has to be opened anew, with nothing changed; nor is anything
    /// changed after an error. What it had before can be had again.
    fn adapt(&mut self, _at: &Endpoint, _is_bare: bool) -> Result<bool> {
        Ok(false)
    }

    /// It will be dropped, and nothing that it has made is to be left for another: one that takes its
    /// place at once, for other purposes, while a process may still serve its peer.
    fn clear_place(&mut self) {}

    /// Reads again what it was opened with, such as certificates, for the peers that come from now
    /// on; whether there was anything to read. What it had stays in force after an error.
    fn reload(&mut self) -> Result<bool> {
        Ok(false)
    }

    /// Whose word it takes for who peers are, such as the certificates of CAs.
    fn trusted(&self) -> &[Vec<u8>] {
        &[]
    }
}

/// Moves frames to and from one peer. It owns its descriptors, all of them non-blocking.
pub trait Channel: Send {
    /// Wait here for input.
    fn read_fd(&self) -> BorrowedFd<'_>;

    /// Wait here for room; the same as [`Channel::read_fd`] for sockets.
    fn write_fd(&self) -> BorrowedFd<'_>;

    /// Who the peer is, as far as the kernel can tell. A certificate is known as soon as the call
    /// returns that ended the transport's handshake, and so before the first frame.
    fn identity(&self) -> &PeerIdentity;

    /// Appends what has come to `into`, with one system call where the transport allows it.
    fn read(&mut self, into: &mut ReadBuffer) -> Result<ReadOutcome>;

    /// Since when a record of the transport's own is incomplete: what has come of it is kept here, and
    /// nothing of it was read.
    fn partial_since(&self) -> Option<Instant> {
        None
    }

    /// Whether [`Channel::read_fd`] is to be waited for by its edges (`EPOLLET`), because it reports
    /// again and again what is no news. Whoever has read something waits anew (`EPOLL_CTL_MOD`), or
    /// reads on until nothing is there.
    fn reports_edges(&self) -> bool {
        false
    }

    /// Offers bytes that begin at a frame boundary, or where the last call stopped. Whole frames
    /// only: the last byte ends a frame.
    fn write(&mut self, frames: &[u8]) -> Result<WriteOutcome>;

    /// The same with frames in several pieces, each of whole frames or the rest of some. A channel
    /// may look at the first piece only, and take no more than that.
    fn write_pieces(&mut self, pieces: &[IoSlice<'_>]) -> Result<WriteOutcome> {
        self.write(pieces.first().map_or(&[], |piece| piece))
    }

    /// How many bytes behind those that were taken are on their way in another form, such as
    /// encrypted: the next write must offer the very same ones.
    fn pinned(&self) -> usize {
        0
    }

    /// Whether the transport has bytes of its own, or pinned ones, that wait for room: the caller
    /// waits for [`Channel::write_fd`] and then calls [`Channel::serve`], also when it has nothing
    /// to write.
    fn wants_room(&self) -> bool {
        false
    }

    /// Whether the kernel had no memory for bytes of the transport's own, or pinned ones, since this
    /// was last asked. It says that there is room all the same, so the caller does not wait for that,
    /// but looks again after a while.
    fn take_shortage(&mut self) -> bool {
        false
    }

    /// Says that nothing more will be written, and sends nothing more. Reading goes on.
    fn finish(&mut self) -> Result<()>;

    /// Whether the channel must be served ([`Channel::serve`]) when readable even while the caller
    /// does not want to read, because the transport has control traffic of its own.
    fn wants_service(&self) -> bool {
        false
    }

    /// Whether the transport has still to shake hands, so that what comes next costs milliseconds of
    /// the processor's time, and all of it is still with the kernel.
    fn is_shaking_hands(&self) -> bool {
        false
    }

    /// Asks the kernel to take so many bytes more for a peer that does not read, as far as the
    /// transport can: so that the last word is there when the peer reads again, however late.
    fn make_room(&mut self, _bytes: usize) {}

    /// Handles the transport's own traffic without reading frames. What came behind a handshake
    /// that ends here, the next read brings.
    fn serve(&mut self) -> Result<()> {
        Ok(())
    }

    /// Does what is due by `now` and says when it wants to be called again.
    fn tick(&mut self, _now: Instant) -> Result<Option<Instant>> {
        Ok(None)
    }

    /// Whether what is on the descriptors is what is read and written, byte for byte: then the owner
    /// may move it by itself (splice(2)), beside or instead of [`Channel::read`] and
    /// [`Channel::write`].
    fn is_plain(&self) -> bool {
        false
    }

    /// Whether nothing can ever be written to the peer, because nothing is known of where it is.
    fn is_write_only(&self) -> bool {
        false
    }

    /// Frames that were sent by the peer and never arrived, as far as is known.
    fn lost(&self) -> u64 {
        0
    }

    /// Takes the channel apart, to put it together elsewhere. Only before anything was written in
    /// part; where what the two sides have agreed on stays in the process, only before it was used.
    fn into_parts(self: Box<Self>) -> ChannelParts;
}

/// What came of a read.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ReadOutcome {
    /// So many bytes were appended; 0 when only the transport's own traffic came.
    Bytes(usize),
    /// Nothing is there now.
    NotReady,
    /// Whoever wrote has left, and others may come: what was begun is over. Only bare channels say so.
    Boundary,
    /// The peer will send nothing more.
    Closed,
}

/// What came of a write.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum WriteOutcome {
    /// So many bytes were taken.
    Bytes(usize),
    /// Nothing now; try again when [`Channel::write_fd`] is writable.
    NotReady,
    /// Nothing now; try again after the next read or service, which may bring the peer's credit, or
    /// the end of the handshake.
    NoCredit,
    /// Nothing, for nobody is there to take it: it is lost, and so is what an earlier call has begun
    /// of it. The next call begins anew, and nothing tells when it will find somebody. Only bare
    /// channels say so.
    Nobody,
}

/// A channel in pieces: what travels from the process that accepts to the one that serves.
#[derive(Debug)]
pub struct ChannelParts {
    /// The descriptors, in an order that the transport knows.
    pub descriptors: Vec<OwnedFd>,
    /// Who the peer is.
    pub identity: PeerIdentity,
    /// What else the transport has to remember, in an encoding of its own.
    pub state: Vec<u8>,
}

/// What a transport promises, for users (`ipcctl transports`) and for the daemon's decisions.
#[derive(Clone, Copy, Debug)]
pub struct Capabilities {
    /// One line about the transport.
    pub summary: &'static str,
    /// Whether the kernel keeps the boundaries between records.
    pub boundaries: bool,
    /// Whether what is delivered is in the order in which it was sent.
    pub ordered: bool,
    /// Whether everything sent is delivered, or the connection ends.
    pub reliable: bool,
    /// Whether peers on other machines can connect.
    pub remote: bool,
    /// Whether what is sent can be read and changed by the two sides only.
    pub encrypted: bool,
    /// Bytes of the largest record that travels in one piece; `None` for a stream.
    pub largest_record: Option<usize>,
    /// How a peer is identified.
    pub identity: IdentityKind,
}

/// How a transport knows its peers.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum IdentityKind {
    /// The kernel vouches for process, user and group (`SO_PEERCRED`).
    Credentials,
    /// The kernel vouches for the owner of a file that only the peer could make.
    Owner,
    /// Only an address is known: such a peer must prove that it holds a token.
    Address,
}

impl IdentityKind {
    /// Whether the kernel vouches for the peer's user.
    pub fn is_vouched(self) -> bool {
        self != Self::Address
    }
}

/// Bytes of the length field at the start of every frame.
pub const LENGTH_BYTES: usize = 4;

/// The length of the frame that begins here, itself included, or `None` when fewer than
/// [`LENGTH_BYTES`] are there.
pub fn frame_len(bytes: &[u8]) -> Option<usize> {
    let (length, _) = bytes.split_first_chunk::<LENGTH_BYTES>()?;
    Some(u32::from_le_bytes(*length) as usize)
}
