//! Invalid input of clients: each gets an error frame or a close by its deadline, and the
//! neighbours are not disturbed.

use std::io::Write;
use std::net::UdpSocket;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::thread::sleep;
use std::time::{Duration, Instant};

use ipcd_proto::control::{
    Auth, Challenge, Hello, Query, RefusalCode, Subscribe, Unsubscribe, decode, encode,
};
use ipcd_proto::{FrameKind, HEADER_BYTES, limits};
use ipcd_tests::{Daemon, DaemonSetup, NeighbourPair, RawConnection};

/// Deadlines short enough to wait for.
const CONFIG: &str = "[limits]\nhandshake_timeout = \"700ms\"\nframe_timeout = \"700ms\"\n";
/// The shortest time after which these deadlines may strike; the longest is not checked.
const DEADLINE: Duration = Duration::from_millis(600);
const STREAMS: [&str; 2] = ["unix", "tcp"];

/// Does this to a new connection over each byte stream, beside neighbours that must not be
/// disturbed. The connection has a session if `open`.
fn attack(config: &str, open: bool, attack: impl Fn(RawConnection)) {
    let daemon = DaemonSetup::new().config(config).start();
    let neighbour = NeighbourPair::of(&daemon);
    for scheme in STREAMS {
        let raw = if open { daemon.session(scheme) } else { daemon.raw(scheme) };
        attack(raw);
        neighbour.goes_on();
    }
    daemon.wait_for_peers(2);
}

#[track_caller]
fn ends_with(mut raw: RawConnection, code: RefusalCode) -> String {
    let (found, why) = raw.end().expect("an error frame comes before the end");
    assert_eq!(found, code, "{why}");
    why
}

#[test]
fn bytes_that_are_no_hello() {
    for junk in [
        &b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"[..],
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        &[0xff; 100_000],
        &[0; 64],
        b"SSH-2.0-OpenSSH_9.6\r\n",
    ] {
        attack("", false, |mut raw| {
            raw.send(junk);
            ends_with(raw, RefusalCode::Protocol);
        });
    }
}

#[test]
fn impossible_lengths() {
    let largest = limits::largest_frame(limits::DEFAULT_MAX_PAYLOAD) as u32;
    let before = [0, 31, 1 << 31, u32::MAX, limits::MAX_HANDSHAKE_FRAME as u32 + 1];
    let after = [0, 31, 1 << 31, u32::MAX, largest + 1];
    for (open, lengths) in [(false, before), (true, after)] {
        let daemon = Daemon::start();
        let neighbour = NeighbourPair::of(&daemon);
        for (scheme, length) in STREAMS.into_iter().flat_map(|s| lengths.map(|length| (s, length)))
        {
            let mut raw = if open { daemon.session(scheme) } else { daemon.raw(scheme) };
            // Nothing follows: the length alone must be enough.
            raw.send(&length.to_le_bytes());
            let why = ends_with(raw, RefusalCode::Protocol);
            assert!(why.contains(&length.to_string()), "{why}");
            neighbour.goes_on();
        }
    }
}

#[test]
fn a_length_shorter_than_its_parts() {
    attack("", true, |mut raw| {
        let mut frame = RawConnection::message_bytes(1, b"a.subject", b"");
        frame[7] = 200;
        raw.send(&frame);
        ends_with(raw, RefusalCode::Protocol);
    });
}

#[test]
fn unknown_kinds_and_those_that_only_the_daemon_sends() {
    for kind in [0, 17, 255] {
        attack("", true, |mut raw| {
            let mut frame = RawConnection::message_bytes(1, b"s", b"");
            frame[4] = kind;
            raw.send(&frame);
            ends_with(raw, RefusalCode::Protocol);
        });
    }
    for kind in [
        FrameKind::Welcome,
        FrameKind::Challenge,
        FrameKind::Ack,
        FrameKind::Notice,
        FrameKind::Answer,
    ] {
        attack("", true, |mut raw| {
            raw.control(kind, 1, &[]);
            ends_with(raw, RefusalCode::Protocol);
        });
    }
}

#[test]
fn frames_before_hello() {
    attack("", false, |mut raw| {
        raw.message(1, b"too.early", b"payload");
        ends_with(raw, RefusalCode::Protocol);
    });
    for kind in [FrameKind::Subscribe, FrameKind::Flush, FrameKind::Query, FrameKind::Auth] {
        attack("", false, |mut raw| {
            raw.control(kind, 1, &[]);
            ends_with(raw, RefusalCode::Protocol);
        });
    }
}

