//! HUP puts the file in force while the daemon runs.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::Path;

use ipcd_proto::FrameKind;
use ipcd_proto::control::RefusalCode;
use ipcd_tests::{Daemon, DaemonSetup, PATIENCE, RawConnection, eventually};
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
    let setup = DaemonSetup::new().listen(&[]).args(&["--workers", "2"]).config(&at_first);
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
    // Both receivers were connected before, one of them at a listener that has gone.
    for receiver in &mut receivers {
        assert_eq!(receiver.wait().expect(0).stdout.len(), 1025 + 4097);
    }
    daemon.ctl(&goes, &["ping"]).run().expect(3);
    daemon.ctl(&comes, &["ping"]).run().expect(0);
    assert!(!dir.path().join("goes").exists());
    let now = daemon.ctl(&comes, &["status", "-j"]).run().expect(0).text();
    let pids = |text: &str| {
        let status: serde_json::Value = serde_json::from_str(text).expect("the text is JSON");
        let workers = status["workers"].as_array().expect("the field is an array").clone();
        workers.iter().map(|worker| worker["pid"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(pids(&now), pids(&workers), "a worker was replaced");
    assert!(now.contains("/comes") && !now.contains("/goes"), "{now}");
}

#[test]
fn a_file_that_cannot_be_put_in_force_changes_nothing() {
    let dir = ipcd_tests::private_dir();
    let [stays, new] = ["stays", "new"].map(|name| socket(dir.path(), name));
    let daemon = DaemonSetup::new()
        .listen(&[])
        .config(&config("1KiB", std::slice::from_ref(&stays)))
        .start();
    let taken = socket(dir.path(), "taken");
    fs::write(dir.path().join("taken"), "a file of another user")
        .expect("the directory is writable");
    let bad = config("2KiB", &[new.clone(), taken]);
    daemon.configure(&bad, "nothing has changed");
    daemon.ctl(&new, &["ping"]).run().expect(3);
    daemon.ctl(&stays, &["send", "s"]).run_fed(&[b'x'; 1025]).expect(8);
    assert!(!dir.path().join("new").exists());
    assert_eq!(
        fs::read(dir.path().join("taken")).expect("the file can be read"),
        b"a file of another user"
    );
}

#[test]
fn what_is_decided_at_the_start_is_warned_of() {
    let daemon = DaemonSetup::new().listen(&["unix"]).config("").start();
    daemon.configure("[daemon]\nworkers = 3\n", "need a restart");
    assert_eq!(daemon.status()["workers"].as_array().map(Vec::len), Some(1));
}

#[test]
fn sessions_outlive_a_larger_and_a_smaller_max_message() {
    let with = |most: &str| format!("[limits]\nmax_message = \"{most}\"\n");
    let setup = DaemonSetup::new().config(&with("64KiB")).listen(&["unix"]);
    let daemon = setup.extra(&["unix://RUN/raw.sock?codec=line&subject=lines&reply=big"]).start();
    let mut receiver = daemon.recv("unix", &["-C", "1", "small"]);
    let (mut old, mut sender) = (daemon.raw("unix").open(), daemon.raw("unix").open());
    old.subscribe(1, "big");
    old.subscribe(2, "lines");
    let raw = UnixStream::connect(daemon.runtime_dir().join("raw.sock"))
        .expect("the listener accepts a connection");
    raw.set_read_timeout(Some(PATIENCE)).expect("a socket has a time-out");
    let mut raw = BufReader::new(raw);
    let mut say = |bytes: usize| {
        let line = [vec![b'x'; bytes], vec![b'\n']].concat();
        raw.get_mut().write_all(&line).expect("the peer reads the bytes");
    };
    say(60_000);
    assert_eq!(old.expect(FrameKind::Message).payload.len(), 60_000);
    daemon.reload(&with("1MiB"));
    // A raw peer may send and receive more; a session keeps the size that it was told.
    say(65_536);
    assert_eq!(old.expect(FrameKind::Message).payload.len(), 65_536);
    daemon.ctl("unix", &["send", "-s", "big"]).run_fed(&[b'y'; 500_000]).expect(0);
    daemon.send("big", "fits");
    assert_eq!(old.expect(FrameKind::Message).payload, b"fits");
    old.expect(FrameKind::Notice);
    let mut line = String::new();
    raw.read_line(&mut line).expect("the long one comes");
    assert_eq!(line.len(), 500_001);
    // A larger message is refused, and no peer is disconnected for it.
    daemon.reload(&with("1KiB"));
    sender.message(7, b"big", &[b'z'; 2000]);
    let (code, why) = sender.frame().expect("a frame comes").refusal();
    assert!(code == RefusalCode::TooLarge && why.contains("1024"), "{code:?} {why}");
    raw.get_mut()
        .write_all(&[&[b'x'; 2000][..], b"\nshort\n"].concat())
        .expect("the peer reads the bytes");
    assert_eq!(old.expect(FrameKind::Message).payload, b"short");
    daemon.send("small", "still there");
    receiver.wait().expect(0);
}

#[test]
fn new_time_outs_hold_for_those_who_are_connected() {
    let with = |key: &str, time: &str| format!("[limits]\n{key} = \"{time}\"\n");
    for (key, said) in [
        ("idle_timeout", "the peer was silent for too long"),
        ("handshake_timeout", "the handshake took too long"),
        ("frame_timeout", "a frame took too long to arrive"),
    ] {
        let daemon = DaemonSetup::new().config(&with(key, "1h")).listen(&["unix"]).start();
        let mut peer = daemon.raw("unix");
        if key != "handshake_timeout" {
            peer = peer.open();
        }
        if key == "frame_timeout" {
            peer.send(&[200, 0, 0, 0, 1]);
        }
        daemon.wait_for_peers(1);
        daemon.reload(&with(key, "0.05s"));
        let (code, why) = peer.end().expect("the session ends with a reason");
        assert!(code == RefusalCode::TimedOut && why.contains(said), "{key}: {code:?} {why}");
    }
}

#[test]
fn nothing_is_reloaded_while_the_daemon_ends() {
    let setup = DaemonSetup::new().config("[daemon]\ndrain_timeout = \"10m\"\n").listen(&["unix"]);
    let mut daemon = setup.start();
    let mut stuck = daemon.raw("unix").open();
    stuck.shrink();
    stuck.subscribe(1, "a");
    // More than the kernel holds for it: it must read before the daemon ends.
    daemon.ctl("unix", &["send", "-s", "a"]).run_fed(&vec![b'x'; 1_000_000]).expect(0);
    daemon.process.signal(Signal::SIGTERM);
    daemon.process.stderr.wait_until("draining", |log| log.contains("draining").then_some(()));
    let new = daemon.runtime_dir().join("new.sock");
    let listen = format!("[[listen]]\nendpoint = \"unix://{}\"\n", new.display());
    daemon.configure(&listen, "not reloaded: the daemon is ending");
    assert!(!new.exists(), "it lets peers in");
    assert_eq!(stuck.expect(FrameKind::Message).payload.len(), 1_000_000);
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
    let mut daemon = DaemonSetup::new().config(&config).listen(&["unix", "tcp", "udp"]).start();
    for scheme in ["unix", "tcp", "udp"] {
        daemon.ctl(scheme, &["req", "nobody.there"]).run().expect(5);
        let mut receiver = daemon.recv(scheme, &["-C", "1", "a"]);
        daemon.send("a", "b");
        receiver.wait().expect(0);
    }
    daemon.reload(&config);
    daemon.terminate().expect(0);
}

/// A listener that tests can ask.
fn own(dir: &Path) -> String {
    format!("[[listen]]\nendpoint = \"{}\"\n", socket(dir, "own"))
}

/// The listeners of the daemon by its own report, with their codecs.
fn endpoints(daemon: &Daemon) -> Vec<String> {
    let status = daemon.status();
    let listeners = status["listeners"].as_array().expect("the field is an array");
    let mut shown: Vec<_> =
        listeners.iter().map(|l| format!("{} {}", l["endpoint"], l["codec"])).collect();
    shown.sort();
    shown
}

/// Connects to a raw socket, and sends a line.
fn say(path: &Path, line: &str) -> BufReader<UnixStream> {
    let mut raw = UnixStream::connect(path).expect("the listener accepts a connection");
    raw.set_read_timeout(Some(PATIENCE)).expect("a socket has a time-out");
    writeln!(raw, "{line}").expect("it is served");
    BufReader::new(raw)
}

#[test]
fn a_listener_changes_its_options_where_it_is_and_bare_peers_follow() {
    let dir = tempfile::tempdir().expect("a directory can be made");
    let path = dir.path().join("raw.sock");
    let with = |options: &str| {
        format!(
            "{}[[listen]]\nendpoint = \"unix://{}?{options}\"\n[[listen]]\n\
             endpoint = \"tcp://127.0.0.1:0?codec=line&subject=net.$1\"\n",
            own(dir.path()),
            path.display()
        )
    };
    let daemon = DaemonSetup::new()
        .listen(&[])
        .config(&with("codec=line&subject=before&reply=news"))
        .start();
    let mut hears = RawConnection::unix(&dir.path().join("own")).open();
    hears.subscribe(1, ">");
    let mut early = say(&path, "one");
    assert_eq!(hears.expect(FrameKind::Message).subject, b"before");
    let inode = |path: &Path| fs::metadata(path).expect("the path exists").ino();
    let before = inode(&path);
    daemon.reload(&with("codec=line&subject=after&reply=other&mode=0640"));
    assert_eq!(inode(&path), before, "the socket was replaced");
    let mode = fs::metadata(&path).expect("the path exists").permissions().mode();
    assert_eq!(mode & 0o777, 0o640);
    writeln!(early.get_mut(), "two").expect("it is served");
    assert_eq!(hears.expect(FrameKind::Message).subject, b"after");
    let mut late = say(&path, "three");
    assert_eq!(hears.expect(FrameKind::Message).subject, b"after");
    daemon.send("news", "without a receiver");
    daemon.send("other", "heard");
    for peer in [&mut early, &mut late] {
        let mut line = String::new();
        peer.read_line(&mut line).expect("the next line comes");
        assert_eq!(line, "heard\n");
    }
    // For frames now, and for records next: the socket itself must be replaced.
    daemon.reload(&with("mode=0600"));
    daemon.ctl(&format!("unix://{}", path.display()), &["ping"]).run().expect(0);
    daemon.reload(&with("type=seqpacket"));
    daemon.ctl(&format!("unix://{}?type=seqpacket", path.display()), &["ping"]).run().expect(0);
    assert_ne!(inode(&path), before);
    let log = daemon.log();
    assert!(!log.contains("in use") && !log.contains("not reloaded"), "{log}");
}

#[test]
fn what_cannot_be_put_in_force_leaves_every_listener_as_it_was() {
    let dir = tempfile::tempdir().expect("a directory can be made");
    let [one, two, new] = ["one", "two", "new"].map(|name| dir.path().join(name));
    let fifo = dir.path().join("fifo");
    let with = |of_one: &str, of_two: &str, more: &str| {
        format!(
            "{}[[listen]]\nendpoint = \"unix://{}?{of_one}\"\n[[listen]]\nendpoint = \
             \"unix://{}?{of_two}\"\n[[listen]]\nendpoint = \"fifo://{}?codec=line&subject=f\"\n\
             {more}",
            own(dir.path()),
            one.display(),
            two.display(),
            fifo.display()
        )
    };
    let text = with("mode=0600&codec=line&subject=a", "mode=0600", "");
    let daemon = DaemonSetup::new().listen(&[]).config(&text).start();
    let listeners = || endpoints(&daemon);
    let (before, mut hears) = (listeners(), RawConnection::unix(&dir.path().join("own")).open());
    hears.subscribe(1, ">");
    let taken = dir.path().join("taken");
    fs::write(&taken, "a file of another user").expect("the directory is writable");
    let more = format!(
        "[[listen]]\nendpoint = \"unix://{}\"\n[[listen]]\nendpoint = \"unix://{}\"\n",
        new.display(),
        taken.display()
    );
    // The second change is possible, and so is the first, which needs another socket.
    let bad = with("mode=0640&codec=line&subject=b&type=seqpacket", "mode=0640", &more);
    daemon.configure(&bad, "nothing has changed");
    // It fails after one of the two has changed already.
    fs::remove_file(&two).expect("the directory is writable");
    fs::write(&two, "a file of another user").expect("the directory is writable");
    let bad = with("mode=0640&codec=line&subject=b&type=seqpacket", "mode=0640", "");
    daemon.configure(&bad, "nothing has changed");
    say(&one, "a line");
    assert_eq!(hears.expect(FrameKind::Message).subject, b"a");
    let mode = fs::metadata(&one).expect("the path exists").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert!(!new.exists());
    assert_eq!(listeners(), before);
    fs::write(&fifo, "into the FIFO\n").expect("the file can be written");
    assert_eq!(hears.expect(FrameKind::Message).payload, b"into the FIFO");
}

/// Neither the daemon's reports nor its paths tell a reload from a start.
#[test]
fn a_reload_is_as_good_as_a_start_for_random_pairs_of_configurations() {
    let dir = tempfile::tempdir().expect("a directory can be made");
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut below = |sides: u64| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random % sides
    };
    let mut configuration = || {
        let mut text = format!("[limits]\nmax_message = \"{}KiB\"\n", 1 << below(8));
        text += &own(dir.path());
        for name in ["a", "b", "c", "d"] {
            let at = dir.path().join(name);
            let options = match below(7) {
                0 => continue,
                1 => "codec=line&subject=s&type=dgram",
                2 => "mode=0640&codec=line&subject=s",
                3 => "mode=0600&codec=raw&subject=t&reply=r",
                4 => "type=seqpacket&mode=0660",
                5 => "mode=0666",
                _ => "mode=0600",
            };
            text += &format!("[[listen]]\nendpoint = \"unix://{}?{options}\"\n", at.display());
        }
        let fifo = dir.path().join("fifo");
        let way = ["subject=in", "reply=out", "subject=other&mode=0622"][below(3) as usize];
        text += &format!("[[listen]]\nendpoint = \"fifo://{}?codec=line&{way}\"\n", fifo.display());
        text
    };
    let seen = |daemon: &Daemon| {
        let entries = fs::read_dir(dir.path()).expect("the directory is writable");
        let mut files: Vec<_> = entries
            .map(|entry| entry.expect("the entry exists"))
            .map(|entry| {
                let found = entry.metadata().expect("the path exists");
                (entry.file_name(), found.file_type().is_socket(), found.permissions().mode())
            })
            .collect();
        files.sort();
        (endpoints(daemon), files)
    };
    let start = |text: &str| DaemonSetup::new().listen(&[]).config(text).start();
    for _ in 0..12 {
        let (from, to) = (configuration(), configuration());
        let mut started = start(&to);
        let expected = seen(&started);
        started.terminate().expect(0);
        let _ = fs::remove_file(dir.path().join("fifo"));
        let mut daemon = start(&from);
        daemon.reload(&to);
        eventually("the same state", || (seen(&daemon) == expected).then_some(()));
        daemon.terminate().expect(0);
        let _ = fs::remove_file(dir.path().join("fifo"));
    }
}
