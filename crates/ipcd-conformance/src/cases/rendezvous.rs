//! Rendezvous: two sides meet, or do not.

use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};

use ipcd_transport::{
    ChannelParts, Endpoint, Error, ReadBuffer, ReadOutcome, Result, Transport, poll_until,
};
use nix::libc::O_NONBLOCK;
use nix::poll::PollFlags;
use nix::sys::socket::{Backlog, listen};
use nix::unistd::write;

use super::places::tree;
use crate::Suite;
use crate::child::hold_starts_off;
use crate::frames::{self, LARGEST};
use crate::peer::drive;
use crate::scene::TestScene;
use crate::watchdog::Watchdog;

/// Without a listener, connecting fails at once.
pub fn fails_at_once_when_nobody_is_there(suite: &Suite) {
    let _no_copies = hold_starts_off();
    let mut scene = TestScene::new(suite);
    let mut places = Vec::from_iter(scene.endpoint.path().map(|_| scene.endpoint.clone()));
    scene.endpoint = scene.listen().local().clone();
    places.push(scene.endpoint.clone());
    for place in places {
        match scene.try_connect(&place) {
            Err(Error::System { what, source }) => {
                let expected = [ErrorKind::NotFound, ErrorKind::ConnectionRefused];
                assert!(expected.contains(&source.kind()), "{what}: {source}");
                assert!(what.contains(place.address()), "{what}: which place is it?");
            }
            Err(error) => panic!("an error of the system was due: {error}"),
            Ok(_) => panic!("connected without a listener at {place}"),
        }
    }
}

/// Without an accept, connecting ends at its deadline, not before, and leaves nothing behind.
pub fn honours_the_deadline(suite: &Suite) {
    let scene = TestScene::new(suite);
    let listener = suite.transport.listen(&scene.endpoint).expect("the endpoint is free");
    // If the kernel accepts for the listener, it does so only while the queue has room. What is
    // no socket has no queue, and refuses this.
    let _ = listen(&listener.fd(), Backlog::new(0).expect("a queue of the smallest length"));
    let mut queued = Vec::new();
    while queued.len() < 16 {
        let before = tree(scene.dir());
        let deadline = Instant::now() + Duration::from_millis(50);
        match suite.transport.connect(listener.local(), deadline) {
            Ok(channel) => queued.push(channel),
            Err(Error::TimedOut(what)) => {
                assert!(Instant::now() >= deadline, "{what}: too early");
                assert_eq!(tree(scene.dir()), before, "left behind");
                return;
            }
            Err(error) => panic!("a time-out was due: {error}"),
        }
    }
    panic!("it connects without an accept");
}

/// Junk disturbs neither the listener nor the peers that come after.
pub fn survives_junk(suite: &Suite) {
    let scene = TestScene::new(suite);
    let listener = scene.listen();
    for _ in 0..3 {
        for junk in
            [&b"x"[..], b"ipcdfifo", &[0; 1200], &[0xff; 5000], &frames::all([LARGEST])[..1400]]
        {
            throw(&scene, junk, listener.local());
        }
        let mut client = scene.connect(listener.local());
        let hello = frames::all([999]);
        client.offer(&hello);
        thread::scope(|scope| {
            // A handshake needs both sides.
            scope.spawn(|| drive("a frame", [&mut client], |[client]| client.backlog() == 0));
            while !is_from(suite.transport, listener.next(), &hello) {}
        });
    }
}

/// Sends these bytes to the listener's socket, port or FIFO. A refused connection is fine.
fn throw(scene: &TestScene, junk: &[u8], at: &Endpoint) {
    if let Ok(addr) = at.address().parse::<SocketAddr>() {
        let _ = TcpStream::connect(addr).and_then(|mut stream| stream.write_all(junk));
        let _ = UdpSocket::bind("127.0.0.1:0").and_then(|socket| socket.send_to(junk, addr));
        return;
    }
    let Ok(path) = at.path() else {
        // An address that only the transport knows: its own connection carries the bytes.
        let Ok(channel) = scene.try_connect(at) else { return };
        let _ = write(channel.write_fd(), junk);
        return;
    };
    let found = fs::metadata(path).expect("a listener has its path").file_type();
    if found.is_socket() {
        let _ = UnixStream::connect(path).and_then(|mut stream| stream.write_all(junk));
    } else {
        let mut options = OpenOptions::new();
        let fifo = options.write(true).custom_flags(O_NONBLOCK).open(path);
        let _ = fifo.and_then(|mut fifo| fifo.write_all(junk));
    }
}

/// Whether this is the peer that says hello, and not one that threw junk.
fn is_from(transport: &dyn Transport, accepted: Result<ChannelParts>, hello: &[u8]) -> bool {
    let Ok(parts) = accepted else { return false };
    let mut channel = transport.adopt(parts).expect("accepted parts make a channel");
    let (mut buffer, watchdog) = (ReadBuffer::new(0, LARGEST), Watchdog::over("a peer's bytes"));
    while buffer.filled().len() < hello.len() {
        match channel.read(&mut buffer) {
            Ok(ReadOutcome::Bytes(_)) => {}
            Ok(ReadOutcome::NotReady | ReadOutcome::Boundary) => {
                let fd = channel.read_fd();
                let came = poll_until(&fd, PollFlags::POLLIN, watchdog.deadline());
                assert!(came.expect("poll works"), "the peer neither speaks nor ends");
            }
            Ok(ReadOutcome::Closed) | Err(_) => return false,
        }
    }
    buffer.filled() == hello
}
