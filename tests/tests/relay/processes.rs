//! The relay's own processes: how many, and what is left when they end.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;

use ipcd_tests::{children, eventually, is_alive, state};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{RunningRelay, WAYS, dir, echo, server, unix};

#[test]
fn more_peers_than_children_wait() {
    let dir = dir();
    let to = unix(&server(&dir, 3, echo));
    let args = ["tcp://127.0.0.1:0", &to, "--raw", "--fork", "--max-children", "2"];
    let relay = RunningRelay::start(&args);
    let pid = relay.process.pid();
    let mut peers: Vec<TcpStream> = (0..3).map(|_| relay.tcp()).collect();
    for (peer, text) in peers.iter_mut().zip([b"a", b"b"]) {
        peer.write_all(text).expect("the peer reads the bytes");
        let mut heard = [0];
        peer.read_exact(&mut heard).expect("the answer comes");
        assert_eq!(&heard, text);
    }
    assert_eq!(children(pid).len(), 2);
    let mut last = peers.pop().expect("there are three");
    last.write_all(b"c").expect("the kernel takes it");
    assert_eq!(children(pid).len(), 2);
    peers.pop();
    let mut heard = [0];
    last.read_exact(&mut heard).expect("the answer comes");
    assert_eq!(&heard, b"c");
}

#[test]
fn told_to_end_it_leaves_nothing_behind() {
    for (way, signal) in [(WAYS[0], Signal::SIGTERM), (WAYS[1], Signal::SIGINT)] {
        let dir = dir();
        let path = dir.path().join("relay.sock");
        // The command does not end by itself, nor does its child.
        let command = "pipe:sh -c 'echo here; sleep 1000; echo there'";
        let mut relay = RunningRelay::start(&[&[&unix(&path), command, "--raw"], way].concat());
        let mut peer = UnixStream::connect(&path).expect("the listener accepts a connection");
        let mut heard = [0; 5];
        peer.read_exact(&mut heard).expect("the command runs");
        let pid = relay.process.pid();
        // A shell, its child, and the relay's child that serves the peer, if there is one. The
        // process that ends them when the relay is killed is not its child. So they are as many as
        // there are peers.
        let members = 2 + way.len();
        let all = eventually("all processes of the relay", || {
            Some(family(pid)).filter(|all| all.len() == members)
        });
        relay.process.signal(signal);
        relay.process.wait().expect(0);
        eventually("all processes have ended", || {
            all.iter().all(|pid| !is_alive(*pid)).then_some(())
        });
        assert!(!path.exists() && state(all[0]).is_none());
    }
}

/// All descendants of a process.
fn family(pid: i32) -> Vec<i32> {
    let children = children(pid);
    let rest: Vec<i32> = children.iter().flat_map(|child| family(*child)).collect();
    [children, rest].concat()
}

#[test]
fn when_the_parent_is_killed_its_children_end_too() {
    let dir = dir();
    let to = unix(&server(&dir, 1, echo));
    let mut relay = RunningRelay::start(&["tcp://127.0.0.1:0", &to, "--raw", "--fork"]);
    let mut peer = relay.tcp();
    peer.write_all(b"x").expect("the peer reads the bytes");
    peer.read_exact(&mut [0]).expect("the answer comes");
    let child = children(relay.process.pid())[0];
    relay.process.signal(Signal::SIGKILL);
    relay.process.wait();
    eventually("the child's end", || (!is_alive(child)).then_some(()));
}

#[test]
fn a_child_that_dies_takes_only_its_peer_along() {
    let dir = dir();
    let to = unix(&server(&dir, 2, echo));
    let relay = RunningRelay::start(&["tcp://127.0.0.1:0", &to, "--raw", "--fork"]);
    let serve = || {
        let mut peer = relay.tcp();
        peer.write_all(b"x").expect("the peer reads the bytes");
        peer.read_exact(&mut [0]).expect("the answer comes");
        peer
    };
    let mut first = serve();
    let child = children(relay.process.pid())[0];
    kill(Pid::from_raw(child), Signal::SIGKILL).expect("the process runs");
    let mut rest = Vec::new();
    // A reset counts as an end.
    let _ = first.read_to_end(&mut rest);
    relay.process.stderr.wait_for("SIGKILL");
    serve();
}