#[test]
fn hellos_that_are_no_good() {
    let hello = RawConnection::hello();
    let bodies = [
        (encode(&Hello { magic: *b"http", ..hello.clone() }), RefusalCode::Protocol),
        (encode(&Hello { oldest: 9, newest: 9, ..hello.clone() }), RefusalCode::Version),
        (encode(&Hello { name: Some(String::new()), ..hello.clone() }), RefusalCode::BadSubject),
        (
            encode(&Hello { name: Some("a\x1b[2Jb".into()), ..hello.clone() }),
            RefusalCode::BadSubject,
        ),
        (encode(&Hello { name: Some("n".repeat(65)), ..hello.clone() }), RefusalCode::BadSubject),
        ([encode(&hello), vec![0]].concat(), RefusalCode::Protocol),
        (encode(&hello)[..20].to_vec(), RefusalCode::Protocol),
        (Vec::new(), RefusalCode::Protocol),
    ];
    for (body, code) in bodies {
        attack("", false, |mut raw| {
            raw.control(FrameKind::Hello, 0, &body);
            ends_with(raw, code);
        });
    }
    attack("", true, |mut raw| {
        raw.control(FrameKind::Hello, 0, &encode(&hello));
        ends_with(raw, RefusalCode::Protocol);
    });
}

#[test]
fn a_handshake_frame_above_4_kib() {
    attack("", false, |mut raw| {
        raw.control(FrameKind::Hello, 0, &[0; limits::MAX_HANDSHAKE_FRAME]);
        let why = ends_with(raw, RefusalCode::Protocol);
        assert!(why.contains("4096"), "{why}");
    });
}

#[test]
fn bad_subjects_are_refused_one_by_one_and_the_connection_lives_on() {
    let bad: [&[u8]; 12] = [
        b"",
        b".",
        b"a..b",
        b".a",
        b"a.",
        b"a b",
        b"a\x1b[2Jb",
        b"a\0",
        b"\xff\xfe",
        b"a.*",
        b"a.>",
        b"1.2.3.4.5.6.7.8.9.10.11.12.13.14.15.16.17",
    ];
    attack("", true, |mut raw| {
        for (id, subject) in (1..).zip(bad) {
            raw.message(id, subject, b"payload");
            let answer = raw.expect(FrameKind::Error);
            assert_eq!(
                (answer.header.correlation, answer.refusal().0),
                (id, RefusalCode::BadSubject)
            );
        }
        for (id, filter) in (100..).zip(["", "a..b", "a b", "a\x07", "a.>.b"]) {
            let (filter, group, overflow, origin) = (filter.into(), None, None, false);
            let body = Subscribe { subscription: 1, filter, group, overflow, origin };
            raw.control(FrameKind::Subscribe, id, &encode(&body));
            let answer = raw.expect(FrameKind::Error);
            assert_eq!(
                (answer.header.correlation, answer.refusal().0),
                (id, RefusalCode::BadSubject)
            );
        }
        raw.control(FrameKind::Query, 200, &encode(&Query::Matching("a..b".into())));
        let answer = raw.expect(FrameKind::Error);
        assert_eq!((answer.header.correlation, answer.refusal().0), (200, RefusalCode::BadSubject));
        raw.control(FrameKind::Unsubscribe, 201, &encode(&Unsubscribe { subscription: 77 }));
        assert_eq!(raw.expect(FrameKind::Error).header.correlation, 201);
        raw.subscribe(5, "still.*");
        raw.message(300, b"still.here", b"echo");
        let echo = raw.expect(FrameKind::Message);
        assert_eq!((&echo.subject[..], &echo.payload[..]), (&b"still.here"[..], &b"echo"[..]));
        assert_eq!(echo.header.subscription, 5);
    });
}

#[test]
fn a_sender_cannot_be_forged() {
    let daemon = Daemon::start();
    let mut raw = daemon.raw("unix").open();
    raw.subscribe(1, "who");
    let mut frame = RawConnection::message_bytes(1, b"who", b"am I");
    frame[24..32].copy_from_slice(&u64::MAX.to_le_bytes());
    frame[12..16].copy_from_slice(&77_u32.to_le_bytes());
    raw.send(&frame);
    let echo = raw.expect(FrameKind::Message);
    assert_ne!(echo.header.sender, u64::MAX);
    assert_eq!(echo.header.subscription, 1);
}

