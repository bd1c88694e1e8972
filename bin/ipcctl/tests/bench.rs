//! `ipcctl bench` as users run it: what it prints, and what it leaves behind.

mod started;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use started::{WATCHDOG, has_children, wait_until};

/// With all its temporary files in a directory of its own.
fn bench(dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ipcctl"));
    command.env("TMPDIR", dir).env("XDG_STATE_HOME", dir.join("state")).arg("bench");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    ipcd_tests::guard(&mut command);
    command
}

fn report(command: &mut Command) -> Value {
    let output = command.arg("-j").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn every_way_carries_every_message_of_both_modes() {
    let dir = tempfile::tempdir().unwrap();
    for mode in ["pingpong", "throughput"] {
        let flags = ["--count=60", "--warmup=1ms", "--runs=2", "--size=64", "--verify=crc"];
        let report = report(bench(dir.path()).arg(mode).args(flags).arg("--pin=free"));
        assert_eq!(report["schema"], "ipcd-bench/1");
        assert_eq!(report["skipped"], Value::Array(Vec::new()), "{}", report["skipped"]);
        let rows = report["results"].as_array().unwrap();
        assert_eq!(rows.len(), if mode == "pingpong" { 24 } else { 23 });
        for row in rows {
            let counts = &row["counts"];
            let is_lossy = row["layer"] == "raw" && row["transport"] == "udp";
            assert_eq!(counts["sent"], 120, "{row}");
            assert!(counts["received"] == 120 || is_lossy, "{row}");
            assert_eq!(counts["corrupted"], 0, "{row}");
        }
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "something is left");
}

#[test]
fn all_modes_write_all_kinds_of_report_and_compare_with_an_earlier_one() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let run = |more: &[&str]| {
        let flags = ["--via=unix,shm-futex", "--size=64,1k", "--count=50", "--runs=2"];
        let mut command = bench(dir.path());
        command.args(flags).args(["--warmup=1ms", "--subs=2", "--rate=5000"]).args(more);
        command.output().unwrap()
    };
    let (html, csv, json) = (path("r.html"), path("r.csv"), path("r.json"));
    let files = [("--html", &html), ("--csv", &csv), ("--json", &json)];
    let files = files.map(|(flag, path)| format!("{flag}={}", path.display()));
    let output = run(&[&files[0], &files[1], &files[2], "--save-baseline=first", "--md"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    for title in ["Round trips", "Throughput", "given rate", "Fan-out", "Requests", "Daemon tax"] {
        assert!(text.contains(title), "{title} is missing in {text}");
    }
    let (html, csv) = (fs::read_to_string(html).unwrap(), fs::read_to_string(csv).unwrap());
    assert!(html.contains("<svg") && !html.contains("http"), "the page needs nothing else");
    let json: Value = serde_json::from_slice(&fs::read(json).unwrap()).unwrap();
    let rows = json["results"].as_array().unwrap().len();
    assert_eq!(csv.lines().count(), rows + 1);
    // The saved figures shrink to a thousandth, beside a bare primitive that stays: the next
    // run is slower by more than chance.
    let kept = path("state/ipcd/bench/first.json");
    fs::write(&kept, faster(serde_json::from_slice(&fs::read(&kept).unwrap()).unwrap())).unwrap();
    let output = run(&["--baseline=first", "--fail-on=mean>+20%", "--md", &files[2]]);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(10), "{errors}");
    assert!(errors.contains("mean>+20%: ") && errors.contains("runs tell little"), "{errors}");
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("## Compared with first") && text.contains("| worse |"), "{text}");
    let json: Value = serde_json::from_slice(&fs::read(path("r.json")).unwrap()).unwrap();
    let changes = json["comparison"]["changes"].as_array().unwrap();
    let judged = |change: &&Value| change["is_judged"] == true;
    assert!(changes.iter().filter(judged).all(|change| change["layer"] != "raw"));
    // At a rate, a busy machine may send too few messages for a median.
    let mut trips = changes.iter().filter(judged).filter(|change| change["mode"] == "pingpong");
    assert!(trips.all(|change| change["is_relative"] == true), "{changes:?}");
}

/// Shrinks all times but those of the bare primitives to a thousandth.
fn faster(mut report: Value) -> String {
    for row in report["results"].as_array_mut().unwrap() {
        let is_bare = row["layer"] == "raw";
        for (name, figures) in row["rounds"].as_object_mut().unwrap() {
            for figure in figures.as_array_mut().unwrap() {
                if let (false, Some(time)) = (is_bare || name == "rate", figure.as_f64()) {
                    *figure = (time / 1000.0).into();
                }
            }
        }
    }
    report.to_string()
}

#[test]
fn work_that_is_added_shows_in_the_daemons_rows_only() {
    let dir = tempfile::tempdir().unwrap();
    let flags = ["pingpong", "--via=unix", "--size=64", "--count=200", "--runs=2"];
    let report = report(bench(dir.path()).args(flags).args(["--warmup=1ms", "--inject=2ms"]));
    for row in report["results"].as_array().unwrap() {
        let least = row["latency"]["min"].as_u64().unwrap();
        assert_eq!(least >= 2_000_000, row["layer"] == "daemon", "{row}");
        assert_eq!(row["cores"], "one core", "round trips run on one core unless told otherwise");
    }
    let warnings = report["warnings"].to_string();
    assert!(warnings.contains("2ms of work were added"), "{warnings}");
}

