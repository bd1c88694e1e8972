//! Datagrams of programs that know nothing of us, on a socket with a well-known name. One socket
//! hears all senders, so the listener sorts them: each sender is a peer, until it has been silent
//! for long enough (`senders`), and hears us where it has a name of its own (`reply`).
//!
//! The listener moves datagrams and never looks into them. None that it has received is lost: when
//! a peer's queue is full, it waits for room, and the socket's own queue makes the senders wait.

mod channel;
mod posting;
mod reply;
mod sender_name;
mod senders;

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::time::Instant;

use ipcd_sys::recv_with_sender;
use ipcd_transport::{
    ChannelParts, Endpoint, Error, Listener, PathClaim, PathRights, PeerIdentity, PeerTracking,
    Result, set_local_access,
};
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::socket::{setsockopt, sockopt};

pub(crate) use self::channel::adopt;
use self::posting::ReplyPoster;
use self::reply::{ReplyPath, ReplyRoute};
use self::sender_name::SenderName;
use self::senders::{LARGEST, QueueOutcome, SenderTable};
use crate::socket::BoundSocket;

/// Datagrams handled in one call of `accept`, so that a flood does not keep the caller.
const ACCEPT_BUDGET: usize = 64;

/// The well-known socket, and those who have sent to it.
pub(crate) struct DatagramListener {
    socket: OwnedFd,
    senders: SenderTable,
    /// The senders that only the listener can write to.
    posts: ReplyPoster,
    /// The room for a received datagram, and its sender while it waits to be handed on.
    room: Vec<u8>,
    held: Option<HeldDatagram>,
    /// Readable when there is something to do, whichever of the descriptors in it tells that.
    ready: Epoll,
    /// The descriptor that `ready` holds.
    waits_for: WaitsFor,
    /// Always readable.
    work: EventFd,
    local: Endpoint,
    guard: Option<PathRights>,
    claim: Option<PathClaim>,
}

/// A datagram that was received.
struct HeldDatagram {
    length: usize,
    name: SenderName,
    identity: PeerIdentity,
}

/// The event that the listener waits for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum WaitsFor {
    /// A datagram.
    Datagram,
    /// Room in the queue of this sender.
    Room(u64),
    /// Nothing.
    Nothing,
}

impl DatagramListener {
    /// Over a bound socket, which is made non-blocking.
    pub(crate) fn new(bound: BoundSocket, local: Endpoint) -> Result<Self> {
        let BoundSocket { socket, guard, claim } = bound;
        let failed = |error: Errno| Error::system(format!("listen on {local}"), error);
        // Before the first receive: the kernel adds credentials only to datagrams that are sent
        // after it (unix(7)).
        setsockopt(&socket, sockopt::PassCred, &true).map_err(failed)?;
        let socket = UnixDatagram::from(socket);
        let made = socket.set_nonblocking(true);
        made.map_err(|error| Error::system("make a socket non-blocking", error))?;
        let ready = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(failed)?;
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let work = EventFd::from_value_and_flags(1, flags).map_err(failed)?;
        ready.add(&socket, EpollEvent::new(EpollFlags::EPOLLIN, 0)).map_err(failed)?;
        let copy = socket.try_clone();
        let copy = copy.map_err(|error| Error::system("duplicate a socket", error))?;
        let posts = ReplyPoster::new(copy.into()).map_err(failed)?;
        ready.add(posts.fd(), EpollEvent::new(EpollFlags::EPOLLIN, 0)).map_err(failed)?;
        Ok(Self {
            socket: socket.into(),
            senders: SenderTable::default(),
            posts,
            room: vec![0; LARGEST],
            held: None,
            ready,
            waits_for: WaitsFor::Datagram,
            work,
            local,
            guard,
            claim,
        })
    }

    /// Hands datagrams on until one makes its sender a peer.
    fn sort(&mut self) -> Result<Option<ChannelParts>> {
        if let Some((id, identity)) = self.senders.take_orphan() {
            let parts = self.hand_out(id, identity);
            return parts.inspect_err(|error| self.senders.put_back(id, error)).map(Some);
        }
        for _ in 0..ACCEPT_BUDGET {
            if self.held.is_none() && !self.receive()? {
                return Ok(None);
            }
            let Some(held) = self.held.take() else { return Ok(None) };
            match self.hand_on(&held) {
                Ok(HandOnOutcome::On) => {}
                Ok(HandOnOutcome::ToNew(parts)) => return Ok(Some(parts)),
                Ok(HandOnOutcome::Waits) => {
                    self.held = Some(held);
                    return Ok(None);
                }
                Err(error) => {
                    // It is tried again when the system has descriptors again.
                    // Any other error is this sender's own, and must not stop those behind it.
                    self.held = Some(held).filter(|_| error.is_exhaustion());
                    return Err(error);
                }
            }
        }
        Ok(None)
    }

    /// Receives one datagram; false if there is none.
    fn receive(&mut self) -> Result<bool> {
        let datagram = match recv_with_sender(self.socket.as_fd(), &mut self.room) {
            Ok(datagram) => datagram,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(Error::system(format!("receive on {}", self.local), error)),
        };
        // The kernel says 0 for a process outside our pid namespace.
        let known =
            datagram.sender.map(|(pid, uid, gid)| (Some(pid).filter(|&p| p != 0), uid, gid));
        let (length, name) = (datagram.length, SenderName::of(datagram.from, known));
        let identity = name.identity(known);
        if let Some(access) = &self.guard {
            // Its other groups the kernel does not tell here.
            access.check(&identity, identity.gid.as_slice(), &self.local)?;
        }
        if length > LARGEST {
            let local = &self.local;
            let why = format!("{local}: {length} bytes of {identity}, over {LARGEST}: dropped");
            return Err(Error::Protocol(why));
        }
        self.held = Some(HeldDatagram { length, name, identity });
        Ok(true)
    }

