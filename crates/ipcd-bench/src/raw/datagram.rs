//! Sockets that keep messages apart: Unix-domain seqpacket and datagram, UDP.

use std::io;
use std::net::UdpSocket;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, send, socketpair};

use crate::end::{Lane, LaneSide, MessageEnd, PATIENCE};

pub(super) struct DatagramLane {
    near: OwnedFd,
    far: OwnedFd,
    size: usize,
}

pub(super) fn seqpacket(size: usize) -> io::Result<DatagramLane> {
    pair(SockType::SeqPacket, size)
}

pub(super) fn dgram(size: usize) -> io::Result<DatagramLane> {
    pair(SockType::Datagram, size)
}

pub(super) fn udp(size: usize) -> io::Result<DatagramLane> {
    let (near, far) = (UdpSocket::bind("127.0.0.1:0")?, UdpSocket::bind("127.0.0.1:0")?);
    near.connect(far.local_addr()?)?;
    far.connect(near.local_addr()?)?;
    // A lost datagram must not be waited for.
    near.set_read_timeout(Some(PATIENCE))?;
    far.set_read_timeout(Some(PATIENCE))?;
    Ok(DatagramLane { near: near.into(), far: far.into(), size })
}

fn pair(kind: SockType, size: usize) -> io::Result<DatagramLane> {
    let (near, far) = socketpair(AddressFamily::Unix, kind, None, SockFlag::SOCK_CLOEXEC)?;
    Ok(DatagramLane { near, far, size })
}

impl Lane for DatagramLane {
    fn open(&mut self, side: LaneSide) -> io::Result<Box<dyn MessageEnd>> {
        let socket = if side == LaneSide::Near { &self.near } else { &self.far };
        Ok(Box::new(DatagramEnd { socket: socket.try_clone()?, buffer: vec![0; self.size] }))
    }
}

struct DatagramEnd {
    socket: OwnedFd,
    buffer: Vec<u8>,
}

impl MessageEnd for DatagramEnd {
    fn send(&mut self, message: &[u8]) -> io::Result<()> {
        match send(self.socket.as_raw_fd(), message, MsgFlags::MSG_NOSIGNAL) {
            // The other side of a UDP socket has gone already, so the datagram is lost.
            Ok(_) | Err(Errno::ECONNREFUSED) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn receive(&mut self, take: &mut dyn FnMut(&[u8])) -> io::Result<usize> {
        match recv(self.socket.as_raw_fd(), &mut self.buffer, MsgFlags::empty()) {
            Ok(count) => {
                take(&self.buffer[..count]);
                Ok(1)
            }
            Err(Errno::EAGAIN | Errno::ECONNREFUSED) => Ok(0),
            Err(error) => Err(error.into()),
        }
    }
}
