//! Messages: from codec to codec, records, and subjects of the daemon.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, UdpSocket};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixListener;

use ipcd_tests::{Daemon, DaemonSetup, PATIENCE, eventually};
use nix::sys::signal::Signal;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, UnixAddr, connect, recv, send, socket,
};

use super::{RunningRelay, dir, spawn, unix};

#[test]
fn messages_go_from_codec_to_codec() {
    let dir = dir();
    let path = dir.path().join("server.sock");
    let listener = UnixListener::bind(&path).expect("the path is free");
    let to = format!("{}?codec=nul", unix(&path));
    let relay = RunningRelay::start(&["tcp://127.0.0.1:0?codec=line", &to]);
    let mut peer = relay.tcp();
    let (mut server, _) = listener.accept().expect("the relay comes");
    peer.write_all(b"one\r\ntwo\n\nlast").expect("the peer reads the bytes");
    peer.shutdown(Shutdown::Write).expect("the socket is open");
    let mut heard = Vec::new();
    server.read_to_end(&mut heard).expect("the end is passed on");
    assert_eq!(heard, b"one\0two\0\0last\0");
    server.write_all(b"back\0again\0").expect("the peer reads the bytes");
    drop(server);
    let mut lines = String::new();
    peer.read_to_string(&mut lines).expect("the end is passed on");
    assert_eq!(lines, "back\nagain\n");
}

/// The unfinished line of a writer is not continued by another.
#[test]
fn the_last_line_of_a_writer_is_not_mixed_with_the_next_ones() {
    let dir = dir();
    let [path, fifo] = ["server.sock", "in"].map(|name| dir.path().join(name));
    let listener = UnixListener::bind(&path).expect("the path is free");
    let from = format!("fifo://{}", fifo.display());
    let _relay = RunningRelay::start(&[&from, &unix(&path)]);
    let (server, _) = listener.accept().expect("the relay comes");
    let mut lines = BufReader::new(server).lines();
    for said in ["one", "two", "three"] {
        fs::write(&fifo, said).expect("the relay reads it");
        assert_eq!(lines.next().expect("the stream goes on").expect("the bytes are UTF-8"), said);
    }
}

/// The kernel reports the reset before the bytes that came earlier.
#[test]
fn records_of_a_peer_that_left_something_unread_are_all_passed_on() {
    let dir = dir();
    let [path, at] = ["server.sock", "at"].map(|name| dir.path().join(name));
    let listener = UnixListener::bind(&path).expect("the path is free");
    let mut relay = RunningRelay::start(&[&format!("{}?type=seqpacket", unix(&at)), &unix(&path)]);
    let made = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::empty(), None);
    let peer = made.expect("a descriptor is left");
    let address = UnixAddr::new(&at).expect("it is short");
    connect(peer.as_raw_fd(), &address).expect("the listener accepts a connection");
    let (mut server, _) = listener.accept().expect("the relay comes");
    server.write_all(b"never read\n").expect("the peer reads the bytes");
    let say = |text: &str| send(peer.as_raw_fd(), text.as_bytes(), MsgFlags::empty());
    let arrived = || recv(peer.as_raw_fd(), &mut [0; 64], MsgFlags::MSG_PEEK);
    assert_eq!(arrived(), Ok("never read".len()));
    relay.process.signal(Signal::SIGSTOP);
    for number in 0..200 {
        say(&number.to_string()).expect("there is room");
    }
    drop(peer);
    relay.process.signal(Signal::SIGCONT);
    let mut heard = String::new();
    server.read_to_string(&mut heard).expect("the end is passed on");
    let expected: String = (0..200).map(|number| format!("{number}\n")).collect();
    assert_eq!(heard, expected);
}

