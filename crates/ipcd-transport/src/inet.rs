//! Streams between machines: the TCP sockets of every transport that runs over them.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, setsockopt, socket, sockopt,
};

use crate::error::Context;
use crate::{Endpoint, Error, Result, connect_until};

/// A peer that is gone without a word is noticed after about this many seconds: probes start after
/// half of it (`TCP_KEEPIDLE`), and unacknowledged data ends the connection (`TCP_USER_TIMEOUT`).
const LIVENESS_S: u32 = 60;
const PROBES: u32 = 3;

/// A listening TCP socket.
#[derive(Debug)]
pub struct InetListener {
    socket: TcpListener,
    local: Endpoint,
}

impl InetListener {
    /// Binds the endpoint's host and port.
    pub fn bind(at: &Endpoint) -> Result<Self> {
        let addresses = at.resolve()?;
        // std sets SO_REUSEADDR, so that a restart does not wait for connections in TIME_WAIT.
        let socket = TcpListener::bind(&addresses[..])
            .and_then(|socket| socket.set_nonblocking(true).map(|()| socket))
            .context(|| format!("listen on {at}"))?;
        let bound = socket.local_addr().context(|| "getsockname".into())?;
        Ok(Self { socket, local: at.with_address(bound.to_string()) })
    }

    /// The endpoint with the real port.
    pub fn local(&self) -> &Endpoint {
        &self.local
    }

    /// The next connection, which does not block, and where it comes from; `None` if there is none.
    pub fn accept(&self) -> Result<Option<(OwnedFd, SocketAddr)>> {
        let failed = || format!("accept on {}", self.local);
        match self.socket.accept() {
            Ok((socket, from)) => {
                socket.set_nonblocking(true).context(failed)?;
                let socket = OwnedFd::from(socket);
                tune(&socket)?;
                Ok(Some((socket, from)))
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(Error::system(failed(), error)),
        }
    }
}

impl AsFd for InetListener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Connects to the first address of host and port that answers; the socket does not block.
pub fn connect_inet(to: &Endpoint, deadline: Instant) -> Result<(OwnedFd, SocketAddr)> {
    let mut last = None;
    for address in to.resolve()? {
        match connect(to.scheme(), address, deadline) {
            Ok(socket) => return Ok((socket, address)),
            Err(error) => last = Some(error),
        }
    }
    Err(last.unwrap_or_else(|| to.error("the name has no address")))
}

fn connect(scheme: &str, address: SocketAddr, deadline: Instant) -> Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket =
        socket(family, SockType::Stream, flags, None).context(|| "make a TCP socket".into())?;
    let what = format!("{scheme}://{address}");
    connect_until(&socket, &SockaddrStorage::from(address), deadline, &what)?;
    tune(&socket)?;
    Ok(socket)
}

/// No delay for small batches, and an end for connections whose other side is gone (tcp(7)).
fn tune(socket: &OwnedFd) -> Result<()> {
    let set = || {
        setsockopt(socket, sockopt::TcpNoDelay, &true)?;
        setsockopt(socket, sockopt::KeepAlive, &true)?;
        setsockopt(socket, sockopt::TcpKeepIdle, &(LIVENESS_S / 2))?;
        setsockopt(socket, sockopt::TcpKeepInterval, &(LIVENESS_S / 2 / PROBES))?;
        setsockopt(socket, sockopt::TcpKeepCount, &PROBES)?;
        setsockopt(socket, sockopt::TcpUserTimeout, &(LIVENESS_S * 1000))
    };
    set().context(|| "set a TCP option".into())
}
