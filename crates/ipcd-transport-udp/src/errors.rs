//! Reports of the network about a connection, and which to believe.
//!
//! Any host can send an ICMP message that says that our peer's port is closed: all that it must know
//! is two addresses and ports (RFC 5927). One that answers a datagram of ours quotes it, and with it
//! the connection's id, which only the peer and those on the way to it know. The kernel keeps what
//! was quoted for us (ip(7), `IP_RECVERR`).

use std::io::IoSliceMut;
use std::net::UdpSocket;
use std::os::fd::AsRawFd;

use ipcd_transport::{Error, Result};
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recvmsg, setsockopt, sockopt};

/// The bytes that are read of a quotation: type and id.
const QUOTED: usize = 9;
/// Errors that are looked at in one go. What is left keeps the socket readable.
const ERRORS: usize = 64;

/// Asks the kernel to keep what ICMP messages quote.
pub(crate) fn quote_errors(socket: &UdpSocket) -> Result<()> {
    let failed = |error| Error::system("ask for the quotations of ICMP messages", error);
    let is_v4 = socket.local_addr().map_err(failed)?.is_ipv4();
    // One of IPv6 may have a peer on IPv4.
    let v4 = setsockopt(socket, sockopt::Ipv4RecvErr, &true);
    let v6 = if is_v4 { Ok(()) } else { setsockopt(socket, sockopt::Ipv6RecvErr, &true) };
    v4.and(v6).map_err(|error| failed(error.into()))
}

/// Takes what the kernel has kept; whether something of it quotes a datagram of this connection.
pub(crate) fn take_proof(socket: &UdpSocket, id: u64) -> bool {
    let mut is_proved = false;
    for _ in 0..ERRORS {
        let mut quoted = [0; QUOTED];
        let mut room = [IoSliceMut::new(&mut quoted)];
        let flags = MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT;
        match recvmsg::<()>(socket.as_raw_fd(), &mut room, None, flags) {
            Ok(_) => is_proved |= quoted[1..] == id.to_le_bytes(),
            Err(Errno::EINTR) => {}
            Err(_) => break,
        }
    }
    is_proved
}
