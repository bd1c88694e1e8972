//! Unix datagrams: one socket with a name, and all its senders.

use std::io::{IoSlice, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use ipcd_tests::{
    Daemon, DaemonSetup, PATIENCE, RunningProcess, descriptors, eventually, is_without, skip,
};
use nix::sys::signal::Signal;
use nix::sys::socket::{ControlMessage, MsgFlags, UnixAddr, sendmsg, setsockopt, sockopt};
use nix::unistd::{getgid, getuid};

/// The senders that a listener keeps at a time.
const MOST_SENDERS: usize = 512;

/// A daemon whose datagram socket shares one subject with all other peers.
fn daemon(args: &[&str]) -> Daemon {
    let listener = "unix://RUN/in.sock?type=dgram&codec=raw&subject=chat&reply=chat";
    DaemonSetup::new().listen(&["unix"]).extra(&[listener]).args(args).start()
}

fn well_known(daemon: &Daemon) -> PathBuf {
    daemon.runtime_dir().join("in.sock")
}

fn bound(path: &Path) -> UnixDatagram {
    let socket = UnixDatagram::bind(path).expect("the name is free");
    socket.set_read_timeout(Some(PATIENCE)).expect("a socket has a timeout");
    socket
}

/// A socket with a name in the daemon's directory.
fn named(daemon: &Daemon, name: &str) -> UnixDatagram {
    bound(&daemon.dir().join(name))
}

fn hear(socket: &UnixDatagram) -> String {
    let mut room = vec![0; 300_000];
    let count = socket.recv(&mut room).expect("a datagram comes");
    String::from_utf8_lossy(&room[..count]).into_owned()
}

fn receiver(daemon: &Daemon, args: &[&str]) -> RunningProcess {
    let mut receiver = daemon.recv("unix", args);
    receiver.stdout();
    receiver
}

/// The senders of datagrams, as `clients -j` lists them.
fn senders(daemon: &Daemon) -> Vec<serde_json::Value> {
    // All other peers of these tests are `ipcctl`, with the process of a child of ours.
    let peers = daemon.clients();
    let listens = |peer: &serde_json::Value| peer["subscriptions"][0] == "chat";
    let is_ours = |peer: &serde_json::Value| peer["pid"] == std::process::id();
    peers.into_iter().filter(|p| (is_ours(p) && listens(p)) || p["pid"].is_null()).collect()
}

fn wait_for_senders(daemon: &Daemon, wanted: usize) {
    eventually("the senders", || (senders(daemon).len() == wanted).then_some(()));
}

#[test]
fn those_with_a_name_are_in_one_conversation_and_none_hears_itself() {
    let daemon = daemon(&["--workers", "2"]);
    let mut framed = receiver(&daemon, &["chat"]);
    let (ann, bob, cyd) = (named(&daemon, "ann"), named(&daemon, "bob"), named(&daemon, "cyd"));
    // A connected socket receives only from the well-known one (unix(7)).
    cyd.connect(well_known(&daemon)).expect("the listener accepts a connection");
    ann.send_to(b"ann is here", well_known(&daemon)).expect("the datagram is sent");
    wait_for_senders(&daemon, 1);
    bob.send_to(b"bob is here", well_known(&daemon)).expect("the datagram is sent");
    wait_for_senders(&daemon, 2);
    assert_eq!(hear(&ann), "bob is here");
    cyd.send(b"cyd is here").expect("the datagram is sent");
    wait_for_senders(&daemon, 3);
    assert_eq!((hear(&ann), hear(&bob)), ("cyd is here".into(), "cyd is here".into()));
    daemon.send("chat", "from a frame");
    for socket in [&ann, &bob, &cyd] {
        assert_eq!(hear(socket), "from a frame");
    }
    cyd.send(b"two\nlines").expect("the datagram is sent");
    assert_eq!((hear(&ann), hear(&bob)), ("two\nlines".into(), "two\nlines".into()));
    for said in ["ann is here", "bob is here", "cyd is here", "from a frame", "two\nlines"] {
        framed.stdout().wait_for(&format!("{said}\n"));
    }
    for sender in senders(&daemon) {
        assert_eq!(sender["uid"], getuid().as_raw());
        assert_eq!(sender["gid"], getgid().as_raw());
        assert_eq!(sender["transport"], "unix");
    }
}

#[test]
fn a_name_may_be_abstract_or_relative() {
    if is_without(&["python3"]) {
        return;
    }
    let daemon = daemon(&[]);
    let script = "import os, socket, sys\n\
        s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)\n\
        s.bind(sys.argv[1].replace('@', chr(0)))\n\
        s.sendto(b'hello', sys.argv[2])\n\
        print('heard', s.recv(100).decode())\n";
    for name in ["relative", "@ipcd-test-abstract"] {
        let name = format!("{name}-{}", std::process::id());
        let mut heard = receiver(&daemon, &["-C", "1", "chat"]);
        let mut python = Command::new("python3");
        python.args(["-c", script, &name]).arg(well_known(&daemon)).current_dir(daemon.dir());
        let mut python = RunningProcess::start(python.stdin(Stdio::null()));
        assert_eq!(heard.wait().expect(0).text(), "hello\n");
        // Its own message does not come back.
        daemon.send("chat", "to you");
        assert_eq!(python.wait().expect(0).text(), "heard to you\n");
    }
}

#[test]
fn those_without_a_name_are_one_peer_of_their_user() {
    let daemon = daemon(&[]);
    let mut framed = receiver(&daemon, &["-o", "jsonl", "-C", "3", "chat"]);
    for number in 0..3 {
        let logger = UnixDatagram::unbound().expect("a socket");
        logger
            .send_to(format!("{number}").as_bytes(), well_known(&daemon))
            .expect("the datagram is sent");
    }
    let text = framed.wait().expect(0).text();
    let ids: std::collections::BTreeSet<_> = text
        .lines()
        .map(|line| {
            let message: serde_json::Value = serde_json::from_str(line).expect("the text is JSON");
            let from = &message["from"];
            assert_eq!((&from["uid"], &from["pid"]), (&getuid().as_raw().into(), &().into()));
            from["peer"].as_u64()
        })
        .collect();
    assert_eq!(ids.len(), 1, "{text}");
    // It receives nothing. So it blocks no publisher, and nothing counts as delivered to it.
    let ended = daemon.ctl("unix", &["send", "--ack", "delivered", "chat", "x"]).run();
    assert!(ended.expect(5).stderr.contains("no receiver"));
    assert_eq!(senders(&daemon).len(), 1);
}

/// More bytes than all queues hold, while the only subscriber is stopped.
#[test]
fn a_slow_subscriber_makes_senders_wait_and_nothing_is_lost() {
    const DATAGRAMS: usize = 3000;
    let config = "[limits]\noutbox = \"64KiB\"\nstall_timeout = \"1000s\"\n";
    let listener = "unix://RUN/in.sock?type=dgram&codec=raw&subject=chat";
    let setup = DaemonSetup::new().listen(&["unix"]).config(config).extra(&[listener]);
    let daemon = setup.args(&["--workers", "2"]).start();
    let mut framed = receiver(&daemon, &["chat"]);
    framed.signal(Signal::SIGSTOP);
    let (ann, bob) = (named(&daemon, "ann"), UnixDatagram::unbound().expect("a socket"));
    let path = well_known(&daemon);
    let text = |who: &str, number: usize| format!("{who}:{number}:{}", "x".repeat(number % 999));
    std::thread::scope(|scope| {
        for (who, socket) in [("ann", &ann), ("bob", &bob)] {
            let path = &path;
            scope.spawn(move || {
                for number in 0..DATAGRAMS {
                    // A blocking socket waits here: this is back-pressure.
                    socket
                        .send_to(text(who, number).as_bytes(), path)
                        .expect("the datagram is sent");
                }
            });
        }
        eventually("the senders wait", || {
            let peers = daemon.clients();
            let peer = peers.iter().find(|peer| peer["subscriptions"][0] == "chat")?;
            (peer["queued_bytes"].as_u64()? > 32 << 10).then_some(())
        });
        // Only the listener waits.
        daemon.ctl("unix", &["ping"]).run().expect(0);
        framed.signal(Signal::SIGCONT);
    });
    let heard = framed.stdout().wait_until("all of them", |text| {
        (text.lines().count() >= 2 * DATAGRAMS).then(|| text.to_owned())
    });
    for who in ["ann", "bob"] {
        let own = heard.lines().filter(|line| line.starts_with(who));
        assert!(own.eq((0..DATAGRAMS).map(|number| text(who, number))), "{who}");
    }
}

/// Datagrams that a worker had not read when it died go to the next one.
#[test]
fn what_waits_for_a_worker_outlives_it() {
    let daemon = daemon(&["--workers", "2"]);
    let ann = named(&daemon, "ann");
    ann.send_to(b"first", well_known(&daemon)).expect("the datagram is sent");
    wait_for_senders(&daemon, 1);
    let slot = senders(&daemon)[0]["worker"].as_u64().expect("the field is a number");
    let old = daemon.worker_in(slot);
    let mut framed = None;
    daemon.on_slot(
        |other| other != slot,
        |name| {
            framed = Some(receiver(&daemon, &["--name", name, "chat"]));
        },
    );
    let mut framed = framed.expect("the program starts");
    daemon.signal_worker(old.pid, Signal::SIGSTOP);
    for number in 0..5 {
        ann.send_to(format!("n{number}").as_bytes(), well_known(&daemon))
            .expect("the datagram is sent");
    }
    daemon.signal_worker(old.pid, Signal::SIGKILL);
    framed.stdout().wait_for("n0\nn1\nn2\nn3\nn4\n");
    // It receives again, from its new worker.
    wait_for_senders(&daemon, 1);
    daemon.send("chat", "to ann");
    assert_eq!(hear(&ann), "to ann");
}

#[test]
fn a_thousand_senders_are_bounded_and_forgotten() {
    let daemon = daemon(&[]);
    let mut framed = receiver(&daemon, &["-C", "1000", "chat"]);
    let (supervisor, worker) = (daemon.process.pid(), daemon.worker());
    let sockets: Vec<_> = (0..1000)
        .map(|number| {
            let socket = named(&daemon, &format!("s{number}"));
            socket.send_to(format!("{number}").as_bytes(), well_known(&daemon)).expect("taken");
            socket
        })
        .collect();
    let mut numbers: Vec<u64> =
        framed.wait().expect(0).text().lines().flat_map(str::parse).collect();
    numbers.sort_unstable();
    assert!(numbers.iter().copied().eq(0..1000), "each message came once");
    eventually("the senders in excess are forgotten", || {
        (senders(&daemon).len() == MOST_SENDERS).then_some(())
    });
    drop(sockets);
    daemon.send("chat", "is anybody there?");
    eventually("all senders are forgotten", || senders(&daemon).is_empty().then_some(()));
    eventually("no descriptor is left open", || {
        let open = |pid| descriptors(pid).len();
        (open(supervisor) < 60 && open(worker) < 60).then_some(())
    });
}

#[test]
fn descriptors_that_come_along_are_closed() {
    let daemon = daemon(&[]);
    let mut framed = receiver(&daemon, &["-C", "200", "chat"]);
    let ann = named(&daemon, "ann");
    let (reader, mut writer) = std::io::pipe().expect("a pipe");
    let address = UnixAddr::new(&well_known(&daemon)).expect("a path");
    let rights = [reader.as_raw_fd(); 40];
    for number in 0..200 {
        let control = [ControlMessage::ScmRights(&rights[..1 + number % 40])];
        let body = [IoSlice::new(b"x")];
        sendmsg(ann.as_raw_fd(), &body, &control, MsgFlags::empty(), Some(&address))
            .expect("the datagram is sent");
    }
    framed.wait().expect(0);
    drop(reader);
    let left = writer.write(b"x").expect_err("the peer has closed");
    assert_eq!(left.kind(), std::io::ErrorKind::BrokenPipe);
}

/// A restarted program has another socket of the same name.
#[test]
fn a_name_that_is_bound_anew_is_answered_anew() {
    if is_without(&["python3"]) {
        return;
    }
    let daemon = daemon(&[]);
    let (first, ann) = (named(&daemon, "ann"), daemon.dir().join("ann"));
    first.send_to(b"first", well_known(&daemon)).expect("the datagram is sent");
    wait_for_senders(&daemon, 1);
    drop(first);
    std::fs::remove_file(&ann).expect("the file is writable");
    let second = bound(&ann);
    // The messages for the old socket show that it is gone, and its peer goes.
    daemon.send("chat", "for a lost peer");
    wait_for_senders(&daemon, 0);
    second.send_to(b"second", well_known(&daemon)).expect("the datagram is sent");
    wait_for_senders(&daemon, 1);
    daemon.send("chat", "to the second");
    assert_eq!(hear(&second), "to the second");
    // Another process id shows a new peer.
    drop(second);
    std::fs::remove_file(&ann).expect("the file is writable");
    let script = "import socket, sys\n\
        s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)\n\
        s.bind(sys.argv[1])\n\
        s.sendto(b'third', sys.argv[2])\n\
        print('heard', s.recv(100).decode())\n";
    let mut heard = receiver(&daemon, &["-C", "1", "chat"]);
    let mut python = Command::new("python3");
    python.args(["-c", script]).args([&ann, &well_known(&daemon)]).stdin(Stdio::null());
    let mut python = RunningProcess::start(&mut python);
    assert_eq!(heard.wait().expect(0).text(), "third\n");
    daemon.send("chat", "to the third");
    assert_eq!(python.wait().expect(0).text(), "heard to the third\n");
}

/// A sender with a forged name does not make the daemon write there.
#[test]
fn a_socket_of_another_user_is_not_written_to() {
    if !getuid().is_root() {
        return skip("only root can act as two users");
    }
    if is_without(&["python3"]) {
        return;
    }
    let listener = "unix://RUN/in.sock?type=dgram&codec=raw&subject=chat&reply=chat&mode=0666";
    let daemon = DaemonSetup::new().listen(&["unix"]).extra(&[listener]).start();
    std::os::unix::fs::chown(daemon.dir(), Some(65534), None).expect("the test runs as root");
    let mut framed = receiver(&daemon, &["-C", "1", "chat"]);
    // The process binds a name, a socket of root replaces it there, and then the process sends.
    let script = "import os, socket, sys\n\
        mine, theirs, daemon = sys.argv[1:]\n\
        os.setgid(65534); os.setuid(65534)\n\
        s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)\n\
        s.bind(mine)\n\
        os.unlink(mine); os.rename(theirs, mine)\n\
        s.sendto(b'hello', daemon)\n";
    let roots = named(&daemon, "roots");
    let mut python = Command::new("python3");
    python.args(["-c", script]).args([daemon.dir().join("mine"), daemon.dir().join("roots")]);
    let mut python = RunningProcess::start(python.arg(well_known(&daemon)).stdin(Stdio::null()));
    python.wait().expect(0);
    assert_eq!(framed.wait().expect(0).text(), "hello\n");
    let ended = daemon.ctl("unix", &["send", "--ack", "delivered", "chat", "x"]).run();
    ended.expect(5);
    roots.set_nonblocking(true).expect("a socket");
    assert!(roots.recv(&mut [0; 9]).is_err(), "nothing came");
}

#[test]
fn long_ones_are_whole_or_refused_and_empty_ones_are_messages() {
    let config = "[limits]\nmax_message = \"1MiB\"\n";
    let listener = "unix://RUN/in.sock?type=dgram&codec=raw&subject=chat";
    let daemon = DaemonSetup::new().listen(&["unix"]).config(config).extra(&[listener]).start();
    let mut framed = receiver(&daemon, &["-F", "%l", "chat"]);
    let ann = named(&daemon, "ann");
    setsockopt(&ann, sockopt::SndBufForce, &2_000_000)
        .or_else(|_| setsockopt(&ann, sockopt::SndBuf, &2_000_000))
        .expect("a socket has a buffer");
    let send = |length| ann.send_to(&vec![b'x'; length], well_known(&daemon));
    for length in [0, 1, 100_000, 200_000, 262_144] {
        send(length).expect("the datagram is sent");
    }
    if send(262_145).is_ok() {
        eventually("the log", || daemon.log().contains("262145 bytes").then_some(()));
    }
    send(7).expect("the datagram is sent");
    framed.stdout().wait_for("0\n1\n100000\n200000\n262144\n7\n");
}

/// A receiver that does not read blocks no other peer, and is disconnected at last.
#[test]
fn one_that_does_not_read_is_cut_off() {
    let config = "[limits]\noutbox = \"64KiB\"\nstall_timeout = \"1s\"\n";
    let listener = "unix://RUN/in.sock?type=dgram&codec=raw&subject=in&reply=chat";
    let setup = DaemonSetup::new().listen(&["unix"]).config(config).extra(&[listener]);
    let daemon = setup.start();
    let (ann, bob) = (named(&daemon, "ann"), named(&daemon, "bob"));
    bob.connect(well_known(&daemon)).expect("the listener accepts a connection");
    for (socket, others) in [(&ann, 0), (&bob, 0)] {
        socket.send_to(b"hello", well_known(&daemon)).ok();
        let _ = (socket.send(b"hello"), others);
        wait_for_senders(&daemon, 1);
        let body = "x".repeat(1000);
        let send = ["send", "chat", &body, "--count", "3000", "--timeout", "90s"];
        daemon.ctl("unix", &send).run().expect(0);
        wait_for_senders(&daemon, 0);
    }
    assert_eq!(daemon.counter("peers_cut_off"), 2);
    assert_eq!(hear(&ann), "x".repeat(1000));
}

#[test]
fn frames_need_another_type_and_every_mode_of_forking_serves_datagrams() {
    let dir = ipcd_tests::private_dir();
    let said = |listener: &str| {
        DaemonSetup::new().listen(&[]).extra(&[listener]).spawn(dir.path()).wait().expect(2).stderr
    };
    assert!(said("unix://RUN/x.sock?type=dgram").contains("listeners with a codec only"));
    let daemon = daemon(&["--fork", "connection"]);
    let ended = daemon.ctl("unix://run/x?type=dgram", &["ping"]).run();
    assert!(ended.expect(2).stderr.contains("absolute path"));
    let via = format!("unix://{}?type=dgram", well_known(&daemon).display());
    let ended = daemon.ctl(&via, &["ping"]).run();
    assert!(ended.expect(2).stderr.contains("with a codec only"));
    let (ann, bob) = (named(&daemon, "ann"), named(&daemon, "bob"));
    ann.send_to(b"ann is here", well_known(&daemon)).expect("the datagram is sent");
    wait_for_senders(&daemon, 1);
    bob.send_to(b"hello", well_known(&daemon)).expect("the datagram is sent");
    assert_eq!(hear(&ann), "hello");
}
