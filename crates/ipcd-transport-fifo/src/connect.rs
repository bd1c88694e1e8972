//! The client's side: leave a pair of FIFOs in the drop box, tell the daemon, wait until it has
//! taken them.

use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

use ipcd_transport::{
    Endpoint, Error, FoundFile, PeerIdentity, Result, StreamChannel, check_server, is_trusted,
    poll_some, poll_until,
};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags};
use nix::unistd::{Uid, read, write};

use crate::GREETING;
use crate::drop_box::DropBox;
use crate::ingress::NO_FIFO;
use crate::record::PairName;

/// Connects to the daemon; whatever comes of it, nothing of ours stays in the drop box.
pub(crate) fn connect(to: &Endpoint, deadline: Instant) -> Result<StreamChannel> {
    let rendezvous = open_rendezvous(to)?;
    let drop_box = DropBox::find(to)?;
    check_can_open_ours(to, drop_box.owner())?;
    // The kernel vouches for nothing else here: the drop box is a directory of the daemon's user.
    let identity = PeerIdentity::from_owner(drop_box.owner().as_raw());
    let pair = OwnPair::make(&drop_box)?;
    send_record(to, &rendezvous, pair.names.name, deadline)?;
    await_greeting(to, &rendezvous, &pair.down, deadline)?;
    StreamChannel::pair(pair.down, pair.up, identity)
}

/// Refuses a daemon that cannot open our FIFOs, which are for their owner only: it could not say so,
/// and we would wait until the deadline.
fn check_can_open_ours(to: &Endpoint, daemon: Uid) -> Result<()> {
    match is_trusted(daemon) {
        true => Ok(()),
        false => Err(Error::Protocol(format!(
            "{to}: uid {daemon} serves it, and only root can open the FIFOs of another user: \
             choose another transport"
        ))),
    }
}

/// Our two FIFOs, open, and their names.
struct OwnPair<'a> {
    down: OwnedFd,
    up: OwnedFd,
    /// A reader of `up` for as long as the daemon is not one; then it goes, so that the daemon's
    /// end breaks the pipe.
    _hold: OwnedFd,
    names: PairPaths<'a>,
}

impl<'a> OwnPair<'a> {
    fn make(drop_box: &'a DropBox) -> Result<Self> {
        let names = PairPaths { drop_box, name: PairName::random()? };
        let (up, down) = (drop_box.add(&names.name.up())?, drop_box.add(&names.name.down())?);
        let open = |fifo: &FoundFile, access| {
            fifo.open(access).map_err(|error| Error::system("open a FIFO of our own", error))
        };
        // Opened first: a FIFO opened for writing only has no reader yet, and fails with ENXIO
        // (fifo(7)). O_RDWR never waits.
        let hold = open(&up, OFlag::O_RDWR)?;
        Ok(Self {
            down: open(&down, OFlag::O_RDONLY)?,
            up: open(&up, OFlag::O_WRONLY)?,
            _hold: hold,
            names,
        })
    }
}

/// The names of a pair, which are removed at the end; the daemon has done so if it took the pair.
struct PairPaths<'a> {
    drop_box: &'a DropBox,
    name: PairName,
}

impl Drop for PairPaths<'_> {
    fn drop(&mut self) {
        self.drop_box.remove(self.name);
    }
}

/// Opens the well-known FIFO, if no other user can have put it there.
fn open_rendezvous(to: &Endpoint) -> Result<OwnedFd> {
    let found = FoundFile::at(to.path()?).map_err(|error| failed(to, error))?;
    if !found.is_fifo() {
        return Err(failed(to, io::Error::other(NO_FIFO)));
    }
    check_server(to, Some(found.owner().as_raw()))?;
    found.open(OFlag::O_WRONLY).map_err(|error| match error {
        // No process has it open for reading (fifo(7)).
        Errno::ENXIO => failed(to, ErrorKind::ConnectionRefused),
        error => failed(to, error),
    })
}

fn send_record(
    to: &Endpoint,
    rendezvous: &OwnedFd,
    name: PairName,
    deadline: Instant,
) -> Result<()> {
    let record = name.record();
    loop {
        match write(rendezvous, &record) {
            Ok(count) if count == record.len() => return Ok(()),
            // Not on a FIFO: what fits PIPE_BUF is written whole or not at all (pipe(7)).
            Ok(_) => return Err(failed(to, ErrorKind::WriteZero)),
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            Err(error) => return Err(failed(to, error)),
        }
        // POLLOUT means that PIPE_BUF bytes fit, so the whole record does (pipe(7)).
        if !poll_until(rendezvous, PollFlags::POLLOUT, deadline)? {
            return Err(timed_out(to));
        }
    }
}

/// Waits for the sign that the daemon has both ends of the pair.
fn await_greeting(
    to: &Endpoint,
    rendezvous: &OwnedFd,
    down: &OwnedFd,
    deadline: Instant,
) -> Result<()> {
    // Without a reader of the rendezvous poll(2) returns POLLERR, which need not be asked for.
    let rendezvous = PollFd::new(rendezvous.as_fd(), PollFlags::empty());
    let down_or_broken = &mut [PollFd::new(down.as_fd(), PollFlags::POLLIN), rendezvous];
    if !poll_some(down_or_broken, Some(deadline))? {
        return Err(timed_out(to));
    }
    let mut greeting = [0; GREETING.len()];
    match read(down, &mut greeting) {
        Ok(count) if greeting[..count] == *GREETING => Ok(()),
        // The daemon opened the pair and let it go, or has itself gone.
        Ok(0) | Err(Errno::EAGAIN | Errno::EINTR) => Err(failed(to, ErrorKind::ConnectionReset)),
        Ok(_) => Err(Error::Protocol(format!("{to}: that is no rendezvous of ipcd"))),
        Err(error) => Err(failed(to, error)),
    }
}

fn failed(to: &Endpoint, error: impl Into<io::Error>) -> Error {
    Error::system(format!("connect to {to}"), error)
}

fn timed_out(to: &Endpoint) -> Error {
    Error::TimedOut(format!("connect to {to}"))
}
