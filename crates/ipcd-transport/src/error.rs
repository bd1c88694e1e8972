//! Errors of opening or using a channel.

use std::io;

use nix::errno::Errno;
use nix::libc;

/// The result of a transport's operation.
pub type Result<T> = std::result::Result<T, Error>;

/// An error of a transport: what was tried, on what, and why it failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The endpoint cannot be used as written.
    #[error("{0}")]
    Endpoint(String),
    /// The system refused something.
    #[error("{what}: {source}")]
    System {
        /// The attempt, and its object.
        what: String,
        /// The system's answer.
        source: io::Error,
    },
    /// No answer came in time.
    #[error("{0}: timed out")]
    TimedOut(String),
    /// The other side did something that the transport's protocol does not allow.
    #[error("{0}")]
    Protocol(String),
    /// The stream ended without the goodbye that the transport wants: the peer has died, or an attacker
    /// between the two has cut off what it sent.
    #[error("{0}")]
    Truncated(String),
}

impl Error {
    /// An error of the system, with what was tried.
    pub fn system(what: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Self::System { what: what.into(), source: source.into() }
    }

    /// Whether the system has run out of descriptors or memory, for the time being.
    pub fn is_exhaustion(&self) -> bool {
        let codes = [libc::EMFILE, libc::ENFILE, libc::ENOMEM, libc::ENOBUFS];
        matches!(self, Self::System { source, .. }
            if source.raw_os_error().is_some_and(|code| codes.contains(&code)))
    }

    /// Whether the peer has gone away, which is an expected end and not a fault.
    pub fn is_disconnect(&self) -> bool {
        use io::ErrorKind::{
            BrokenPipe, ConnectionAborted, ConnectionReset, NotConnected, TimedOut,
        };
        match self {
            Self::System { source, .. } => matches!(
                source.kind(),
                BrokenPipe | ConnectionAborted | ConnectionReset | NotConnected | TimedOut
            ),
            Self::Truncated(_) => true,
            _ => false,
        }
    }
}

/// Whether an error of a connected datagram socket is a report of the network, which any host may
/// have made it report (RFC 5927), or this machine of the way there: another datagram may fare
/// better. It is no fault of the socket then, and no lack of memory or room.
pub fn is_of_the_network(error: Errno) -> bool {
    use Errno as E;
    let ours = [E::EBADF, E::ENOTSOCK, E::EFAULT, E::EINVAL, E::ENOTCONN, E::EDESTADDRREQ];
    let for_later = [E::EAGAIN, E::EINTR, E::ENOMEM, E::ENOBUFS];
    !ours.contains(&error) && !for_later.contains(&error)
}

/// Adds what was tried to a system error.
pub(crate) trait ErrorContext<T> {
    fn context(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: Into<io::Error>> ErrorContext<T> for std::result::Result<T, E> {
    fn context(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|source| Error::system(what(), source))
    }
}
