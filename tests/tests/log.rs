//! The daemon outlives its log, and neither peers nor workers can stop, fill or silence it.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;

use ipcd_tests::{
    DaemonSetup, PATIENCE, ProcessResult, RawConnection, RunningProcess, descriptor, eventually,
    ipcctl, ipcd, is_alive, private_dir,
};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use serde_json::Value;
use tempfile::TempDir;

/// A daemon with its standard error redirected.
struct UnreadLog {
    process: RunningProcess,
    dir: TempDir,
}

impl UnreadLog {
    /// `to` is the shell's redirection of standard error; DIR in it is the test's directory.
    fn start(dir: TempDir, to: &str) -> Self {
        let to = to.replace("DIR", &dir.path().display().to_string());
        let script = format!("exec \"$@\" 2>{to}");
        let setup =
            DaemonSetup::new().listen(&["unix"]).args(&["--ready-fd", "1"]).wrapper(&script);
        let mut process = setup.spawn(dir.path());
        process.stdout().wait_for("\n");
        Self { process, dir }
    }

    fn run_dir(&self) -> PathBuf {
        self.dir.path().join("run")
    }

    /// This number of peers comes and goes; each makes two lines.
    fn visit(&self, times: usize) {
        for _ in 0..times {
            drop(RawConnection::unix(&self.run_dir().join("ipcd.sock")).open());
        }
    }

    fn serves(&self) {
        let mut ping = Command::new(ipcctl());
        ping.arg("--runtime-dir").arg(self.run_dir()).args(["ping", "-c", "1"]);
        RunningProcess::start(&mut ping).wait().expect(0);
    }

    fn terminate(&mut self) -> ProcessResult {
        self.process.signal(Signal::SIGTERM);
        self.process.wait().expect(0)
    }
}

/// Both ends of a FIFO of the smallest size, in a directory of its own.
fn small_pipe() -> (TempDir, File) {
    let dir = private_dir();
    let path = dir.path().join("log");
    mkfifo(&path, Mode::S_IRWXU).expect("the directory is writable");
    let mut options = File::options();
    options.read(true).write(true).custom_flags(OFlag::O_NONBLOCK.bits());
    let pipe = options.open(path).expect("the file can be opened");
    fcntl(&pipe, FcntlArg::F_SETPIPE_SZ(4096)).expect("a smaller one is always allowed");
    (dir, pipe)
}

fn read_all(mut from: &File, into: &mut String) {
    let mut bytes = Vec::new();
    // The loop ends with EAGAIN.
    let _ = from.read_to_end(&mut bytes);
    into.push_str(&String::from_utf8(bytes).expect("the log is text"));
}

#[test]
fn a_log_that_is_not_read_stops_no_peer_and_loses_no_line() {
    let (dir, pipe) = small_pipe();
    let deaf = UnreadLog::start(dir, "DIR/log");
    deaf.visit(90);
    deaf.serves();
    let mut log = String::new();
    eventually("every line", || {
        read_all(&pipe, &mut log);
        (log.matches("peer gone").count() >= 91).then_some(())
    });
    assert_eq!(log.matches("peer connected").count(), 91, "{log}");
    assert!(!log.contains("lost"), "{log}");
}

#[test]
fn a_log_that_is_not_read_does_not_stop_the_end() {
    let (dir, _pipe) = small_pipe();
    let mut deaf = UnreadLog::start(dir, "DIR/log");
    deaf.visit(90);
    deaf.terminate();
}

#[test]
fn a_log_whose_reader_has_gone_or_whose_disk_is_full_ends_nothing() {
    let (dir, pipe) = small_pipe();
    let mut gone = UnreadLog::start(dir, "DIR/log");
    drop(pipe);
    let dir = private_dir();
    let mut full = UnreadLog::start(dir, "/dev/full");
    for deaf in [&mut gone, &mut full] {
        let worker = ipcd_tests::children(deaf.process.pid())[0];
        deaf.visit(50);
        deaf.serves();
        assert!(is_alive(worker), "the worker was replaced");
        deaf.terminate();
    }
}

