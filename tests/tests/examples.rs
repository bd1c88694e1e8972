//! The examples of the client library work.

use std::process::Command;

use ipcd_tests::{Daemon, RunningProcess, example};

fn start(name: &str, args: &[&str]) -> RunningProcess {
    RunningProcess::start(Command::new(example(name)).args(args))
}

#[test]
fn publish_and_subscribe_meet() {
    let daemon = Daemon::start();
    let endpoint = daemon.via("unix");
    let mut subscriber = start("subscribe", &[&endpoint, "news.*", "2"]);
    subscriber.stderr.wait_for("subscribed");
    start("publish", &[&endpoint, "news.local", "one", "two"]).wait().expect(0);
    assert_eq!(subscriber.wait().expect(0).text(), "news.local: one\nnews.local: two\n");
}

#[test]
fn pair_hears_itself_over_every_transport() {
    let daemon = Daemon::start();
    let token = daemon.runtime_dir().join("token").display().to_string();
    for scheme in ["unix", "pipe", "fifo", "tcp", "udp"] {
        let said = start("pair", &[&daemon.via(scheme), &token]).wait().expect(0).text();
        assert!(said.contains("said: it is me"), "{scheme}: {said}");
    }
}

#[test]
fn pair_finds_the_daemon_that_ipcctl_finds() {
    let daemon = Daemon::start();
    for via in ["", "unix", "tcp", &daemon.via("tcp")] {
        let mut pair = Command::new(example("pair"));
        pair.env("IPCD_RUNTIME_DIR", daemon.runtime_dir()).env("IPCD_VIA", via);
        // The port of the daemon under test is not the default one, so `tcp` alone fails there.
        let expected = i32::from(via == "tcp");
        let ended = RunningProcess::start(&mut pair).wait().expect(expected);
        let said = if expected == 0 { "said: it is me" } else { "tcp://127.0.0.1:7117" };
        assert!((ended.text() + &ended.stderr).contains(said), "{via}: {}", ended.stderr);
    }
}

#[test]
fn examples_say_why_they_fail() {
    let ended = start("pair", &["unix:///nowhere/at/all"]).wait().expect(1);
    assert!(ended.stderr.contains("cannot connect"), "{}", ended.stderr);
}
