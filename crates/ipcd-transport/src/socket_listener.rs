//! Stream sockets of any address family: for transports that std has no sockets for.

use std::io::ErrorKind;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrLike, bind, getsockname, listen, socket,
};

use crate::error::ErrorContext;
use crate::{Endpoint, Error, Result, connect_until};

/// A listening stream socket.
#[derive(Debug)]
pub struct SocketListener {
    socket: OwnedFd,
    local: Endpoint,
}

impl SocketListener {
    /// Binds the address and listens. The endpoint is for errors, and becomes
    /// [`SocketListener::local`].
    pub fn bind(at: &Endpoint, family: AddressFamily, address: &dyn SockaddrLike) -> Result<Self> {
        let bound = || {
            let socket = open(family)?;
            bind(socket.as_raw_fd(), address)?;
            listen(&socket, Backlog::MAXCONN)?;
            Ok::<_, nix::Error>(socket)
        };
        let socket = bound().context(|| format!("listen on {at}"))?;
        Ok(Self { socket, local: at.clone() })
    }

    /// The endpoint that the socket listens on.
    pub fn local(&self) -> &Endpoint {
        &self.local
    }

    /// Changes that endpoint: to the address that the kernel chose, or to other options.
    pub fn set_local(&mut self, local: Endpoint) {
        self.local = local;
    }

    /// The address that the socket is bound to.
    pub fn address<A: SockaddrLike>(&self) -> Result<A> {
        getsockname(self.socket.as_raw_fd()).context(|| "getsockname".into())
    }

    /// The next connection, which does not block; `None` if there is none.
    pub fn accept(&self) -> Result<Option<OwnedFd>> {
        match ipcd_sys::accept_connection(self.socket.as_fd()) {
            Ok(socket) => Ok(Some(socket)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(Error::system(format!("accept on {}", self.local), error)),
        }
    }
}

impl AsFd for SocketListener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Connects a stream socket, which does not block, to the address. The endpoint is for errors.
///
/// # Errors
/// [`Error::TimedOut`] at the deadline.
pub fn connect_socket(
    to: &Endpoint,
    family: AddressFamily,
    address: &dyn SockaddrLike,
    deadline: Instant,
) -> Result<OwnedFd> {
    let socket = open(family).context(|| format!("make a socket for {to}"))?;
    connect_until(&socket, address, deadline, &to.to_string())?;
    Ok(socket)
}

fn open(family: AddressFamily) -> nix::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    socket(family, SockType::Stream, flags, None)
}
