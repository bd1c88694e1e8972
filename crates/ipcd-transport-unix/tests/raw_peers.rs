//! Raw servers: what `connect_raw` makes of one, for each kind of Unix-domain socket.

use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::{Duration, Instant};

use ipcd_transport::{
    Endpoint, Error, RawChannel, RawTransport, ReadBuffer, ReadOutcome, WriteOutcome, poll_until,
};
use ipcd_transport_unix::Unix;
use nix::poll::PollFlags;

fn watchdog() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

fn endpoint(dir: &Path, kind: &str) -> Endpoint {
    format!("unix://{}?type={kind}", dir.join("s").display()).parse().unwrap()
}

fn read(from: &mut RawChannel) -> Vec<u8> {
    let mut buffer = ReadBuffer::new(4096, 4096);
    assert!(poll_until(&from.channel.read_fd(), PollFlags::POLLIN, watchdog()).unwrap());
    assert!(matches!(from.channel.read(&mut buffer).unwrap(), ReadOutcome::Bytes(_)));
    buffer.filled().to_vec()
}

fn speaks_and_hears(kind: &str) {
    let dir = tempfile::tempdir().unwrap();
    let at = endpoint(dir.path(), kind);
    let mut server = Unix.listen_raw(&at).unwrap();
    let parts = Unix.connect_raw(&at, watchdog(), &[]).unwrap();
    assert_eq!(parts.identity.pid, Some(std::process::id()), "the server is this process");
    let mut near = Unix.adopt_raw(parts).unwrap();
    assert!(poll_until(&server.fd(), PollFlags::POLLIN, watchdog()).unwrap());
    let mut far = Unix.adopt_raw(server.accept().unwrap().unwrap()).unwrap();
    assert_eq!(near.keeps_records, kind == "seqpacket");
    for record in [&b"one"[..], b"two"] {
        assert_eq!(near.channel.write(record).unwrap(), WriteOutcome::Bytes(3));
        assert_eq!(read(&mut far), record);
        assert_eq!(far.channel.write(record).unwrap(), WriteOutcome::Bytes(3));
        assert_eq!(read(&mut near), record);
    }
}

#[test]
fn a_raw_stream_server_is_spoken_to_and_heard() {
    speaks_and_hears("stream");
}

#[test]
fn a_raw_seqpacket_server_is_spoken_to_and_heard() {
    speaks_and_hears("seqpacket");
}

#[test]
fn a_server_that_accepts_nobody_is_given_up_at_the_deadline() {
    let dir = tempfile::tempdir().unwrap();
    let at = endpoint(dir.path(), "stream");
    let server = UnixListener::bind(dir.path().join("s")).unwrap();
    // std asks for a queue of 128, or more; a non-blocking connect says when it is full.
    let mut waiting = Vec::new();
    let error = loop {
        match Unix.connect_raw(&at, Instant::now(), &[]) {
            Ok(parts) => waiting.push(parts),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, Error::TimedOut(_)), "{error}");
    drop(server);
    assert!(UnixStream::connect(dir.path().join("s")).is_err());
    assert!(!matches!(Unix.connect_raw(&at, watchdog(), &[]).unwrap_err(), Error::TimedOut(_)));
}
