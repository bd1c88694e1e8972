//! `ipcctl relay`: any endpoint to any other, on the real binary.

use std::fs;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

use ipcd_conformance::authority::Authority;
use ipcd_tests::{
    Daemon, Ended, PATIENCE, Running, Setup, children, descriptors, eventually, ipcctl, is_alive,
    memory, state,
};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

/// Both ways of serving peers.
const WAYS: [&[&str]; 2] = [&[], &["--fork"]];

/// A relay that listens.
struct Relay {
    process: Running,
    /// Where, as it says itself.
    at: String,
}

impl Relay {
    fn start(args: &[&str]) -> Self {
        let process = spawn(args, &[]);
        Self::listening(process)
    }

    /// One that knows where a daemon is.
    fn beside(daemon: &Daemon, args: &[&str]) -> Self {
        let via = daemon.via("unix");
        let process = spawn(&[&["--via", &via], args].concat(), &[]);
        Self::listening(process)
    }

    fn listening(process: Running) -> Self {
        let at = process.stderr.wait_until("where it listens", |text| {
            let at = text.strip_prefix("listening on ")?;
            at.split_once('\n').map(|(at, _)| at.to_owned())
        });
        Self { process, at }
    }

    fn tcp(&self) -> TcpStream {
        let (_, address) = self.at.split_once("://").expect("it is an endpoint");
        let stream = TcpStream::connect(address).expect("it listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket has a timeout");
        stream
    }

    fn terminate(&mut self) -> Ended {
        self.process.signal(Signal::SIGTERM);
        self.process.wait()
    }
}

fn spawn(args: &[&str], variables: &[(&str, &str)]) -> Running {
    let mut command = Command::new(ipcctl());
    command.arg("relay").args(args).stdin(Stdio::null()).env_remove("IPCD_VIA");
    Running::start(command.envs(variables.iter().copied()))
}

fn dir() -> TempDir {
    TempDir::with_prefix("ipcd-relay.").expect("a directory can be made")
}

fn unix(path: &Path) -> String {
    format!("unix://{}", path.display())
}

/// A server on a Unix socket, which handles so many connections, each in a thread.
fn server(dir: &TempDir, peers: usize, handle: fn(UnixStream)) -> PathBuf {
    let path = dir.path().join("server.sock");
    let listener = UnixListener::bind(&path).expect("the path is free");
    thread::spawn(move || {
        for stream in listener.incoming().take(peers) {
            let stream = stream.expect("a peer comes");
            thread::spawn(move || handle(stream));
        }
    });
    path
}

fn echo(mut stream: UnixStream) {
    let mut from = stream.try_clone().expect("a descriptor is left");
    // The other side may go at any time.
    let _ = std::io::copy(&mut from, &mut stream);
    let _ = stream.shutdown(Shutdown::Write);
}

/// Bytes that differ everywhere.
fn noise(count: usize, seed: u64) -> Vec<u8> {
    let mut x = seed | 1;
    let mut word = || {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        x
    };
    (0..count.div_ceil(8)).flat_map(|_| word().to_le_bytes()).take(count).collect()
}

/// Sends these bytes while it reads to the end.
fn exchange(stream: TcpStream, bytes: &[u8]) -> Vec<u8> {
    thread::scope(|scope| {
        scope.spawn(|| {
            (&stream).write_all(bytes).expect("they are taken");
            stream.shutdown(Shutdown::Write).expect("it is a socket");
        });
        let mut heard = Vec::new();
        (&stream).read_to_end(&mut heard).expect("it comes to an end");
        heard
    })
}

#[test]
fn megabytes_go_both_ways_at_once_unaltered() {
    let bytes = noise(20_000_000, 1);
    for way in WAYS {
        let dir = dir();
        let to = unix(&server(&dir, 1, echo));
        let mut relay = Relay::start(&[&["tcp://127.0.0.1:0", &to, "--raw"], way].concat());
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
        let relay = Relay::start(&[&["tcp://127.0.0.1:0", &unix(&to), "--raw"], way].concat());
        assert_eq!(exchange(relay.tcp(), &[7; 1_000_000]), b"1000000 bytes");
    }
}

