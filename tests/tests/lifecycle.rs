//! Starting, reloading, draining and ending, and the daemon's reports of them.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;

use ipcd_tests::{
    Daemon, DaemonSetup, MessageStream, SCHEMES, descriptor, eventually, feed_lines, identity_kind,
    is_alive, state,
};
use ipcd_transport::IdentityKind;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

fn files(daemon: &Daemon) -> BTreeSet<String> {
    let dir = fs::read_dir(daemon.runtime_dir()).expect("the directory is writable");
    dir.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect()
}

#[test]
fn it_says_where_it_listens_and_then_that_it_is_ready() {
    let daemon = Daemon::start();
    let log = daemon.log();
    let place = |what: &str| log.find(what).unwrap_or_else(|| panic!("{what} in\n{log}"));
    for scheme in SCHEMES {
        let endpoint = daemon.via(scheme);
        assert!(!endpoint.ends_with(":0"), "{endpoint} is not the real port");
        assert!(place(&format!("listening endpoint={endpoint} ")) < place(" INFO ready\n"));
    }
}

#[test]
fn its_files_are_for_its_user_only_and_go_away_with_it() {
    let mut daemon = DaemonSetup::new().wrapper("umask 0; exec \"$@\"").start();
    let there = ["fifo", "ipcd.fifo", "ipcd.lock", "ipcd.sock", "pipe.sock", "token"];
    let found = files(&daemon);
    assert!(there.iter().all(|&name| found.contains(name)), "{found:?}");
    for name in found {
        let path = daemon.runtime_dir().join(&name);
        let mode = fs::symlink_metadata(path).expect("the path exists").permissions().mode();
        // The drop box is a sticky directory: guests can change only their own files.
        if name != "fifo" {
            assert_eq!(mode & 0o077, 0, "{name} has mode {mode:o}");
        }
    }
    let mode = fs::metadata(daemon.runtime_dir()).expect("the path exists").permissions().mode();
    assert_eq!(mode & 0o022, 0, "the directory has mode {mode:o}");
    daemon.terminate().expect(0);
    assert_eq!(files(&daemon), ["ipcd.lock", "token"].map(String::from).into());
}

#[test]
fn a_start_again_keeps_the_token() {
    let mut daemon = Daemon::start();
    let token = fs::read(daemon.runtime_dir().join("token")).expect("the file can be read");
    daemon.terminate().expect(0);
    let daemon = daemon.start_again();
    assert_eq!(fs::read(daemon.runtime_dir().join("token")).expect("the file can be read"), token);
    daemon.ctl("tcp", &["ping"]).run().expect(0);
}

#[test]
fn ready_fd_gets_a_newline_and_is_closed() {
    let setup = DaemonSetup::new().listen(&["unix"]).args(&["--ready-fd", "3"]);
    let mut daemon = setup.wrapper("exec \"$@\" 3>&1 >/dev/null").start();
    assert_eq!(daemon.process.stdout().wait_for_end(), b"\n");
    assert_eq!(daemon.process.has_ended(), None);
    let (supervisor, worker) = (daemon.process.pid(), daemon.worker());
    for pid in [supervisor, worker] {
        let link = descriptor(pid, 1).expect("the descriptor is open");
        assert_eq!(link, "/dev/null");
    }
}

#[test]
fn ready_fd_may_be_standard_output() {
    let mut daemon = DaemonSetup::new().listen(&["unix"]).args(&["--ready-fd", "1"]).start();
    assert_eq!(daemon.process.stdout().wait_for_end(), b"\n");
    let link = descriptor(daemon.process.pid(), 1).expect("the number stays taken");
    assert_eq!(link, "/dev/null");
}

#[test]
fn the_pid_file_is_there_while_it_runs() {
    let dir = ipcd_tests::private_dir();
    let path = dir.path().join("pid");
    let shown = path.to_str().expect("the path is text");
    let mut daemon = DaemonSetup::new().listen(&["unix"]).args(&["--pid-file", shown]).start();
    let text = fs::read_to_string(&path).expect("the file can be read");
    assert_eq!(text, format!("{}\n", daemon.process.pid()));
    daemon.terminate().expect(0);
    assert!(!path.exists());
}

