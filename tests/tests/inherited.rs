//! State that programs inherit from their parent, and pass on to their children: signals, limits,
//! descriptors, and processes that outlive their parent.

use std::fs;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};

use ipcd_tests::{
    Daemon, DaemonSetup, RunningProcess, descriptors, eventually, ipcctl, is_alive, is_without,
    skip, state,
};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const DEAF: &str = "trap '' CHLD; exec \"$@\"";

/// An `ipcctl` that a shell starts after a script.
fn after(script: &str, daemon: &Daemon, args: &[&str]) -> RunningProcess {
    let mut shell = Command::new("sh");
    shell.args(["-c", script, "sh"]).arg(ipcctl()).arg("--runtime-dir").arg(daemon.runtime_dir());
    RunningProcess::start(shell.args(args).stdin(Stdio::null()))
}

fn subscribed(script: &str, daemon: &Daemon, args: &[&str]) -> RunningProcess {
    let running = after(script, daemon, args);
    running.stderr.wait_for("subscribed\n");
    running
}

/// The answer of a relay at a path to a peer that sends a line.
fn answer(at: &Path, said: &[u8]) -> String {
    let mut peer = UnixStream::connect(at).expect("a relay listens there");
    peer.write_all(said).and_then(|()| peer.shutdown(Shutdown::Write)).expect("it hears");
    let mut heard = String::new();
    peer.read_to_string(&mut heard).expect("the stream ends");
    heard
}

fn relay(script: &str, daemon: &Daemon, at: &Path, command: &str, more: &[&str]) -> RunningProcess {
    let (from, to) = (format!("unix://{}", at.display()), format!("pipe:{command}"));
    let args = [&["relay", "--raw", &from, &to], more].concat();
    let running = after(script, daemon, &args);
    running.stderr.wait_for("listening on");
    running
}

fn pid_in(file: &Path) -> i32 {
    eventually("the number of a process", || {
        let text = fs::read_to_string(file).ok()?;
        text.strip_suffix('\n')?.parse().ok()
    })
}

fn wait_for_end_of(pid: i32) {
    eventually("the end of a process", || (!is_alive(pid)).then_some(()));
}

#[test]
fn a_daemon_whose_parent_ignores_sigchld_starts_and_replaces_its_workers() {
    let daemon = DaemonSetup::new().listen(&["unix"]).wrapper(DEAF).start();
    let first = daemon.worker();
    kill(Pid::from_raw(first), Signal::SIGKILL).expect("the process runs");
    daemon.process.stderr.wait_for("worker died");
    eventually("another worker", || {
        let workers = ipcd_tests::children(daemon.process.pid());
        workers.iter().any(|pid| *pid != first).then_some(())
    });
}

#[test]
fn commands_of_tools_whose_parent_ignores_sigchld_are_noticed_to_end() {
    let daemon = DaemonSetup::new().listen(&["unix"]).start();
    let _server = subscribed(DEAF, &daemon, &["serve", "-E", "echo", "--", "cat"]);
    assert_eq!(daemon.ctl("unix", &["req", "echo", "x"]).run().expect(0).text(), "x\n");
    let handling = ["recv", "-E", "-C", "1", "y", "--exec", "--", "true"];
    let mut receiver = subscribed(DEAF, &daemon, &handling);
    daemon.send("y", "1");
    receiver.wait().expect(0);
    let at = daemon.dir().join("relay.sock");
    let mut relay = relay(DEAF, &daemon, &at, "cat", &["--fork", "--max-children", "1"]);
    for _ in 0..3 {
        assert_eq!(answer(&at, b"hello"), "hello");
    }
    relay.signal(Signal::SIGTERM);
    relay.wait().expect(0);
}

