//! Descriptors that another process has opened for us, as service managers do (`sd_listen_fds(3)`).

use std::fmt;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::sys::socket::{
    SockType, SockaddrStorage, UnixAddr, getpeername, getsockname, getsockopt, sockopt,
};
use nix::sys::stat::{SFlag, fstat};

use crate::error::ErrorContext;
use crate::{Endpoint, Error, Listener, Result, Transport};

/// A transport that can listen on what another process has bound, such as a service manager.
pub trait SocketActivation: Transport {
    /// The endpoint of an inherited descriptor, if this transport could listen on it.
    fn endpoint_of(&self, inherited: &InheritedFd) -> Option<Endpoint>;

    /// Whether the descriptor is bound to this endpoint.
    fn is_at(&self, at: &Endpoint, inherited: &InheritedFd) -> bool {
        let same = |found: Endpoint| {
            (found.address(), found.is_opaque()) == (at.address(), at.is_opaque())
        };
        self.endpoint_of(inherited).is_some_and(same)
    }

    /// Listens on the descriptor. Its path, if it has one, is the other process' to remove. The
    /// endpoint says what is wanted; [`Listener::local`] says where it is bound.
    fn inherit(&self, at: &Endpoint, inherited: OwnedFd) -> Result<Box<dyn Listener>>;

    /// The same for raw peers.
    fn inherit_raw(&self, at: &Endpoint, inherited: OwnedFd) -> Result<Box<dyn Listener>> {
        self.inherit(at, inherited)
    }
}

impl dyn Transport + '_ {
    /// The operations for a listener at this endpoint that another process has bound.
    ///
    /// # Errors
    /// If the transport takes none; the error says what was passed.
    pub fn activation_at(
        &self,
        at: &Endpoint,
        inherited: &InheritedFd,
    ) -> Result<&dyn SocketActivation> {
        self.activation().ok_or_else(|| inherited.refused(at, "a listener that ipcd opens itself"))
    }
}

/// The kind of an inherited descriptor.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum InheritedFd {
    /// A socket.
    Socket {
        /// Stream, datagram or seqpacket.
        kind: SockType,
        /// Its state.
        role: SocketRole,
        /// The address that it is bound to.
        name: BoundName,
    },
    /// A FIFO, at this path.
    Fifo(PathBuf),
    /// A descriptor that no listener can use.
    Other,
}

/// The state of a socket.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum SocketRole {
    /// It accepts them.
    Listens,
    /// It has one.
    IsConnected,
    /// Neither.
    Waits,
}

/// The address that a socket is bound to.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum BoundName {
    /// A path.
    Path(PathBuf),
    /// An abstract name.
    Abstract(String),
    /// An address and port.
    Inet(SocketAddr),
    /// None, or one of a kind that is unknown here.
    Unknown,
}

impl InheritedFd {
    /// Looks at a descriptor.
    pub fn of(fd: BorrowedFd<'_>) -> Self {
        let kind = fstat(fd).map_or(0, |stat| stat.st_mode) & SFlag::S_IFMT.bits();
        if kind == SFlag::S_IFIFO.bits() {
            let link = format!("/proc/self/fd/{}", fd.as_raw_fd());
            return std::fs::read_link(link).map_or(Self::Other, Self::Fifo);
        }
        let Ok(kind) = getsockopt(&fd, sockopt::SockType) else { return Self::Other };
        let role = match getsockopt(&fd, sockopt::AcceptConn) {
            Ok(true) => SocketRole::Listens,
            _ if getpeername::<SockaddrStorage>(fd.as_raw_fd()).is_ok() => SocketRole::IsConnected,
            _ => SocketRole::Waits,
        };
        Self::Socket { kind, role, name: BoundName::of(fd) }
    }

    /// The address of a socket of this kind that can take peers: it listens, or it is one for
    /// datagrams that has no peer.
    pub fn bound(&self, wanted: SockType) -> Option<&BoundName> {
        let role =
            if wanted == SockType::Datagram { SocketRole::Waits } else { SocketRole::Listens };
        match self {
            Self::Socket { kind, role: found, name } if (*kind, *found) == (wanted, role) => {
                Some(name)
            }
            _ => None,
        }
    }

    /// That it cannot be what this endpoint needs.
    pub fn refused(&self, at: &Endpoint, needed: &str) -> Error {
        at.error(format_args!("{self} was passed, and {needed} is needed"))
    }
}

