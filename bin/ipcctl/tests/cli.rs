//! The tool's command line, without a daemon.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

fn ipcctl(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ipcctl"));
    command.env_remove("IPCD_VIA").env("IPCD_RUNTIME_DIR", "/nonexistent/ipcd");
    command.stdin(Stdio::null()).args(args).output().unwrap()
}

fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn version() {
    let text = stdout(&ipcctl(&["version"]));
    assert!(text.starts_with(&format!("ipcctl {} (protocol ", env!("CARGO_PKG_VERSION"))));
    let json: Value = serde_json::from_str(&stdout(&ipcctl(&["version", "-j"]))).unwrap();
    assert_eq!(json["version"], env!("CARGO_PKG_VERSION"));
    assert!(json["protocol"].is_u64());
    assert!(stdout(&ipcctl(&["--version"])).starts_with("ipcctl "));
}

#[test]
fn transports_as_json_have_every_contract() {
    let json: Value = serde_json::from_str(&stdout(&ipcctl(&["transports", "-j"]))).unwrap();
    let all = json.as_array().unwrap();
    let names: Vec<_> = all.iter().map(|it| it["transport"].as_str().unwrap()).collect();
    assert!(names.iter().copied().eq(ipcd_transports::schemes()));
    for transport in all {
        let reliable = transport["transport"] != "udp";
        assert_eq!(transport["reliable"], reliable, "{transport}");
        assert_eq!(transport["ordered"], true, "{transport}");
        assert!(transport["summary"].is_string() && transport["identity"].is_string());
    }
    let find = |scheme: &str| all.iter().find(|it| it["transport"] == scheme).unwrap();
    assert_eq!(find("unix")["default"], "unix:///nonexistent/ipcd/ipcd.sock");
    assert_eq!(find("tcp")["default"], "tcp://127.0.0.1:7117");
    assert!(find("tls")["default"].is_null(), "there is no default certificate");
    let encrypted: Vec<_> = all.iter().filter(|it| it["encrypted"] == true).collect();
    assert_eq!(encrypted, [find("tls"), find("wss")]);
    let lines = stdout(&ipcctl(&["transports", "-o", "jsonl"]));
    assert_eq!(lines.lines().count(), all.len());
}

#[test]
fn completion_for_every_shell() {
    for shell in ["bash", "zsh", "fish"] {
        let script = stdout(&ipcctl(&["completion", shell]));
        assert!(script.contains(&format!(" complete {shell} -- ")), "{shell}: {script}");
    }
    for shell in ["elvish", "powershell"] {
        let script = stdout(&ipcctl(&["completion", shell]));
        for word in ["ipcctl", "send", "recv", "serve", "transports", "--via"] {
            assert!(script.contains(word), "{shell}: {word}");
        }
    }
}

#[test]
fn completion_works_without_a_daemon_and_prints_no_error() {
    for (words, expected) in [
        (&["ipcctl", "rec"][..], "recv\t"),
        (&["ipcctl", "recv", "--ver"], "--verbose\t"),
        (&["ipcctl", "--via", "vs"], "vsock\t"),
        (&["ipcctl", "send", "--ack", "del"], "delivered\t"),
        (&["ipcctl", "recv", "logs"], ""),
        (&["ipcctl", "--via"], "--via"),
        (&["ipcctl"], ""),
        (&[], ""),
    ] {
        let output = ipcctl(&[&["complete", "fish", "--"], words].concat());
        assert_eq!(stderr(&output), "", "{words:?}");
        let found = stdout(&output);
        assert!(found.starts_with(expected), "{words:?}: {found}");
        assert!(!expected.is_empty() || found.is_empty(), "{words:?}: {found}");
    }
}

