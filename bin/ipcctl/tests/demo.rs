//! `ipcctl demo` as users run it: what it prints, and what it leaves behind.

mod started;

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};

use ipcd_sys::inherited::is_ignored;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use started::{has_children, wait_until};

/// With all its temporary files in a directory of its own.
fn demo(dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ipcctl"));
    command.env("TMPDIR", dir).arg("demo");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    ipcd_tests::guard(&mut command);
    command
}

#[test]
fn json_is_an_array_and_jsonl_an_object_a_line() {
    let dir = tempfile::tempdir().unwrap();
    let run = |format: &str| {
        let output = demo(dir.path()).args(["--messages=3", "--pings=2", "-o", format]).output();
        let output = output.unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let all: Value = serde_json::from_str(&run("json")).unwrap();
    assert_eq!(all.as_array().unwrap().len(), 25);
    let lines = run("jsonl");
    assert_eq!(lines.lines().count(), 25);
    for line in lines.lines() {
        let cell: Value = serde_json::from_str(line).unwrap();
        assert_eq!((&cell["messages"], &cell["error"]), (&3.into(), &Value::Null));
    }
}

#[test]
fn an_interrupted_demo_leaves_nothing() {
    let signals = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP];
    // Under nohup(1) it ignores HUP, as we do.
    let is_heeded = |signal: &Signal| *signal != Signal::SIGHUP || !is_ignored(*signal);
    for signal in signals.into_iter().filter(is_heeded) {
        let dir = tempfile::tempdir().unwrap();
        // More than it could send in the time of the test.
        let mut child = demo(dir.path()).arg("--messages=100000000").spawn().unwrap();
        let pid = Pid::from_raw(child.id() as i32);
        // The daemon and, with it, the processes that send and receive.
        wait_until(&mut child, || has_children(pid, 11));
        kill(pid, signal).unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.signal(), Some(signal as i32), "{output:?}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "something is left");
    }
}
