//! `ipcd --stdio`: a proxy to the daemon for any program that carries bytes.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::Command;

use ipcd_tests::{Daemon, DaemonSetup, RawConnection, RunningProcess, ipcd};

fn through(daemon: &Daemon) -> String {
    format!("pipe:{} --stdio --runtime-dir {}", ipcd().display(), daemon.runtime_dir().display())
}

#[test]
fn everything_works_through_the_pipes_of_a_child() {
    let daemon = DaemonSetup::new().listen(&["unix"]).start();
    let via = through(&daemon);
    let mut receiver = daemon.ctl(&via, &["recv", "-E", "-C", "3", "news"]).spawn_subscribed();
    daemon.ctl(&via, &["send", "news", "-l"]).run_fed(b"one\ntwo\n").expect(0);
    daemon.send("news", "three");
    assert_eq!(receiver.wait().expect(0).text(), "one\ntwo\nthree\n");
    let _server = daemon.ctl(&via, &["serve", "echo", "-E", "--echo"]).spawn_subscribed();
    let body: Vec<u8> = (0..1 << 20).map(|number: u32| (number % 251) as u8).collect();
    let ended = daemon.ctl(&via, &["req", "echo", "-N"]).run_fed(&body).expect(0);
    assert!(ended.stdout == body, "a megabyte there and back");
}

/// The flag belongs to the open file description, so every process that shares it can set it.
#[test]
fn input_that_does_not_block_is_waited_for() {
    let daemon = DaemonSetup::new().listen(&["unix"]).start();
    let (mut near, far) = UnixStream::pair().expect("descriptors are left");
    far.set_nonblocking(true).expect("a socket can be made so");
    let mut command = Command::new(ipcd());
    command.args(["--stdio", "--runtime-dir"]).arg(daemon.runtime_dir());
    let mut way = RunningProcess::start(command.stdin(OwnedFd::from(far)));
    let mut output = way.take_stdout();
    drop(command);
    // It is connected, and has most likely found nothing to move.
    daemon.wait_for_peers(1);
    near.write_all(&RawConnection::hello_bytes()).expect("the peer reads the bytes");
    output.read_exact(&mut [0; 4]).expect("the daemon welcomes it");
    near.shutdown(Shutdown::Write).expect("the socket is open");
    output.read_to_end(&mut Vec::new()).expect("the end is passed on, and answered");
    way.wait().expect(0);
}

#[test]
fn it_says_when_there_is_no_daemon() {
    let dir = ipcd_tests::private_dir();
    let mut command = Command::new(ipcd());
    command.args(["--stdio", "--runtime-dir"]).arg(dir.path());
    let ended = RunningProcess::start(&mut command).wait().expect(3);
    assert!(ended.stderr.contains("is ipcd running there?"), "{}", ended.stderr);
}

/// The child ends with the daemon, and with its parent.
#[test]
fn it_ends_with_either_side() {
    let mut daemon = DaemonSetup::new().listen(&["unix"]).start();
    let args = ["recv", "-E", "--no-reconnect", "news"];
    let mut receiver = daemon.ctl(&through(&daemon), &args).spawn_subscribed();
    daemon.terminate().expect(0);
    receiver.wait().expect(7);
}
