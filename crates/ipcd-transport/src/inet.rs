//! Streams between machines: the TCP sockets of every transport that runs over them.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, getpeername, getsockname, setsockopt,
    socket, sockopt,
};

use crate::error::ErrorContext;
use crate::{
    Channel, ChannelParts, Endpoint, Error, Listener, PeerIdentity, Result, StreamChannel,
    connect_until,
};

/// A peer that is gone without a word is noticed after about this many seconds where nothing is on its
/// way to it: probes start after half of it (`TCP_KEEPIDLE`). Where something is, the kernel sends it
/// again for as long as it does so for all (`tcp_retries2`, tcp(7)).
///
/// `TCP_USER_TIMEOUT` would shorten that, but also ends connections whose other side is well and does
/// not read: the kernel counts the time of a closed window, whatever answers its probes get. How long
/// a peer may be slow is for its owner to say.
const LIVENESS_S: u32 = 60;
const PROBES: u32 = 3;

/// Bytes that a socket on the loopback holds until they are received, of which the kernel makes twice
/// as many for its bookkeeping (socket(7)). By itself it goes up to megabytes, and so does the
/// receiver's window: all that is copied has left the processor's caches by then, which takes twice as
/// long. There is no way there that has to be filled; over a network the kernel's measure is right.
const NEAR_BYTES: usize = 128 * 1024;

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

    /// Listens on a socket that another process has bound, and which does not block.
    pub fn over(socket: OwnedFd, local: Endpoint) -> Self {
        Self { socket: socket.into(), local }
    }

    /// Goes on with the options of this endpoint.
    pub fn set_options(&mut self, at: &Endpoint) {
        self.local = at.with_address(self.local.address());
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
                tune(&socket, from)?;
                Ok(Some((socket, from)))
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(Error::system(failed(), error)),
        }
    }
}

impl AsFd for InetListener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Accepts TCP streams whose bytes are those of the channel.
#[derive(Debug)]
pub struct StreamListener(InetListener);

impl From<InetListener> for StreamListener {
    fn from(socket: InetListener) -> Self {
        Self(socket)
    }
}

impl Listener for StreamListener {
    fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    fn local(&self) -> &Endpoint {
        self.0.local()
    }

    fn adapt(&mut self, at: &Endpoint, _is_raw: bool) -> Result<bool> {
        self.0.set_options(at);
        Ok(true)
    }

    fn accept(&mut self) -> Result<Option<ChannelParts>> {
        let Some((socket, from)) = self.0.accept()? else { return Ok(None) };
        let channel = StreamChannel::socket(socket, PeerIdentity::from_addr(from))?;
        Ok(Some(Box::new(channel).into_parts()))
    }
}

/// Connects to the first address of host and port that answers; the socket does not block.
pub fn connect_inet(to: &Endpoint, deadline: Instant) -> Result<(OwnedFd, SocketAddr)> {
    let mut last = None;
    let addresses = to.resolve()?;
    for (address, left) in addresses.iter().copied().zip((1..=addresses.len() as u32).rev()) {
        // Each has its share of the time, so that one that is silent leaves some to the others.
        let now = Instant::now();
        let share = deadline.saturating_duration_since(now) / left;
        match connect(to.scheme(), address, now + share) {
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
    if is_connected_to_itself(&socket) {
        let refused = std::io::Error::from(ErrorKind::ConnectionRefused);
        return Err(Error::system(format!("connect to {what}"), refused));
    }
    // After the connection: only then is the way known to be short.
    tune(&socket, address)?;
    Ok(socket)
}

/// Without a listener there, the kernel may choose the very port that we connect to as ours; the two
/// SYN then cross (RFC 9293, simultaneous open). Who tries often enough gets there.
fn is_connected_to_itself(socket: &OwnedFd) -> bool {
    let ours = getsockname::<SockaddrStorage>(socket.as_raw_fd());
    let theirs = getpeername::<SockaddrStorage>(socket.as_raw_fd());
    ours.is_ok() && ours == theirs
}

/// No delay for small batches, probes for connections whose other side may be gone (tcp(7)), and short
/// queues where the way is short.
fn tune(socket: &OwnedFd, peer: SocketAddr) -> Result<()> {
    let set = || {
        if peer.ip().to_canonical().is_loopback() {
            // Before anything is sent: setting it ends the kernel's own tuning of the buffer (tcp(7)).
            setsockopt(socket, sockopt::SndBuf, &NEAR_BYTES)?;
        }
        // Batches are whole frames, and Nagle's algorithm would hold the last one back.
        setsockopt(socket, sockopt::TcpNoDelay, &true)?;
        setsockopt(socket, sockopt::KeepAlive, &true)?;
        setsockopt(socket, sockopt::TcpKeepIdle, &(LIVENESS_S / 2))?;
        setsockopt(socket, sockopt::TcpKeepInterval, &(LIVENESS_S / 2 / PROBES))?;
        setsockopt(socket, sockopt::TcpKeepCount, &PROBES)
    };
    set().context(|| "set a TCP option".into())
}

#[cfg(test)]
mod tests {
    use nix::sys::socket::getsockopt;

    use super::*;

    #[test]
    fn queues_are_short_on_the_loopback_only() {
        let fresh = || {
            let flags = SockFlag::SOCK_CLOEXEC;
            socket(AddressFamily::Inet, SockType::Stream, flags, None).unwrap()
        };
        let holds = |socket| getsockopt(socket, sockopt::SndBuf).unwrap();
        let (near, mapped, far) = (fresh(), fresh(), fresh());
        let usual = holds(&far);
        tune(&near, "127.0.0.9:1".parse().unwrap()).unwrap();
        tune(&mapped, "[::ffff:127.0.0.1]:1".parse().unwrap()).unwrap();
        tune(&far, "192.0.2.1:1".parse().unwrap()).unwrap();
        assert_eq!([&near, &mapped, &far].map(holds), [2 * NEAR_BYTES, 2 * NEAR_BYTES, usual]);
    }

    /// The kernel would end it after that time, also if the peer answers every probe.
    #[test]
    fn one_that_does_not_read_is_not_taken_for_dead() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = Endpoint::new("tcp", listener.local_addr().unwrap().to_string());
        let deadline = Instant::now() + std::time::Duration::from_secs(60);
        let (socket, _) = connect_inet(&at, deadline).unwrap();
        assert_eq!(getsockopt(&socket, sockopt::TcpUserTimeout).unwrap(), 0);
        assert!(getsockopt(&socket, sockopt::KeepAlive).unwrap());
    }
}
