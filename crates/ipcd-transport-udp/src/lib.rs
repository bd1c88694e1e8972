//! UDP: datagrams between machines. A peer is known by its address only, datagrams may be lost,
//! and none is sent again; what arrives is in order, and what does not is counted.
//!
//! A cookie proves a client's address before anything is kept for it (`cookie`, `listener`).
//! Each peer then has a connected socket of its own on the listener's port, and a window of credit
//! keeps a sender from overrunning the receiver's buffer (`credit`). Bytes on the wire are
//! described in `datagram`.

mod channel;
mod connect;
mod cookie;
mod credit;
mod datagram;
mod door;
mod errors;
#[cfg(fuzzing)]
pub mod fuzzing;
mod listener;
mod raw;
mod session;
mod timing;

use std::io;
use std::net::UdpSocket;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Instant;

use ipcd_transport::{
    Capabilities, Channel, ChannelParts, Endpoint, EndpointPurpose, EnvVariable, Error,
    IdentityKind, InheritedFd, Listener, RawChannel, RawTransport, Result, SocketActivation,
    Transport, inherited_fd::BoundName,
};
use nix::sys::socket::{SockType, getsockopt, setsockopt, sockopt};

use crate::channel::UdpChannel;
use crate::datagram::{DATA_HEADER, LARGEST_REMOTE};
use crate::listener::{UdpListener, bind_listener, take_listener};

/// The UDP transport.
pub struct Udp;

/// The port of a daemon that was told nothing else.
pub const DEFAULT_PORT: u16 = 7117;

impl Transport for Udp {
    fn scheme(&self) -> &'static str {
        "udp"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            summary: "paced datagrams between machines, some may be lost; peers prove a token",
            boundaries: true,
            ordered: true,
            reliable: false,
            remote: true,
            encrypted: false,
            largest_record: Some(LARGEST_REMOTE - DATA_HEADER),
            identity: IdentityKind::Address,
        }
    }

    fn options(&self) -> &'static [&'static str] {
        &[]
    }

    fn check(&self, endpoint: &Endpoint, _purpose: EndpointPurpose) -> Result<()> {
        endpoint.host_and_port().map(drop)
    }

    fn default_endpoint(&self, _runtime_dir: &Path) -> Result<Endpoint> {
        Ok(Endpoint::new(self.scheme(), format!("127.0.0.1:{DEFAULT_PORT}")))
    }

    fn listens_by_default(&self) -> bool {
        true
    }

    fn listen(&self, at: &Endpoint) -> Result<Box<dyn Listener>> {
        Ok(Box::new(UdpListener::new(bind_listener(at, &at.resolve()?)?, at)?))
    }

    fn connect(&self, to: &Endpoint, deadline: Instant) -> Result<Box<dyn Channel>> {
        let mut last = None;
        for address in to.resolve()? {
            match connect::connect(address, deadline) {
                Ok(channel) => return Ok(Box::new(channel)),
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| to.error("the name has no address")))
    }

    fn adopt(&self, parts: ChannelParts) -> Result<Box<dyn Channel>> {
        Ok(Box::new(UdpChannel::adopt(parts)?))
    }

    fn raw(&self) -> Option<&dyn RawTransport> {
        Some(self)
    }

    fn activation(&self) -> Option<&dyn SocketActivation> {
        Some(self)
    }
}

impl SocketActivation for Udp {
    fn endpoint_of(&self, passed: &InheritedFd) -> Option<Endpoint> {
        passed.bound(SockType::Datagram)?.inet_endpoint(self.scheme())
    }

    fn is_at(&self, at: &Endpoint, passed: &InheritedFd) -> bool {
        let found = passed.bound(SockType::Datagram);
        matches!(found, Some(BoundName::Inet(addr)) if at.resolve().is_ok_and(|all| all.contains(addr)))
    }

    fn inherit(&self, at: &Endpoint, passed: OwnedFd) -> Result<Box<dyn Listener>> {
        Ok(Box::new(UdpListener::new(take_listener(at, passed)?, at)?))
    }

    fn inherit_raw(&self, at: &Endpoint, passed: OwnedFd) -> Result<Box<dyn Listener>> {
        Ok(Box::new(raw::RawUdpListener::new(take_listener(at, passed)?, at)))
    }
}

impl RawTransport for Udp {
    fn listen_raw(&self, at: &Endpoint) -> Result<Box<dyn Listener>> {
        Ok(Box::new(raw::RawUdpListener::new(bind_listener(at, &at.resolve()?)?, at)))
    }

    fn connect_raw(
        &self,
        to: &Endpoint,
        _deadline: Instant,
        _variables: &[EnvVariable],
    ) -> Result<ChannelParts> {
        raw::connect(to)
    }

    fn adopt_raw(&self, parts: ChannelParts) -> Result<RawChannel> {
        raw::adopt(parts)
    }
}

/// The kernel's default for the receive buffer of each socket, which a user other than root may double
/// (`net.core.rmem_default`, `net.core.rmem_max`).
const INPUT_BYTES: usize = 212_992;

/// Gives a socket of a session twice the kernel's usual room, if it may have it.
fn widen_input(socket: &UdpSocket) {
    // The kernel doubles what it is given (socket(7)), and takes less where it allows less.
    if getsockopt(socket, sockopt::RcvBuf).is_ok_and(|now| now < 2 * INPUT_BYTES) {
        let _ = setsockopt(socket, sockopt::RcvBuf, &INPUT_BYTES);
    }
}

/// The credit that the other side gets: a third of what `SO_RCVBUF` reports.
///
/// The kernel charges the buffer with the memory that it allocated, which is rounded up to a power
/// of two: at most 1.9 times what [`credit::cost`] counts. And it gives back what was read in lumps
/// of up to a quarter of the buffer (udp_rmem_release). So a third of a buffer of credit always
/// fits, and leaves a tenth of it for control traffic.
fn window_of(socket: &UdpSocket) -> Result<u32> {
    let bytes = getsockopt(socket, sockopt::RcvBuf)
        .map_err(|error| Error::system("read a socket's buffer size", error))?;
    Ok(u32::try_from(bytes / 3).unwrap_or(u32::MAX))
}

fn random() -> Result<u64> {
    getrandom::u64().map_err(no_randomness)
}

fn no_randomness(error: getrandom::Error) -> Error {
    Error::system("get random bytes", io::Error::other(error.to_string()))
}
