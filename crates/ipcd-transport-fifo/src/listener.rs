//! The daemon's side: records in, pairs of FIFOs out.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use ipcd_sys::again;
use ipcd_transport::{
    ChannelParts, Endpoint, Error, FileKind, Listener, PathClaim, PathRights, PeerIdentity, Result,
};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use nix::unistd::{read, write};

use crate::GREETING;
use crate::drop_box::DropBox;
use crate::record::{PairName, RecordScanner};
use crate::warden::{FifoWarden, WardenLook, clear_out};

/// Bytes of junk after which a call of accept ends, so that a writer of endless junk
/// delays no other peer of the daemon.
const JUNK_PER_CALL: usize = 4096;

/// A well-known FIFO and its drop box.
///
/// A forked child must not drop it, as it must not drop the [`PathClaim`].
pub(crate) struct FifoListener {
    fifo: OwnedFd,
    /// Watches what other users put into the drop box, if they may.
    warden: Option<FifoWarden>,
    /// Readable when one of the two has something to say.
    ready: Epoll,
    scanner: RecordScanner,
    drop_box: DropBox,
    local: Endpoint,
    claim: PathClaim,
}

impl FifoListener {
    pub(crate) fn open(at: &Endpoint) -> Result<Self> {
        let path = at.path()?;
        let access = PathRights::of(at, PathRights::PRIVATE)?;
        let mut claim = PathClaim::acquire(path, FileKind::FifoToRead)?;
        // The drop box comes first, so that it is there for the first client that sees the FIFO.
        let drop_box = DropBox::make(path, false)?;
        let guests = may_have_guests(at, &access);
        let warden = guests.then(|| FifoWarden::over(drop_box.directory())).transpose()?;
        drop_box.share(guests)?;
        // For writing, too: with a writer always there, it has no end, which poll(2) would report
        // for ever once the first client has gone.
        let fifo = claim.publish_fifo(&access, |found| found.open(OFlag::O_RDWR))?;
        let made = || -> nix::Result<Epoll> {
            let ready = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
            // Not for epoll itself: every descriptor that leaves this crate is non-blocking.
            fcntl(&ready.0, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
            ready.add(&fifo, EpollEvent::new(EpollFlags::EPOLLIN, 0))?;
            if let Some(warden) = &warden {
                ready.add(warden, EpollEvent::new(EpollFlags::EPOLLIN, 0))?;
            }
            Ok(ready)
        };
        let ready = made().map_err(|error| Error::system(format!("listen on {at}"), error))?;
        let (scanner, local) = (RecordScanner::default(), at.clone());
        Ok(Self { fifo, warden, ready, scanner, drop_box, local, claim })
    }

    /// Lets other users put FIFOs into the drop box, and watches what they do; or not.
    fn share(&mut self, shared: bool) -> Result<()> {
        match (shared, self.warden.take()) {
            (true, None) => {
                let warden = FifoWarden::over(self.drop_box.directory())?;
                let added = self.ready.add(&warden, EpollEvent::new(EpollFlags::EPOLLIN, 0));
                added.map_err(|error| Error::system("watch a drop box", error))?;
                self.warden = Some(warden);
            }
            // Closing it takes it out of the set.
            (false, warden) => drop(warden),
            (true, warden) => self.warden = warden,
        }
        self.drop_box.share(shared)
    }

    /// Looks after what other users put into the drop box.
    fn look_after(&mut self) -> Result<()> {
        let Some(warden) = &mut self.warden else { return Ok(()) };
        match warden.look(self.drop_box.directory(), Instant::now()) {
            WardenLook::Fine => Ok(()),
            WardenLook::Open => self.drop_box.share(true),
            WardenLook::Shut => {
                self.drop_box.share(false)?;
                let why = "the drop box is cleared: other users have put too much into it";
                Err(Error::Protocol(format!("{}: {why}", self.local)))
            }
        }
    }

    fn admit(&self, name: PairName) -> Result<ChannelParts> {
        // The names go whatever comes of it: a pair that cannot be opened would stay for ever.
        let opened = self.drop_box.open(name);
        self.drop_box.remove(name);
        let pair = opened?;
        let identity = PeerIdentity::from_owner(pair.owner.as_raw());
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

impl Listener for FifoListener {
    fn fd(&self) -> BorrowedFd<'_> {
        self.ready.0.as_fd()
    }

    fn local(&self) -> &Endpoint {
        &self.local
    }

    fn adapt(&mut self, at: &Endpoint, is_raw: bool) -> Result<bool> {
        if is_raw {
            return Ok(false);
        }
        let access = PathRights::of(at, PathRights::PRIVATE)?;
        self.claim.set_access(&access)?;
        self.share(may_have_guests(at, &access))?;
        self.local = at.clone();
        Ok(true)
    }

    /// Junk is reported as an error too, once the FIFO is drained or a call had enough of it.
    fn accept(&mut self) -> Result<Option<ChannelParts>> {
        self.look_after()?;
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

impl Drop for FifoListener {
    fn drop(&mut self) {
        if self.warden.is_some() {
            clear_out(self.drop_box.directory());
        }
        self.drop_box.remove_directory();
    }
}

/// Whether users other than ours are to connect.
fn may_have_guests(at: &Endpoint, access: &PathRights) -> bool {
    access.is_shared() || at.option("owner").is_some()
}