#[test]
fn bad_usage_ends_with_2_and_says_why() {
    for (args, word) in [
        (&[][..], "Usage"),
        (&["frobnicate"], "frobnicate"),
        (&["send"], "SUBJECT"),
        (&["recv"], "SUBJECT"),
        (&["send", "a", "body", "-m", "another"], "cannot be used with"),
        (&["send", "a", "-l", "-0"], "cannot be used with"),
        (&["send", "a", "body", "--count", "few"], "few"),
        (&["send", "a", "body", "--interval", "often"], "often"),
        (&["send", "a", "body", "--ack", "maybe"], "accepted"),
        (&["send", "a", "body", "-H", "no-colon"], "KEY:VALUE"),
        (&["send", "a", "-f", "/nonexistent/file"], "/nonexistent/file"),
        (&["recv", "a", "--overflow", "explode"], "drop-oldest"),
        (&["recv", "a", "-j", "-o", "text"], "cannot be used with"),
        (&["--timeout", "soon", "status"], "soon"),
        (&["--via", "carrier-pigeon", "status"], "unix, pipe, fifo, tcp, udp"),
        (&["--via", "quic://x", "status"], "unix, pipe, fifo, tcp, udp"),
        (&["--via", "unix:///x?colour=red", "status"], "colour"),
        (&["completion", "abacus"], "bash"),
        (&["send", "a", "body", "--ack", "read"], "delivered"),
        (&["send", "@bob", "body", "--wait-subs", "1"], "--wait-subs"),
        (&["recv", "a", "-N", "-0"], "cannot be used with"),
        (&["recv", "a", "-F", "%p", "-v"], "cannot be used with"),
        (&["recv", "a", "-F", "%p", "-j"], "--format"),
        (&["recv", "a", "-F", "%q"], "%q is unknown; there are %s subject"),
        (&["recv", "a", "-F", "\\x"], "\\x is unknown"),
        (&["recv", "a", "--exec"], "CMD"),
        (&["recv", "a", "--", "cat"], "--exec"),
        (&["recv", "a", "-F", "%p", "--exec", "--", "cat"], "cannot be used with"),
        (&["req"], "SUBJECT"),
        (&["req", "a", "body", "-m", "another"], "cannot be used with"),
        (&["req", "a", "body", "--replies", "0"], "--replies"),
        (&["req", "a", "body", "--reply-timeout", "soon"], "soon"),
        (&["req", "a", "body", "-H", "no-colon"], "KEY:VALUE"),
        (&["serve", "a"], "--echo"),
        (&["serve", "a", "body", "--echo"], "cannot be used with"),
        (&["serve", "a", "--echo", "--", "cat"], "cannot be used with"),
        (&["serve", "a", "-f", "/nonexistent/file"], "/nonexistent/file"),
        (&["serve", "a", "--echo", "--jobs", "0"], "--jobs"),
        (&["serve", "a", "--echo", "--max-output", "much"], "64KiB"),
        (&["chat"], "SUBJECT"),
        (&["relay", "tcp://127.0.0.1:0"], "<B>"),
        (&["relay", "tcp://127.0.0.1:0", "unix:///x", "--max-children", "9"], "--fork"),
        (
            &["relay", "tcp://127.0.0.1:0", "unix:///x", "--raw", "--codec", "nul"],
            "cannot be used with",
        ),
        (&["relay", "tcp://127.0.0.1:0", "unix:///x", "--codec", "morse"], "line"),
        (&["ping", "--max", "fast"], "fast"),
    ] {
        let output = ipcctl(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {}", stderr(&output));
        assert!(stderr(&output).contains(word), "{args:?}: {}", stderr(&output));
        assert!(output.stdout.is_empty(), "{args:?}");
    }
}

#[test]
fn without_a_daemon_every_verb_ends_with_3_and_one_line() {
    for args in [
        &["send", "a", "body"][..],
        &["recv", "a"],
        &["ping"],
        &["req", "a", "body"],
        &["serve", "a", "--echo"],
        &["chat", "a"],
        &["status"],
        &["clients"],
        &["subs"],
        &["--via", "pipe", "status"],
        &["--via", "fifo", "status"],
        &["--via", "tcp://127.86.75.30:7117", "status"],
        &["--via", "udp://127.86.75.30:7117", "status"],
        &["--via", "pipe:/nonexistent/command", "status"],
    ] {
        let output = ipcctl(args);
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(3), "{args:?}: {said}");
        assert_eq!(said.lines().count(), 1, "{args:?}: {said}");
        assert!(said.starts_with("ipcctl: "), "{args:?}: {said}");
        assert!(output.stdout.is_empty(), "{args:?}");
    }
    let said = stderr(&ipcctl(&["status"]));
    assert!(said.contains("/nonexistent/ipcd/ipcd.sock") && said.contains("--via"), "{said}");
}

