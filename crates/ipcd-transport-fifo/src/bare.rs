//! A well-known FIFO into which programs write that know nothing of us: `echo hello > log.fifo`. And
//! FIFOs that somebody else has made, which we open as any program would.
//!
//! There is one channel, for all writers: a FIFO does not tell them apart. It is held open for
//! writing too, so that it has no end when the writers leave. Writes of up to `PIPE_BUF` bytes
//! (4,096) are not mixed with other writers' (pipe(7)); longer ones may be.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use ipcd_transport::{
    Access, ChannelParts, Endpoint, Error, FileKind, Found, Identity, Listener, PathClaim, Result,
    set_local_access,
};
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;

use crate::turn::Turn;
use crate::{Way, egress, plain};

/// Why what was found at a path is not connected to.
pub(crate) const NO_FIFO: &str = "that is no FIFO; a symlink to one does not count";

/// The FIFO, and whose turn it is to serve its channel.
///
/// A forked child must not drop it, as it must not drop the [`PathClaim`].
pub(crate) struct Listening {
    fifo: OwnedFd,
    turn: Turn,
    local: Endpoint,
    claim: Option<PathClaim>,
}

impl Listening {
    pub(crate) fn open(at: &Endpoint) -> Result<Self> {
        let access = Access::of(at, Access::PRIVATE)?;
        let mut claim = PathClaim::acquire(at.path()?, FileKind::FifoToRead)?;
        // Without it a script's next line would make a file of that name.
        claim.keep();
        let fifo = claim.adopt_fifo(&access, |found| found.open(OFlag::O_RDWR))?;
        Self::new(fifo, at.clone(), Some(claim))
    }

    /// Over a FIFO that another process has opened: again, because it may be open for one direction
    /// only, or blocking for others.
    pub(crate) fn over(passed: &OwnedFd, local: Endpoint) -> Result<Self> {
        let link = format!("/proc/self/fd/{}", passed.as_raw_fd());
        let flags = OFlag::O_RDWR | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let fifo = open(link.as_str(), flags, Mode::empty());
        let fifo = fifo.map_err(|error| Error::system(format!("open {local}"), error))?;
        Self::new(fifo, local, None)
    }

    fn new(fifo: OwnedFd, local: Endpoint, claim: Option<PathClaim>) -> Result<Self> {
        Ok(Self { fifo, turn: Turn::free()?, local, claim })
    }
}

impl Listener for Listening {
    fn fd(&self) -> BorrowedFd<'_> {
        self.turn.fd().as_fd()
    }

    fn local(&self) -> &Endpoint {
        &self.local
    }

    fn adapt(&mut self, at: &Endpoint, is_bare: bool) -> Result<bool> {
        if !is_bare || Way::of(at)? == Some(Way::Out) {
            return Ok(false);
        }
        set_local_access(at, self.claim.as_ref(), &mut None)?;
        self.local = plain(at);
        Ok(true)
    }

    fn clear_place(&mut self) {
        if let Some(claim) = &mut self.claim {
            claim.let_go();
        }
    }

    fn accept(&mut self) -> Result<Option<ChannelParts>> {
        self.turn.take(|| {
            let read = self.fifo.try_clone();
            parts(read.map_err(|error| Error::system(format!("open {}", self.local), error))?)
        })
    }

    fn has_one_peer(&self) -> bool {
        true
    }

    fn released(&mut self, _identity: &Identity, _state: &[u8]) {
        self.turn.give_back();
    }
}

/// Opens somebody else's FIFO to read it: for writing too, so that it has no end when its writers
/// leave, if we may.
pub(crate) fn connect_to_read(to: &Endpoint) -> Result<ChannelParts> {
    let found = find(to)?;
    let opened = match found.open(OFlag::O_RDWR) {
        Err(Errno::EACCES) => found.open(OFlag::O_RDONLY),
        opened => opened,
    };
    parts(opened.map_err(|error| failed(to, error))?)
}

/// Opens somebody else's FIFO to write to it. Who may not read it has to wait for a reader.
pub(crate) fn connect_to_write(to: &Endpoint) -> Result<ChannelParts> {
    let opened = egress::open_to_write(&find(to)?);
    egress::parts(opened.map_err(|error| match error {
        Errno::ENXIO => {
            failed(to, io::Error::other("nobody reads the FIFO, and it is not ours to hold open"))
        }
        error => failed(to, error),
    })?)
}

fn find(to: &Endpoint) -> Result<Found> {
    let found = Found::at(to.path()?).map_err(|error| failed(to, error))?;
    match found.is_fifo() {
        true => Ok(found),
        false => Err(failed(to, io::Error::other(NO_FIFO))),
    }
}

fn failed(to: &Endpoint, error: impl Into<io::Error>) -> Error {
    Error::system(format!("open {to}"), error)
}

/// Parts of a channel that only reads. Nothing goes back: a FIFO has one direction.
fn parts(read: OwnedFd) -> Result<ChannelParts> {
    let write = File::options().write(true).open("/dev/null");
    let write = write.map_err(|error| Error::system("open /dev/null", error))?;
    let descriptors = vec![read, write.into()];
    Ok(ChannelParts { descriptors, identity: Identity::default(), state: Vec::new() })
}
