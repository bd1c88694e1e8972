//! Tools that outlive the daemon: their remarks, the messages that they send again, and their end.

use std::io::Write;
use std::process::{Command, Stdio};

use ipcd_tests::{Daemon, DaemonSetup, RunningProcess, eventually, ipcctl};
use nix::sys::signal::Signal;

const OPEN: &str = "[limits]\nstall_timeout = \"1000s\"\n";

/// Lines of a file that grows, as `tail -F x | ipcctl send -l` sends them, over restarts.
#[test]
fn a_sender_that_reconnects_loses_nothing_over_restarts() {
    let mut daemon = DaemonSetup::new().listen(&["unix"]).start();
    let mut sender = daemon.ctl("unix", &["send", "-l", "--reconnect", "log"]).spawn_fed();
    let mut input = sender.stdin();
    for round in 0..3 {
        let mut receiver = daemon.recv("unix", &["-C", "2", "log"]);
        writeln!(input, "{round}a\n{round}b").expect("it reads");
        assert_eq!(receiver.wait().expect(0).text(), format!("{round}a\n{round}b\n"));
        if round < 2 {
            daemon.terminate().expect(0);
            daemon = daemon.start_again();
            eventually("the sender has reconnected", || {
                sender.stderr.text().matches("connected again").nth(round).map(drop)
            });
        }
    }
    drop(input);
    let said = sender.wait().expect(0).stderr;
    assert!(!said.contains("sent again"), "all was confirmed before it waited: {said}");
}

/// Messages that the daemon had not accepted when it was killed.
#[test]
fn what_was_not_confirmed_is_sent_again_and_told() {
    let daemon = DaemonSetup::new().config(OPEN).listen(&["unix"]).start();
    let mut slow = daemon.recv("unix", &["x"]);
    slow.signal(Signal::SIGSTOP);
    let mut sender = daemon.ctl("unix", &["send", "-l", "--reconnect", "x"]).spawn_fed();
    let mut input = sender.stdin();
    let line = "x".repeat(500_000);
    let writing = std::thread::spawn(move || {
        // More than the send queue and the kernel hold: the daemon stops reading.
        (0..40).all(|number| writeln!(input, "{number} {line}").is_ok())
    });
    eventually("the sender waits", || {
        let clients = daemon.clients();
        let queued = clients.iter().filter_map(|peer| peer["queued_bytes"].as_u64()).max();
        queued.filter(|bytes| *bytes > 7_000_000).map(drop)
    });
    daemon.signal_worker(daemon.worker(), Signal::SIGKILL);
    sender.stderr.wait_for("unconfirmed messages that are sent again");
    drop(slow);
    assert!(writing.join().expect("the thread does not panic"), "all lines are taken");
    sender.wait().expect(0);
}

#[test]
fn who_waits_for_a_daemon_that_is_not_up_yet_is_served_when_it_is() {
    let dir = tempfile::tempdir().expect("a directory can be made");
    let start = |args: &[&str]| {
        let mut command = Command::new(ipcctl());
        command.arg("--runtime-dir").arg(dir.path().join("run")).args(args);
        RunningProcess::start(command.stdin(Stdio::null()))
    };
    let mut receiver = start(&["recv", "--reconnect", "-E", "-C", "1", "x"]);
    let _server = start(&["serve", "--reconnect", "-E", "work", "--echo"]);
    let mut sender =
        start(&["send", "--reconnect", "--wait-subs", "1", "--timeout", "60s", "x", "hello"]);
    for waiting in [&receiver, &sender] {
        waiting.stderr.wait_for("waiting for the daemon");
    }
    let daemon: Daemon = DaemonSetup::new().listen(&["unix"]).start_in(dir);
    assert_eq!(receiver.wait().expect(0).text(), "hello\n");
    sender.wait().expect(0);
    let ask = ["req", "--wait-subs", "1", "work", "here?"];
    assert_eq!(daemon.ctl("unix", &ask).run().expect(0).text(), "here?\n");
}

/// A receiver without its subscription would wait for ever.
#[test]
fn who_may_not_subscribe_again_ends_with_the_reason() {
    let mut daemon = DaemonSetup::new().listen(&["unix"]).start();
    let mut receiver = daemon.ctl("unix", &["recv", "-E", "b.>"]).spawn_subscribed();
    let mut server = daemon.ctl("unix", &["serve", "-E", "b.x", "--echo"]).spawn_subscribed();
    daemon.terminate().expect(0);
    let rules = "[[acl]]\nsubscribe = [\"b.>\"]\naction = \"deny\"\n";
    let _daemon = DaemonSetup::new().config(rules).listen(&["unix"]).start_in(daemon.into_dir());
    for (mut ended, filter) in [(receiver.wait(), "b.>"), (server.wait(), "b.x")] {
        ended = ended.expect(6);
        assert!(ended.stderr.contains(&format!("subscribe to {filter} again")), "{}", ended.stderr);
    }
}

#[test]
fn only_accepted_messages_can_be_sent_again() {
    let daemon = DaemonSetup::new().listen(&["unix"]).start();
    for ack in ["none", "delivered"] {
        let args = ["send", "--reconnect", "--ack", ack, "x", "y"];
        assert!(daemon.ctl("unix", &args).run().expect(2).stderr.contains("--ack"));
    }
    // An endless line is refused before it fills the memory.
    for verb in [&["send", "x"][..], &["req", "x"], &["serve", "x"]] {
        let ended = daemon.ctl("unix", &[verb, &["-f", "/dev/zero"]].concat()).run().expect(8);
        assert!(ended.stderr.contains("at most 1048576"), "{}", ended.stderr);
    }
}

/// The worker, which has too few descriptors, tells each: 'broken pipe' would say nothing.
#[test]
fn who_is_refused_for_lack_of_descriptors_is_told_so() {
    let setup = DaemonSetup::new().listen(&["unix"]).args(&["--workers", "1"]);
    let daemon = setup.wrapper("ulimit -n 40; exec \"$@\"").start();
    let (mut served, mut refused) = (Vec::new(), None);
    while refused.is_none() {
        assert!(served.len() < 40, "there are no more descriptors than that");
        let mut peer = daemon.ctl("unix", &["recv", "-E", "--no-reconnect", "x"]).spawn();
        eventually("the client has an answer", || {
            let is_over = peer.has_ended().is_some();
            (is_over || peer.stderr.text().contains("subscribed")).then_some(())
        });
        match peer.has_ended() {
            Some(_) => refused = Some(peer.wait().expect(6).stderr),
            None => served.push(peer),
        }
    }
    let why = refused.expect("one was refused");
    assert!(why.contains("RLIMIT_NOFILE") && !served.is_empty(), "{why}");
}
