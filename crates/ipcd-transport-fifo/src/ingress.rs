//! A well-known FIFO into which programs write that know nothing of us: `echo hello > log.fifo`. And
//! FIFOs that another program has made, which we open as any program would.
//!
//! There is one channel, for all writers: a FIFO does not tell them apart. It is held open for reading
//! only, so that the end of the last writer is noticed: what was begun is a message then, and is not
//! mixed with what the next one writes. Writes of up to `PIPE_BUF` bytes
//! (4,096) are not mixed with other writers' (pipe(7)); longer ones may be.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use ipcd_transport::{
    Channel, ChannelParts, Endpoint, Error, FileKind, FoundFile, Listener, PathClaim, PathRights,
    PeerIdentity, PeerTracking, RawBehaviour, ReadBuffer, ReadOutcome, Result, StreamChannel,
    WriteOutcome, reopen, set_local_access,
};
use nix::errno::Errno;
use nix::fcntl::OFlag;

use crate::turn::ChannelTurn;
use crate::{FifoDirection, egress, plain};

/// Why what was found at a path is not connected to.
pub(crate) const NO_FIFO: &str = "that is no FIFO; a symlink to one does not count";

/// The FIFO, and whose turn it is to serve its channel.
///
/// A forked child must not drop it, as it must not drop the [`PathClaim`].
pub(crate) struct IngressListener {
    fifo: OwnedFd,
    turn: ChannelTurn,
    local: Endpoint,
    claim: Option<PathClaim>,
}

impl IngressListener {
    pub(crate) fn open(at: &Endpoint) -> Result<Self> {
        let access = PathRights::of(at, PathRights::PRIVATE)?;
        let mut claim = PathClaim::acquire(at.path()?, FileKind::FifoToRead)?;
        // Without it a script's next line would make a file of that name.
        claim.keep();
        let fifo = claim.adopt_fifo(&access, |found| found.open(OFlag::O_RDONLY))?;
        Self::new(fifo, at.clone(), Some(claim))
    }

    /// Over a FIFO that another process has opened: again, because it may be open for one direction
    /// only, or blocking for others.
    pub(crate) fn over(passed: &OwnedFd, local: Endpoint) -> Result<Self> {
        let fifo = reopen(passed, OFlag::O_RDONLY);
        let fifo = fifo.map_err(|error| Error::system(format!("open {local}"), error))?;
        Self::new(fifo, local, None)
    }

    fn new(fifo: OwnedFd, local: Endpoint, claim: Option<PathClaim>) -> Result<Self> {
        Ok(Self { fifo, turn: ChannelTurn::free()?, local, claim })
    }
}

impl Listener for IngressListener {
    fn fd(&self) -> BorrowedFd<'_> {
        self.turn.fd().as_fd()
    }

    fn local(&self) -> &Endpoint {
        &self.local
    }

    fn adapt(&mut self, at: &Endpoint, is_raw: bool) -> Result<bool> {
        if !is_raw || FifoDirection::of(at)? == Some(FifoDirection::Out) {
            return Ok(false);
        }
        set_local_access(at, self.claim.as_ref(), &mut None)?;
        self.local = plain(at);
        Ok(true)
    }

    fn accept(&mut self) -> Result<Option<ChannelParts>> {
        self.turn.take(|| {
            let read = self.fifo.try_clone();
            parts(read.map_err(|error| Error::system(format!("open {}", self.local), error))?)
        })
    }

    fn tracking(&self) -> Option<&dyn PeerTracking> {
        Some(self)
    }

    fn tracking_mut(&mut self) -> Option<&mut dyn PeerTracking> {
        Some(self)
    }
}

impl PeerTracking for IngressListener {
    fn clear_place(&mut self) {
        if let Some(claim) = &mut self.claim {
            claim.let_go();
        }
    }

    fn has_one_peer(&self) -> bool {
        true
    }

    fn released(&mut self, _identity: &PeerIdentity, _state: &[u8]) {
        self.turn.give_back();
    }
}

/// Opens another program's FIFO to read it.
pub(crate) fn connect_to_read(to: &Endpoint) -> Result<ChannelParts> {
    parts(find(to)?.open(OFlag::O_RDONLY).map_err(|error| failed(to, error))?)
}

/// Opens another program's FIFO to write to it. Without the right to read it, there must be a reader.
pub(crate) fn connect_to_write(to: &Endpoint) -> Result<ChannelParts> {
    let opened = egress::open_to_write(&find(to)?);
    egress::parts(opened.map_err(|error| match error {
        Errno::ENXIO => failed(
            to,
            io::Error::other(
                "the FIFO has no reader, and another program owns it: start the reader first",
            ),
        ),
        error => failed(to, error),
    })?)
}

