//! Bytes flow both ways, unaltered, and no pair waits for another.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixListener;
use std::process::Command;
use std::thread;

use ipcd_conformance::authority::Authority;
use ipcd_tests::{RunningProcess, children, descriptors, eventually, memory};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use super::{RunningRelay, WAYS, dir, echo, exchange, noise, server, unix};

#[test]
fn a_fifo_is_passed_on_to_another() {
    let dir = dir();
    let [from, to] = ["from", "to"].map(|name| dir.path().join(name));
    mkfifo(&to, Mode::S_IRWXU).expect("the path is free");
    let mut reader = RunningProcess::start(Command::new("cat").arg(&to));
    let [a, b] = [&from, &to].map(|path| format!("fifo://{}", path.display()));
    let mut relay = RunningRelay::start(&[&a, &b]);
    fs::write(&from, "one\ntwo\n").expect("a process reads the FIFO");
    reader.stdout().wait_for("one\ntwo\n");
    relay.terminate().expect(0);
    assert_eq!(reader.wait().expect(0).text(), "one\ntwo\n");
}

/// Otherwise the kernel would reset the connection, and the answer would be lost (RFC 2525).
#[test]
fn an_answer_that_comes_before_all_was_read_arrives_whole() {
    const ANSWER: usize = 2_000_000;
    for way in WAYS {
        let dir = dir();
        let to = unix(&server(&dir, 1, |mut stream| {
            stream.read_exact(&mut [0; 10]).expect("the peer speaks");
            stream.write_all(&noise(ANSWER, 2)).expect("the peer reads");
        }));
        let relay = RunningRelay::start(&[&["tcp://127.0.0.1:0", &to, "--raw"], way].concat());
        let mut peer = relay.tcp();
        let more = peer.try_clone().expect("a descriptor is left");
        let writer = thread::spawn(move || {
            // It may find the connection closed.
            let _ = (&more).write_all(&noise(8_000_000, 3));
            let _ = more.shutdown(Shutdown::Write);
        });
        let mut heard = Vec::new();
        peer.read_to_end(&mut heard).expect("the answer is not cut off");
        assert!(heard == noise(ANSWER, 2), "{} bytes, {way:?}", heard.len());
        writer.join().expect("the thread does not panic");
    }
}

#[test]
fn megabytes_go_both_ways_at_once_unaltered() {
    let bytes = noise(20_000_000, 1);
    for way in WAYS {
        let dir = dir();
        let to = unix(&server(&dir, 1, echo));
        let mut relay = RunningRelay::start(&[&["tcp://127.0.0.1:0", &to, "--raw"], way].concat());
        let heard = exchange(relay.tcp(), &bytes);
        assert!(heard == bytes, "{} of {} bytes, {way:?}", heard.len(), bytes.len());
        relay.terminate().expect(0);
    }
}

#[test]
fn the_end_of_input_is_passed_on_and_answered_after() {
    for way in WAYS {
        let dir = dir();
        let to = server(&dir, 1, |mut stream| {
            let mut all = Vec::new();
            stream.read_to_end(&mut all).expect("the end is passed on");
            write!(stream, "{} bytes", all.len()).expect("the peer still reads");
        });
        let relay =
            RunningRelay::start(&[&["tcp://127.0.0.1:0", &unix(&to), "--raw"], way].concat());
        assert_eq!(exchange(relay.tcp(), &[7; 1_000_000]), b"1000000 bytes");
    }
}

/// The opposite direction: a server that has ended its output still receives.
#[test]
fn a_server_that_has_said_its_last_still_hears() {
    let dir = dir();
    let path = dir.path().join("server.sock");
    let listener = UnixListener::bind(&path).expect("the path is free");
    let relay = RunningRelay::start(&["tcp://127.0.0.1:0", &unix(&path), "--raw"]);
    let mut peer = relay.tcp();
    let (mut server, _) = listener.accept().expect("the relay comes");
    server.write_all(b"that is all").expect("the peer reads the bytes");
    server.shutdown(Shutdown::Write).expect("the socket is open");
    let mut heard = String::new();
    peer.read_to_string(&mut heard).expect("the end is passed on");
    assert_eq!(heard, "that is all");
    peer.write_all(b"one thing more").expect("the peer reads the bytes");
    drop(peer);
    heard.clear();
    server.read_to_string(&mut heard).expect("the stream ends");
    assert_eq!(heard, "one thing more");
}

