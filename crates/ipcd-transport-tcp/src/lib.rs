//! TCP: an ordered, reliable byte stream between machines. A peer is known by its address only.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Instant;

use ipcd_transport::{
    Capabilities, Channel, ChannelParts, Endpoint, Error, Flow, Identity, IdentityKind, Listener,
    Passed, Result, StreamChannel, Transport, connect_until,
    passed::{Name, prepare},
};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, getpeername, getsockname, setsockopt,
    socket, sockopt,
};

/// The TCP transport.
pub struct Tcp;

/// The port of a daemon that was told nothing else.
pub const DEFAULT_PORT: u16 = 7117;

/// A peer that is gone without a word is noticed after about this many seconds: probes start after
/// half of it (`TCP_KEEPIDLE`), and unacknowledged data ends the connection (`TCP_USER_TIMEOUT`).
const LIVENESS_S: u32 = 60;
const PROBES: u32 = 3;

impl Transport for Tcp {
    fn scheme(&self) -> &'static str {
        "tcp"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            summary: "byte stream between machines; peers prove a token",
            boundaries: false,
            ordered: true,
            reliable: true,
            remote: true,
            largest_record: None,
            identity: IdentityKind::Address,
        }
    }

    fn options(&self) -> &'static [&'static str] {
        &[]
    }

    fn check(&self, endpoint: &Endpoint) -> Result<()> {
        endpoint.host_and_port().map(drop)
    }

    fn default_endpoint(&self, _runtime_dir: &Path) -> Endpoint {
        Endpoint::new(self.scheme(), format!("127.0.0.1:{DEFAULT_PORT}"))
    }

    fn listen(&self, at: &Endpoint) -> Result<Box<dyn Listener>> {
        let addresses = at.resolve()?;
        // std sets SO_REUSEADDR, so that a restart does not wait for connections in TIME_WAIT.
        let socket = TcpListener::bind(&addresses[..])
            .and_then(|socket| socket.set_nonblocking(true).map(|()| socket))
            .map_err(|error| Error::system(format!("listen on {at}"), error))?;
        let bound = socket.local_addr().map_err(|error| Error::system("getsockname", error))?;
        Ok(Box::new(Listening { socket, local: at.with_address(bound.to_string()) }))
    }

    fn connect(&self, to: &Endpoint, deadline: Instant) -> Result<Box<dyn Channel>> {
        let mut last = None;
        let addresses = to.resolve()?;
        for (address, left) in addresses.iter().copied().zip((1..=addresses.len() as u32).rev()) {
            // Each has its share of the time, so that one that is silent leaves some to the others.
            let now = Instant::now();
            let share = deadline.saturating_duration_since(now) / left;
            match connect(address, now + share) {
                Ok(socket) => return channel(socket, address),
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| to.error("the name has no address")))
    }

    fn adopt(&self, parts: ChannelParts) -> Result<Box<dyn Channel>> {
        Ok(Box::new(StreamChannel::adopt(parts)?))
    }

    fn check_bare(&self, at: &Endpoint, _flow: Flow) -> Result<Endpoint> {
        Ok(at.clone())
    }

    fn listen_bare(&self, at: &Endpoint) -> Result<Box<dyn Listener>> {
        self.listen(at)
    }

    fn connect_bare(&self, to: &Endpoint, deadline: Instant) -> Result<ChannelParts> {
        Ok(self.connect(to, deadline)?.into_parts())
    }

    fn endpoint_of(&self, passed: &Passed) -> Option<Endpoint> {
        passed.bound(SockType::Stream)?.inet_endpoint(self.scheme())
    }

    fn is_at(&self, at: &Endpoint, passed: &Passed) -> bool {
        let found = passed.bound(SockType::Stream);
        matches!(found, Some(Name::Inet(addr)) if at.resolve().is_ok_and(|all| all.contains(addr)))
    }

    fn inherit(&self, at: &Endpoint, passed: OwnedFd) -> Result<Box<dyn Listener>> {
        let found = Passed::of(passed.as_fd());
        let local = self.endpoint_of(&found);
        let local = local.ok_or_else(|| found.refused(at, "a TCP socket that listens"))?;
        prepare(&passed)?;
        Ok(Box::new(Listening { socket: passed.into(), local }))
    }

    fn inherit_bare(&self, at: &Endpoint, passed: OwnedFd) -> Result<Box<dyn Listener>> {
        self.inherit(at, passed)
    }
}

struct Listening {
    socket: TcpListener,
    local: Endpoint,
}

impl Listener for Listening {
    fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    fn local(&self) -> &Endpoint {
        &self.local
    }

    fn accept(&mut self) -> Result<Option<ChannelParts>> {
        match self.socket.accept() {
            Ok((socket, from)) => Ok(Some(channel(socket.into(), from)?.into_parts())),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(Error::system(format!("accept on {}", self.local), error)),
        }
    }
}

fn connect(address: SocketAddr, deadline: Instant) -> Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(family, SockType::Stream, flags, None)
        .map_err(|error| Error::system("make a TCP socket", error))?;
    let what = format!("tcp://{address}");
    connect_until(&socket, &SockaddrStorage::from(address), deadline, &what)?;
    if is_connected_to_itself(&socket) {
        let refused = std::io::Error::from(ErrorKind::ConnectionRefused);
        return Err(Error::system(format!("connect to {what}"), refused));
    }
    Ok(socket)
}

/// Where nobody listens, the kernel may choose the very port that we connect to as ours; the two
/// SYN then cross (RFC 9293, simultaneous open). Who tries often enough gets there.
fn is_connected_to_itself(socket: &OwnedFd) -> bool {
    let ours = getsockname::<SockaddrStorage>(socket.as_raw_fd());
    let theirs = getpeername::<SockaddrStorage>(socket.as_raw_fd());
    ours.is_ok() && ours == theirs
}

fn channel(socket: OwnedFd, peer: SocketAddr) -> Result<Box<dyn Channel>> {
    tune(&socket).map_err(|error| Error::system("set a TCP option", error))?;
    Ok(Box::new(StreamChannel::socket(socket, Identity::from_addr(peer))?))
}

/// No delay for small batches, and an end for connections whose other side is gone (tcp(7)).
fn tune(socket: &OwnedFd) -> nix::Result<()> {
    setsockopt(socket, sockopt::TcpNoDelay, &true)?;
    setsockopt(socket, sockopt::KeepAlive, &true)?;
    setsockopt(socket, sockopt::TcpKeepIdle, &(LIVENESS_S / 2))?;
    setsockopt(socket, sockopt::TcpKeepInterval, &(LIVENESS_S / 2 / PROBES))?;
    setsockopt(socket, sockopt::TcpKeepCount, &PROBES)?;
    setsockopt(socket, sockopt::TcpUserTimeout, &(LIVENESS_S * 1000))
}
