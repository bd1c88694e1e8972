//! Every exit status of the command line, from the real binary, with a reason on standard error.

use std::fs::File;
use std::process::{Command, Stdio};

use ipcd_tests::{Daemon, DaemonSetup, ProcessResult, eventually, ipcctl, state};
use nix::sys::signal::Signal;
use serde_json::Value;

fn run(daemon: &Daemon, args: &[&str]) -> ProcessResult {
    daemon.ctl("unix", args).run()
}

/// Runs the command, and expects the status and a reason with this word.
#[track_caller]
fn fails(daemon: &Daemon, args: &[&str], status: i32, word: &str) {
    let ended = run(daemon, args).expect(status);
    assert!(ended.stderr.contains(word), "{args:?}: {}", ended.stderr);
}

#[test]
fn status_0_done() {
    let daemon = DaemonSetup::new().listen(&["unix"]).start();
    let ended = run(&daemon, &["send", "nobody.there", "text"]).expect(0);
    assert_eq!((ended.stdout.len(), &*ended.stderr), (0, ""));
}

#[test]
fn status_1_internal_error() {
    let daemon = DaemonSetup::new().listen(&["unix"]).start();
    let mut command = Command::new(ipcctl());
    command.args(["--via", &daemon.via("unix"), "status"]).stderr(Stdio::piped());
    command.stdout(File::options().write(true).open("/dev/full").expect("Linux has it"));
    let output = command.output().expect("the program starts");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("No space left"), "{said}");
}

#[test]
fn status_2_usage() {
    let daemon = DaemonSetup::new().listen(&["unix"]).start();
    fails(&daemon, &["send"], 2, "SUBJECT");
    fails(&daemon, &["send", "a", "b", "--no-such-option"], 2, "--no-such-option");
    fails(&daemon, &["send", "a", "b", "-H", "no colon"], 2, "KEY:VALUE");
    let ended = daemon.ctl("no-such-transport://x", &["ping"]).run().expect(2);
    assert!(ended.stderr.contains("unix"), "it names what there is: {}", ended.stderr);
}

#[test]
fn status_3_cannot_connect() {
    let daemon = DaemonSetup::new().listen(&["unix"]).start();
    for scheme in ["pipe", "fifo", "tcp", "udp"] {
        let ended = daemon.ctl(scheme, &["ping", "--timeout", "2s"]).run().expect(3);
        assert!(ended.stderr.contains("is ipcd running"), "{}", ended.stderr);
    }
}

#[test]
fn status_4_timeout() {
    let daemon = DaemonSetup::new().listen(&["unix"]).start();
    fails(&daemon, &["recv", "-C", "1", "-W", "0.2", "silence"], 4, "0 of 1");
    let _mute = daemon.recv("unix", &["question"]);
    fails(&daemon, &["req", "question", "?", "--timeout", "0.5"], 4, "time");
    fails(&daemon, &["send", "a", "b", "--wait-subs", "1", "--timeout", "0.2"], 4, "0 of 1");
}

#[test]
fn status_5_nobody_is_there() {
    let daemon = DaemonSetup::new().listen(&["unix"]).start();
    fails(&daemon, &["send", "silence", "text", "--ack", "delivered"], 5, "silence");
    fails(&daemon, &["req", "silence", "?"], 5, "silence");
    fails(&daemon, &["send", "@nobody", "text"], 5, "nobody");
    fails(&daemon, &["send", "@12345", "text"], 5, "12345");
    fails(&daemon, &["kick", "12345"], 5, "12345");
}

#[test]
fn status_6_denied() {
    let daemon = DaemonSetup::new().listen(&["unix", "tcp"]).start();
    let _bob = daemon.recv("unix", &["--name", "bob", "news"]);
    fails(&daemon, &["send", "a", "b", "--name", "bob"], 6, "taken");
    let token = daemon.dir().join("forged");
    std::fs::write(&token, "0123456789abcdef0123456789abcdef").expect("the directory is writable");
    let token = token.display().to_string();
    let ended = daemon.ctl("tcp", &["ping", "--token-file", &token]).run().expect(6);
    assert!(ended.stderr.contains("token"), "{}", ended.stderr);
}

