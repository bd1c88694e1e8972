//! The bound socket of a listener: each datagram with the address of ours that it was sent to, and
//! answers from that address.
//!
//! On a wildcard address the kernel would choose where an answer comes from, and a client that has
//! connected its socket to another of our addresses would never hear it (ip(7), ipv6(7)).

use std::io::{self, ErrorKind, IoSlice, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV6, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use ipcd_transport::{Error, Result};
use nix::cmsg_space;
use nix::errno::Errno;
use nix::libc::{in_addr, in_pktinfo, in6_addr, in6_pktinfo};
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType,
    SockaddrStorage, bind, recvmsg, sendmsg, setsockopt, socket, sockopt,
};

use crate::widen_input;

/// The two addresses that datagrams go between.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct AddressPair {
    /// Ours, as far as one is known: what the peer has sent to.
    pub(crate) local: SocketAddr,
    pub(crate) peer: SocketAddr,
}

impl AddressPair {
    /// Whether an answer can go back. A source port of 0 means that none is wanted (RFC 768), and a
    /// socket that is connected to it would catch what every other peer of that address sends.
    pub(crate) fn can_answer(&self) -> bool {
        self.peer.port() != 0
    }

    /// Whether it claims to come from the very socket that it went to: one that is connected to
    /// itself would answer itself.
    pub(crate) fn is_loop(&self) -> bool {
        self.peer == self.local
    }
}

/// The socket, which shares its port with the peers' sockets.
pub(crate) struct SharedPortSocket {
    socket: UdpSocket,
    bound: SocketAddr,
}

impl SharedPortSocket {
    /// Over a bound socket: lets other sockets of ours bind its port.
    pub(crate) fn open(socket: UdpSocket) -> io::Result<Self> {
        // SO_REUSEPORT lets the peers' sockets bind the same port, and only those of our own user
        // (SO_REUSEADDR would let every user). It is set after the bind, which the kernel allows:
        // had it been set before, two daemons of one user would share the port in silence, and each
        // would get a part of the clients.
        setsockopt(&socket, sockopt::ReusePort, &true)?;
        socket.set_nonblocking(true)?;
        let bound = socket.local_addr()?;
        // A socket that is bound to one address knows the destination anyway.
        if bound.ip().is_unspecified() {
            match bound {
                SocketAddr::V4(_) => setsockopt(&socket, sockopt::Ipv4PacketInfo, &true)?,
                SocketAddr::V6(_) => setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true)?,
            }
        }
        Ok(Self { socket, bound })
    }

    /// The address that it is bound to.
    pub(crate) fn bound(&self) -> SocketAddr {
        self.bound
    }

    /// The next datagram, and where it went; an error of [`ErrorKind::WouldBlock`] if there is none.
    pub(crate) fn receive(&self, into: &mut [u8]) -> io::Result<(usize, AddressPair)> {
        // The larger of the two, so that either fits.
        let mut control = cmsg_space!(in6_pktinfo);
        let mut room = [IoSliceMut::new(into)];
        let (fd, flags) = (self.socket.as_raw_fd(), MsgFlags::MSG_DONTWAIT);
        let received = recvmsg::<SockaddrStorage>(fd, &mut room, Some(&mut control), flags)?;
        let unknown = || io::Error::from(ErrorKind::InvalidData);
        let peer = received.address.as_ref().and_then(inet).ok_or_else(unknown)?;
        let mut local = self.bound;
        for message in received.cmsgs().into_iter().flatten() {
            let (ip, scope) = match message {
                ControlMessageOwned::Ipv4PacketInfo(info) => destination(&info),
                ControlMessageOwned::Ipv6PacketInfo(info) => destination6(&info),
                _ => continue,
            };
            local = ip.map_or(local, |ip| at(ip, scope, self.bound.port()));
        }
        Ok((received.bytes, AddressPair { local, peer }))
    }

    /// Answers, from the address that was asked.
    pub(crate) fn answer(&self, bytes: &[u8], ends: AddressPair) -> io::Result<()> {
        let (fd, parts) = (self.socket.as_raw_fd(), [IoSlice::new(bytes)]);
        let (flags, to) = (MsgFlags::MSG_DONTWAIT, SockaddrStorage::from(ends.peer));
        let send = |from: &[ControlMessage<'_>]| sendmsg(fd, &parts, from, flags, Some(&to));
        if ends.local.ip() == self.bound.ip() {
            return Ok(send(&[]).map(drop)?);
        }
        let sent = match ends.local {
            SocketAddr::V4(local) => {
                // The kernel takes the source address from ipi_spec_dst; ipi_addr is for received ones (ip(7)).
                let ipi_spec_dst = in_addr { s_addr: u32::from(*local.ip()).to_be() };
                let ipi_addr = in_addr { s_addr: 0 };
                let info = in_pktinfo { ipi_ifindex: 0, ipi_spec_dst, ipi_addr };
                send(&[ControlMessage::Ipv4PacketInfo(&info)])
            }
            SocketAddr::V6(local) => {
                let ipi6_addr = in6_addr { s6_addr: local.ip().octets() };
                let info = in6_pktinfo { ipi6_addr, ipi6_ifindex: local.scope_id() as _ };
                send(&[ControlMessage::Ipv6PacketInfo(&info)])
            }
        };
        Ok(sent.map(drop)?)
    }

    /// A socket on the port that is connected to the peer, and bound to the address that it has sent
    /// to. The kernel prefers it for what the peer sends there, and it gets nothing else once it is
    /// connected.
    pub(crate) fn socket_for(&self, ends: AddressPair) -> Result<UdpSocket> {
        let AddressPair { local, peer } = ends;
        let failed = |error: Errno| Error::system(format!("make a socket for udp://{peer}"), error);
        let socket = match another_on(local) {
            // It came to an address that all hosts of the network have.
            Err(Errno::EADDRNOTAVAIL) => another_on(self.bound),
            made => made,
        };
        let socket = socket.map_err(failed)?;
        widen_input(&socket);
        socket.connect(peer).map_err(|error| {
            Error::system(format!("connect the socket for udp://{peer}"), error)
        })?;
        Ok(socket)
    }
}

