//! FIFOs from which programs read: output of the daemon, with a reader or without.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use ipcd_tests::{Daemon, DaemonSetup, assert_asleep, eventually};
use nix::fcntl::OFlag;
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, mkfifo};

const LISTENER: &str = "fifo://RUN/news.fifo?codec=line&reply=news";

fn daemon_with(mode: &str) -> Daemon {
    let config =
        "[limits]\noutbox = \"64KiB\"\nstall_timeout = \"1s\"\nhandshake_timeout = \"1s\"\n";
    let setup = DaemonSetup::new().listen(&["unix"]).extra(&[LISTENER]).config(config);
    let daemon = setup.args(&["--fork", mode]).start();
    peer(&daemon);
    daemon
}

fn fifo(daemon: &Daemon) -> PathBuf {
    daemon.runtime_dir().join("news.fifo")
}

/// The entry of the FIFO in `clients -j`: it is a peer.
fn peer(daemon: &Daemon) -> serde_json::Value {
    eventually("the peer", || {
        daemon.clients().into_iter().find(|peer| peer["subscriptions"][0] == "news")
    })
}

fn dropped(daemon: &Daemon) -> (u64, u64) {
    let of_peer = peer(daemon)["dropped"].as_u64().expect("the field is a number");
    (of_peer, daemon.counter("messages_dropped_no_reader"))
}

/// The FIFO's other end, as `cat` opens it. It has a writer, so opening does not wait.
fn reader(path: &Path) -> BufReader<File> {
    BufReader::new(File::open(path).expect("the file can be opened"))
}

fn line(from: &mut impl BufRead) -> String {
    let mut line = String::new();
    from.read_line(&mut line).expect("the next line comes");
    line
}

#[test]
fn messages_go_to_whoever_reads_and_are_counted_when_nobody_does() {
    for mode in ["pool", "connection"] {
        let mut daemon = daemon_with(mode);
        let id = peer(&daemon)["id"].clone();
        for round in 1..=3 {
            daemon.send("news", "without a reader");
            let counted = || (dropped(&daemon) == (round, round)).then_some(());
            eventually("the drop is counted", counted);
            let mut cat = reader(&fifo(&daemon));
            daemon.send("news", &format!("round {round}"));
            assert_eq!(line(&mut cat), format!("round {round}\n"));
        }
        let to_nobody = ["send", "news", "x", "--ack", "delivered"];
        let refused = daemon.ctl("unix", &to_nobody).run().expect(7);
        assert!(refused.stderr.contains("no reader is there"), "{}", refused.stderr);
        assert_eq!(peer(&daemon)["id"], id, "it is one peer all the time");
        let mut cat = reader(&fifo(&daemon));
        let received = ["send", "news", "the last", "--ack", "delivered"];
        daemon.ctl("unix", &received).run().expect(0);
        daemon.terminate().expect(0);
        assert_eq!((line(&mut cat), line(&mut cat)), ("the last\n".into(), String::new()));
    }
}

#[test]
fn a_fifo_that_nobody_reads_wakes_nobody() {
    let daemon = daemon_with("pool");
    drop(reader(&fifo(&daemon)));
    daemon.send("news", "without a reader");
    assert_asleep([daemon.process.pid(), daemon.worker()]);
}

/// More than a FIFO holds: it is written in parts, and the part that a reader leaves is dropped.
#[test]
fn a_reader_that_leaves_in_the_middle_is_the_end_of_that_message() {
    let daemon = daemon_with("pool");
    let mut head = reader(&fifo(&daemon));
    let long = vec![b'x'; 900_000];
    daemon.ctl("unix", &["send", "news"]).run_fed(&long).expect(0);
    head.get_mut().read_exact(&mut [0; 1000]).expect("the answer comes");
    drop(head);
    eventually("the drop is counted", || (dropped(&daemon).1 == 1).then_some(()));
    // The supervisor drops the rest as soon as the last reader has gone.
    let holder =
        || OpenOptions::new().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(fifo(&daemon));
    let is_empty = || {
        let mut first = [0];
        !matches!(holder().expect("the entry exists").read(&mut first), Ok(1) if first == *b"x")
    };
    eventually("an empty FIFO", || is_empty().then_some(()));
    let mut cat = reader(&fifo(&daemon));
    daemon.send("news", "a whole one");
    assert_eq!(line(&mut cat), "a whole one\n");
}

#[test]
fn a_reader_that_does_not_read_is_cut_off_and_finds_the_end() {
    let daemon = daemon_with("pool");
    let mut stuck = reader(&fifo(&daemon));
    let body = "x".repeat(999);
    let send = ["send", "news", &body, "--count", "1000", "--timeout", "90s"];
    let id = peer(&daemon)["id"].clone();
    daemon.ctl("unix", &send).run().expect(0);
    eventually("another peer", || (peer(&daemon)["id"] != id).then_some(()));
    assert_eq!(daemon.counter("peers_cut_off"), 1);
    // It is another FIFO now, for the next reader.
    let mut cat = reader(&fifo(&daemon));
    daemon.send("news", "after that");
    assert_eq!(line(&mut cat), "after that\n");
    let mut heard = Vec::new();
    stuck.read_to_end(&mut heard).expect("the stream ends");
    assert!(heard.len() > 1000 && heard[..999] == *body.as_bytes());
}