#[test]
fn a_relay_goes_on_when_its_remarks_are_not_read() {
    let (dir, _pipe) = small_pipe();
    let (from, to) = (dir.path().join("in.sock"), dir.path().join("nothing.sock"));
    let mut shell = Command::new("sh");
    let script = format!("exec \"$@\" 2>{}", dir.path().join("log").display());
    shell.args(["-c", &script, "sh"]).arg(ipcctl()).args(["relay", "--raw"]);
    shell.arg(format!("unix://{}", from.display())).arg(format!("unix://{}", to.display()));
    let _relay = RunningProcess::start(&mut shell);
    eventually("a listener", || UnixStream::connect(&from).ok());
    for _ in 0..100 {
        let mut peer = UnixStream::connect(&from).expect("the listener accepts a connection");
        peer.set_read_timeout(Some(PATIENCE)).expect("a stream has time-outs");
        assert_eq!(peer.read_to_end(&mut Vec::new()).expect("the stream ends"), 0);
    }
}

#[test]
fn a_worker_has_no_descriptor_of_the_daemons_own_log() {
    for mode in ["pool", "connection"] {
        let daemon = DaemonSetup::new().listen(&["unix"]).args(&["--fork", mode]).start();
        let _peer = daemon.session("unix");
        let supervisor = daemon.process.pid();
        let worker = ipcd_tests::children(supervisor)[0];
        let null = Some("/dev/null".to_owned());
        assert_eq!([0, 1].map(|number| descriptor(worker, number)), [null.clone(), null]);
        let stderr = descriptor(worker, 2).expect("the descriptor is open");
        assert!(stderr.starts_with("pipe:"), "{stderr}");
        assert_ne!(Some(stderr), descriptor(supervisor, 2));
    }
}

#[test]
fn a_source_that_floods_the_log_is_counted() {
    let daemon = DaemonSetup::new().listen(&["unix"]).start();
    let path = daemon.runtime_dir().join("ipcd.sock");
    let visits = 400;
    for _ in 0..visits {
        drop(RawConnection::unix(&path).open());
    }
    let told = |log: &str| {
        let written = log.matches("peer connected").count() + log.matches("peer gone").count();
        let counts = log.split("lines of the log were suppressed source=\"user ").skip(1);
        let counts = counts.filter_map(|rest| rest.split_once("lines=")?.1.lines().next());
        let suppressed: usize = counts.map(|count| count.parse().unwrap_or(0)).sum();
        (written, suppressed)
    };
    daemon.process.stderr.wait_until("all lines, written or counted", |log| {
        let (written, suppressed) = told(log);
        (written + suppressed == 2 * visits && suppressed > 0).then_some(())
    });
    let (written, _) = told(&daemon.log());
    assert!(written < 2 * visits, "{written}");
}

#[test]
fn each_line_of_json_says_which_worker_it_is_of() {
    let mut daemon = DaemonSetup::new().listen(&["unix"]).args(&["--log-format", "json"]).start();
    let worker = daemon.worker();
    drop(daemon.session("unix"));
    let log = daemon.terminate().stderr;
    let lines: Vec<Value> =
        log.lines().map(|line| serde_json::from_str(line).expect("an object")).collect();
    let gone = lines.iter().filter(|line| line["message"] == "peer gone");
    assert!(gone.clone().count() > 0 && gone.clone().all(|line| line["worker"] == worker));
    let ready = lines.iter().find(|line| line["message"] == "ready").expect("it was ready");
    assert_eq!((&ready["level"], ready.get("worker")), (&Value::from("INFO"), None));
}

#[test]
fn output_that_cannot_be_written_is_a_failure() {
    let status = |program: &Path, args: &[&str], to: &str| {
        let script = format!("exec \"$@\" {to}");
        let mut shell = Command::new("sh");
        shell.args(["-c", &script, "sh"]).arg(program).args(args);
        RunningProcess::start(&mut shell).wait()
    };
    let full = ">/dev/full";
    for (program, args) in [
        (ipcd(), ["--print-config"]),
        (ipcd(), ["--help"]),
        (ipcd(), ["--version"]),
        (ipcctl(), ["--help"]),
        (ipcctl(), ["--version"]),
        (ipcctl(), ["transports"]),
    ] {
        let ended = status(&program, &args, full).expect(1);
        assert!(ended.stderr.contains("write to standard output: No space left"), "{ended:?}");
    }
    status(&ipcd(), &["--config", "/nonexistent"], "2>/dev/full").expect(2);
    status(&ipcctl(), &["--nonsense"], "2>/dev/full").expect(2);
    let dir = private_dir();
    let there = dir.path().join("file");
    fs::write(&there, "").expect("the directory is writable");
    let there = there.display().to_string();
    status(&ipcd(), &["--runtime-dir", &there], "2>/dev/full").expect(2);
}