#[test]
fn an_unusable_path_ends_with_3_on_every_transport() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    fs::write(path("file"), "").unwrap();
    nix::unistd::mkfifo(&path("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    symlink(path("fifo"), path("link")).unwrap();
    for scheme in ["unix", "pipe", "fifo"] {
        for name in ["file", "fifo", "link", "nothing", "file/below"] {
            let via = format!("{scheme}://{}", path(name).display());
            let output = ipcctl(&["--via", &via, "ping"]);
            assert_eq!(output.status.code(), Some(3), "{via}: {}", stderr(&output));
            assert!(stderr(&output).contains("cannot connect"), "{via}: {}", stderr(&output));
        }
    }
}

#[test]
fn an_argument_that_is_no_text_is_bad_usage() {
    for flags in [&["send"][..], &["-j", "recv"]] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ipcctl"));
        let output = command.args(flags).arg(OsStr::from_bytes(b"\xff")).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
        assert!(stderr(&output).contains("UTF-8"), "{}", stderr(&output));
    }
}

#[test]
fn the_usage_of_serve_has_the_subject_first() {
    let output = ipcctl(&["serve", "a"]);
    assert!(stderr(&output).contains("[OPTIONS] <SUBJECT> <BODY|"), "{}", stderr(&output));
}

#[test]
fn a_tip_does_not_make_a_command_of_a_flag() {
    for verb in [&["serve", "a"][..], &["recv", "a", "--exec"]] {
        let said = stderr(&ipcctl(&[verb, &["wc", "-w"]].concat()));
        assert!(said.contains("-- wc -w") && !said.contains("as a value"), "{said}");
    }
}

#[test]
fn a_path_that_is_closed_to_this_user_is_named_with_its_mode() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ipcd.sock");
    let _listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    fs::set_permissions(&path, PermissionsExt::from_mode(0o000)).unwrap();
    if nix::unistd::Uid::effective().is_root() {
        return ipcd_tests::skip("nothing is closed to root");
    }
    let output = ipcctl(&["--via", &format!("unix:{}", path.display()), "ping"]);
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(said.contains("mode 0000") && !said.contains("is ipcd running"), "{said}");
}

#[test]
fn with_json_an_error_is_one_json_line() {
    for flags in [&["-j"][..], &["-o", "jsonl"]] {
        let output = ipcctl(&[flags, &["status"]].concat());
        assert_eq!(output.status.code(), Some(3));
        let said = stderr(&output);
        assert_eq!(said.lines().count(), 1, "{said}");
        let error = serde_json::from_str::<Value>(&said).unwrap();
        let error = &error["error"];
        assert_eq!((&error["code"], &error["exit"]), (&"cannot-connect".into(), &3.into()));
        assert!(error["message"].as_str().unwrap().contains("/nonexistent/ipcd/ipcd.sock"));
        assert_eq!(error.as_object().unwrap().len(), 3);
    }
    let output = ipcctl(&["-j", "--via", "carrier-pigeon", "status"]);
    assert_eq!(output.status.code(), Some(2));
    let error: Value = serde_json::from_str(&stderr(&output)).unwrap();
    assert_eq!(error["error"]["exit"], 2);
}

#[test]
fn a_command_that_cannot_run_ends_before_there_is_a_connection() {
    for (command, status) in
        [("no-such-command", 127), ("/nonexistent/command", 127), ("/etc/passwd", 126), ("/", 126)]
    {
        for verb in [&["serve", "a", "--"][..], &["recv", "a", "--exec", "--"]] {
            let args = [verb, &[command]].concat();
            let output = ipcctl(&args);
            assert_eq!(output.status.code(), Some(status), "{args:?}: {}", stderr(&output));
            assert!(stderr(&output).contains(command), "{args:?}");
        }
    }
}

#[test]
fn times_without_end_are_taken() {
    let output =
        ipcctl(&["--timeout", "500000000000y", "req", "a", "b", "--reply-timeout", "9e18"]);
    assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
}

#[test]
fn via_may_come_from_the_environment() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ipcctl"));
    command.env("IPCD_VIA", "unix:///nonexistent/other.sock").arg("status");
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(3));
    assert!(stderr(&output).contains("/nonexistent/other.sock"));
}

#[test]
fn an_empty_variable_says_nothing() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ipcctl"));
    command.env("IPCD_VIA", "").env("IPCD_RUNTIME_DIR", "/nonexistent/ipcd").arg("status");
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(3));
    assert!(stderr(&output).contains("/nonexistent/ipcd/ipcd.sock"), "{}", stderr(&output));
}
