//! The daemon's side: records in, pairs of FIFOs out.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use ipcd_sys::again;
use ipcd_transport::{
    Access, ChannelParts, Endpoint, Error, FileKind, Identity, Listener, PathClaim, Result,
};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::unistd::{read, write};

use crate::GREETING;
use crate::drop_box::DropBox;
use crate::record::{Name, Scanner};

/// Bytes of junk after which a call of accept ends, so that whoever writes junk without end
/// delays nobody else in the daemon.
const JUNK_PER_CALL: usize = 4096;

/// A well-known FIFO and its drop box.
///
/// A forked child must not drop it, as it must not drop the [`PathClaim`].
pub(crate) struct Listening {
    fifo: OwnedFd,
    scanner: Scanner,
    drop_box: DropBox,
    local: Endpoint,
    claim: PathClaim,
}

impl Listening {
    pub(crate) fn open(at: &Endpoint) -> Result<Self> {
        let path = at.path()?;
        let access = Access::of(at, Access::PRIVATE)?;
        let mut claim = PathClaim::acquire(path, FileKind::FifoToRead)?;
        // The drop box comes first, so that it is there for the first client that sees the FIFO.
        let drop_box = DropBox::make(path, may_have_guests(at, &access))?;
        // For writing, too: with a writer always there, it has no end, which poll(2) would report
        // for ever once the first client has gone.
        let fifo = claim.publish_fifo(&access, |found| found.open(OFlag::O_RDWR))?;
        Ok(Self { fifo, scanner: Scanner::default(), drop_box, local: at.clone(), claim })
    }

    fn admit(&self, name: Name) -> Result<ChannelParts> {
        let opened = self.drop_box.open(name);
        self.drop_box.remove(name);
        let pair = opened?;
        let identity = Identity::from_owner(pair.owner.as_raw());
        match again(|| write(&pair.down, GREETING)) {
            Ok(count) if count == GREETING.len() => {}
            Ok(_) => return Err(Error::Protocol("a FIFO that the peer has filled".into())),
            Err(error) => return Err(Error::system(format!("greet {identity}"), error)),
        }
        Ok(ChannelParts { descriptors: vec![pair.up, pair.down], identity, state: Vec::new() })
    }

    fn report_junk(&mut self) -> Result<Option<ChannelParts>> {
        match self.scanner.take_skipped() {
            0 => Ok(None),
            count => {
                let local = &self.local;
                Err(Error::Protocol(format!("{local}: {count} bytes that are no record")))
            }
        }
    }
}

impl Listener for Listening {
    fn fd(&self) -> BorrowedFd<'_> {
        self.fifo.as_fd()
    }

    fn local(&self) -> &Endpoint {
        &self.local
    }

    fn adapt(&mut self, at: &Endpoint, is_bare: bool) -> Result<bool> {
        if is_bare {
            return Ok(false);
        }
        let access = Access::of(at, Access::PRIVATE)?;
        self.claim.set_access(&access)?;
        self.drop_box.share(may_have_guests(at, &access))?;
        self.local = at.clone();
        Ok(true)
    }

    /// Junk is reported as an error too, once the FIFO is drained or a call had enough of it.
    fn accept(&mut self) -> Result<Option<ChannelParts>> {
        while self.scanner.skipped() < JUNK_PER_CALL {
            let count = match read(&self.fifo, self.scanner.room()) {
                Ok(0) | Err(Errno::EAGAIN) => break,
                Ok(count) => count,
                Err(Errno::EINTR) => continue,
                Err(error) => return Err(Error::system(format!("read {}", self.local), error)),
            };
            if let Some(name) = self.scanner.accept(count) {
                return self.admit(name?).map(Some);
            }
        }
        self.report_junk()
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.drop_box.remove_directory();
    }
}

/// Whether users other than ours are to connect.
fn may_have_guests(at: &Endpoint, access: &Access) -> bool {
    access.is_shared() || at.option("owner").is_some()
}
