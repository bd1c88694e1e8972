//! Servers: commands that are started for a peer, and servers that are remote or absent.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::thread;

use ipcd_tests::{children, eventually};

use super::{RunningRelay, WAYS, dir, echo, exchange, spawn, unix};

#[test]
fn a_command_knows_its_peer_and_is_reaped() {
    let command = "pipe:sh -c 'echo $PROTO $TCPREMOTEIP $IPC_TRANSPORT ${IPC_SUBJECT-none} \
                   ${TCPREMOTEINFO-none}; echo $TCPREMOTEPORT $IPC_FROM_ADDR $TCPLOCALPORT; cat'";
    for way in WAYS {
        let args = [&["tcp://127.0.0.1:0", command, "--raw", "--ucspi"], way].concat();
        let stale = [("IPC_SUBJECT", "of another process"), ("TCPREMOTEINFO", "likewise")];
        let mut relay = RunningRelay::listening(spawn(&args, &stale));
        let peer = relay.tcp();
        let ours = peer.local_addr().expect("the socket is bound");
        let theirs = peer.peer_addr().expect("the socket is connected");
        let heard =
            String::from_utf8(exchange(peer, b"and what it is told")).expect("the bytes are UTF-8");
        let (port, at) = (ours.port(), theirs.port());
        let expected = format!(
            "TCP 127.0.0.1 tcp none none\n{port} 127.0.0.1:{port} {at}\nand what it is told"
        );
        assert_eq!(heard, expected);
        let pid = relay.process.pid();
        eventually("the process is reaped", || children(pid).is_empty().then_some(()));
        relay.terminate().expect(0);
    }
}

#[test]
fn local_peers_have_their_numbers() {
    let dir = dir();
    let path = dir.path().join("relay.sock");
    let command = "pipe:sh -c 'echo $PROTO $UNIXREMOTEPID $IPC_FROM_PID $UNIXREMOTEEUID'";
    let _relay = RunningRelay::start(&[&unix(&path), command, "--raw", "--ucspi"]);
    let mut heard = String::new();
    let mut peer = UnixStream::connect(&path).expect("the listener accepts a connection");
    peer.read_to_string(&mut heard).expect("the stream ends");
    let (pid, uid) = (std::process::id(), nix::unistd::geteuid());
    assert_eq!(heard, format!("UNIX {pid} {pid} {uid}\n"));
}

#[test]
fn a_server_that_is_not_there_closes_one_peer_and_not_the_relay() {
    for way in WAYS {
        let dir = dir();
        let path = dir.path().join("server.sock");
        let mut relay =
            RunningRelay::start(&[&["tcp://127.0.0.1:0", &unix(&path), "--raw"], way].concat());
        let mut rest = Vec::new();
        let peer = relay.tcp();
        let who = peer.local_addr().expect("the socket is bound").to_string();
        // A reset counts as an end.
        let _ = (&peer).read_to_end(&mut rest);
        relay.process.stderr.wait_for(&who);
        relay.process.stderr.wait_for(&format!("connect to {}", path.display()));
        let listener = UnixListener::bind(&path).expect("the path is free");
        let mut peer = relay.tcp();
        let (mut server, _) = listener.accept().expect("the relay comes");
        server.write_all(b"here I am").expect("the peer reads the bytes");
        drop(server);
        peer.read_to_end(&mut rest).expect("the stream ends");
        assert_eq!(rest, b"here I am");
        relay.terminate().expect(0);
    }
}

/// A remote server is connected to once, by another process, and works the same.
#[test]
fn a_server_on_the_network_sees_one_connection_for_each_peer() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let to = format!("tcp://{}", listener.local_addr().expect("the socket is bound"));
    for way in WAYS {
        let dir = dir();
        let path = dir.path().join("relay.sock");
        let mut relay = RunningRelay::start(&[&[&unix(&path), &to, "--raw"], way].concat());
        for number in 0..20 {
            let mut peer = UnixStream::connect(&path).expect("the listener accepts a connection");
            write!(peer, "{number}").expect("it is taken");
            peer.shutdown(Shutdown::Write).expect("the socket is open");
            let (mut server, _) = listener.accept().expect("the relay comes");
            let mut heard = String::new();
            server.read_to_string(&mut heard).expect("the stream ends");
            assert_eq!(heard, number.to_string());
        }
        let pid = relay.process.pid();
        eventually("all processes are reaped", || children(pid).is_empty().then_some(()));
        assert_eq!(relay.terminate().expect(0).stderr.lines().count(), 1);
    }
    // No other process has this address, so its ports are closed.
    let relay = RunningRelay::start(&["tcp://127.0.0.1:0", "tcp://127.86.75.30:9", "--raw"]);
    let mut rest = Vec::new();
    let _ = relay.tcp().read_to_end(&mut rest);
    relay.process.stderr.wait_for("refused");
}

/// The relay waits for a server that does not answer beside all other work.
#[test]
fn a_server_that_does_not_answer_keeps_nobody_waiting() {
    let dir = dir();
    let path = dir.path().join("server.sock");
    // std asks for a backlog of 128 or more, and no process accepts from it.
    let listener = UnixListener::bind(&path).expect("the path is free");
    let first = UnixStream::connect(&path).expect("the listener accepts a connection");
    first.set_nonblocking(true).expect("the socket is open");
    let waiting = fill_queue(&path);
    let mut relay =
        RunningRelay::start(&["tcp://127.0.0.1:0", &unix(&path), "--raw", "--timeout", "1h"]);
    let peers: Vec<TcpStream> = (0..3).map(|_| relay.tcp()).collect();
    let pid = relay.process.pid();
    eventually("all peers wait", || (children(pid).len() == peers.len()).then_some(()));
    // A process accepts from the backlog, and all are connected.
    drop((first, waiting));
    thread::spawn(move || {
        for stream in listener.incoming() {
            thread::spawn(|| echo(stream.expect("a peer comes")));
        }
    });
    for peer in peers {
        assert_eq!(exchange(peer, b"at last"), b"at last");
    }
    eventually("all processes are reaped", || children(pid).is_empty().then_some(()));
    relay.terminate().expect(0);
}

/// Connects until the backlog is full.
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