impl AsFd for SharedPortSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Another socket on the port of one that shares it.
pub(crate) fn another_on(local: SocketAddr) -> nix::Result<UdpSocket> {
    let family = if local.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(family, SockType::Datagram, flags, None)?;
    setsockopt(&socket, sockopt::ReusePort, &true)?;
    bind(socket.as_raw_fd(), &SockaddrStorage::from(local))?;
    Ok(socket.into())
}

fn inet(address: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = || address.as_sockaddr_in().map(|v4| SocketAddr::V4((*v4).into()));
    v4().or_else(|| address.as_sockaddr_in6().map(|v6| SocketAddr::V6((*v6).into())))
}

/// Our own address, where it is one: not that of a broadcast or of a group.
fn destination(info: &in_pktinfo) -> (Option<IpAddr>, u32) {
    let is_ours = info.ipi_addr.s_addr == info.ipi_spec_dst.s_addr;
    let ip = Ipv4Addr::from(u32::from_be(info.ipi_spec_dst.s_addr));
    (is_ours.then_some(ip.into()), 0)
}

fn destination6(info: &in6_pktinfo) -> (Option<IpAddr>, u32) {
    let ip = std::net::Ipv6Addr::from(info.ipi6_addr.s6_addr);
    let is_shared = match ip.to_canonical() {
        IpAddr::V4(ip) => ip.is_multicast() || ip.is_broadcast(),
        IpAddr::V6(ip) => ip.is_multicast(),
    };
    // The interface belongs to the address where the address alone does not say it (RFC 4007).
    let scope = if ip.is_unicast_link_local() { info.ipi6_ifindex } else { 0 };
    ((!is_shared).then_some(ip.into()), scope)
}

fn at(ip: IpAddr, scope: u32, port: u16) -> SocketAddr {
    match ip {
        IpAddr::V4(_) => SocketAddr::new(ip, port),
        IpAddr::V6(ip) => SocketAddrV6::new(ip, port, 0, scope).into(),
    }
}
