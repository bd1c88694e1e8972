//! Waiting with a deadline, for connections; and the end of a socket.

use std::io::IoSliceMut;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    MsgFlags, Shutdown, SockaddrLike, connect, getsockopt, recvmsg, setsockopt, shutdown, sockopt,
};

use crate::{Error, Result};

/// The pause before another connection to a listener whose queue is full.
const QUEUE_FULL_PAUSE: Duration = Duration::from_millis(2);

/// Waits until the descriptor is ready for `events` or broken; false at the deadline.
pub fn poll_until(fd: &impl AsFd, events: PollFlags, deadline: Instant) -> Result<bool> {
    poll_some(&mut [PollFd::new(fd.as_fd(), events)], Some(deadline))
}

/// Waits until one of these is ready or broken; false at the deadline, if given.
pub fn poll_some(fds: &mut [PollFd<'_>], deadline: Option<Instant>) -> Result<bool> {
    loop {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let timeout = left.map_or(PollTimeout::NONE, |left| {
            // Rounded up, so that a last fraction of a millisecond does not spin.
            let millis = left.as_micros().div_ceil(1000).min(i32::MAX as u128) as i32;
            PollTimeout::try_from(millis).unwrap_or(PollTimeout::MAX)
        });
        match poll(fds, timeout) {
            Ok(0) if left.is_some_and(|left| left.is_zero()) => return Ok(false),
            Ok(0) | Err(Errno::EINTR) => {}
            Ok(_) => return Ok(true),
            Err(error) => return Err(Error::system("poll", error)),
        }
    }
}

/// Connects a non-blocking socket; `what` names the peer for the error.
pub fn connect_until(
    socket: &OwnedFd,
    to: &dyn SockaddrLike,
    deadline: Instant,
    what: &str,
) -> Result<()> {
    let failed = |error: Errno| Error::system(format!("connect to {what}"), error);
    loop {
        match connect(socket.as_raw_fd(), to) {
            // EISCONN: an earlier round has connected, and this one has found that out.
            Ok(()) | Err(Errno::EISCONN) => return Ok(()),
            // A Unix-domain listener's queue is full: there is nothing to poll for but time.
            Err(Errno::EAGAIN) => {
                let pause =
                    QUEUE_FULL_PAUSE.min(deadline.saturating_duration_since(Instant::now()));
                std::thread::park_timeout(pause);
            }
            Err(Errno::EINPROGRESS | Errno::EINTR | Errno::EALREADY) => {
                let is_over = poll_until(socket, PollFlags::POLLOUT, deadline)?;
                // SO_ERROR is cleared by reading it, so it is read once and kept.
                match getsockopt(socket, sockopt::SocketError).map_err(failed)? {
                    // Also at the deadline: who is connected is not too late.
                    0 if is_over => return Ok(()),
                    0 => {}
                    error => return Err(failed(Errno::from_raw(error))),
                }
            }
            Err(error) => return Err(failed(error)),
        }
        if Instant::now() >= deadline {
            return Err(Error::TimedOut(format!("connect to {what}")));
        }
    }
}

/// Ends one direction of a socket. That its peer has gone is no error: then it has ended anyway.
pub fn end_socket(socket: &impl AsFd, direction: Shutdown) -> Result<()> {
    match shutdown(socket.as_fd().as_raw_fd(), direction) {
        Ok(()) | Err(Errno::ENOTCONN) => Ok(()),
        Err(error) => Err(Error::system("shut the socket down", error)),
    }
}

/// Has the kernel tell an empty record of a Unix-domain socket from the end, for both of which a read
/// returns 0: a time comes along with a record. Elsewhere, an empty record is the end.
pub fn tells_records(socket: &OwnedFd) {
    // If the option is refused, everything else works.
    let _ = setsockopt(socket, sockopt::ReceiveTimestamp, &true);
}

/// Whether the other end of a socket was closed with something unread. That is told once, and ahead
/// of the records that came before (unix_release_sock), which are not lost for it.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct PendingReset(bool);

/// Receives a record of a connected socket without waiting; `None` at the end.
///
/// # Errors
/// As recv(2), and `ECONNRESET` only when all that came before it was received.
pub fn receive_record(
    socket: BorrowedFd<'_>,
    room: &mut [u8],
    reset: &mut PendingReset,
) -> nix::Result<Option<usize>> {
    let mut receive = || {
        let mut room = [IoSliceMut::new(room)];
        let received = recvmsg::<()>(socket.as_raw_fd(), &mut room, None, MsgFlags::MSG_DONTWAIT)?;
        // There is no room for what comes along, which is told of a record and not of the end.
        let is_record = received.bytes > 0 || received.flags.contains(MsgFlags::MSG_CTRUNC);
        Ok(is_record.then_some(received.bytes))
    };
    let received = match receive() {
        Err(Errno::ECONNRESET) => {
            *reset = PendingReset(true);
            receive()
        }
        received => received,
    };
    match received {
        Ok(None) if std::mem::take(reset) == PendingReset(true) => Err(Errno::ECONNRESET),
        received => received,
    }
}

#[cfg(test)]
mod tests {
    use std::net::{SocketAddr, TcpListener};

    use nix::sys::socket::{
        AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, getpeername, listen, send,
        socket, socketpair,
    };

    use super::*;

    fn tcp() -> OwnedFd {
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        socket(AddressFamily::Inet, SockType::Stream, flags, None).unwrap()
    }

    /// On the loopback the other side has answered before the first look at the clock.
    #[test]
    fn who_is_connected_at_the_deadline_is_not_too_late() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let to = SockaddrStorage::from(listener.local_addr().unwrap());
        let mut connected = 0;
        for _ in 0..100 {
            let socket = tcp();
            match connect_until(&socket, &to, Instant::now(), "a listener") {
                Ok(()) => {
                    getpeername::<SockaddrStorage>(socket.as_raw_fd()).unwrap();
                    connected += 1;
                }
                Err(error) => assert!(matches!(error, Error::TimedOut(_)), "{error}"),
            }
            listener.set_nonblocking(true).unwrap();
            drop(listener.accept());
        }
        assert!(connected > 0, "success is never told at the deadline");
    }

    #[test]
    fn who_is_refused_or_not_answered_is_not_connected() {
        let closed: SocketAddr = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let later = Instant::now() + Duration::from_secs(60);
        let refused = connect_until(&tcp(), &SockaddrStorage::from(closed), later, "nobody");
        assert!(matches!(refused, Err(Error::System { .. })), "{refused:?}");
        // Its queue holds one; who comes then gets no answer.
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listen(&listener, Backlog::new(0).unwrap()).unwrap();
        let to = SockaddrStorage::from(listener.local_addr().unwrap());
        let soon = || Instant::now() + Duration::from_millis(200);
        let connect = |_| {
            let socket = tcp();
            let outcome = connect_until(&socket, &to, soon(), "a full queue");
            (socket, outcome)
        };
        let all: Vec<_> = (0..4).map(connect).collect();
        let (_, last) = all.last().unwrap();
        assert!(matches!(last, Err(Error::TimedOut(_))), "{last:?}");
    }

    #[test]
    fn what_came_before_a_reset_is_received_and_an_empty_record_is_not_the_end() {
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let (near, far) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags).unwrap();
        tells_records(&near);
        let send = |socket: &OwnedFd, bytes: &[u8]| {
            send(socket.as_raw_fd(), bytes, MsgFlags::empty()).unwrap();
        };
        send(&near, b"never read");
        for record in [&b""[..], b"one", b"", b"two", b""] {
            send(&far, record);
        }
        drop(far);
        let (mut room, mut reset) = ([0; 8], PendingReset::default());
        let mut receive = || receive_record(near.as_fd(), &mut room, &mut reset);
        let received = [(); 7].map(|()| receive());
        let [records @ .., last, after] = received;
        assert_eq!(records, [0, 3, 0, 3, 0].map(|count| Ok(Some(count))));
        assert_eq!((last, after), (Err(Errno::ECONNRESET), Ok(None)));
    }
}
