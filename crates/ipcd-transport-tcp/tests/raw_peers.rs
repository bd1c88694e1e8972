//! Raw servers: what `connect_raw` makes of one.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::time::{Duration, Instant};

use ipcd_transport::{Endpoint, RawTransport, ReadBuffer, ReadOutcome, WriteOutcome, poll_until};
use ipcd_transport_tcp::Tcp;
use nix::poll::PollFlags;

fn watchdog() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

#[test]
fn a_raw_server_is_spoken_to_and_heard() {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = server.local_addr().unwrap();
    let to = Endpoint::new("tcp", address.to_string());
    let parts = Tcp.connect_raw(&to, watchdog(), &[]).unwrap();
    assert_eq!(parts.identity.addr, Some(address.into()));
    let mut raw = Tcp.adopt_raw(parts).unwrap();
    assert!(raw.has_end && !raw.keeps_records);
    let (mut peer, _) = server.accept().unwrap();
    assert_eq!(raw.channel.write(b"question").unwrap(), WriteOutcome::Bytes(8));
    peer.read_exact(&mut [0; 8]).unwrap();
    peer.write_all(b"answer").unwrap();
    let mut buffer = ReadBuffer::new(4096, 4096);
    assert!(poll_until(&raw.channel.read_fd(), PollFlags::POLLIN, watchdog()).unwrap());
    assert_eq!(raw.channel.read(&mut buffer).unwrap(), ReadOutcome::Bytes(6));
    assert_eq!(buffer.filled(), b"answer");
}

#[test]
fn nobody_there_is_an_error() {
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let to = Endpoint::new("tcp", address.to_string());
    let error = Tcp.connect_raw(&to, watchdog(), &[]).unwrap_err().to_string();
    assert!(error.contains(&address.to_string()) && error.contains("refused"), "{error}");
}
