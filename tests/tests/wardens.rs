//! Processes of a test end with it, also when the test program is interrupted or killed. A test
//! whose program is not installed is skipped with a line that says so.

use std::env;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};

use ipcd_tests::{DaemonSetup, RunningProcess, eventually, is_alive, is_without, private_dir};
use nix::sys::signal::Signal;

/// Set in the test program that will be ended; its directories are in this one.
const VICTIM: &str = "IPCD_TEST_VICTIM";

/// This test program again, with one test that waits for its end.
fn victim(dir: &Path) -> RunningProcess {
    let mut command = Command::new(env::current_exe().expect("a test knows its own path"));
    command.args(["--exact", "starts_what_is_to_end_with_it", "--nocapture", "--ignored"]);
    command.env(VICTIM, dir).env("TMPDIR", dir).env_remove("CARGO").stdin(Stdio::null());
    RunningProcess::start(&mut command)
}

/// Starts a daemon with two workers, a program that the daemon runs, a server with a handler, and a
/// shell with a detached child; reports their process ids, and waits.
#[test]
#[ignore = "it waits to be killed"]
fn starts_what_is_to_end_with_it() {
    let Some(dir) = env::var_os(VICTIM) else { return };
    // A shell ignores INT for programs that it starts in the background, and a child inherits that:
    // INT would never end this process.
    let _ = ipcd_sys::inherited::ending();
    let note = |name: &str| format!("echo $$ > {}/{name}", Path::new(&dir).display());
    let exec = format!("[[exec]]\ncommand = [\"sh\", \"-c\", \"{}; exec cat\"]\n", note("exec"));
    let config = format!("{exec}subscribe = [\"jobs\"]\n");
    let setup = DaemonSetup::new().listen(&["unix"]).config(&config).args(&["--workers", "2"]);
    let daemon = setup.start();
    let script = format!("{}; exec sleep 1000", note("handler"));
    let serve = ["serve", "-E", "work", "--", "sh", "-c", &script];
    let _server = daemon.ctl("unix", &serve).spawn_subscribed();
    let _caller = daemon.ctl("unix", &["req", "work", "x"]).spawn();
    let script = format!("(({}; exec sleep 1000) &) ; exec sleep 1000", note("left"));
    let _shell = RunningProcess::start(Command::new("sh").args(["-c", &script]));
    for pid in daemon.workers().iter().map(|worker| worker.pid).chain([daemon.process.pid()]) {
        println!("started {pid}");
    }
    println!("started all");
    std::thread::park();
}

#[test]
fn what_an_interrupted_test_has_started_ends_with_it() {
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGKILL] {
        let dir = private_dir();
        let mut victim = victim(dir.path());
        let said = victim.stdout().wait_until("all that is started", |text| {
            text.contains("started all").then(|| text.to_owned())
        });
        let mut pids: Vec<i32> =
            said.lines().filter_map(|line| line.strip_prefix("started ")?.parse().ok()).collect();
        for name in ["exec", "handler", "left"] {
            let file = dir.path().join(name);
            pids.push(eventually(name, || {
                std::fs::read_to_string(&file).ok()?.trim().parse().ok()
            }));
        }
        assert_eq!(pids.len(), 6, "{said}");
        victim.signal(signal);
        victim.wait();
        eventually(&format!("the end of all after {signal}"), || {
            pids.iter().all(|pid| !is_alive(*pid)).then_some(())
        });
        eventually("no directory is left", || {
            let names = std::fs::read_dir(dir.path()).expect("the directory can be read").flatten();
            names.map(|entry| entry.file_name()).all(|name| name.len() < 10).then_some(())
        });
    }
}

#[test]
fn what_a_process_leaves_behind_ends_when_its_test_fails() {
    let dir = private_dir();
    let file = dir.path().join("left");
    let script = format!("sleep 1000 & echo $! > {}; wait", file.display());
    let shell = RunningProcess::start(Command::new("sh").args(["-c", &script]));
    let left =
        eventually("its number", || std::fs::read_to_string(&file).ok()?.trim().parse().ok());
    drop(shell);
    eventually("its end", || (!is_alive(left)).then_some(()));
}

#[test]
#[ignore = "it is run by the next one"]
fn needs_programs_that_are_nowhere() {
    if is_without(&["sh", "no-such-program", "nc"]) {
        return;
    }
    unreachable!("there is a program of that name");
}

#[test]
fn a_test_without_its_programs_is_skipped_in_one_line_by_name() {
    let dir = private_dir();
    symlink("/bin/sh", dir.path().join("sh")).expect("the directory is writable");
    let mut command = Command::new(env::current_exe().expect("a test knows its own path"));
    command.args(["--exact", "needs_programs_that_are_nowhere", "--ignored"]);
    let ended = RunningProcess::start(command.env("PATH", dir.path())).wait().expect(0);
    let why = "no-such-program, nc (Debian: netcat-openbsd) are not installed";
    assert_eq!(ended.stderr, format!("skipped: needs_programs_that_are_nowhere: {why}\n"));
}