#[test]
fn an_interrupted_benchmark_leaves_nothing() {
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let dir = tempfile::tempdir().unwrap();
        let mut child = bench(dir.path()).arg("--quick").spawn().unwrap();
        let pid = Pid::from_raw(child.id() as i32);
        wait_until(&mut child, || has_children(pid, 2));
        kill(pid, signal).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(!output.status.success());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "something is left");
    }
}

#[test]
fn the_next_benchmark_removes_the_remains_of_a_killed_one() {
    let dir = tempfile::tempdir().unwrap();
    let mut child = bench(dir.path()).arg("--quick").spawn().unwrap();
    let pid = Pid::from_raw(child.id() as i32);
    wait_until(&mut child, || has_children(pid, 2));
    let left = || fs::read_dir(dir.path()).unwrap().count();
    assert_eq!(left(), 1, "its directory");
    let measure = || {
        let flags = ["pingpong", "--layer=raw", "--via=pipe", "--count=50", "--runs=1"];
        assert!(bench(dir.path()).args(flags).output().unwrap().status.success());
    };
    measure();
    assert_eq!(left(), 1, "what is in use is left alone");
    child.kill().unwrap();
    child.wait().unwrap();
    // Its children go a moment later, and until then the directory is theirs.
    let deadline = Instant::now() + WATCHDOG;
    while left() > 0 {
        assert!(Instant::now() < deadline, "it is not removed");
        measure();
    }
}

#[test]
fn a_server_that_is_not_installed_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let flags = ["pingpong", "--layer=raw", "--via=pipe", "--peers=socat", "--count=50"];
    let flags = flags.iter().chain(&["--runs=1", "--warmup=1ms"]);
    let report = report(bench(dir.path()).env("PATH", dir.path()).args(flags));
    let skipped = report["skipped"].as_array().unwrap();
    let is_there =
        ["/usr/sbin/socat", "/usr/local/sbin/socat"].iter().any(|it| Path::new(it).exists());
    assert!(is_there || skipped[0]["why"].to_string().contains("socat is not installed"));
}

/// ZeroMQ has no server, so its forwarder is ours; where it is installed, nothing must get lost.
#[test]
fn zeromq_carries_everything_or_says_what_is_missing() {
    let dir = tempfile::tempdir().unwrap();
    for mode in ["pingpong", "throughput", "fanout"] {
        let flags = ["--layer=raw", "--via=pipe", "--peers=zeromq", "--size=64,70000", "--subs=3"];
        let counts = ["--count=2000", "--runs=1", "--warmup=1ms", "--verify=crc"];
        let report = report(bench(dir.path()).arg(mode).args(flags).args(counts));
        let rows = report["results"].as_array().unwrap();
        let peers: Vec<&Value> = rows.iter().filter(|row| row["layer"] == "peer").collect();
        if peers.is_empty() {
            let why = report["skipped"][0]["why"].to_string();
            assert!(why.contains("python3-zmq is not installed"), "{why}");
        }
        for row in peers {
            assert_eq!(row["counts"]["received"], row["counts"]["sent"], "{row}");
            assert_eq!(row["counts"]["corrupted"], 0, "{row}");
        }
    }
}

#[test]
fn an_unknown_name_is_an_error_that_lists_the_known_ones() {
    let dir = tempfile::tempdir().unwrap();
    let output = bench(dir.path()).args(["pingpong", "--via=carrier-pigeon"]).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2));
    assert!(errors.contains("carrier-pigeon") && errors.contains("shm-futex"), "{errors}");
}

#[test]
fn an_impossible_request_fails_before_anything_is_measured() {
    let dir = tempfile::tempdir().unwrap();
    // It would go on for an hour.
    let long = ["pingpong", "--layer=raw", "--duration=10m", "--size=64"];
    for (more, status, word) in [
        (&["--save-baseline=../elsewhere"][..], 2, "../elsewhere"),
        (&["--csv=/nonexistent/r.csv"], 2, "/nonexistent/r.csv"),
        (&["--baseline=none"], 2, "none.json"),
        (&["--via=unix:///nonexistent/ipcd.sock"], 3, "/nonexistent/ipcd.sock"),
    ] {
        let output = bench(dir.path()).args(long).args(more).output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(status), "{more:?}: {errors}");
        assert!(errors.contains(word), "{more:?}: {errors}");
    }
}

#[test]
fn a_limit_that_nothing_can_be_held_against_is_not_kept() {
    let dir = tempfile::tempdir().unwrap();
    let run = |more: &[&str]| {
        let flags = ["pingpong", "--layer=raw", "--via=unix", "--count=50", "--runs=2"];
        bench(dir.path()).args(flags).args(more).output().unwrap()
    };
    assert!(run(&["--size=64", "--save-baseline=small"]).status.success());
    let output = run(&["--size=1k", "--baseline=small", "--fail-on=mean>+900%"]);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{errors}");
    assert!(errors.contains("none of these measurements"), "{errors}");
    // No machine has that many cores.
    let output = run(&["--size=64", "--pin=60000,60001"]);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{errors}");
    assert!(errors.contains("nothing was measured"), "{errors}");
}
