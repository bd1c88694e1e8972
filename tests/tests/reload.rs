//! HUP puts the file in force while the daemon runs.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use ipcd_proto::Kind;
use ipcd_proto::control::Code;
use ipcd_tests::{PATIENCE, Setup};
use nix::sys::signal::Signal;

fn config(max_message: &str, endpoints: &[String]) -> String {
    let listeners = endpoints.iter().map(|at| format!("[[listen]]\nendpoint = \"{at}\"\n"));
    format!("[limits]\nmax_message = \"{max_message}\"\n{}", listeners.collect::<String>())
}

fn socket(dir: &Path, name: &str) -> String {
    format!("unix://{}", dir.join(name).display())
}

#[test]
fn limits_and_listeners_change_and_connections_stay() {
    let dir = ipcd_tests::private_dir();
    let [stays, goes, comes] = ["stays", "goes", "comes"].map(|name| socket(dir.path(), name));
    let at_first = config("1KiB", &[stays.clone(), goes.clone()]);
    let setup = Setup::new().listen(&[]).args(&["--workers", "2"]).config(&at_first);
    let daemon = setup.start();
    let mut receivers = [&stays, &goes].map(|at| daemon.recv(at, &["-C", "2", "s"]));
    let send = |bytes: usize, status| {
        daemon.ctl(&stays, &["send", "s"]).run_fed(&vec![b'x'; bytes]).expect(status);
    };
    send(1025, 8);
    send(1024, 0);
    let workers = daemon.ctl(&stays, &["status", "-j"]).run().expect(0).text();
    daemon.reload(&config("4KiB", &[stays.clone(), comes.clone()]));
    send(4097, 8);
    send(4096, 0);
    // Both receivers were connected before; one of them by a listener that has gone.
    for receiver in &mut receivers {
        assert_eq!(receiver.wait().expect(0).stdout.len(), 1025 + 4097);
    }
    daemon.ctl(&goes, &["ping"]).run().expect(3);
    daemon.ctl(&comes, &["ping"]).run().expect(0);
    assert!(!dir.path().join("goes").exists());
    let now = daemon.ctl(&comes, &["status", "-j"]).run().expect(0).text();
    let pids = |text: &str| {
        let status: serde_json::Value = serde_json::from_str(text).expect("it is JSON");
        let workers = status["workers"].as_array().expect("there are workers").clone();
        workers.iter().map(|worker| worker["pid"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(pids(&now), pids(&workers), "a worker was replaced");
    assert!(now.contains("/comes") && !now.contains("/goes"), "{now}");
}

#[test]
fn a_file_that_cannot_be_put_in_force_changes_nothing() {
    let dir = ipcd_tests::private_dir();
    let [stays, new] = ["stays", "new"].map(|name| socket(dir.path(), name));
    let daemon =
        Setup::new().listen(&[]).config(&config("1KiB", std::slice::from_ref(&stays))).start();
    let taken = socket(dir.path(), "taken");
    fs::write(dir.path().join("taken"), "somebody else's file").expect("the directory is ours");
    let bad = config("2KiB", &[new.clone(), taken]);
    daemon.configure(&bad, "nothing has changed");
    daemon.ctl(&new, &["ping"]).run().expect(3);
    daemon.ctl(&stays, &["send", "s"]).run_fed(&[b'x'; 1025]).expect(8);
    assert!(!dir.path().join("new").exists());
    assert_eq!(fs::read(dir.path().join("taken")).expect("it is there"), b"somebody else's file");
}

#[test]
fn what_is_decided_at_the_start_is_warned_of() {
    let daemon = Setup::new().listen(&["unix"]).config("").start();
    daemon.configure("[daemon]\nworkers = 3\n", "need a restart");
    assert_eq!(daemon.status()["workers"].as_array().map(Vec::len), Some(1));
}

#[test]
fn sessions_outlive_a_larger_and_a_smaller_max_message() {
    let with = |most: &str| format!("[limits]\nmax_message = \"{most}\"\n");
    let setup = Setup::new().config(&with("64KiB")).listen(&["unix"]);
    let daemon = setup.extra(&["unix://RUN/raw.sock?codec=line&subject=lines&reply=big"]).start();
    let mut receiver = daemon.recv("unix", &["-C", "1", "small"]);
    let (mut old, mut sender) = (daemon.raw("unix").open(), daemon.raw("unix").open());
    old.subscribe(1, "big");
    old.subscribe(2, "lines");
    let raw = UnixStream::connect(daemon.runtime_dir().join("raw.sock")).expect("it listens");
    raw.set_read_timeout(Some(PATIENCE)).expect("a socket has a time-out");
    let mut raw = BufReader::new(raw);
    let mut say = |bytes: usize| {
        let line = [vec![b'x'; bytes], vec![b'\n']].concat();
        raw.get_mut().write_all(&line).expect("it is served");
    };
    say(60_000);
    assert_eq!(old.expect(Kind::Message).payload.len(), 60_000);
    daemon.reload(&with("1MiB"));
    // A bare peer may send more, and gets more; a session is not sent what it was not told of.
    say(65_536);
    assert_eq!(old.expect(Kind::Message).payload.len(), 65_536);
    daemon.ctl("unix", &["send", "-s", "big"]).run_fed(&[b'y'; 500_000]).expect(0);
    daemon.send("big", "fits");
    assert_eq!(old.expect(Kind::Message).payload, b"fits");
    old.expect(Kind::Notice);
    let mut line = String::new();
    raw.read_line(&mut line).expect("the long one comes");
    assert_eq!(line.len(), 500_001);
    // Too much is refused, and nobody is disconnected for it.
    daemon.reload(&with("1KiB"));
    sender.message(7, b"big", &[b'z'; 2000]);
    let (code, why) = sender.frame().expect("it is told").refusal();
    assert!(code == Code::TooLarge && why.contains("1024"), "{code:?} {why}");
    raw.get_mut().write_all(&[&[b'x'; 2000][..], b"\nshort\n"].concat()).expect("it is served");
    assert_eq!(old.expect(Kind::Message).payload, b"short");
    daemon.send("small", "still there");
    receiver.wait().expect(0);
}

#[test]
fn new_time_outs_hold_for_those_who_are_connected() {
    let with = |key: &str, time: &str| format!("[limits]\n{key} = \"{time}\"\n");
    for (key, said) in [
        ("idle_timeout", "nothing was heard for too long"),
        ("handshake_timeout", "the handshake took too long"),
        ("frame_timeout", "a frame took too long to arrive"),
    ] {
        let daemon = Setup::new().config(&with(key, "1h")).listen(&["unix"]).start();
        let mut peer = daemon.raw("unix");
        if key != "handshake_timeout" {
            peer = peer.open();
        }
        if key == "frame_timeout" {
            peer.send(&[200, 0, 0, 0, 1]);
        }
        daemon.wait_for_peers(1);
        daemon.reload(&with(key, "0.05s"));
        let (code, why) = peer.end().expect("it is told why");
        assert!(code == Code::TimedOut && why.contains(said), "{key}: {code:?} {why}");
    }
}

#[test]
fn nothing_is_reloaded_while_the_daemon_ends() {
    let setup = Setup::new().config("[daemon]\ndrain_timeout = \"10m\"\n").listen(&["unix"]);
    let mut daemon = setup.start();
    let mut stuck = daemon.raw("unix").open();
    stuck.shrink();
    stuck.subscribe(1, "a");
    // More than the kernel holds for it: it has to read before the daemon ends.
    daemon.ctl("unix", &["send", "-s", "a"]).run_fed(&vec![b'x'; 1_000_000]).expect(0);
    daemon.process.signal(Signal::SIGTERM);
    daemon.process.stderr.wait_until("draining", |log| log.contains("draining").then_some(()));
    let new = daemon.runtime_dir().join("new.sock");
    let listen = format!("[[listen]]\nendpoint = \"unix://{}\"\n", new.display());
    daemon.configure(&listen, "not reloaded: the daemon is ending");
    assert!(!new.exists(), "it lets peers in");
    assert_eq!(stuck.expect(Kind::Message).payload.len(), 1_000_000);
    drop(stuck);
    daemon.process.wait().expect(0);
}

#[test]
fn durations_too_long_for_the_clock_are_as_good_as_for_ever() {
    let longest = "9223372036854775807s";
    let limits = ["handshake", "frame", "idle", "stall"].map(|k| format!("{k}_timeout"));
    let limits: String = limits.iter().map(|key| format!("{key} = \"{longest}\"\n")).collect();
    let config = format!(
        "[daemon]\ndrain_timeout = \"{longest}\"\nwatchdog = \"{longest}\"\n[limits]\n{limits}\
         outbox = \"18446744073709551615\"\nmax_bytes_per_uid = \"18446744073709551615\"\n\
         [[connect]]\nendpoint = \"tcp://127.0.0.1:1?codec=line&reply=a\"\nretry = \"{longest}\"\n"
    );
    let mut daemon = Setup::new().config(&config).listen(&["unix", "tcp", "udp"]).start();
    for scheme in ["unix", "tcp", "udp"] {
        daemon.ctl(scheme, &["req", "nobody.there"]).run().expect(5);
        let mut receiver = daemon.recv(scheme, &["-C", "1", "a"]);
        daemon.send("a", "b");
        receiver.wait().expect(0);
    }
    daemon.reload(&config);
    daemon.terminate().expect(0);
}
