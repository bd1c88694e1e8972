//! A well-known FIFO that programs read which know nothing of us: `cat news.fifo`.
//!
//! There is one channel, for all readers. Its write end stays open without a reader: opened anew
//! it would need a reader (fifo(7), `ENXIO`), while an open one only says `EPIPE` at a write. What
//! is offered then is lost, and the next write finds a reader or not.
//!
//! Bytes that a reader leaves behind would be the next reader's, perhaps from the middle of a
//! message. So the listener watches for the last reader's leaving and empties the FIFO. A channel
//! that ends may leave half a message, too: then the listener puts a new FIFO in the place of the
//! old one, whose readers find its end.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use ipcd_transport::{
    Channel, ChannelParts, Endpoint, Error, FileKind, FoundFile, Listener, PathClaim, PathRights,
    PeerIdentity, PeerTracking, ReadBuffer, ReadOutcome, Result, StreamChannel, WriteOutcome,
    reopen,
};
use nix::fcntl::OFlag;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::unistd::read;

use crate::turn::{ChannelTurn, silence};
use crate::{FifoDirection, plain};

/// The state in the parts of a channel that only writes.
pub(crate) const STATE: &[u8] = b"out";

/// Bytes thrown away at once, and how often: what the largest FIFO holds that root may have
/// (`F_SETPIPE_SZ`, 1 MiB unless it was configured).
const CHUNK: usize = 64 * 1024;
const CHUNKS: usize = 16;

/// The FIFO, and whose turn it is to serve its channel.
///
/// A forked child must not drop it, as it must not drop the [`PathClaim`].
pub(crate) struct EgressListener {
    fifo: OwnedFd,
    access: PathRights,
    turn: ChannelTurn,
    /// Readable when one of the two has something to say.
    watch: Epoll,
    local: Endpoint,
    claim: PathClaim,
}

impl EgressListener {
    pub(crate) fn open(at: &Endpoint) -> Result<Self> {
        let access = PathRights::of(at, PathRights::PRIVATE)?;
        let mut claim = PathClaim::acquire(at.path()?, FileKind::FifoToWrite)?;
        // Its readers wait for the next start.
        claim.keep();
        let fifo = claim.adopt_fifo(&access, open_to_write)?;
        let turn = ChannelTurn::free()?;
        let made = || -> nix::Result<_> {
            let watch = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
            watch.add(turn.fd(), EpollEvent::new(EpollFlags::EPOLLIN, 0))?;
            watch_readers(&watch, &fifo)?;
            Ok(watch)
        };
        let watch = made().map_err(|error| failed(at, error))?;
        Ok(Self { fifo, access, turn, watch, local: at.clone(), claim })
    }

    /// Another FIFO takes the place of this one.
    fn replace(&mut self) -> Result<()> {
        let fifo = self.claim.publish_fifo(&self.access, open_to_write)?;
        let _ = self.watch.delete(&self.fifo);
        watch_readers(&self.watch, &fifo).map_err(|error| failed(&self.local, error))?;
        self.fifo = fifo;
        Ok(())
    }

    /// Whether the last reader has left since it was asked last.
    fn readers_left(&self) -> bool {
        let mut events = [EpollEvent::empty(); 2];
        let count = self.watch.wait(&mut events, EpollTimeout::ZERO).unwrap_or(0);
        let is_error = |event: &EpollEvent| event.events().contains(EpollFlags::EPOLLERR);
        events[..count].iter().any(is_error)
    }

    /// Throws away what a reader has left. For a moment we are a reader ourselves, and our own
    /// leaving is no news.
    fn empty(&self) -> nix::Result<()> {
        let reader = reopen(&self.fifo, OFlag::O_RDONLY)?;
        let mut chunk = vec![0; CHUNK];
        for _ in 0..CHUNKS {
            if !read(&reader, &mut chunk).is_ok_and(|count| count > 0) {
                break;
            }
        }
        drop(reader);
        self.readers_left();
        Ok(())
    }
}

