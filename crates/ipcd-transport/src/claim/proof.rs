//! The proof that no process serves the file at a path. Without proof it counts as in use.

use std::os::fd::{AsFd, AsRawFd};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
use nix::unistd::read;

use super::FileKind;
use crate::FoundFile;

/// Whether no process serves this file; else the reason why it is not to be replaced.
pub(super) fn is_stale(found: &FoundFile, kind: FileKind) -> Result<(), String> {
    let is_served = match kind {
        FileKind::Socket => is_bound(found),
        FileKind::FifoToRead => is_read(found),
        FileKind::FifoToWrite => is_written(found),
    };
    match is_served {
        Ok(false) => Ok(()),
        Ok(true) => Err("another process serves it".into()),
        Err(error) => Err(format!(
            "whether another process serves it cannot be told ({error}): remove it if none does"
        )),
    }
}

/// Whether a socket is bound to the file. A datagram socket asks: for a socket of another type the
/// kernel only says that it is one (unix(7), `EPROTOTYPE`), so that a server sees no connection; and
/// one that is bound but does not listen yet is told from none.
fn is_bound(found: &FoundFile) -> nix::Result<bool> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let asking = socket(AddressFamily::Unix, SockType::Datagram, flags, None)?;
    match connect(asking.as_raw_fd(), &UnixAddr::new(found.link().as_str())?) {
        Err(Errno::ECONNREFUSED) => Ok(false),
        Ok(()) | Err(Errno::EPROTOTYPE | Errno::EPERM) => Ok(true),
        Err(error) => Err(error),
    }
}

/// Whether the FIFO has a reader: to open it for writing fails without one (fifo(7), `ENXIO`), and
/// does not disturb a process that waits to write.
fn is_read(found: &FoundFile) -> nix::Result<bool> {
    match found.open(OFlag::O_WRONLY) {
        Err(Errno::ENXIO) => Ok(false),
        opened => opened.map(|_| true),
    }
}

/// Whether the FIFO has a writer, or bytes that a reader is still to read: without both its end is
/// read at once. Opening it for reading does not disturb a process that waits to read.
fn is_written(found: &FoundFile) -> nix::Result<bool> {
    let reader = found.open(OFlag::O_RDONLY)?;
    let mut ready = [PollFd::new(reader.as_fd(), PollFlags::POLLIN)];
    poll(&mut ready, PollTimeout::ZERO)?;
    if ready[0].revents().is_some_and(|events| events.contains(PollFlags::POLLIN)) {
        return Ok(true);
    }
    match read(&reader, &mut [0]) {
        Ok(0) => Ok(false),
        Ok(_) | Err(Errno::EAGAIN) => Ok(true),
        Err(error) => Err(error),
    }
}
