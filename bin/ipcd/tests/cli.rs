//! The daemon's command line, without a daemon.

use std::path::Path;
use std::process::{Command, Output};

fn ipcd(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ipcd"));
    // One that a start would make.
    command.env("IPCD_RUNTIME_DIR", std::env::temp_dir().join("ipcd-test.none"));
    command.args(args).output().unwrap()
}

/// Runs it with a configuration file; the file's path is replaced by `FILE` in what it says.
fn with_file(args: &[&str], text: &str) -> (Option<i32>, String, String) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ipcd.toml");
    std::fs::write(&path, text).unwrap();
    let shown = path.to_str().unwrap();
    let output = ipcd(&[&["--config", shown], args].concat());
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).replace(shown, "FILE");
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn test_config_accepts_a_good_file() {
    let good = r#"
        [daemon]
        drain_timeout = "1s"
        [limits]
        max_message = "64KiB"
        [[listen]]
        endpoint = "tcp://127.0.0.1:0"
    "#;
    assert_eq!(with_file(&["-t"], good), (Some(0), String::new(), String::new()));
    assert_eq!(with_file(&["--test-config"], ""), (Some(0), String::new(), String::new()));
}

#[test]
fn test_config_names_the_place_of_a_mistake() {
    for (text, place, word) in [
        ("[daemon]\nwrokers = 1\n", "FILE:2:1: ", "wrokers"),
        ("[limits]\n\n  handshake_timeout = \"soon\"", "FILE:3:23: ", "10s"),
        ("[[listen]]\nendpoint = \"unix:///x\"\ncolour = 1", "FILE:3:1: ", "colour"),
        ("[[listen]]\nendpoint = \"quic://x\"", "FILE:1:1: ", "unix, pipe, fifo, tcp, udp"),
        ("[log]\nlevel = \"loud\"", "FILE:2:9: ", "loud"),
        ("[limits", "FILE:1:8: ", ""),
    ] {
        let (status, stdout, stderr) = with_file(&["-t"], text);
        assert_eq!((status, stdout.as_str()), (Some(2), ""), "{text}: {stderr}");
        assert!(stderr.starts_with(place) && stderr.contains(word), "{text}: {stderr}");
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
    }
}

#[test]
fn test_config_checks_what_a_start_would_need() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    std::fs::write(path("short"), "short").unwrap();
    let nothing = path("nothing");
    let token = |file: &str| format!("[[token]]\nname = \"t\"\nfile = \"{file}\"");
    let listen = |endpoint: &str| format!("[[listen]]\nendpoint = \"{endpoint}\"");
    let is_root = nix::unistd::Uid::effective().is_root();
    let user = if is_root { "no such user" } else { "only root" };
    for (text, word) in [
        ("[daemon]\nuser = \"no-such-user\"".into(), user),
        (token(&nothing), &*nothing),
        (token(&path("short")), "at least"),
        (listen(&format!("tls://127.0.0.1:0?cert={nothing}&key={nothing}")), &nothing),
        (listen(&format!("unix://{nothing}/x.sock")), &nothing),
        (listen(&format!("fifo://{nothing}/x.fifo")), &nothing),
        (format!("[daemon]\npid_file = \"{nothing}/pid\""), &nothing),
        (format!("[daemon]\nruntime_dir = \"{nothing}/run\""), &nothing),
    ] {
        let (status, stdout, stderr) = with_file(&["-t"], &text);
        assert_eq!((status, stdout.as_str()), (Some(2), ""), "{text}: {stderr}");
        assert!(stderr.contains(word), "{text}: {stderr}");
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
    }
    assert!(!Path::new(&nothing).exists(), "it has made something");
}

#[test]
fn the_output_of_print_config_can_be_continued() {
    let printed = ipcd(&["--print-config"]);
    let text = String::from_utf8(printed.stdout).unwrap();
    let more = "[[listen]]\nendpoint = \"tcp://127.0.0.1:0\"\n[[acl]]\nadmin = true\n";
    let (status, _, stderr) = with_file(&["-t"], &format!("{text}\n{more}"));
    assert_eq!((status, stderr.as_str()), (Some(0), ""), "{text}");
    let (status, text, _) = with_file(&["--print-config"], more);
    assert_eq!(status, Some(0));
    let (status, _, stderr) = with_file(&["-t"], &format!("{text}\n{more}"));
    assert_eq!((status, stderr.as_str()), (Some(0), ""), "{text}");
}

#[test]
fn a_key_that_is_given_twice_is_named() {
    for (text, place, key) in [
        ("[daemon]\nworkers = 1\n[log]\n[daemon]\nworkers = 2\n", "FILE:4:", "daemon"),
        ("listen = []\n[[listen]]\nendpoint = \"tcp://127.0.0.1:0\"\n", "FILE:2:", "listen"),
        ("[daemon]\nworkers = 1\nworkers = 2\n", "FILE:3:", "workers"),
    ] {
        let (status, _, stderr) = with_file(&["-t"], text);
        assert_eq!(status, Some(2));
        assert!(stderr.starts_with(place) && stderr.contains(&format!("`{key}`")), "{stderr}");
    }
}