    fn hand_on(&mut self, held: &HeldDatagram) -> Result<HandOnOutcome> {
        let bytes = &self.room[..held.length];
        if let Some(id) = self.senders.find(&held.name, &held.identity) {
            return match self.senders.put(id, bytes)? {
                QueueOutcome::Taken => Ok(HandOnOutcome::On),
                QueueOutcome::Full => {
                    self.senders.wait_for(id);
                    Ok(HandOnOutcome::Waits)
                }
            };
        }
        let id =
            self.senders.add(held.name.clone(), held.identity.clone(), bytes, Instant::now())?;
        let parts = self.hand_out(id, held.identity.clone());
        // It comes again with the datagram, which is still ours, or not at all.
        parts.inspect_err(|_| self.senders.forget(id)).map(HandOnOutcome::ToNew)
    }

    /// The parts that a worker needs to serve a sender.
    fn hand_out(&mut self, id: u64, identity: PeerIdentity) -> Result<ChannelParts> {
        let (queue, name) = self.senders.queue_of(id)?;
        let reply = match ReplyRoute::to(name, &identity)? {
            ReplyRoute::Direct(reply) => reply,
            ReplyRoute::Posted(to) => {
                let posted = self.posts.add(id, self.senders.copy_of_end(id)?, to);
                posted.map_err(|error| Error::system("watch a descriptor", error))?;
                ReplyPath::Posted
            }
        };
        Ok(channel::parts(id, queue, reply, identity))
    }

    /// Posts what is for senders that only we can write to.
    fn post(&mut self) {
        for gone in self.posts.turn() {
            self.senders.forget(gone);
        }
        let senders = &self.senders;
        self.posts.retain(|id| senders.end_of(id).is_some());
    }

    /// Watches what the next step waits for.
    fn watch(&mut self) -> Result<()> {
        let next = match (self.senders.has_orphans(), &self.held, self.senders.waits_for()) {
            (false, None, _) => WaitsFor::Datagram,
            (false, Some(_), Some(id)) => WaitsFor::Room(id),
            _ => WaitsFor::Nothing,
        };
        if next == self.waits_for {
            return Ok(());
        }
        let failed = |error| Error::system("watch a descriptor", error);
        match self.change(self.waits_for, false) {
            // An earlier change got as far as this and then failed.
            Ok(()) | Err(Errno::ENOENT) => {}
            Err(error) => return Err(failed(error)),
        }
        self.change(next, true).map_err(failed)?;
        self.waits_for = next;
        Ok(())
    }

    fn change(&self, which: WaitsFor, is_added: bool) -> nix::Result<()> {
        let (fd, flags) = match which {
            WaitsFor::Datagram => (self.socket.as_fd(), EpollFlags::EPOLLIN),
            WaitsFor::Nothing => (self.work.as_fd(), EpollFlags::EPOLLIN),
            WaitsFor::Room(id) => match self.senders.end_of(id) {
                Some(end) => (end, EpollFlags::EPOLLOUT),
                // Its end is closed, and the kernel has taken it out.
                None => return Ok(()),
            },
        };
        match is_added {
            true => self.ready.add(fd, EpollEvent::new(flags, fd.as_raw_fd() as u64)),
            false => self.ready.delete(fd),
        }
    }
}

/// The outcome for a datagram.
enum HandOnOutcome {
    On,
    ToNew(ChannelParts),
    Waits,
}

impl Listener for DatagramListener {
    fn fd(&self) -> BorrowedFd<'_> {
        self.ready.0.as_fd()
    }

    fn local(&self) -> &Endpoint {
        &self.local
    }

    fn adapt(&mut self, at: &Endpoint, is_raw: bool) -> Result<bool> {
        if !is_raw || at.option("type") != Some("dgram") {
            return Ok(false);
        }
        set_local_access(at, self.claim.as_ref(), &mut self.guard)?;
        self.local = at.clone();
        Ok(true)
    }

    fn accept(&mut self) -> Result<Option<ChannelParts>> {
        self.post();
        let outcome = self.sort();
        match (self.watch(), outcome) {
            // A peer is worth more than the error, which comes again with the next call.
            (Err(error), Ok(None)) => Err(error),
            (_, outcome) => outcome,
        }
    }

    fn tracking(&self) -> Option<&dyn PeerTracking> {
        Some(self)
    }

    fn tracking_mut(&mut self) -> Option<&mut dyn PeerTracking> {
        Some(self)
    }
}

impl PeerTracking for DatagramListener {
    fn released(&mut self, _identity: &PeerIdentity, state: &[u8]) {
        if let Some(id) = channel::id_in(state) {
            self.senders.release(id);
            // It fails only without memory, and then the next call of accept tries again.
            let _ = self.watch();
        }
    }

    fn refused(&mut self, _identity: &PeerIdentity, state: &[u8]) {
        if let Some(id) = channel::id_in(state) {
            self.senders.forget(id);
            let _ = self.watch();
        }
    }
}