/// The other way round: a server that has said all still hears.
#[test]
fn a_server_that_has_said_its_last_still_hears() {
    let dir = dir();
    let path = dir.path().join("server.sock");
    let listener = UnixListener::bind(&path).expect("the path is free");
    let relay = Relay::start(&["tcp://127.0.0.1:0", &unix(&path), "--raw"]);
    let mut peer = relay.tcp();
    let (mut server, _) = listener.accept().expect("the relay comes");
    server.write_all(b"that is all").expect("it is taken");
    server.shutdown(Shutdown::Write).expect("it is a socket");
    let mut heard = String::new();
    peer.read_to_string(&mut heard).expect("the end is passed on");
    assert_eq!(heard, "that is all");
    peer.write_all(b"one thing more").expect("it is taken");
    drop(peer);
    heard.clear();
    server.read_to_string(&mut heard).expect("it comes to an end");
    assert_eq!(heard, "one thing more");
}

#[test]
fn a_hundred_peers_at_a_time_leave_nothing_behind() {
    for way in WAYS {
        let dir = dir();
        let to = unix(&server(&dir, 100, echo));
        let mut relay = Relay::start(&[&["tcp://127.0.0.1:0", &to, "--raw"], way].concat());
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
        eventually("that all are gone", || {
            // What is kept is some pipes, of two descriptors each.
            let is_clean = children(pid).is_empty() && descriptors(pid).len() <= before + 16;
            is_clean.then_some(())
        });
        let ended = relay.terminate().expect(0);
        assert_eq!(ended.stderr.lines().count(), 1, "{}", ended.stderr);
    }
}

