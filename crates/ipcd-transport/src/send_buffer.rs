//! Room in the kernel: for large messages, and for the last words to a peer.

use std::os::fd::{AsFd, BorrowedFd};

use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::socket::{getsockopt, setsockopt, sockopt};

/// A generous allowance for what the kernel counts beyond the bytes themselves.
const OVERHEAD: usize = 32 * 1024;

/// Makes the buffer of a socket or pipe take so many bytes more than it holds at its limit, as far
/// as the kernel allows; who is not root may double a socket's default (`net.core.wmem_max`).
///
/// The bytes stay there for the peer, also when our end is closed (unix(7), pipe(7)).
pub fn grow_send_buffer(fd: BorrowedFd<'_>, bytes: usize) {
    if let Ok(now) = getsockopt(&fd, sockopt::SndBuf) {
        // The kernel doubles what it is given (socket(7)).
        let wanted = now / 2 + bytes + OVERHEAD;
        let forced = setsockopt(&fd, sockopt::SndBufForce, &wanted);
        // Not to have it is no error: the peer is then told only if it reads in time.
        let _ = forced.or_else(|_| setsockopt(&fd, sockopt::SndBuf, &wanted));
    } else if let Ok(now) = fcntl(fd.as_fd(), FcntlArg::F_GETPIPE_SZ) {
        let wanted = now as usize + bytes + OVERHEAD;
        let _ = fcntl(fd, FcntlArg::F_SETPIPE_SZ(wanted.min(i32::MAX as usize) as i32));
    }
}

/// Bytes of a pipe that large messages go through: about what a Unix-domain socket takes. With the
/// default of 64 KiB, writer and reader wake each other several times for each of them.
const PIPE_BYTES: i32 = 256 * 1024;

/// Makes a pipe take more before it is full, if it takes less.
///
/// The kernel limits what a user's pipes may take in all (`fs.pipe-user-pages-soft`, pipe(7)); beyond that
/// they stay as they are.
pub(crate) fn deepen(pipe: BorrowedFd<'_>) {
    if fcntl(pipe, FcntlArg::F_GETPIPE_SZ).is_ok_and(|now| now < PIPE_BYTES) {
        // Without it everything works, only slower.
        let _ = fcntl(pipe, FcntlArg::F_SETPIPE_SZ(PIPE_BYTES));
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn a_full_socket_and_a_full_pipe_take_more() {
        let (mut near, far) = UnixStream::pair().unwrap();
        fill(&mut near);
        grow_send_buffer(near.as_fd(), 100_000);
        assert_eq!(near.write(&[0; 100_000]).unwrap(), 100_000);
        drop(far);
        let (_reader, writer) = std::io::pipe().unwrap();
        let mut writer = std::fs::File::from(std::os::fd::OwnedFd::from(writer));
        fill(&mut writer);
        grow_send_buffer(writer.as_fd(), 100_000);
        assert_eq!(writer.write(&[0; 100_000]).unwrap(), 100_000);
    }

    #[test]
    fn a_pipe_that_was_too_small_grows_once() {
        let (reader, writer) = std::io::pipe().unwrap();
        let (back, _far) = std::io::pipe().unwrap();
        let identity = crate::PeerIdentity::default();
        let mut channel = crate::StreamChannel::pair(back.into(), writer.into(), identity).unwrap();
        let capacity = || fcntl(&reader, FcntlArg::F_GETPIPE_SZ).unwrap();
        let small = capacity();
        let mut write = |bytes| crate::Channel::write(&mut channel, &vec![0; bytes]).unwrap();
        write(100);
        assert_eq!(capacity(), small, "what has room needs no more");
        write(2 * PIPE_BYTES as usize);
        assert_eq!(capacity(), PIPE_BYTES.max(small));
        assert!(
            matches!(write(PIPE_BYTES as usize), crate::WriteOutcome::Bytes(_)),
            "there is room again"
        );
    }

    fn fill(into: &mut (impl Write + AsFd)) {
        let flags = FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK);
        fcntl(into.as_fd(), flags).unwrap();
        while into.write(&[0; 4096]).is_ok() {}
    }
}