#[test]
fn a_log_of_json_has_an_object_a_line() {
    let mut daemon = DaemonSetup::new().args(&["--log-format", "json"]).start();
    daemon.ctl("tcp", &["--name", "me", "ping"]).run().expect(0);
    let log = daemon.terminate().expect(0).stderr;
    let lines: Vec<Value> = log
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}")))
        .collect();
    let count = |message: &str| lines.iter().filter(|line| line["message"] == message).count();
    assert_eq!(count("ready"), 1);
    assert_eq!(count("listening"), SCHEMES.len());
    for line in &lines {
        assert!(line["timestamp"].is_string() && line["level"] == "INFO", "{line}");
    }
    let started = lines.iter().find(|line| line["message"] == "worker started");
    assert!(started.expect("a worker was started")["pid"].is_u64(), "{started:?}");
    let gone = lines.iter().find(|line| line["message"] == "peer gone").expect("one has gone");
    assert_eq!(gone["transport"], "tcp");
    assert!(gone["identity"].as_str().expect("a string").starts_with("127.0.0.1:"));
}

/// The default port of TCP and UDP is shared by all users: a daemon that cannot bind it runs
/// without.
#[test]
fn a_default_endpoint_that_is_taken_is_left_out() {
    // Another process may own the port already.
    let _tcp = std::net::TcpListener::bind("127.0.0.1:7117");
    let daemon = DaemonSetup::new().listen(&[]).start();
    let warned = |log: &str| {
        let mut lines = log.lines().filter(|line| line.contains("tcp://127.0.0.1:7117"));
        lines.any(|line| line.contains(" WARN ") && line.contains("in use"))
    };
    assert!(warned(&daemon.log()), "{}", daemon.log());
    daemon.ctl("unix", &["ping"]).run().expect(0);
    assert!(!daemon.schemes().contains(&"tcp".to_owned()));
    let asked = DaemonSetup::new().listen(&["unix"]).extra(&["tcp://127.0.0.1:7117"]);
    let dir = ipcd_tests::private_dir();
    let ended = asked.spawn(dir.path()).wait().expect(1);
    assert!(ended.stderr.contains("tcp://127.0.0.1:7117"), "{}", ended.stderr);
}

#[test]
fn every_peer_is_logged_as_it_comes_and_goes() {
    let daemon = Daemon::start();
    let uid = nix::unistd::Uid::current();
    for scheme in SCHEMES {
        let mut peer = daemon.ctl(scheme, &["--name", &format!("by-{scheme}"), "ping"]).spawn();
        let pid = peer.pid();
        peer.wait().expect(0);
        let identity = match identity_kind(scheme) {
            IdentityKind::Credentials => format!("identity=pid={pid},uid={uid},gid="),
            IdentityKind::Owner => format!("identity=uid={uid}"),
            IdentityKind::Address | IdentityKind::OtherAddress => "identity=127.0.0.1:".into(),
        };
        let log = &daemon.process.stderr;
        for event in ["peer connected", "peer gone"] {
            log.wait_until(&format!("{event} over {scheme}"), |text| {
                let of_scheme = format!("transport={scheme} ");
                let mut lines = text.lines().filter(|line| line.contains(event));
                lines.find(|line| line.contains(&of_scheme) && line.contains(&identity))?;
                Some(())
            });
        }
    }
}

#[test]
fn log_level_hides_what_matters_less() {
    let dir = ipcd_tests::private_dir();
    let setup = DaemonSetup::new().listen(&["unix"]).args(&["--log-level", "error"]);
    let mut process = setup.spawn(dir.path());
    let socket = dir.path().join("run/ipcd.sock");
    eventually("its socket", || socket.exists().then_some(()));
    process.signal(Signal::SIGTERM);
    assert_eq!(process.wait().expect(0).stderr, "");
}

fn ends_cleanly_at(signal: Signal) {
    let mut daemon = Daemon::start();
    let worker = daemon.worker();
    let mut receivers = SCHEMES.map(|scheme| daemon.recv(scheme, &["--no-reconnect", "a"]));
    daemon.process.signal(signal);
    let ended = daemon.process.wait().expect(0);
    assert!(ended.stderr.contains(&format!("draining signal={signal}")), "{}", ended.stderr);
    assert!(!is_alive(worker));
    for receiver in &mut receivers {
        let ended = receiver.wait().expect(7);
        assert!(ended.stderr.contains("the daemon is ending"), "{}", ended.stderr);
    }
}

#[test]
fn term_ends_cleanly() {
    ends_cleanly_at(Signal::SIGTERM);
}

#[test]
fn int_ends_cleanly() {
    ends_cleanly_at(Signal::SIGINT);
}