impl BoundName {
    fn of(fd: BorrowedFd<'_>) -> Self {
        if let Ok(address) = getsockname::<UnixAddr>(fd.as_raw_fd()) {
            return match (address.path(), address.as_abstract()) {
                (Some(path), _) => Self::Path(path.to_owned()),
                (_, Some(name)) => Self::Abstract(String::from_utf8_lossy(name).into_owned()),
                _ => Self::Unknown,
            };
        }
        let address = getsockname::<SockaddrStorage>(fd.as_raw_fd());
        let inet = address.ok().and_then(|address| {
            let v4 = address.as_sockaddr_in().map(|v4| SocketAddr::V4((*v4).into()));
            v4.or_else(|| address.as_sockaddr_in6().map(|v6| SocketAddr::V6((*v6).into())))
        });
        inet.map_or(Self::Unknown, Self::Inet)
    }

    /// The endpoint with this address, if it is a local one.
    pub fn local_endpoint(&self, scheme: &str) -> Option<Endpoint> {
        match self {
            Self::Path(path) => Some(Endpoint::from_path(scheme, path)),
            Self::Abstract(name) => format!("{scheme}:@{name}").parse().ok(),
            _ => None,
        }
    }

    /// The endpoint with this address, if it is one of the network.
    pub fn inet_endpoint(&self, scheme: &str) -> Option<Endpoint> {
        match self {
            Self::Inet(address) => Some(Endpoint::new(scheme, address.to_string())),
            _ => None,
        }
    }
}

/// Makes a passed descriptor fit for us: it does not block, and is closed on exec.
pub fn prepare(fd: &OwnedFd) -> Result<()> {
    let flags = fcntl(fd.as_fd(), FcntlArg::F_GETFL).context(|| "read a descriptor's flags".into());
    let flags = OFlag::from_bits_retain(flags?) | OFlag::O_NONBLOCK;
    fcntl(fd.as_fd(), FcntlArg::F_SETFL(flags))
        .and_then(|_| fcntl(fd.as_fd(), FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)))
        .context(|| "set a descriptor's flags".into())
        .map(drop)
}

impl fmt::Display for InheritedFd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket { kind, role, name } => write!(f, "{} socket {name}{role}", word(*kind)),
            Self::Fifo(path) => write!(f, "a FIFO at {}", path.display()),
            Self::Other => f.write_str("a descriptor that is neither a socket nor a FIFO"),
        }
    }
}

fn word(kind: SockType) -> &'static str {
    match kind {
        SockType::Stream => "a stream",
        SockType::Datagram => "a datagram",
        SockType::SeqPacket => "a seqpacket",
        _ => "an unusual",
    }
}

impl fmt::Display for BoundName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => write!(f, "at {}", path.display()),
            Self::Abstract(name) => write!(f, "at @{}", name.escape_debug()),
            Self::Inet(address) => write!(f, "at {address}"),
            Self::Unknown => f.write_str("without an address"),
        }
    }
}

impl fmt::Display for SocketRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Listens => " that listens",
            Self::IsConnected => " that is connected",
            Self::Waits => " that does not listen",
        })
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, UdpSocket};
    use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};

    use super::*;

    fn shown(fd: &impl AsFd) -> String {
        InheritedFd::of(fd.as_fd()).to_string()
    }

    #[test]
    fn says_what_a_descriptor_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let listener = UnixListener::bind(&path).unwrap();
        assert_eq!(shown(&listener), format!("a stream socket at {} that listens", path.display()));
        let stream = UnixStream::connect(&path).unwrap();
        assert_eq!(shown(&stream), "a stream socket without an address that is connected");
        let unbound = UnixDatagram::unbound().unwrap();
        assert_eq!(shown(&unbound), "a datagram socket without an address that does not listen");
        let (tcp, udp) = (TcpListener::bind("[::1]:0"), UdpSocket::bind("127.0.0.1:0"));
        let tcp = tcp.or_else(|_| TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = tcp.local_addr().unwrap();
        assert_eq!(shown(&tcp), format!("a stream socket at {address} that listens"));
        let found = InheritedFd::of(udp.as_ref().unwrap().as_fd());
        let name = found.bound(SockType::Datagram).unwrap();
        assert_eq!(*name, BoundName::Inet(udp.unwrap().local_addr().unwrap()));
        assert_eq!(found.bound(SockType::Stream), None);
        let file = tempfile::tempfile().unwrap();
        assert!(shown(&file).contains("neither"));
        let (reader, _writer) = std::io::pipe().unwrap();
        assert!(shown(&reader).starts_with("a FIFO at pipe:"));
    }
}
