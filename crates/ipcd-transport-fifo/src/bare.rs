//! A well-known FIFO into which programs write that know nothing of us: `echo hello > log.fifo`.
//!
//! There is one channel, for all writers: a FIFO does not tell them apart. It is held open for
//! writing too, so that it has no end when the writers leave. Writes of up to `PIPE_BUF` bytes
//! (4,096) are not mixed with other writers' (pipe(7)); longer ones may be.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use ipcd_transport::{
    Access, ChannelParts, Endpoint, Error, FileKind, Identity, Listener, PathClaim, Result,
};
use nix::fcntl::{OFlag, open};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::stat::Mode;

use crate::listener::make_fifo;

/// The FIFO, and whether somebody serves its channel.
///
/// A forked child must not drop it, as it must not drop the [`PathClaim`].
pub(crate) struct Listening {
    fifo: OwnedFd,
    /// Readable while nobody serves the channel.
    unserved: EventFd,
    local: Endpoint,
    _claim: Option<PathClaim>,
}

impl Listening {
    pub(crate) fn open(at: &Endpoint) -> Result<Self> {
        let access = Access::of(at, Access::PRIVATE)?;
        let mut claim = PathClaim::acquire(at.path()?, FileKind::Fifo)?;
        let make = |staged: &Path| {
            make_fifo(staged).map_err(|error| Error::system(format!("listen on {at}"), error))
        };
        let fifo = claim.publish(&access, make)?;
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
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_SEMAPHORE;
        let unserved = EventFd::from_value_and_flags(1, flags)
            .map_err(|error| Error::system("make an event descriptor", error))?;
        Ok(Self { fifo, unserved, local, _claim: claim })
    }
}

impl Listener for Listening {
    fn fd(&self) -> BorrowedFd<'_> {
        self.unserved.as_fd()
    }

    fn local(&self) -> &Endpoint {
        &self.local
    }

    fn accept(&mut self) -> Result<Option<ChannelParts>> {
        if self.unserved.read().is_err() {
            return Ok(None);
        }
        let failed = |error| Error::system(format!("open {}", self.local), error);
        let read = self.fifo.try_clone().map_err(failed)?;
        // Nothing goes back: a FIFO has one direction.
        let write = File::options().write(true).open("/dev/null").map_err(failed)?;
        let descriptors = vec![read, write.into()];
        Ok(Some(ChannelParts { descriptors, identity: Identity::default(), state: Vec::new() }))
    }

    fn released(&mut self, _identity: &Identity, _state: &[u8]) {
        // It can only fail when the count would overflow, and then it is readable anyway.
        let _ = self.unserved.write(1);
    }
}