#[test]
fn malformed_bodies_end_the_session() {
    for kind in [FrameKind::Subscribe, FrameKind::Unsubscribe, FrameKind::Query] {
        attack("", true, |mut raw| {
            raw.control(kind, 1, &[0xff; 40]);
            ends_with(raw, RefusalCode::Protocol);
        });
    }
}

#[test]
fn silence_ends_by_the_handshake_deadline() {
    attack(CONFIG, false, |raw| {
        let start = Instant::now();
        ends_with(raw, RefusalCode::TimedOut);
        assert!(start.elapsed() >= DEADLINE, "the connection ended before its deadline");
    });
}

#[test]
fn half_a_hello_and_then_silence() {
    attack(CONFIG, false, |mut raw| {
        let mut frame = (1000_u32).to_le_bytes().to_vec();
        frame.resize(HEADER_BYTES + 10, 1);
        raw.send(&frame);
        ends_with(raw, RefusalCode::TimedOut);
    });
}

#[test]
fn half_a_message_and_then_silence() {
    let daemon = DaemonSetup::new().config(CONFIG).start();
    let neighbour = NeighbourPair::of(&daemon);
    let lengths = [1, 3, 4, HEADER_BYTES - 1, HEADER_BYTES, HEADER_BYTES + 3, 60_000, 99_000];
    let frame = RawConnection::message_bytes(1, b"half", &[b'x'; 100_000]);
    let start = Instant::now();
    let halves = STREAMS.into_iter().flat_map(|scheme| lengths.map(|length| (scheme, length)));
    let peers: Vec<_> = halves
        .map(|(scheme, length)| {
            let mut raw = daemon.session(scheme);
            raw.send(&frame[..length]);
            raw
        })
        .collect();
    for raw in peers {
        ends_with(raw, RefusalCode::TimedOut);
        assert!(start.elapsed() >= DEADLINE, "the connection ended before its deadline");
        neighbour.goes_on();
    }
}

#[test]
fn a_frame_that_trickles_in_does_not_put_off_its_deadline() {
    attack(CONFIG, true, |mut raw| {
        let frame = RawConnection::message_bytes(1, b"slow", &[b'x'; 5000]);
        // Far longer than the deadline, if each byte restarted it.
        for byte in &frame[..40] {
            raw.send(&[*byte]);
            sleep(Duration::from_millis(50));
        }
        ends_with(raw, RefusalCode::TimedOut);
    });
}

#[test]
fn a_frame_in_many_pieces_is_whole() {
    let daemon = Daemon::start();
    for scheme in STREAMS {
        let mut raw = daemon.session(scheme);
        raw.subscribe(1, "pieces");
        for byte in RawConnection::message_bytes(1, b"pieces", b"one by one") {
            raw.send(&[byte]);
        }
        assert_eq!(raw.expect(FrameKind::Message).payload, b"one by one");
    }
}

#[test]
fn an_end_inside_a_frame() {
    attack("", true, |mut raw| {
        let frame = RawConnection::message_bytes(1, b"half", b"payload");
        raw.send(&frame[..frame.len() - 1]);
        raw.finish();
        raw.end();
    });
}

#[test]
fn a_proof_is_good_for_one_session_and_a_wrong_one_for_none() {
    let daemon = Daemon::start();
    let neighbour = NeighbourPair::of(&daemon);
    let token = daemon.token();
    let hello = RawConnection::hello();
    let challenge = |raw: &mut RawConnection| {
        raw.control(FrameKind::Hello, 0, &encode(&hello));
        let Challenge { nonce } =
            decode(&raw.expect(FrameKind::Challenge).payload).expect("a nonce");
        nonce
    };
    let (mut first, mut second) = (daemon.raw("tcp"), daemon.raw("tcp"));
    let (nonce, other) = (challenge(&mut first), challenge(&mut second));
    assert_ne!(nonce, other);
    let proof = token.peer_proof(&hello.nonce, &nonce);
    first.control(FrameKind::Auth, 0, &encode(&Auth { proof }));
    first.expect(FrameKind::Welcome);
    second.control(FrameKind::Auth, 0, &encode(&Auth { proof }));
    ends_with(second, RefusalCode::Denied);
    let mut third = daemon.raw("tcp");
    challenge(&mut third);
    third.message(1, b"without.proof", b"payload");
    ends_with(third, RefusalCode::Protocol);
    neighbour.goes_on();
}

