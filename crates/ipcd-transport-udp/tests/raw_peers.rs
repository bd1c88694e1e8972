//! Raw servers: what `connect_raw` makes of one.

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use ipcd_transport::{
    Endpoint, RawChannel, RawTransport, ReadBuffer, ReadOutcome, WriteOutcome, poll_until,
};
use ipcd_transport_udp::Udp;
use nix::poll::PollFlags;

fn watchdog() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

fn server() -> UdpSocket {
    let server = UdpSocket::bind("127.0.0.1:0").unwrap();
    server.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    server
}

fn connect(to: &UdpSocket) -> RawChannel {
    let address = to.local_addr().unwrap();
    let to = Endpoint::new("udp", address.to_string());
    let parts = Udp.connect_raw(&to, watchdog(), &[]).unwrap();
    assert_eq!(parts.identity.addr, Some(address.into()));
    Udp.adopt_raw(parts).unwrap()
}

#[test]
fn a_raw_server_is_spoken_to_and_heard() {
    let server = server();
    let mut raw = connect(&server);
    assert!(raw.keeps_records && !raw.has_end);
    assert_eq!(raw.channel.write(b"question").unwrap(), WriteOutcome::Bytes(8));
    let mut room = [0; 64];
    let (count, from) = server.recv_from(&mut room).unwrap();
    assert_eq!(&room[..count], b"question");
    server.send_to(b"answer", from).unwrap();
    let mut buffer = ReadBuffer::new(4096, 4096);
    assert!(poll_until(&raw.channel.read_fd(), PollFlags::POLLIN, watchdog()).unwrap());
    assert_eq!(raw.channel.read(&mut buffer).unwrap(), ReadOutcome::Bytes(6));
    assert_eq!(buffer.filled(), b"answer");
    assert_eq!(raw.channel.tick(Instant::now()).unwrap(), None, "silence does not end it");
}

#[test]
fn a_server_that_comes_back_gets_the_next_datagram() {
    let first = server();
    let at = first.local_addr().unwrap();
    let mut raw = connect(&first);
    drop(first);
    assert_eq!(raw.channel.write(b"lost").unwrap(), WriteOutcome::Bytes(4));
    // The other side's kernel has reported the closed port by now.
    assert!(poll_until(&raw.channel.read_fd(), PollFlags::empty(), watchdog()).unwrap());
    let second = UdpSocket::bind(at).unwrap();
    second.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    assert_eq!(raw.channel.write(b"heard").unwrap(), WriteOutcome::Bytes(5));
    let mut room = [0; 64];
    let count = second.recv(&mut room).unwrap();
    assert_eq!(&room[..count], b"heard");
}