#[test]
fn readers_find_the_end_when_their_worker_dies_and_the_next_one_is_served() {
    for mode in ["pool", "connection"] {
        let daemon = daemon_with(mode);
        let mut cat = reader(&fifo(&daemon));
        daemon.send("news", "one");
        assert_eq!(line(&mut cat), "one\n");
        let found = peer(&daemon);
        let slot = found["worker"].as_u64().expect("the field is a number");
        daemon.signal_worker(daemon.worker_in(slot).pid, Signal::SIGKILL);
        assert_eq!(line(&mut cat), "", "the FIFO has ended");
        eventually("another peer", || (peer(&daemon)["id"] != found["id"]).then_some(()));
        let mut cat = reader(&fifo(&daemon));
        daemon.send("news", "two");
        assert_eq!(line(&mut cat), "two\n");
    }
}

#[test]
fn a_fifo_that_others_have_made_is_written_and_read() {
    let dir = ipcd_tests::private_dir();
    let [there, back] = ["there", "back"].map(|name| dir.path().join(name));
    mkfifo(&there, Mode::S_IRWXU).expect("the directory is writable");
    let connect = |path: &Path, way: &str| {
        let endpoint = format!("fifo://{}", path.display());
        format!(
            "[[connect]]\nendpoint = \"{endpoint}\"\ncodec = \"line\"\n{way}\nretry = \"50ms\"\n"
        )
    };
    let config = connect(&there, "reply = \"news\"") + &connect(&back, "subject = \"in\"");
    let mut daemon = DaemonSetup::new().listen(&["unix"]).config(&config).start();
    peer(&daemon);
    daemon.send("news", "without a reader");
    eventually("the drop is counted", || (dropped(&daemon) == (1, 1)).then_some(()));
    let mut cat = reader(&there);
    daemon.send("news", "read");
    assert_eq!(line(&mut cat), "read\n");
    // This FIFO did not exist at first.
    daemon.process.stderr.wait_for("No such file");
    let mut receiver = daemon.recv("unix", &["-C", "2", "in"]);
    mkfifo(&back, Mode::S_IRWXU).expect("the directory is writable");
    for word in ["one", "two"] {
        let mut writer = File::options().write(true).open(&back).expect("the daemon reads it");
        writeln!(writer, "{word}").expect("it is taken");
    }
    assert_eq!(receiver.wait().expect(0).text(), "one\ntwo\n");
    daemon.terminate().expect(0);
    assert!(there.exists() && back.exists(), "files of others stay");
}

#[test]
fn a_fifo_has_one_direction() {
    let dir = ipcd_tests::private_dir();
    let listener = ["fifo://RUN/both.fifo?codec=line&subject=in&reply=out"];
    let ended = DaemonSetup::new().listen(&[]).extra(&listener).spawn(dir.path()).wait().expect(2);
    assert!(ended.stderr.contains("one direction"), "{}", ended.stderr);
}

/// It is the only peer of its listener, so no other connection makes the listener try again.
#[test]
fn a_fifo_that_was_refused_is_served_when_there_is_room() {
    let dir = ipcd_tests::private_dir();
    let (socket, fifo) = (dir.path().join("s"), dir.path().join("news.fifo"));
    let at = format!("unix://{}", socket.display());
    let listener = |at: &str| format!("[[listen]]\nendpoint = \"{at}\"\n");
    let args = ["--fork", "connection", "--max-children", "2"];
    let daemon = DaemonSetup::new().listen(&[]).config(&listener(&at)).args(&args).start();
    let clients = [0; 2].map(|_| daemon.recv(&at, &["x"]));
    let news = format!("fifo://{}?codec=line&reply=news", fifo.display());
    fs::write(daemon.config_file(), listener(&at) + &listener(&news))
        .expect("the file can be written");
    kill(Pid::from_raw(daemon.process.pid()), Signal::SIGHUP).expect("the process runs");
    let log = &daemon.process.stderr;
    log.wait_for("peer refused transport=fifo");
    drop(clients);
    log.wait_until("that it is served", |text| {
        let is_fifo = |line: &str| line.contains("peer connected") && line.contains("=fifo");
        text.lines().any(is_fifo).then_some(())
    });
    let mut cat = reader(&fifo);
    daemon.ctl(&at, &["send", "news", "at last"]).run().expect(0);
    assert_eq!(line(&mut cat), "at last\n");
}
