//! Room in the kernel for the last words to a peer.

use std::os::fd::{AsFd, BorrowedFd};

use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::socket::{getsockopt, setsockopt, sockopt};

/// What the kernel counts beyond the bytes themselves, generously.
const OVERHEAD: usize = 32 * 1024;

/// Makes the buffer of a socket or pipe take so many bytes more than it holds at its limit, as far
/// as the kernel allows; who is not root may double a socket's default (`net.core.wmem_max`).
///
/// What it holds then stays there for the peer, also when our end is closed (unix(7), pipe(7)).
pub fn widen(fd: BorrowedFd<'_>, bytes: usize) {
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

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn a_full_socket_and_a_full_pipe_take_more() {
        let (mut near, far) = UnixStream::pair().unwrap();
        fill(&mut near);
        widen(near.as_fd(), 100_000);
        assert_eq!(near.write(&[0; 100_000]).unwrap(), 100_000);
        drop(far);
        let (_reader, writer) = std::io::pipe().unwrap();
        let mut writer = std::fs::File::from(std::os::fd::OwnedFd::from(writer));
        fill(&mut writer);
        widen(writer.as_fd(), 100_000);
        assert_eq!(writer.write(&[0; 100_000]).unwrap(), 100_000);
    }

    fn fill(into: &mut (impl Write + AsFd)) {
        let flags = FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK);
        fcntl(into.as_fd(), flags).unwrap();
        while into.write(&[0; 4096]).is_ok() {}
    }
}