/// timeout(1) is such a parent: it signals its child, and then its group.
#[test]
fn two_signals_in_a_row_are_one_to_whoever_ends_gently() {
    let mut daemon = DaemonSetup::new().listen(&["unix"]).start();
    let (begun, go) = (daemon.dir().join("begun"), daemon.dir().join("go"));
    let script = format!(
        "echo > {}; until [ -e {} ]; do sleep 0.01; done; cat",
        begun.display(),
        go.display()
    );
    let args = ["serve", "-E", "work", "--", "sh", "-c", &script];
    let mut server = daemon.ctl("unix", &args).spawn_subscribed();
    let mut asking = daemon.ctl("unix", &["req", "work", "done"]).spawn();
    eventually("the command has begun", || begun.exists().then_some(()));
    server.signal(Signal::SIGTERM);
    server.signal(Signal::SIGTERM);
    // After both signals the daemon has removed its subscription.
    eventually("the command takes no more", || {
        let subs = daemon.ctl("unix", &["subs", "-j"]).run().expect(0).text();
        (!subs.contains("\"work\"")).then_some(())
    });
    fs::write(&go, "").expect("the file can be made");
    assert_eq!(asking.wait().expect(0).text(), "done\n");
    server.wait().expect(0);

    let worker = daemon.worker();
    kill(Pid::from_raw(worker), Signal::SIGSTOP).expect("the process runs");
    eventually("the process is stopped", || (state(worker) == Some('T')).then_some(()));
    daemon.process.signal(Signal::SIGTERM);
    daemon.process.stderr.wait_for("draining");
    daemon.process.signal(Signal::SIGTERM);
    kill(Pid::from_raw(worker), Signal::SIGCONT).expect("the process runs");
    let log = daemon.process.wait().expect(0).stderr;
    assert!(!log.contains("ending at once") && log.contains("ended"), "{log}");
}

#[test]
fn a_second_signal_that_comes_later_kills_the_command() {
    let daemon = DaemonSetup::new().listen(&["unix"]).start();
    let file = daemon.dir().join("child");
    let script = format!("echo $$ > {}; exec sleep 1000", file.display());
    let args = ["serve", "-E", "work", "--job-timeout", "0", "--", "sh", "-c", &script];
    let mut server = daemon.ctl("unix", &args).spawn_subscribed();
    let _asking = daemon.ctl("unix", &["req", "work", ""]).spawn();
    let child = pid_in(&file);
    server.signal_until_the_end(Signal::SIGTERM);
    server.wait().expect(1);
    wait_for_end_of(child);
}

#[test]
fn signals_that_a_parent_blocks_or_ignores_still_end_what_it_starts() {
    if !Command::new("env").args(["--block-signal", "true"]).status().is_ok_and(|it| it.success()) {
        return skip("this env(1) has no --block-signal");
    }
    let script = "trap '' TERM; exec env --block-signal \"$@\"";
    let mut daemon = DaemonSetup::new().listen(&["unix"]).wrapper(script).start();
    let mut receiver = subscribed(script, &daemon, &["recv", "-E", "x"]);
    receiver.signal(Signal::SIGTERM);
    assert_eq!(receiver.wait().status.code(), None, "it dies of the signal");
    let show = "while read -r key set; do case $key in SigBlk:) echo $key $set;; esac; done \
                < /proc/self/status";
    let args = ["serve", "-E", "masks", "--", "sh", "-c", show];
    let _server = subscribed(script, &daemon, &args);
    let masks = daemon.ctl("unix", &["req", "masks", ""]).run().expect(0).text();
    assert_eq!(masks.trim_start_matches("SigBlk:").trim(), "0000000000000000");
    daemon.terminate().expect(0);
}

#[test]
fn the_daemon_keeps_no_descriptor_that_it_was_not_given() {
    let daemon =
        DaemonSetup::new().listen(&["unix"]).wrapper("exec 9>&2 8</dev/null; exec \"$@\"").start();
    let same = |pid: i32, number: i32| {
        let of = |number| ipcd_tests::descriptor(pid, number);
        of(number).is_some() && of(number) == of(2)
    };
    assert!(!same(daemon.process.pid(), 9), "{:?}", descriptors(daemon.process.pid()));
}

#[test]
fn commands_of_a_relay_have_the_limit_that_it_was_started_with() {
    let daemon = DaemonSetup::new().listen(&["unix"]).start();
    let at = daemon.dir().join("relay.sock");
    let command = "sh -c 'ulimit -Sn; cat'";
    let _relay = relay("ulimit -Sn 123; exec \"$@\"", &daemon, &at, command, &[]);
    assert_eq!(answer(&at, b"and on\n"), "123\nand on\n");
}

