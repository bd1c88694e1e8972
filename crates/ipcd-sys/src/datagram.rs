//! Receives a datagram of a Unix-domain socket together with its sender.

use std::io;
use std::mem::{offset_of, size_of};
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::errno::Errno;

/// A datagram that was received.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Datagram {
    /// Its bytes; more than were received if it did not fit.
    pub length: usize,
    /// The sender's name: a path, or a NUL and an abstract name (unix(7)); empty if it has none.
    pub from: Vec<u8>,
    /// Process, user and group of the sender, if the socket has `SO_PASSCRED`.
    pub sender: Option<(u32, u32, u32)>,
}

/// Room for the credentials and for nothing else: descriptors that come along find none, and the
/// kernel closes them instead of giving them to us.
#[repr(C, align(8))]
struct ControlBuffer([u8; CONTROL_BYTES]);

// SAFETY: it computes with plain numbers.
const CONTROL_BYTES: usize = unsafe { libc::CMSG_SPACE(size_of::<libc::ucred>() as u32) } as usize;

/// Receives a datagram without waiting. Descriptors that come along are closed.
///
/// # Errors
/// As recvmsg(2).
pub fn recv_with_sender(socket: BorrowedFd<'_>, into: &mut [u8]) -> io::Result<Datagram> {
    // SAFETY: for these two C structures all bits zero are a value.
    let (mut name, mut message) =
        unsafe { std::mem::zeroed::<(libc::sockaddr_un, libc::msghdr)>() };
    let mut control = ControlBuffer([0; CONTROL_BYTES]);
    let mut room = libc::iovec { iov_base: into.as_mut_ptr().cast(), iov_len: into.len() };
    message.msg_name = (&raw mut name).cast();
    message.msg_namelen = size_of::<libc::sockaddr_un>() as libc::socklen_t;
    message.msg_iov = &raw mut room;
    message.msg_iovlen = 1;
    message.msg_control = control.0.as_mut_ptr().cast();
    // glibc and musl have different types for it.
    message.msg_controllen = CONTROL_BYTES as _;
    // With MSG_TRUNC the kernel tells the whole length, also of what did not fit.
    let flags = libc::MSG_DONTWAIT | libc::MSG_TRUNC | libc::MSG_CMSG_CLOEXEC;
    // SAFETY: name, room and control are live, and as long as the header says.
    let length = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, flags) };
    let length = Errno::result(length)? as usize;
    Ok(Datagram { length, from: name_in(&name, message.msg_namelen), sender: sender(&message) })
}

fn name_in(address: &libc::sockaddr_un, length: libc::socklen_t) -> Vec<u8> {
    let count = (length as usize).saturating_sub(offset_of!(libc::sockaddr_un, sun_path));
    let name = address.sun_path.iter().take(count).map(|&byte| byte as u8);
    let name: Vec<u8> = name.collect();
    match name.first() {
        // An abstract name may hold NULs; a path ends at its first.
        Some(0) => name,
        _ => name.split(|&byte| byte == 0).next().unwrap_or_default().to_vec(),
    }
}

fn sender(message: &libc::msghdr) -> Option<(u32, u32, u32)> {
    // SAFETY: the header is the kernel's answer, and what it points to is live. A first header is
    // null or whole.
    let first = unsafe { libc::CMSG_FIRSTHDR(message).as_ref() }?;
    if (first.cmsg_level, first.cmsg_type) != (libc::SOL_SOCKET, libc::SCM_CREDENTIALS) {
        return None;
    }
    // SAFETY: a control message of this type holds a ucred, for which there is room.
    let ucred: libc::ucred =
        unsafe { libc::CMSG_DATA(first).cast::<libc::ucred>().read_unaligned() };
    Some((ucred.pid as u32, ucred.uid, ucred.gid))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixDatagram;

    use nix::sys::socket::{setsockopt, sockopt};
    use nix::unistd::{getgid, getpid, getuid};

    use super::*;
    use crate::send_with_fds;

    #[test]
    fn tells_who_sent_it_and_takes_no_descriptors() {
        let (near, far) = UnixDatagram::pair().unwrap();
        setsockopt(&near, sockopt::PassCred, &true).unwrap();
        let (reader, mut writer) = io::pipe().unwrap();
        for count in 0..4 {
            send_with_fds(far.as_fd(), b"hello", &vec![reader.as_fd(); count]).unwrap();
        }
        let us = (getpid().as_raw() as u32, getuid().as_raw(), getgid().as_raw());
        let mut room = [0; 3];
        for _ in 0..4 {
            let got = recv_with_sender(near.as_fd(), &mut room).unwrap();
            assert_eq!((got.length, &room), (5, b"hel"));
            assert_eq!((got.from.is_empty(), got.sender), (true, Some(us)));
        }
        drop(reader);
        // A copy that had been kept would still read.
        assert_eq!(writer.write(b"x").unwrap_err().kind(), io::ErrorKind::BrokenPipe);
        let nothing = recv_with_sender(near.as_fd(), &mut room).unwrap_err();
        assert_eq!(nothing.kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn tells_the_name_of_the_sender() {
        let path = format!("/tmp/ipcd-sys.{}", getpid());
        let (near, far) = (UnixDatagram::bind(&path).unwrap(), UnixDatagram::unbound().unwrap());
        let abstract_name = format!("\0ipcd-sys.{}", getpid());
        let address = nix::sys::socket::UnixAddr::new_abstract(&abstract_name.as_bytes()[1..]);
        nix::sys::socket::bind(far.as_raw_fd(), &address.unwrap()).unwrap();
        far.send_to(b"x", &path).unwrap();
        let got = recv_with_sender(near.as_fd(), &mut [0; 9]).unwrap();
        assert_eq!((got.from.as_slice(), got.sender), (abstract_name.as_bytes(), None));
        near.send_to(b"y", &path).unwrap();
        let got = recv_with_sender(near.as_fd(), &mut [0; 9]).unwrap();
        assert_eq!(got.from, path.as_bytes());
        fs::remove_file(&path).unwrap();
    }
}