#[test]
fn a_bad_file_is_refused_at_the_start_too() {
    let (status, _, stderr) = with_file(&[], "[daemon]\nworkers = \"many\"\n");
    assert_eq!(status, Some(2));
    assert!(stderr.starts_with("FILE:2:11: "), "{stderr}");
}

#[test]
fn a_missing_file_is_named() {
    let output = ipcd(&["-t", "-c", "/nonexistent/ipcd.toml"]);
    assert_eq!(output.status.code(), Some(2));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains("/nonexistent/ipcd.toml"), "{stderr}");
}

#[test]
fn print_config_prints_a_file_that_means_the_same() {
    let file = "[limits]\nstall_timeout = \"3s\"\n[log]\nlevel = \"debug\"\n";
    let flags = ["--print-config", "--log-format", "json", "-l", "unix:///x?mode=0660"];
    let (status, printed, stderr) = with_file(&flags, file);
    assert_eq!((status, stderr.as_str()), (Some(0), ""));
    for line in ["stall_timeout = \"3s\"", "level = \"debug\"", "format = \"json\""] {
        assert!(printed.contains(line), "{line} is missing:\n{printed}");
    }
    assert!(printed.contains("endpoint = \"unix:///x?mode=0660\""), "{printed}");
    let (status, again, _) = with_file(&["--print-config"], &printed);
    assert_eq!((status, again), (Some(0), printed));
}

#[test]
fn flags_win_over_the_file() {
    let file = "[log]\nlevel = \"debug\"\n[[listen]]\nendpoint = \"tcp://127.0.0.1:1\"\n";
    let (_, printed, _) =
        with_file(&["--print-config", "--log-level", "warn", "-l", "udp://127.0.0.1:2"], file);
    assert!(printed.contains("level = \"warn\""), "{printed}");
    assert!(printed.contains("udp://127.0.0.1:2") && !printed.contains("tcp://"), "{printed}");
}

#[test]
fn bad_usage_ends_with_2_and_says_what_exists() {
    for (args, word) in [
        (&["--no-such-flag"][..], "--no-such-flag"),
        (&["-l", "quic://x"], "unix, pipe, fifo, tcp, udp"),
        (&["-l", "unix:///x?colour=red"], "mode"),
        (&["-l", "nonsense"], "nonsense"),
        (&["--log-level", "loud"], "debug"),
        (&["--log-format", "xml"], "json"),
        (&["--fork", "spoon"], "pool"),
        (&["--workers", "many"], "many"),
        (&["--max-children", "0"], "1 to 65536"),
        (&["--max-children", "4294967295"], "1 to 65536"),
        (&["--ready-fd", "77"], "--ready-fd"),
        (&["--ready-fd", "2"], "2 is the log"),
        (&["surplus"], "surplus"),
    ] {
        let output = ipcd(args);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {stderr}");
        assert!(stderr.contains(word), "{args:?}: {stderr}");
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn without_a_runtime_directory_it_says_what_to_set() {
    let is_root = nix::unistd::Uid::effective().is_root();
    let mut command = Command::new(env!("CARGO_BIN_EXE_ipcd"));
    command.env_remove("IPCD_RUNTIME_DIR").env_remove("XDG_RUNTIME_DIR");
    if is_root {
        // Root has /run/ipcd, which a test leaves alone.
        return;
    }
    let output = command.arg("-t").output().unwrap();
    if Path::new(&format!("/run/user/{}", nix::unistd::geteuid())).is_dir() {
        // A user who has logged in has a directory, even without the variable.
        return assert_eq!(output.status.code(), Some(0), "{output:?}");
    }
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr.contains("XDG_RUNTIME_DIR") && stderr.contains("--runtime-dir"), "{stderr}");
}

#[test]
fn a_runtime_directory_that_others_can_write_to_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o777)).unwrap();
    let output = ipcd(&["--runtime-dir", dir.path().to_str().unwrap()]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains(Path::new(dir.path()).to_str().unwrap()), "{stderr}");
}

#[test]
fn version_and_help() {
    let output = ipcd(&["--version"]);
    let expected = format!("ipcd {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(String::from_utf8_lossy(&output.stdout), expected);
    let output = ipcd(&["--help"]);
    let help = String::from_utf8_lossy(&output.stdout);
    for flag in [
        "--config",
        "--listen",
        "--test-config",
        "--print-config",
        "--fork",
        "--workers",
        "--user",
        "--pid-file",
        "--runtime-dir",
        "--ready-fd",
        "--log-level",
        "--log-format",
    ] {
        assert!(help.contains(flag), "{flag}");
    }
}