#[test]
fn status_7_dropped_or_cut_off() {
    let daemon =
        DaemonSetup::new().listen(&["unix"]).config("[limits]\noutbox = \"64KiB\"\n").start();
    // Disconnected.
    let mut receiver = daemon.recv("unix", &["--no-reconnect", "--name", "bob", "news"]);
    let id = daemon.peer_named("bob")["id"].to_string();
    run(&daemon, &["kick", &id]).expect(0);
    assert!(receiver.wait().expect(7).stderr.contains("kicked"));
    // Dropped.
    let options = ["--overflow", "drop-newest", "flood"];
    let mut stopped = daemon.recv("unix", &options);
    stopped.signal(Signal::SIGSTOP);
    let pid = stopped.pid();
    eventually("the process is stopped", || (state(pid) == Some('T')).then_some(()));
    let body = "x".repeat(1000);
    run(&daemon, &["send", "flood", &body, "--count", "5000"]).expect(0);
    fails(&daemon, &["send", "flood", "late", "--ack", "delivered"], 7, "drop");
    stopped.signal(Signal::SIGCONT);
    // The responder has gone.
    let mut mute = daemon.recv("unix", &["question"]);
    let mut asking = daemon.ctl("unix", &["req", "question", "?"]).spawn();
    mute.stdout().wait_for("?");
    mute.signal(Signal::SIGKILL);
    let ended = asking.wait().expect(7);
    assert!(ended.stderr.contains("responder has gone"), "{}", ended.stderr);
}

#[test]
fn status_8_a_bad_message() {
    let daemon =
        DaemonSetup::new().listen(&["unix"]).config("[limits]\nmax_message = \"1KiB\"\n").start();
    let body = "x".repeat(1025);
    fails(&daemon, &["send", "a", &body], 8, "1025");
    fails(&daemon, &["send", "a..b", "text"], 8, "empty");
    fails(&daemon, &["send", "a.*", "text"], 8, "subscrib");
    fails(&daemon, &["recv", "a.>.b"], 8, "last token");
    fails(&daemon, &["req", "a", &body], 8, "1025");
}

#[test]
fn status_9_the_remote_handler_failed() {
    let daemon = DaemonSetup::new().listen(&["unix"]).start();
    let serve = ["serve", "fail", "-E", "--", "sh", "-c", "echo partly; exit 3"];
    let _server = daemon.ctl("unix", &serve).spawn_subscribed();
    let ended = run(&daemon, &["req", "fail", "?"]).expect(9);
    assert_eq!(ended.text(), "partly\n");
    assert!(ended.stderr.contains('3'), "{}", ended.stderr);
}

#[test]
fn status_10_a_threshold_is_missed() {
    let daemon = DaemonSetup::new().listen(&["unix"]).start();
    fails(&daemon, &["ping", "--max", "1us"], 10, "1us");
    run(&daemon, &["ping", "--max", "100s"]).expect(0);
}

#[test]
fn status_126_and_127_a_handler_that_cannot_run() {
    let daemon = DaemonSetup::new().listen(&["unix"]).start();
    let file = daemon.dir().join("no-program");
    std::fs::write(&file, "text").expect("the directory is writable");
    let file = file.display().to_string();
    fails(&daemon, &["serve", "work", "--", &file], 126, "no-program");
    fails(&daemon, &["serve", "work", "--", "no-such-program-anywhere"], 127, "no-such-program");
    fails(&daemon, &["recv", "work", "--exec", "--", &file], 126, "no-program");
    fails(&daemon, &["recv", "work", "--exec", "--", "/no/such/program"], 127, "/no/such/program");
    assert_eq!(daemon.clients().len(), 1, "none of them has connected");
}

/// With `-j` an error is one line of JSON.
#[test]
fn errors_are_json_where_that_is_wanted() {
    let daemon = DaemonSetup::new().listen(&["unix"]).start();
    let cases: [(&[&str], u64); 6] = [
        (&["recv", "-j", "-C", "x", "a"], 2),
        (&["send", "-o", "jsonl"], 2),
        (&["req", "silence", "?", "-j"], 5),
        (&["send", "a..b", "text", "-j"], 8),
        (&["recv", "-C", "1", "-W", "0.1", "silence", "-j"], 4),
        (&["serve", "work", "-j", "--", "/no/such/program"], 127),
    ];
    for (args, status) in cases {
        let ended = run(&daemon, args).expect(status as i32);
        let error: Value = serde_json::from_str(&ended.stderr).expect("one line of JSON");
        assert_eq!(error["error"]["exit"], status, "{args:?}");
        assert!(error["error"]["code"].is_string() && error["error"]["message"].is_string());
    }
}
