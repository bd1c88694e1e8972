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
fn examples_say_why_they_fail() {
    let ended = start("pair", &["unix:///nowhere/at/all"]).wait().expect(1);
    assert!(ended.stderr.contains("cannot connect"), "{}", ended.stderr);
}