impl Listener for EgressListener {
    fn fd(&self) -> BorrowedFd<'_> {
        self.watch.0.as_fd()
    }

    fn local(&self) -> &Endpoint {
        &self.local
    }

    fn adapt(&mut self, at: &Endpoint, is_raw: bool) -> Result<bool> {
        if !is_raw || FifoDirection::of(at)? != Some(FifoDirection::Out) {
            return Ok(false);
        }
        let access = PathRights::of(at, PathRights::PRIVATE)?;
        self.claim.set_access(&access)?;
        (self.access, self.local) = (access, plain(at));
        Ok(true)
    }

    fn accept(&mut self) -> Result<Option<ChannelParts>> {
        if self.readers_left() {
            // If it fails, the next reader begins with the bytes that this one has left.
            let _ = self.empty();
        }
        self.turn.take(|| parts(self.fifo.try_clone().map_err(|error| failed(&self.local, error))?))
    }

    fn tracking(&self) -> Option<&dyn PeerTracking> {
        Some(self)
    }

    fn tracking_mut(&mut self) -> Option<&mut dyn PeerTracking> {
        Some(self)
    }
}

impl PeerTracking for EgressListener {
    fn clear_place(&mut self) {
        self.claim.let_go();
    }

    fn has_one_peer(&self) -> bool {
        true
    }

    fn released(&mut self, _identity: &PeerIdentity, _state: &[u8]) {
        // If it fails, readers of the old FIFO may find half a message.
        let _ = self.replace();
        self.turn.give_back();
    }
}

/// Parts of a channel that only writes. Nothing comes back, which a descriptor that never becomes
/// readable stands for.
pub(crate) fn parts(fifo: OwnedFd) -> Result<ChannelParts> {
    let descriptors = vec![silence()?.into(), fifo];
    Ok(ChannelParts { descriptors, identity: PeerIdentity::default(), state: STATE.to_vec() })
}

/// A write end of a FIFO that needs no reader: while it is opened, we are one ourselves.
pub(crate) fn open_to_write(found: &FoundFile) -> nix::Result<OwnedFd> {
    let reader = found.open(OFlag::O_RDWR);
    let writer = found.open(OFlag::O_WRONLY);
    drop(reader);
    writer
}

/// A channel to the readers.
pub(crate) struct EgressChannel(StreamChannel);

impl EgressChannel {
    pub(crate) fn adopt(parts: ChannelParts) -> Result<Self> {
        Ok(Self(StreamChannel::adopt(parts)?))
    }
}

impl Channel for EgressChannel {
    fn read_fd(&self) -> BorrowedFd<'_> {
        self.0.read_fd()
    }

    fn write_fd(&self) -> BorrowedFd<'_> {
        self.0.write_fd()
    }

    fn identity(&self) -> &PeerIdentity {
        self.0.identity()
    }

    fn read(&mut self, into: &mut ReadBuffer) -> Result<ReadOutcome> {
        self.0.read(into)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<WriteOutcome> {
        match self.0.write(bytes) {
            Err(error) if error.is_disconnect() => Ok(WriteOutcome::Nobody),
            wrote => wrote,
        }
    }

    fn finish(&mut self) -> Result<()> {
        self.0.finish()
    }

    fn make_room(&mut self, bytes: usize) {
        self.0.make_room(bytes);
    }

    fn into_parts(self: Box<Self>) -> ChannelParts {
        Box::new(self.0).into_parts()
    }
}

/// Reports once each time that the last reader leaves. Without readers a FIFO has an error that is
/// always waited for (epoll_ctl(2)), and which only an edge does not repeat.
fn watch_readers(watch: &Epoll, fifo: &OwnedFd) -> nix::Result<()> {
    watch.add(fifo, EpollEvent::new(EpollFlags::EPOLLET, 1))
}

fn failed(at: &Endpoint, error: impl Into<std::io::Error>) -> Error {
    Error::system(format!("listen on {at}"), error)
}