#[test]
fn what_was_accepted_before_term_is_delivered() {
    for scheme in SCHEMES {
        let mut daemon = Daemon::start();
        let stream = MessageStream { count: 2000, longest: 3000, seed: 5 };
        let mut receiver = daemon.recv(scheme, &["--no-reconnect", "last"]);
        // It reads all the time: the daemon does not wait long for a receiver that does not.
        receiver.stdout();
        let mut expected = Vec::new();
        feed_lines(stream, &mut expected);
        daemon.ctl("unix", &["send", "last", "-l"]).run_fed(&expected).expect(0);
        daemon.terminate().expect(0);
        let ended = receiver.wait().expect(7);
        assert!(ended.stdout == expected, "{scheme}: {} bytes", ended.stdout.len());
    }
}

/// A worker that never starts to drain.
fn with_a_stopped_worker(config: &str) -> (Daemon, i32) {
    let daemon = DaemonSetup::new().config(config).start();
    let worker = daemon.worker();
    kill(Pid::from_raw(worker), Signal::SIGSTOP).expect("the process runs");
    eventually("the process is stopped", || (state(worker) == Some('T')).then_some(()));
    (daemon, worker)
}

#[test]
fn a_second_term_ends_at_once() {
    let (mut daemon, worker) = with_a_stopped_worker("[daemon]\ndrain_timeout = \"1000s\"\n");
    daemon.process.signal(Signal::SIGTERM);
    daemon.process.stderr.wait_for("draining");
    assert_eq!(daemon.process.has_ended(), None);
    daemon.process.signal_until_the_end(Signal::SIGTERM);
    assert!(daemon.process.wait().stderr.contains("ending at once"));
    assert!(!is_alive(worker));
}

#[test]
fn a_drain_that_takes_too_long_is_cut_short() {
    let (mut daemon, worker) = with_a_stopped_worker("[daemon]\ndrain_timeout = \"300ms\"\n");
    let ended = daemon.terminate().expect(0);
    assert!(ended.stderr.contains("WARN"), "{}", ended.stderr);
    assert!(!is_alive(worker));
    assert_eq!(files(&daemon), ["ipcd.lock", "token"].map(String::from).into());
}

#[test]
fn hup_with_a_bad_file_changes_nothing() {
    let daemon = DaemonSetup::new().config("[limits]\nmax_message = \"1KiB\"\n").start();
    let (supervisor, worker) = (daemon.process.pid(), daemon.worker());
    let file = daemon.config_file();
    fs::write(&file, "[limits]\nmax_message = \"2KiB\"\nmax_massage = 1\n")
        .expect("the file can be written");
    kill(Pid::from_raw(supervisor), Signal::SIGHUP).expect("the process runs");
    daemon.process.stderr.wait_for(&format!("{}:3:1: ", file.display()));
    assert_eq!(daemon.worker(), worker);
    daemon.ctl("unix", &["send", "a"]).run_fed(&[b'x'; 1025]).expect(8);
    daemon.ctl("unix", &["send", "a"]).run_fed(&[b'x'; 1024]).expect(0);
}

#[test]
fn hup_without_a_file_is_survived() {
    let mut daemon = DaemonSetup::new().listen(&["unix"]).start();
    daemon.process.signal(Signal::SIGHUP);
    daemon.process.stderr.wait_for("nothing to reload");
    daemon.ctl("unix", &["ping"]).run().expect(0);
    assert_eq!(daemon.process.has_ended(), None);
}

#[test]
fn a_second_daemon_in_the_same_directory_is_refused() {
    let daemon = Daemon::start();
    let second = DaemonSetup::new().listen(&["unix"]).spawn(daemon.dir()).wait().expect(2);
    assert_eq!(second.stderr.lines().count(), 1, "{}", second.stderr);
    let dir = daemon.runtime_dir();
    assert!(second.stderr.contains(dir.to_str().expect("the path is text")), "{}", second.stderr);
    assert!(second.stderr.contains("--runtime-dir"), "{}", second.stderr);
    for scheme in SCHEMES {
        daemon.ctl(scheme, &["ping"]).run().expect(0);
    }
}

#[test]
fn a_path_or_port_that_is_taken_is_named() {
    let daemon = Daemon::start();
    for scheme in ["unix", "pipe", "fifo", "tcp", "udp"] {
        let dir = ipcd_tests::private_dir();
        let endpoint = daemon.via(scheme);
        let setup = DaemonSetup::new().listen(&[]).args(&["-l", &endpoint]);
        let ended = setup.spawn(dir.path()).wait();
        assert!(matches!(ended.status.code(), Some(1 | 2)), "{ended:?}");
        let (_, address) = endpoint.split_once("://").expect("the endpoint has a scheme");
        assert!(ended.stderr.contains(address), "{scheme}: {}", ended.stderr);
        daemon.ctl(scheme, &["ping"]).run().expect(0);
    }
}
