//! The relay's output.

use std::fs;
use std::io::Read;
use std::net::TcpListener;
use std::os::unix::net::UnixStream;

use ipcd_tests::eventually;
use nix::sys::signal::Signal;

use super::{dir, spawn, unix};

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
    let occupied = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let at = format!("tcp://{}", occupied.local_addr().expect("the socket is bound"));
    let ended = spawn(&[&at, "unix:///x"], &[]).wait().expect(3);
    assert!(ended.stderr.contains(&at), "{}", ended.stderr);
    let dir = dir();
    let run = dir.path().display().to_string();
    let nowhere = ["--runtime-dir", &run, "ipcd:a", "unix:///x"];
    let ended = spawn(&nowhere, &[]).wait().expect(3);
    assert!(ended.stderr.contains("is ipcd running"), "{}", ended.stderr);
    // A claimed path is free again.
    assert!(fs::read_dir(dir.path()).expect("the directory can be read").next().is_none());
}

#[test]
fn quiet_says_only_what_goes_wrong() {
    let dir = dir();
    let path = dir.path().join("relay.sock");
    let nobody = unix(&dir.path().join("nobody.sock"));
    let mut relay = spawn(&["-q", &unix(&path), &nobody, "--raw"], &[]);
    let mut peer = eventually("the relay listens", || UnixStream::connect(&path).ok());
    let mut rest = Vec::new();
    let _ = peer.read_to_end(&mut rest);
    relay.stderr.wait_for("nobody.sock");
    relay.signal(Signal::SIGTERM);
    let said = relay.wait().expect(0).stderr;
    assert!(!said.contains("listening"), "{said}");
}