#[test]
fn a_message_that_cannot_go_is_refused_and_the_next_ones_are_not() {
    let dir = dir();
    let path = dir.path().join("server.sock");
    let listener = UnixListener::bind(&path).expect("the path is free");
    let from = "tcp://127.0.0.1:0?codec=nul";
    let mut relay = RunningRelay::start(&[from, &format!("{}?codec=line", unix(&path))]);
    let mut peer = relay.tcp();
    let (mut server, _) = listener.accept().expect("the relay comes");
    let long = vec![b'x'; (1 << 20) + 1];
    for part in [&b"first"[..], &long, b"two\nlines", &long[1..], b"last"] {
        peer.write_all(part).expect("the peer reads the bytes");
        peer.write_all(b"\0").expect("the peer reads the bytes");
    }
    drop(peer);
    let mut heard = Vec::new();
    server.read_to_end(&mut heard).expect("the end is passed on");
    let expected = [b"first\n", &long[1..], b"\nlast\n"].concat();
    assert!(heard == expected, "{} bytes instead of {}", heard.len(), expected.len());
    drop(server);
    relay.process.stderr.wait_for("2 messages were refused in all");
    let said = relay.terminate().expect(0).stderr;
    assert_eq!(
        said.matches("a message was refused: it is longer than 1048576").count(),
        1,
        "{said}"
    );
}

#[test]
fn records_stay_records() {
    let dir = dir();
    let far = UdpSocket::bind("127.0.0.1:0").expect("a port is free");
    far.set_read_timeout(Some(PATIENCE)).expect("a socket has a timeout");
    let to = format!("udp://{}", far.local_addr().expect("the socket is bound"));
    let relay = RunningRelay::start(&["udp://127.0.0.1:0", &to, "--raw"]);
    let near = UdpSocket::bind("127.0.0.1:0").expect("a port is free");
    near.connect(relay.at.strip_prefix("udp://").expect("the prefix is there"))
        .expect("the listener accepts a connection");
    near.set_read_timeout(Some(PATIENCE)).expect("a socket has a timeout");
    let mut room = [0; 100];
    for text in [&b"one\n"[..], b"two"] {
        near.send(text).expect("the datagram is sent");
        let (count, from) = far.recv_from(&mut room).expect("a datagram comes");
        assert_eq!(&room[..count], text);
        far.send_to(&[text, b" back"].concat(), from).expect("the datagram is sent");
        let count = near.recv(&mut room).expect("a datagram comes");
        assert_eq!(&room[..count], [text, b" back"].concat());
    }
    // From records to lines, as each side needs.
    let path = dir.path().join("lines.sock");
    let listener = UnixListener::bind(&path).expect("the path is free");
    let relay = RunningRelay::start(&["udp://127.0.0.1:0", &unix(&path)]);
    near.connect(relay.at.strip_prefix("udp://").expect("the prefix is there"))
        .expect("the listener accepts a connection");
    near.send(b"a datagram").expect("the datagram is sent");
    let (server, _) = listener.accept().expect("the relay comes");
    let mut line = String::new();
    BufReader::new(&server).read_line(&mut line).expect("the next line comes");
    assert_eq!(line, "a datagram\n");
}

#[test]
fn a_subject_of_the_daemon_can_be_a_side() {
    let daemon = DaemonSetup::new().listen(&["unix"]).start();
    let mut receiver = daemon.recv("unix", &["-C", "2", "chat"]);
    let relay = RunningRelay::beside(&daemon, &["tcp://127.0.0.1:0?codec=line", "ipcd:chat"]);
    let (mut ann, mut bob) = (relay.tcp(), relay.tcp());
    subscribers(&daemon, "chat", 3);
    ann.write_all(b"from ann\n").expect("the peer reads the bytes");
    let mut heard = String::new();
    let mut bob_hears = BufReader::new(bob.try_clone().expect("a descriptor is left"));
    bob_hears.read_line(&mut heard).expect("the next line comes");
    bob.write_all(b"from bob\n").expect("the peer reads the bytes");
    // It receives messages of others, and not its own.
    let mut ann_hears = BufReader::new(ann.try_clone().expect("a descriptor is left"));
    ann_hears.read_line(&mut heard).expect("the next line comes");
    assert_eq!(heard, "from ann\nfrom bob\n");
    assert_eq!(receiver.wait().expect(0).text(), "from ann\nfrom bob\n");
    // The last message is accepted before the connection ends, and the peer is closed.
    let mut receiver = daemon.recv("unix", &["-C", "1000", "chat"]);
    let lines: String = (0..1000).map(|number| format!("{number}\n")).collect();
    ann.write_all(lines.as_bytes()).expect("the peer reads the bytes");
    ann.shutdown(Shutdown::Write).expect("the socket is open");
    assert_eq!(receiver.wait().expect(0).text(), lines);
    let mut rest = String::new();
    ann_hears.read_to_string(&mut rest).expect("the stream ends");
    assert_eq!(rest, "");
    // In the other direction, a subject is connected to a server, once.
    let dir = dir();
    let path = dir.path().join("server.sock");
    let listener = UnixListener::bind(&path).expect("the path is free");
    let via = daemon.via("unix");
    let mut relay = spawn(&["--via", &via, "ipcd:news?echo=true", &unix(&path)], &[]);
    let (mut server, _) = listener.accept().expect("the relay comes");
    subscribers(&daemon, "news", 1);
    daemon.send("news", "what now?");
    server.write_all(b"this\n").expect("the peer reads the bytes");
    let mut lines = BufReader::new(server.try_clone().expect("a descriptor is left")).lines();
    let mut next = || lines.next().expect("the stream goes on").expect("the bytes are UTF-8");
    assert_eq!([next(), next()], ["what now?", "this"], "with echo it hears itself");
    drop((lines, server));
    relay.wait().expect(0);
}