#[test]
fn a_wrong_or_missing_token_is_denied() {
    let daemon = Daemon::start();
    let neighbour = NeighbourPair::of(&daemon);
    let mut receiver = daemon.recv("unix", &["-C", "3", "a"]);
    let (wrong, short) = (daemon.dir().join("wrong"), daemon.dir().join("short"));
    std::fs::write(&wrong, "0123456789abcdef0123456789abcdef\n")
        .expect("the directory is writable");
    std::fs::write(&short, "0123\n").expect("the directory is writable");
    let missing = daemon.dir().join("missing");
    for scheme in ["tcp", "udp"] {
        for (file, word) in [(&wrong, "wrong"), (&short, "short"), (&missing, "missing")] {
            let file = file.to_str().expect("the path is text");
            let ended = daemon.ctl(scheme, &["--token-file", file, "send", "a", "denied"]).run();
            let ended = ended.expect(6);
            assert!(ended.stderr.contains(word), "{scheme}: {}", ended.stderr);
        }
        let ended = daemon.ctl(scheme, &["--token-name", "nobody", "send", "a", "denied"]).run();
        assert!(ended.expect(6).stderr.contains("nobody"));
        neighbour.goes_on();
    }
    // A peer for which the kernel vouches needs no token.
    for scheme in ["unix", "pipe", "fifo"] {
        let missing = missing.to_str().expect("the path is text");
        daemon.ctl(scheme, &["--token-file", missing, "send", "a", "granted"]).run().expect(0);
    }
    assert_eq!(receiver.wait().expect(0).text(), "granted\n".repeat(3));
}

#[test]
fn a_named_token_opens_as_well() {
    let dir = ipcd_tests::private_dir();
    let file = dir.path().join("ci");
    std::fs::write(&file, "a secret that only the CI knows\n").expect("the directory is writable");
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o600))
        .expect("the file is writable");
    let file = file.to_str().expect("the path is text");
    let config = format!("[[token]]\nname = \"ci\"\nfile = \"{file}\"\n");
    let daemon = DaemonSetup::new().config(&config).start();
    for scheme in ["tcp", "udp"] {
        let named = ["--token-file", file, "--token-name", "ci", "send", "a", "b"];
        daemon.ctl(scheme, &named).run().expect(0);
        daemon.ctl(scheme, &["--token-file", file, "send", "a", "b"]).run().expect(6);
    }
}

#[test]
fn junk_in_the_rendezvous_disturbs_nobody() {
    let daemon = Daemon::start();
    let neighbour = NeighbourPair::of(&daemon);
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a port is free");
    for length in [0, 1, 4, 16, 40, 100, 1400, 60_000] {
        for fill in [0, 1, 0x7f, 0xff] {
            let sent = socket.send_to(&vec![fill; length], daemon.address("udp"));
            sent.expect("a datagram can be sent");
        }
    }
    let fifo = daemon.runtime_dir().join("ipcd.fifo");
    let mut fifo =
        std::fs::OpenOptions::new().write(true).open(fifo).expect("the file can be opened");
    for junk in [&[0xff; 5000][..], b"ipcd", &[0; 512], b"\n\n\n"] {
        fifo.write_all(junk).expect("the daemon reads it");
    }
    let pipe = daemon.runtime_dir().join("pipe.sock");
    let mut pipe = UnixStream::connect(pipe).expect("the daemon listens");
    let _ = pipe.write_all(&[0xff; 1000]);
    neighbour.goes_on();
    for scheme in ["pipe", "fifo", "udp"] {
        daemon.ctl(scheme, &["ping"]).run().expect(0);
    }
}

#[test]
fn a_taken_name_is_refused() {
    let daemon = Daemon::start();
    let _first = daemon.recv("unix", &["--name", "only-me", "a"]);
    let ended = daemon.ctl("tcp", &["--name", "only-me", "send", "a", "b"]).run().expect(6);
    assert!(ended.stderr.contains("only-me"), "{}", ended.stderr);
    daemon.ctl("tcp", &["--name", "another", "send", "a", "b"]).run().expect(0);
}

#[test]
fn too_many_peers_are_turned_away() {
    let config = "[limits]\nmax_peers = 4\n";
    let daemon = DaemonSetup::new().config(config).start();
    let _peers: Vec<_> = (0..4).map(|_| daemon.raw("unix").open()).collect();
    for scheme in ["unix", "pipe", "fifo", "tcp", "udp"] {
        let ended = daemon.ctl(scheme, &["send", "a", "b"]).run().expect(6);
        assert!(ended.stderr.contains("limit of 4 peers"), "{scheme}: {}", ended.stderr);
    }
}