/// One that says nothing does not keep the others waiting.
#[test]
fn a_peer_that_is_silent_or_slow_stops_nobody() {
    let dir = dir();
    let to = unix(&server(&dir, 3, echo));
    let relay = Relay::start(&["tcp://127.0.0.1:0", &to, "--raw"]);
    let _silent = relay.tcp();
    let slow = relay.tcp();
    slow.set_nonblocking(true).expect("it is a socket");
    // It fills everything on its way, and reads nothing.
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

/// What is kept for one that does not read is bounded, whichever way bytes are moved.
#[test]
fn a_slow_reader_makes_its_counterpart_wait() {
    const MOST: usize = 24 << 20;
    for args in [&["--raw"][..], &[]] {
        let dir = dir();
        let path = dir.path().join("server.sock");
        let listener = UnixListener::bind(&path).expect("the path is free");
        let to = unix(&path);
        let relay = Relay::start(&[&["tcp://127.0.0.1:0", &to], args].concat());
        let mut peer = relay.tcp();
        let (server, _) = listener.accept().expect("the relay comes");
        let before = memory(&[relay.process.pid()]);
        peer.set_write_timeout(Some(std::time::Duration::from_secs(2))).expect("it is a socket");
        let line = [vec![b'x'; 9_999], vec![b'\n']].concat();
        let mut sent = 0;
        let error = loop {
            match peer.write(&line) {
                Ok(count) => sent += count,
                Err(error) => break error,
            }
            assert!(sent < MOST, "nobody makes it wait: {sent} bytes are somewhere");
        };
        assert_eq!(error.kind(), ErrorKind::WouldBlock);
        let more = memory(&[relay.process.pid()]).saturating_sub(before);
        assert!(more < 4 << 20, "{more} bytes of memory");
        drop(server);
    }
}

#[test]
fn messages_go_from_codec_to_codec() {
    let dir = dir();
    let path = dir.path().join("server.sock");
    let listener = UnixListener::bind(&path).expect("the path is free");
    let to = format!("{}?codec=nul", unix(&path));
    let relay = Relay::start(&["tcp://127.0.0.1:0?codec=line", &to]);
    let mut peer = relay.tcp();
    let (mut server, _) = listener.accept().expect("the relay comes");
    peer.write_all(b"one\r\ntwo\n\nlast").expect("it is taken");
    peer.shutdown(Shutdown::Write).expect("it is a socket");
    let mut heard = Vec::new();
    server.read_to_end(&mut heard).expect("the end is passed on");
    assert_eq!(heard, b"one\0two\0\0last\0");
    server.write_all(b"back\0again\0").expect("it is taken");
    drop(server);
    let mut lines = String::new();
    peer.read_to_string(&mut lines).expect("the end is passed on");
    assert_eq!(lines, "back\nagain\n");
}

#[test]
fn a_message_that_cannot_go_is_refused_and_the_next_ones_are_not() {
    let dir = dir();
    let path = dir.path().join("server.sock");
    let listener = UnixListener::bind(&path).expect("the path is free");
    let from = "tcp://127.0.0.1:0?codec=nul";
    let mut relay = Relay::start(&[from, &format!("{}?codec=line", unix(&path))]);
    let mut peer = relay.tcp();
    let (mut server, _) = listener.accept().expect("the relay comes");
    let long = vec![b'x'; (1 << 20) + 1];
    for part in [&b"first"[..], &long, b"two\nlines", &long[1..], b"last"] {
        peer.write_all(part).expect("it is taken");
        peer.write_all(b"\0").expect("it is taken");
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
    let far = UdpSocket::bind("127.0.0.1:0").expect("there is a port");
    far.set_read_timeout(Some(PATIENCE)).expect("a socket has a timeout");
    let to = format!("udp://{}", far.local_addr().expect("it is bound"));
    let relay = Relay::start(&["udp://127.0.0.1:0", &to, "--raw"]);
    let near = UdpSocket::bind("127.0.0.1:0").expect("there is a port");
    near.connect(relay.at.strip_prefix("udp://").expect("it is")).expect("it listens");
    near.set_read_timeout(Some(PATIENCE)).expect("a socket has a timeout");
    let mut room = [0; 100];
    for text in [&b"one\n"[..], b"two"] {
        near.send(text).expect("it is sent");
        let (count, from) = far.recv_from(&mut room).expect("it comes");
        assert_eq!(&room[..count], text);
        far.send_to(&[text, b" back"].concat(), from).expect("it is sent");
        let count = near.recv(&mut room).expect("it comes");
        assert_eq!(&room[..count], [text, b" back"].concat());
    }
    // From records to lines, which is what suits each side.
    let path = dir.path().join("lines.sock");
    let listener = UnixListener::bind(&path).expect("the path is free");
    let relay = Relay::start(&["udp://127.0.0.1:0", &unix(&path)]);
    near.connect(relay.at.strip_prefix("udp://").expect("it is")).expect("it listens");
    near.send(b"a datagram").expect("it is sent");
    let (server, _) = listener.accept().expect("the relay comes");
    let mut line = String::new();
    BufReader::new(&server).read_line(&mut line).expect("it comes");
    assert_eq!(line, "a datagram\n");
}

#[test]
fn a_subject_of_the_daemon_can_be_a_side() {
    let daemon = Setup::new().listen(&["unix"]).start();
    let mut receiver = daemon.recv("unix", &["-C", "2", "chat"]);
    let relay = Relay::beside(&daemon, &["tcp://127.0.0.1:0?codec=line", "ipcd:chat"]);
    let (mut ann, mut bob) = (relay.tcp(), relay.tcp());
    subscribers(&daemon, "chat", 3);
    ann.write_all(b"from ann\n").expect("it is taken");
    let mut heard = String::new();
    let mut bob_hears = BufReader::new(bob.try_clone().expect("a descriptor is left"));
    bob_hears.read_line(&mut heard).expect("it comes");
    bob.write_all(b"from bob\n").expect("it is taken");
    // It hears what others say, and not itself.
    let mut ann_hears = BufReader::new(ann.try_clone().expect("a descriptor is left"));
    ann_hears.read_line(&mut heard).expect("it comes");
    assert_eq!(heard, "from ann\nfrom bob\n");
    assert_eq!(receiver.wait().expect(0).text(), "from ann\nfrom bob\n");
    // What was said last is accepted before the connection goes, and the peer is closed.
    let mut receiver = daemon.recv("unix", &["-C", "1000", "chat"]);
    let lines: String = (0..1000).map(|number| format!("{number}\n")).collect();
    ann.write_all(lines.as_bytes()).expect("it is taken");
    ann.shutdown(Shutdown::Write).expect("it is a socket");
    assert_eq!(receiver.wait().expect(0).text(), lines);
    let mut rest = String::new();
    ann_hears.read_to_string(&mut rest).expect("it is closed");
    assert_eq!(rest, "");
    // The other way round, a subject comes to a server, once.
    let dir = dir();
    let path = dir.path().join("server.sock");
    let listener = UnixListener::bind(&path).expect("the path is free");
    let via = daemon.via("unix");
    let mut relay = spawn(&["--via", &via, "ipcd:news?echo=true", &unix(&path)], &[]);
    let (mut server, _) = listener.accept().expect("the relay comes");
    subscribers(&daemon, "news", 1);
    daemon.send("news", "what now?");
    server.write_all(b"this\n").expect("it is taken");
    let mut lines = BufReader::new(server.try_clone().expect("a descriptor is left")).lines();
    let mut next = || lines.next().expect("it goes on").expect("it is text");
    assert_eq!([next(), next()], ["what now?", "this"], "with echo it hears itself");
    drop((lines, server));
    relay.wait().expect(0);
}

/// Waits until so many have subscribed to the subject.
fn subscribers(daemon: &Daemon, subject: &str, wanted: usize) {
    eventually("the subscribers", || {
        let peers = daemon.clients();
        let found = peers.iter().filter(|peer| peer["subscriptions"][0] == subject).count();
        (found == wanted).then_some(())
    });
}

#[test]
fn peers_of_a_daemon_that_ends_are_closed_and_the_relay_goes_on() {
    let mut daemon = Setup::new().listen(&["unix"]).start();
    let mut relay = Relay::beside(&daemon, &["tcp://127.0.0.1:0?codec=line", "ipcd:chat"]);
    let mut peer = relay.tcp();
    subscribers(&daemon, "chat", 1);
    daemon.terminate().expect(0);
    let mut rest = Vec::new();
    peer.read_to_end(&mut rest).expect("it is closed");
    relay.process.stderr.wait_for("is ending");
    let mut peer = relay.tcp();
    peer.read_to_end(&mut rest).expect("it is closed, too");
    relay.process.stderr.wait_for("ipcd.sock: No such file");
    assert!(relay.process.has_ended().is_none());
}

#[test]
fn a_command_knows_its_peer_and_is_reaped() {
    let command = "pipe:sh -c 'echo $PROTO $TCPREMOTEIP $IPC_TRANSPORT ${IPC_SUBJECT-none} \
                   ${TCPREMOTEINFO-none}; echo $TCPREMOTEPORT $IPC_FROM_ADDR $TCPLOCALPORT; cat'";
    for way in WAYS {
        let args = [&["tcp://127.0.0.1:0", command, "--raw", "--ucspi"], way].concat();
        let stale = [("IPC_SUBJECT", "somebody else's"), ("TCPREMOTEINFO", "likewise")];
        let mut relay = Relay::listening(spawn(&args, &stale));
        let peer = relay.tcp();
        let ours = peer.local_addr().expect("it is a socket");
        let theirs = peer.peer_addr().expect("it is connected");
        let heard = String::from_utf8(exchange(peer, b"and what it is told")).expect("it is text");
        let (port, at) = (ours.port(), theirs.port());
        let expected = format!(
            "TCP 127.0.0.1 tcp none none\n{port} 127.0.0.1:{port} {at}\nand what it is told"
        );
        assert_eq!(heard, expected);
        let pid = relay.process.pid();
        eventually("that it is reaped", || children(pid).is_empty().then_some(()));
        relay.terminate().expect(0);
    }
}

#[test]
fn local_peers_have_their_numbers() {
    let dir = dir();
    let path = dir.path().join("relay.sock");
    let command = "pipe:sh -c 'echo $PROTO $UNIXREMOTEPID $IPC_FROM_PID $UNIXREMOTEEUID'";
    let _relay = Relay::start(&[&unix(&path), command, "--raw", "--ucspi"]);
    let mut heard = String::new();
    let mut peer = UnixStream::connect(&path).expect("it listens");
    peer.read_to_string(&mut heard).expect("it comes to an end");
    let (pid, uid) = (std::process::id(), nix::unistd::geteuid());
    assert_eq!(heard, format!("UNIX {pid} {pid} {uid}\n"));
}

#[test]
fn a_server_that_is_not_there_closes_one_peer_and_not_the_relay() {
    for way in WAYS {
        let dir = dir();
        let path = dir.path().join("server.sock");
        let mut relay =
            Relay::start(&[&["tcp://127.0.0.1:0", &unix(&path), "--raw"], way].concat());
        let mut rest = Vec::new();
        let peer = relay.tcp();
        let who = peer.local_addr().expect("it is a socket").to_string();
        // A reset is an end, too.
        let _ = (&peer).read_to_end(&mut rest);
        relay.process.stderr.wait_for(&who);
        relay.process.stderr.wait_for(&format!("connect to {}", path.display()));
        let listener = UnixListener::bind(&path).expect("the path is free");
        let mut peer = relay.tcp();
        let (mut server, _) = listener.accept().expect("the relay comes");
        server.write_all(b"here I am").expect("it is taken");
        drop(server);
        peer.read_to_end(&mut rest).expect("it comes to an end");
        assert_eq!(rest, b"here I am");
        relay.terminate().expect(0);
    }
}

/// What may be far away is connected to once, by somebody else, and just as well.
#[test]
fn a_server_on_the_network_sees_one_connection_for_each_peer() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("there is a port");
    let to = format!("tcp://{}", listener.local_addr().expect("it is bound"));
    for way in WAYS {
        let dir = dir();
        let path = dir.path().join("relay.sock");
        let mut relay = Relay::start(&[&[&unix(&path), &to, "--raw"], way].concat());
        for number in 0..20 {
            let mut peer = UnixStream::connect(&path).expect("it listens");
            write!(peer, "{number}").expect("it is taken");
            peer.shutdown(Shutdown::Write).expect("it is a socket");
            let (mut server, _) = listener.accept().expect("the relay comes");
            let mut heard = String::new();
            server.read_to_string(&mut heard).expect("it comes to an end");
            assert_eq!(heard, number.to_string());
        }
        let pid = relay.process.pid();
        eventually("that all are reaped", || children(pid).is_empty().then_some(()));
        assert_eq!(relay.terminate().expect(0).stderr.lines().count(), 1);
    }
    // Nobody else has this address: nobody listens there.
    let relay = Relay::start(&["tcp://127.0.0.1:0", "tcp://127.86.75.30:9", "--raw"]);
    let mut rest = Vec::new();
    let _ = relay.tcp().read_to_end(&mut rest);
    relay.process.stderr.wait_for("refused");
}

/// A server that does not answer is waited for beside everything else.
#[test]
fn a_server_that_does_not_answer_keeps_nobody_waiting() {
    let dir = dir();
    let path = dir.path().join("server.sock");
    // std asks for a queue of 128, or more, and nobody takes anything out of it.
    let listener = UnixListener::bind(&path).expect("the path is free");
    let first = UnixStream::connect(&path).expect("there is room");
    first.set_nonblocking(true).expect("it is a socket");
    let waiting = fill_queue(&path);
    let mut relay = Relay::start(&["tcp://127.0.0.1:0", &unix(&path), "--raw", "--timeout", "1h"]);
    let peers: Vec<TcpStream> = (0..3).map(|_| relay.tcp()).collect();
    let pid = relay.process.pid();
    eventually("that all of them wait", || (children(pid).len() == peers.len()).then_some(()));
    // Somebody takes what is in the queue, and all are connected.
    drop((first, waiting));
    thread::spawn(move || {
        for stream in listener.incoming() {
            thread::spawn(|| echo(stream.expect("a peer comes")));
        }
    });
    for peer in peers {
        assert_eq!(exchange(peer, b"at last"), b"at last");
    }
    eventually("that they are reaped", || children(pid).is_empty().then_some(()));
    relay.terminate().expect(0);
}

/// Connects until there is no room in the queue.
fn fill_queue(path: &Path) -> Vec<std::os::fd::OwnedFd> {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
    use std::os::fd::AsRawFd;
    let address = UnixAddr::new(path).expect("it is a path");
    let mut waiting = Vec::new();
    loop {
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let stream = socket(AddressFamily::Unix, SockType::Stream, flags, None);
        let stream = stream.expect("a socket can be made");
        match connect(stream.as_raw_fd(), &address) {
            Ok(()) => waiting.push(stream),
            Err(nix::errno::Errno::EAGAIN) => return waiting,
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn more_peers_than_children_wait() {
    let dir = dir();
    let to = unix(&server(&dir, 3, echo));
    let args = ["tcp://127.0.0.1:0", &to, "--raw", "--fork", "--max-children", "2"];
    let relay = Relay::start(&args);
    let pid = relay.process.pid();
    let mut peers: Vec<TcpStream> = (0..3).map(|_| relay.tcp()).collect();
    for (peer, text) in peers.iter_mut().zip([b"a", b"b"]) {
        peer.write_all(text).expect("it is taken");
        let mut heard = [0];
        peer.read_exact(&mut heard).expect("it is served");
        assert_eq!(&heard, text);
    }
    assert_eq!(children(pid).len(), 2);
    let mut last = peers.pop().expect("there are three");
    last.write_all(b"c").expect("the kernel takes it");
    assert_eq!(children(pid).len(), 2);
    peers.pop();
    let mut heard = [0];
    last.read_exact(&mut heard).expect("it is served now");
    assert_eq!(&heard, b"c");
}

#[test]
fn told_to_end_it_leaves_nothing_behind() {
    for (way, signal) in [(WAYS[0], Signal::SIGTERM), (WAYS[1], Signal::SIGINT)] {
        let dir = dir();
        let path = dir.path().join("relay.sock");
        // It does not end by itself, nor does what it has started.
        let command = "pipe:sh -c 'echo here; sleep 1000; echo there'";
        let mut relay = Relay::start(&[&[&unix(&path), command, "--raw"], way].concat());
        let mut peer = UnixStream::connect(&path).expect("it listens");
        let mut heard = [0; 5];
        peer.read_exact(&mut heard).expect("the command runs");
        let pid = relay.process.pid();
        // A shell, what it waits for, and the child that serves the peer if there is one.
        let members = 2 + way.len();
        let all = eventually("all that there is to end", || {
            Some(family(pid)).filter(|all| all.len() == members)
        });
        relay.process.signal(signal);
        relay.process.wait().expect(0);
        eventually("that all have ended", || all.iter().all(|pid| !is_alive(*pid)).then_some(()));
        assert!(!path.exists() && state(all[0]).is_none());
    }
}

/// All that descend from a process.
fn family(pid: i32) -> Vec<i32> {
    let children = children(pid);
    let rest: Vec<i32> = children.iter().flat_map(|child| family(*child)).collect();
    [children, rest].concat()
}

#[test]
fn when_the_parent_is_killed_its_children_end_too() {
    let dir = dir();
    let to = unix(&server(&dir, 1, echo));
    let mut relay = Relay::start(&["tcp://127.0.0.1:0", &to, "--raw", "--fork"]);
    let mut peer = relay.tcp();
    peer.write_all(b"x").expect("it is taken");
    peer.read_exact(&mut [0]).expect("it is served");
    let child = children(relay.process.pid())[0];
    relay.process.signal(Signal::SIGKILL);
    relay.process.wait();
    eventually("the child's end", || (!is_alive(child)).then_some(()));
}

#[test]
fn a_child_that_dies_takes_only_its_peer_along() {
    let dir = dir();
    let to = unix(&server(&dir, 2, echo));
    let relay = Relay::start(&["tcp://127.0.0.1:0", &to, "--raw", "--fork"]);
    let serve = || {
        let mut peer = relay.tcp();
        peer.write_all(b"x").expect("it is taken");
        peer.read_exact(&mut [0]).expect("it is served");
        peer
    };
    let mut first = serve();
    let child = children(relay.process.pid())[0];
    kill(Pid::from_raw(child), Signal::SIGKILL).expect("it is a child of ours");
    let mut rest = Vec::new();
    // A reset is an end, too.
    let _ = first.read_to_end(&mut rest);
    relay.process.stderr.wait_for("SIGKILL");
    serve();
}

#[test]
fn what_makes_no_sense_is_said() {
    let usage = |args: &[&str], word: &str| {
        let ended = spawn(args, &[]).wait().expect(2);
        assert!(ended.stderr.contains(word), "{args:?}: {}", ended.stderr);
        assert_eq!(
            ended.stderr.lines().count().min(2),
            1 + usize::from(args.len() < 2),
            "{args:?}"
        );
    };
    usage(&["tcp://127.0.0.1:0"], "<B>");
    usage(&["nowhere://x", "unix:///x"], "unix, pipe");
    usage(&["tcp://127.0.0.1:0", "unix:///x?codec=morse"], "line");
    usage(&["tcp://127.0.0.1:0?codec=frame", "unix:///x"], "ipcd:SUBJECT");
    usage(&["tcp://127.0.0.1:0?codec=line", "unix:///x", "--raw"], "codec=");
    usage(&["tcp://0.0.0.0:0", "unix:///x"], "insecure=true");
    usage(&["pipe:cat", "unix:///x"], "pipe");
    usage(&["ipcd:a..b", "unix:///x"], "empty");
    let occupied = TcpListener::bind("127.0.0.1:0").expect("there is a port");
    let at = format!("tcp://{}", occupied.local_addr().expect("it is bound"));
    let ended = spawn(&[&at, "unix:///x"], &[]).wait().expect(3);
    assert!(ended.stderr.contains(&at), "{}", ended.stderr);
    let dir = dir();
    let run = dir.path().display().to_string();
    let nowhere = ["--runtime-dir", &run, "ipcd:a", "unix:///x"];
    let ended = spawn(&nowhere, &[]).wait().expect(3);
    assert!(ended.stderr.contains("is ipcd running"), "{}", ended.stderr);
    // A path that was claimed is free again.
    assert!(fs::read_dir(dir.path()).expect("it is there").next().is_none());
}

#[test]
fn quiet_says_only_what_goes_wrong() {
    let dir = dir();
    let path = dir.path().join("relay.sock");
    let nobody = unix(&dir.path().join("nobody.sock"));
    let mut relay = spawn(&["-q", &unix(&path), &nobody, "--raw"], &[]);
    let mut peer = eventually("that it listens", || UnixStream::connect(&path).ok());
    let mut rest = Vec::new();
    let _ = peer.read_to_end(&mut rest);
    relay.stderr.wait_for("nobody.sock");
    relay.signal(Signal::SIGTERM);
    let said = relay.wait().expect(0).stderr;
    assert!(!said.contains("listening"), "{said}");
}

/// What stunnel(8) is used for: a client and a server that know nothing of TLS, and TLS between.
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
        let far = Relay::start(&[&["--raw", &inward, &unix(&server)], way].concat());
        let address = far.at.split('?').next().expect("it has an address");
        let outward = format!("{address}?ca={}", file("ca.pem"));
        let near = Relay::start(&[&["--raw", "tcp://127.0.0.1:0", &outward], way].concat());
        let mut client = near.tcp();
        let bytes = noise(3_000_000, 7);
        client.write_all(&bytes).expect("bytes go");
        client.shutdown(Shutdown::Write).expect("the end goes");
        let mut back = Vec::new();
        client.read_to_end(&mut back).expect("bytes come back");
        assert!(back == bytes, "{} of {} bytes came back", back.len(), bytes.len());
        fs::remove_file(server).expect("it was made above");
    }
}