#[test]
fn a_hundred_peers_at_a_time_leave_nothing_behind() {
    for way in WAYS {
        let dir = dir();
        let to = unix(&server(&dir, 100, echo));
        let mut relay = RunningRelay::start(&[&["tcp://127.0.0.1:0", &to, "--raw"], way].concat());
        let before = descriptors(relay.process.pid()).len();
        let peers: Vec<TcpStream> = (0..100).map(|_| relay.tcp()).collect();
        thread::scope(|scope| {
            for (number, peer) in (1..).zip(peers) {
                scope.spawn(move || {
                    let bytes = noise(100_000, number);
                    assert!(exchange(peer, &bytes) == bytes, "peer {number}");
                });
            }
        });
        let pid = relay.process.pid();
        eventually("all peers are gone", || {
            // Only some pipes are kept, of two descriptors each.
            let is_clean = children(pid).is_empty() && descriptors(pid).len() <= before + 16;
            is_clean.then_some(())
        });
        let ended = relay.terminate().expect(0);
        assert_eq!(ended.stderr.lines().count(), 1, "{}", ended.stderr);
    }
}

/// A silent peer does not keep the others waiting.
#[test]
fn a_peer_that_is_silent_or_slow_stops_nobody() {
    let dir = dir();
    let to = unix(&server(&dir, 3, echo));
    let relay = RunningRelay::start(&["tcp://127.0.0.1:0", &to, "--raw"]);
    let _silent = relay.tcp();
    let slow = relay.tcp();
    slow.set_nonblocking(true).expect("the socket is open");
    // It fills all buffers on the way, and reads nothing.
    let chunk = [1; 64 * 1024];
    let fill = || loop {
        match (&slow).write(&chunk) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => panic!("{error}"),
        }
    };
    fill();
    let bytes = noise(3_000_000, 2);
    assert!(exchange(relay.tcp(), &bytes) == bytes);
    fill();
}

/// The memory for a peer that does not read is bounded, with either way to move bytes.
#[test]
fn a_slow_reader_makes_its_counterpart_wait() {
    const MOST: usize = 24 << 20;
    for args in [&["--raw"][..], &[]] {
        let dir = dir();
        let path = dir.path().join("server.sock");
        let listener = UnixListener::bind(&path).expect("the path is free");
        let to = unix(&path);
        let relay = RunningRelay::start(&[&["tcp://127.0.0.1:0", &to], args].concat());
        let mut peer = relay.tcp();
        let (server, _) = listener.accept().expect("the relay comes");
        let before = memory(&[relay.process.pid()]);
        peer.set_write_timeout(Some(std::time::Duration::from_secs(2)))
            .expect("the socket is open");
        let line = [vec![b'x'; 9_999], vec![b'\n']].concat();
        let mut sent = 0;
        let error = loop {
            match peer.write(&line) {
                Ok(count) => sent += count,
                Err(error) => break error,
            }
            assert!(sent < MOST, "the relay does not stop reading: it holds {sent} bytes");
        };
        assert_eq!(error.kind(), ErrorKind::WouldBlock);
        let more = memory(&[relay.process.pid()]).saturating_sub(before);
        assert!(more < 4 << 20, "{more} bytes of memory");
        drop(server);
    }
}

/// The purpose of stunnel(8): a client and a server without TLS, and TLS between them.
#[test]
fn two_relays_carry_bytes_through_tls() {
    let dir = dir();
    Authority::new().issue(&["127.0.0.1"]).write(dir.path());
    let file = |name: &str| dir.path().join(name).display().to_string();
    for way in WAYS {
        let server = server(&dir, 1, |mut peer| {
            let mut bytes = Vec::new();
            peer.read_to_end(&mut bytes).expect("bytes come");
            peer.write_all(&bytes).expect("bytes go");
        });
        let (cert, key) = (file("cert.pem"), file("key.pem"));
        let inward = format!("tls://127.0.0.1:0?cert={cert}&key={key}");
        let far = RunningRelay::start(&[&["--raw", &inward, &unix(&server)], way].concat());
        let address = far.at.split('?').next().expect("it has an address");
        let outward = format!("{address}?ca={}", file("ca.pem"));
        let near = RunningRelay::start(&[&["--raw", "tcp://127.0.0.1:0", &outward], way].concat());
        let mut client = near.tcp();
        let bytes = noise(3_000_000, 7);
        client.write_all(&bytes).expect("bytes go");
        client.shutdown(Shutdown::Write).expect("the end goes");
        let mut back = Vec::new();
        client.read_to_end(&mut back).expect("bytes come back");
        assert!(back == bytes, "{} of {} bytes came back", back.len(), bytes.len());
        fs::remove_file(server).expect("the file is writable");
    }
}