/// A web page can have a browser send lines of its choice to a port of the loopback.
#[test]
fn an_http_request_is_not_published() {
    let daemon = DaemonSetup::new().listen(&["unix"]).start();
    let request = b"POST /a HTTP/1.1\r\nHost: localhost\r\n\r\nstolen\n\0stolen\0";
    for codec in ["line", "nul", "raw"] {
        let from = format!("tcp://127.0.0.1:0?codec={codec}");
        let mut relay = RunningRelay::beside(&daemon, &[&from, "ipcd:chat"]);
        let mut browser = relay.tcp();
        browser.write_all(request).expect("it is taken");
        let mut answer = Vec::new();
        browser.read_to_end(&mut answer).expect("it is closed");
        assert!(answer.is_empty(), "{codec}");
        relay.process.stderr.wait_for("connection refused: it speaks HTTP");
        drop(browser);
        relay.terminate().expect(0);
    }
    assert_eq!(daemon.counter("messages_accepted"), 0);
    // Lines that are no request are messages, whatever comes later.
    let relay = RunningRelay::beside(&daemon, &["tcp://127.0.0.1:0?codec=line", "ipcd:chat"]);
    let mut receiver = daemon.recv("unix", &["-C", "2", "chat"]);
    let lines = "GET well soon\nPOST / HTTP/1.1\n";
    relay.tcp().write_all(lines.as_bytes()).expect("it is taken");
    assert_eq!(receiver.wait().expect(0).text(), lines);
    // Another side may be an HTTP server.
    let dir = dir();
    let path = dir.path().join("server.sock");
    let listener = UnixListener::bind(&path).expect("the path is free");
    let relay = RunningRelay::start(&["tcp://127.0.0.1:0?codec=line", &unix(&path)]);
    relay.tcp().write_all(b"GET / HTTP/1.1\n").expect("it is taken");
    let mut heard = String::new();
    let (mut server, _) = listener.accept().expect("the relay comes");
    server.read_to_string(&mut heard).expect("the end is passed on");
    assert_eq!(heard, "GET / HTTP/1.1\n");
}

/// Waits until this number of peers has subscribed to the subject.
fn subscribers(daemon: &Daemon, subject: &str, wanted: usize) {
    eventually("the subscribers", || {
        let peers = daemon.clients();
        let found = peers.iter().filter(|peer| peer["subscriptions"][0] == subject).count();
        (found == wanted).then_some(())
    });
}

#[test]
fn peers_of_a_daemon_that_ends_are_closed_and_the_relay_goes_on() {
    let mut daemon = DaemonSetup::new().listen(&["unix"]).start();
    let mut relay = RunningRelay::beside(&daemon, &["tcp://127.0.0.1:0?codec=line", "ipcd:chat"]);
    let mut peer = relay.tcp();
    subscribers(&daemon, "chat", 1);
    daemon.terminate().expect(0);
    let mut rest = Vec::new();
    peer.read_to_end(&mut rest).expect("the stream ends");
    relay.process.stderr.wait_for("is ending");
    let mut peer = relay.tcp();
    peer.read_to_end(&mut rest).expect("the stream ends");
    relay.process.stderr.wait_for("ipcd.sock: No such file");
    assert!(relay.process.has_ended().is_none());
}