/// A child of the command too, which no signal of the tool reaches.
#[test]
fn what_a_tool_has_started_ends_with_it_when_it_is_killed() {
    let daemon = DaemonSetup::new().listen(&["unix"]).start();
    for signal in [Signal::SIGKILL, Signal::SIGHUP] {
        let file = daemon.dir().join(format!("serve.{signal}"));
        let script = format!("sleep 1000 & echo $! > {}; wait", file.display());
        let args = ["serve", "-E", "work", "--", "sh", "-c", &script];
        let mut server = daemon.ctl("unix", &args).spawn_subscribed();
        let mut asking = daemon.ctl("unix", &["req", "work", ""]).spawn();
        let grandchild = pid_in(&file);
        server.signal(signal);
        wait_for_end_of(grandchild);
        asking.wait().expect(7);
    }
    let (at, file) = (daemon.dir().join("relay.sock"), daemon.dir().join("relayed"));
    let command = format!("sh -c 'sleep 1000 & echo $! > {}; wait'", file.display());
    let mut relay = relay("exec \"$@\"", &daemon, &at, &command, &[]);
    let _peer = UnixStream::connect(&at).expect("a relay listens there");
    let grandchild = pid_in(&file);
    relay.signal(Signal::SIGKILL);
    wait_for_end_of(grandchild);
}

#[test]
fn what_a_command_of_a_relay_leaves_behind_ends_with_the_relay() {
    if is_without(&["setsid"]) {
        return;
    }
    let daemon = DaemonSetup::new().listen(&["unix"]).start();
    let (at, file) = (daemon.dir().join("relay.sock"), daemon.dir().join("left"));
    let left =
        format!("setsid sleep 1000 >/dev/null 2>&1 </dev/null & echo $! > {}", file.display());
    let mut relay = relay("exec \"$@\"", &daemon, &at, &format!("sh -c '{left}'"), &[]);
    assert_eq!(answer(&at, b""), "");
    let left = pid_in(&file);
    assert!(is_alive(left), "it goes on as long as the relay");
    relay.signal(Signal::SIGTERM);
    relay.wait().expect(0);
    wait_for_end_of(left);
}

/// In a container without an init the kernel gives process 1 no signal by default, and all orphans.
#[test]
fn as_process_1_a_tool_heeds_signals_and_reaps_orphans() {
    let unshare = ["--user", "--map-root-user", "--pid", "--fork", "--mount-proc"];
    let tried = Command::new("unshare").args(unshare).arg("true").stderr(Stdio::null()).status();
    if !tried.is_ok_and(|status| status.success()) {
        return skip("unshare(1) is not there, or can make no namespace of processes");
    }
    let daemon = DaemonSetup::new().listen(&["unix"]).start();
    let script = format!("exec unshare {} \"$@\"", unshare.join(" "));
    let first = |running: &RunningProcess| {
        eventually("process 1", || ipcd_tests::children(running.pid()).first().copied())
    };
    let mut receiver = subscribed(&script, &daemon, &["recv", "-E", "x"]);
    kill(Pid::from_raw(first(&receiver)), Signal::SIGTERM).expect("the process runs");
    receiver.wait().expect(128 + 15);
    let orphan = "(sh -c 'exec sleep 0' >/dev/null 2>&1 </dev/null &); echo ok";
    let args = ["serve", "-E", "work", "--", "sh", "-c", orphan];
    let mut server = subscribed(&script, &daemon, &args);
    let first = first(&server);
    for _ in 0..5 {
        daemon.ctl("unix", &["req", "work", ""]).run().expect(0);
    }
    eventually("only the server is left", || {
        let children = ipcd_tests::children(first);
        (children.len() == 1 && state(children[0]) != Some('Z')).then_some(())
    });
    kill(Pid::from_raw(first), Signal::SIGTERM).expect("the process runs");
    server.wait().expect(0);
}