fn find(to: &Endpoint) -> Result<FoundFile> {
    let found = FoundFile::at(to.path()?).map_err(|error| failed(to, error))?;
    match found.is_fifo() {
        true => Ok(found),
        false => Err(failed(to, io::Error::other(NO_FIFO))),
    }
}

fn failed(to: &Endpoint, error: impl Into<io::Error>) -> Error {
    Error::system(format!("open {to}"), error)
}

/// A channel that is read: writers leave, and others come.
pub(crate) struct IngressChannel {
    stream: StreamChannel,
    /// Whether something has come since the last writer was seen to have left.
    has_begun: bool,
}

impl IngressChannel {
    pub(crate) fn adopt(parts: ChannelParts) -> Result<Self> {
        Ok(Self { stream: StreamChannel::adopt(parts)?, has_begun: false })
    }
}

impl Channel for IngressChannel {
    fn read_fd(&self) -> BorrowedFd<'_> {
        self.stream.read_fd()
    }

    fn write_fd(&self) -> BorrowedFd<'_> {
        self.stream.write_fd()
    }

    fn identity(&self) -> &PeerIdentity {
        self.stream.identity()
    }

    fn read(&mut self, into: &mut ReadBuffer) -> Result<ReadOutcome> {
        match self.stream.read(into)? {
            // No process has it open for writing (fifo(7)).
            ReadOutcome::Closed if std::mem::take(&mut self.has_begun) => Ok(ReadOutcome::Boundary),
            ReadOutcome::Closed => Ok(ReadOutcome::NotReady),
            read => {
                self.has_begun |= matches!(read, ReadOutcome::Bytes(_));
                Ok(read)
            }
        }
    }

    fn write(&mut self, bytes: &[u8]) -> Result<WriteOutcome> {
        self.stream.write(bytes)
    }

    fn finish(&mut self) -> Result<()> {
        self.stream.finish()
    }

    fn into_parts(self: Box<Self>) -> ChannelParts {
        Box::new(self.stream).into_parts()
    }

    fn raw_behaviour(&self) -> Option<&dyn RawBehaviour> {
        Some(self)
    }
}

impl RawBehaviour for IngressChannel {
    /// Without a writer the kernel reports a hang-up without end.
    fn reports_edges(&self) -> bool {
        true
    }
}

/// Parts of a channel that only reads. Nothing goes back: a FIFO has one direction.
fn parts(read: OwnedFd) -> Result<ChannelParts> {
    let write = File::options().write(true).open("/dev/null");
    let write = write.map_err(|error| Error::system("open /dev/null", error))?;
    let descriptors = vec![read, write.into()];
    Ok(ChannelParts { descriptors, identity: PeerIdentity::default(), state: Vec::new() })
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

    use super::*;

    #[test]
    fn what_the_last_writer_left_is_over_and_that_nobody_writes_is_no_news() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("in");
        let at = Endpoint::from_path("fifo", &path);
        let mut listening = IngressListener::open(&at).unwrap();
        let mut channel = IngressChannel::adopt(listening.accept().unwrap().unwrap()).unwrap();
        let mut into = ReadBuffer::new(4096, 4096);
        assert_eq!(channel.read(&mut into).unwrap(), ReadOutcome::NotReady);
        let watch = Epoll::new(EpollCreateFlags::empty()).unwrap();
        let edges = EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, 0);
        watch.add(channel.read_fd(), edges).unwrap();
        let news = || watch.wait(&mut [EpollEvent::empty()], EpollTimeout::ZERO).unwrap();
        for said in ["one", "two"] {
            let mut writer = File::options().write(true).open(&path).unwrap();
            writer.write_all(said.as_bytes()).unwrap();
            assert_eq!(news(), 1);
            assert_eq!(channel.read(&mut into).unwrap(), ReadOutcome::Bytes(3));
            assert_eq!(channel.read(&mut into).unwrap(), ReadOutcome::NotReady);
            assert_eq!(news(), 0);
            drop(writer);
            assert_eq!(news(), 1, "its end");
            assert_eq!(channel.read(&mut into).unwrap(), ReadOutcome::Boundary);
            assert_eq!(channel.read(&mut into).unwrap(), ReadOutcome::NotReady);
            assert_eq!(news(), 0);
        }
        assert_eq!(into.filled(), b"onetwo");
    }
}
