//! Raw peers, which do not speak the protocol: sockets, datagrams and a FIFO.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use ipcd_tests::{Daemon, DaemonSetup, PATIENCE, RunningProcess, descriptors, eventually, skip};
use nix::sys::signal::Signal;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};

/// A daemon with a Unix socket for `ipcctl`, and these further listeners; `RUN` stands for its
/// runtime directory.
fn daemon_with(listeners: &[&str], args: &[&str]) -> Daemon {
    DaemonSetup::new().listen(&["unix"]).extra(listeners).args(args).start()
}

/// The address of the listener with this codec on a network transport.
fn address(daemon: &Daemon, scheme: &str) -> String {
    daemon.address(scheme)
}

fn tcp(daemon: &Daemon) -> TcpStream {
    let stream =
        TcpStream::connect(address(daemon, "tcp")).expect("the listener accepts a connection");
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket has a timeout");
    stream
}

fn udp(daemon: &Daemon) -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a port is free");
    socket.connect(address(daemon, "udp")).expect("the listener accepts a connection");
    socket.set_read_timeout(Some(PATIENCE)).expect("a socket has a timeout");
    socket
}

fn lines(stream: &TcpStream) -> impl Iterator<Item = String> + use<> {
    let reader = BufReader::new(stream.try_clone().expect("a descriptor is left"));
    reader.lines().map(|line| line.expect("the bytes are UTF-8"))
}

fn tap(daemon: &Daemon) -> RunningProcess {
    let mut tap = daemon.recv("unix", &["-v", ">"]);
    tap.stdout();
    tap
}

fn wait_for_subscribers(daemon: &Daemon, filter: &str, wanted: usize) {
    eventually("the subscribers", || {
        let peers = daemon.clients();
        let found = peers.iter().filter(|peer| peer["subscriptions"][0] == filter).count();
        (found == wanted).then_some(())
    });
}

#[test]
fn all_kinds_of_programs_are_in_one_conversation() {
    let daemon = daemon_with(
        &[
            "tcp://127.0.0.1:0?codec=line&subject=chat&reply=chat",
            "udp://127.0.0.1:0?codec=raw&subject=chat&reply=chat",
            "fifo://RUN/chat.fifo?codec=line&subject=chat",
        ],
        &["--workers", "2"],
    );
    let mut framed = daemon.recv("unix", &["chat"]);
    framed.stdout();
    let (mut ann, mut bob) = (tcp(&daemon), tcp(&daemon));
    let (cyd, dot) = (udp(&daemon), udp(&daemon));
    // The sender of a datagram is a peer from the first datagram on.
    cyd.send(b"cyd is here").expect("the datagram is sent");
    dot.send(b"dot is here").expect("the datagram is sent");
    wait_for_subscribers(&daemon, "chat", 5);
    // Earlier messages, which only some peers received.
    let mut heard_by_ann = lines(&ann);
    let mut heard_by_bob = lines(&bob);
    ann.write_all(b"from ann\r\n").expect("the peer reads the bytes");
    bob.write_all(b"from bob\n").expect("the peer reads the bytes");
    cyd.send(b"from cyd").expect("the datagram is sent");
    dot.send(b"from dot").expect("the datagram is sent");
    let fifo = daemon.runtime_dir().join("chat.fifo");
    fs::write(&fifo, "from a FIFO\n").expect("the file can be written");
    daemon.send("chat", "from a frame");
    let all = ["from ann", "from bob", "from cyd", "from dot", "from a FIFO", "from a frame"];
    let check = |who: &str, next: &mut dyn FnMut() -> String| {
        let mut missing: Vec<&str> =
            all.iter().copied().filter(|said| !said.ends_with(who)).collect();
        while !missing.is_empty() {
            let said = next();
            if said.ends_with("is here") {
                continue;
            }
            let at = missing.iter().position(|wanted| *wanted == said);
            missing.remove(
                at.unwrap_or_else(|| panic!("{who} hears {said}, and waits for {missing:?}")),
            );
        }
    };
    check("ann", &mut || heard_by_ann.next().expect("the stream goes on"));
    check("bob", &mut || heard_by_bob.next().expect("the stream goes on"));
    for (who, socket) in [("cyd", &cyd), ("dot", &dot)] {
        check(who, &mut || {
            let mut room = [0; 100];
            let count = socket.recv(&mut room).expect("a datagram comes");
            String::from_utf8_lossy(&room[..count]).into_owned()
        });
    }
    for said in all {
        framed.stdout().wait_for(&format!("{said}\n"));
    }
}

#[test]
fn lines_of_any_kind_are_messages_and_bad_ones_harm_nobody() {
    let listener = "tcp://127.0.0.1:0?codec=line&subject=in.$1";
    let daemon = DaemonSetup::new()
        .listen(&["unix"])
        .config("[limits]\nmax_message = \"100\"\n")
        .extra(&[listener])
        .start();
    let mut tap = tap(&daemon);
    let mut stream = tcp(&daemon);
    let long = "x".repeat(300);
    let mut bytes = format!("a one\nb two\r\n{long}\na three\n..bad x\n").into_bytes();
    bytes.extend((0..=255).filter(|byte| *byte != b'\n'));
    bytes.extend_from_slice(b"\nz last");
    stream.write_all(&bytes).expect("the peer reads the bytes");
    stream.shutdown(Shutdown::Write).expect("the socket is open");
    tap.stdout().wait_for("in.z last\n");
    assert_eq!(tap.stdout().text(), "in.a one\nin.b two\nin.a three\nin.z last\n");
    // The peer is disconnected, and the log reports the reason and the number of such messages
    // once.
    let mut end = Vec::new();
    stream.read_to_end(&mut end).expect("the stream ends");
    eventually("the log", || daemon.log().contains("refused=3").then_some(()));
    assert_eq!(daemon.log().matches("message refused").count(), 1, "{}", daemon.log());
}

#[test]
fn a_thousand_short_connections_leave_nothing_behind() {
    let daemon = daemon_with(&["tcp://127.0.0.1:0?codec=line&subject=hits"], &[]);
    let mut receiver = daemon.recv("unix", &["-C", "1000", "hits"]);
    receiver.stdout();
    let (supervisor, worker) = (daemon.process.pid(), daemon.worker());
    let before = (descriptors(supervisor).len(), descriptors(worker).len());
    for number in 0..1000 {
        writeln!(tcp(&daemon), "{number}").expect("it is sent");
    }
    let mut numbers: Vec<u64> = receiver
        .wait()
        .expect(0)
        .text()
        .lines()
        .map(|line| line.parse().expect("a number"))
        .collect();
    numbers.sort_unstable();
    assert!(numbers.iter().copied().eq(0..1000), "each message came once");
    eventually("all peers are gone", || {
        let now = (descriptors(supervisor).len(), descriptors(worker).len());
        (daemon.clients().len() == 1 && now.0 <= before.0 && now.1 <= before.1).then_some(())
    });
}

/// A peer that sends and leaves while its subscriber does not read: all its messages are accepted.
#[test]
fn what_a_program_sent_before_it_left_waits_like_anything_else() {
    const LINES: usize = 3000;
    let config = "[limits]\noutbox = \"64KiB\"\nstall_timeout = \"1000s\"\n";
    let daemon = DaemonSetup::new()
        .listen(&["unix"])
        .config(config)
        .extra(&["tcp://127.0.0.1:0?codec=line&subject=work"])
        .start();
    let mut receiver = daemon.recv("unix", &["-C", "3000", "work"]);
    receiver.stdout();
    receiver.signal(Signal::SIGSTOP);
    let mut stream = tcp(&daemon);
    let line = "x".repeat(199);
    let all = format!("{line}\n").repeat(LINES);
    stream.write_all(all.as_bytes()).expect("the kernel takes it");
    drop(stream);
    eventually("a full outbox", || {
        let peers = daemon.clients();
        let peer = peers.iter().find(|peer| peer["subscriptions"][0] == "work")?;
        (peer["queued_bytes"].as_u64()? > 32 << 10).then_some(())
    });
    receiver.signal(Signal::SIGCONT);
    assert!(receiver.wait().expect(0).stdout == all.as_bytes());
}

/// A peer that does not read blocks senders, and is disconnected after `stall_timeout`.
#[test]
fn a_program_that_does_not_read_is_cut_off() {
    let config = "[limits]\noutbox = \"64KiB\"\nstall_timeout = \"1s\"\n";
    let daemon = DaemonSetup::new()
        .listen(&["unix"])
        .config(config)
        .extra(&["tcp://127.0.0.1:0?codec=line&subject=in&reply=out"])
        .start();
    let stream = tcp(&daemon);
    wait_for_subscribers(&daemon, "out", 1);
    let body = "x".repeat(1000);
    let send = ["send", "out", &body, "--count", "20000", "--timeout", "90s"];
    daemon.ctl("unix", &send).run().expect(0);
    assert_eq!(daemon.counter("peers_cut_off"), 1);
    let mut heard = Vec::new();
    // A reset counts as an end.
    let _ = (&stream).read_to_end(&mut heard);
    assert!(heard.len() > 1000 && heard[..1000] == *body.as_bytes());
}

#[test]
fn a_fifo_takes_the_lines_of_many_writers_and_outlives_its_worker() {
    let daemon = daemon_with(&["fifo://RUN/log.fifo?codec=line&subject=logs"], &["--workers", "2"]);
    let fifo: PathBuf = daemon.runtime_dir().join("log.fifo");
    let mut receiver = daemon.recv("unix", &["-C", "4000", "logs"]);
    receiver.stdout();
    std::thread::scope(|scope| {
        for writer in 0..4 {
            let fifo = &fifo;
            scope.spawn(move || {
                for number in 0..1000 {
                    // Each line is one write of a separate program.
                    let mut file =
                        File::options().write(true).open(fifo).expect("the file can be opened");
                    let line = format!("{writer}:{number}:{}\n", "y".repeat(number % 500));
                    file.write_all(line.as_bytes()).expect("the peer reads the bytes");
                }
            });
        }
    });
    let text = receiver.wait().expect(0).text();
    for writer in 0..4 {
        let own = text.lines().filter_map(|line| line.strip_prefix(&format!("{writer}:")));
        let numbers = own.map(|line| {
            let (number, rest) = line.split_once(':').expect("a whole line");
            let number: usize = number.parse().expect("a whole number");
            assert_eq!(rest, "y".repeat(number % 500));
            number
        });
        assert!(numbers.eq(0..1000), "writer {writer}");
    }
    let served_by = || {
        let peers = daemon.clients();
        peers.iter().find(|peer| peer["transport"] == "fifo")?["worker"].as_u64()
    };
    let slot = served_by().expect("it is a peer");
    let old = daemon.worker_in(slot);
    daemon.signal_worker(old.pid, Signal::SIGKILL);
    eventually("another worker", || {
        let other = served_by()?;
        (daemon.worker_in(other).pid != old.pid).then_some(())
    });
    let mut again = daemon.recv("unix", &["-C", "1", "logs"]);
    fs::write(&fifo, "still here\n").expect("the write succeeds");
    assert_eq!(again.wait().expect(0).text(), "still here\n");
}

/// Datagrams that are queued while their sender becomes a peer are neither lost nor reordered.
#[test]
fn a_burst_of_datagrams_from_new_senders_is_in_order() {
    const SENDERS: usize = 10;
    const DATAGRAMS: usize = 15;
    let daemon = daemon_with(&["udp://127.0.0.1:0?codec=raw&subject=in"], &["--workers", "2"]);
    let mut receiver = daemon.recv("unix", &["in"]);
    receiver.stdout();
    let sockets: Vec<UdpSocket> = (0..SENDERS).map(|_| udp(&daemon)).collect();
    for number in 0..DATAGRAMS {
        for (sender, socket) in sockets.iter().enumerate() {
            socket.send(format!("{sender}:{number}").as_bytes()).expect("the datagram is sent");
        }
    }
    let text = receiver.stdout().wait_until("all datagrams", |text| {
        (text.lines().count() >= SENDERS * DATAGRAMS).then(|| text.to_owned())
    });
    for sender in 0..SENDERS {
        let own = text.lines().filter_map(|line| line.strip_prefix(&format!("{sender}:")));
        assert!(
            own.map(|n| n.parse::<usize>().expect("a number")).eq(0..DATAGRAMS),
            "sender {sender}"
        );
    }
    assert_eq!(daemon.clients().iter().filter(|peer| peer["transport"] == "udp").count(), SENDERS);
}

#[test]
fn records_of_a_seqpacket_socket_and_parts_that_a_nul_ends_are_messages() {
    let daemon = daemon_with(
        &[
            "unix://RUN/records.sock?type=seqpacket&codec=raw&subject=in&reply=in&echo=true",
            "unix://RUN/nul.sock?codec=nul&subject=in",
        ],
        &[],
    );
    let flags = SockFlag::SOCK_CLOEXEC;
    let records = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None).expect("a socket");
    let path = daemon.runtime_dir().join("records.sock");
    connect(std::os::fd::AsRawFd::as_raw_fd(&records), &UnixAddr::new(&path).expect("a path"))
        .expect("the listener accepts a connection");
    let mut records = File::from(records);
    wait_for_subscribers(&daemon, "in", 1);
    records.write_all(b"two\nlines").expect("the peer reads the bytes");
    let mut room = [0; 100];
    let count = records.read(&mut room).expect("the peer is connected");
    assert_eq!(&room[..count], b"two\nlines");
    // A message that fits no record is dropped for this peer, and counted; the next one is not.
    let large = vec![b'x'; 500_000];
    let send = ["send", "in", "--ack", "delivered", "--timeout", "5s"];
    let ended = daemon.ctl("unix", &send).run_fed(&large).expect(7);
    assert!(ended.stderr.contains("too large"), "{}", ended.stderr);
    assert_eq!(daemon.counter("messages_dropped_too_large"), 1);
    daemon.send("in", "small");
    let count = records.read(&mut room).expect("the peer is connected");
    assert_eq!(&room[..count], b"small");
    let mut tap = tap(&daemon);
    let mut parts = UnixStream::connect(daemon.runtime_dir().join("nul.sock"))
        .expect("the listener accepts a connection");
    parts.write_all(b"one\ntwo\0three\0").expect("the peer reads the bytes");
    tap.stdout().wait_for("in one\ntwo\nin three\n");
}

#[test]
fn every_mode_of_forking_serves_bare_peers() {
    let listener = "tcp://127.0.0.1:0?codec=line&subject=chat&reply=chat";
    let daemon = daemon_with(&[listener], &["--fork", "connection"]);
    let (mut ann, bob) = (tcp(&daemon), tcp(&daemon));
    wait_for_subscribers(&daemon, "chat", 2);
    let mut heard = lines(&bob);
    eventually("bob receives a message of ann", || {
        ann.write_all(b"hello\n").expect("the peer reads the bytes");
        heard.next().filter(|line| line == "hello")
    });
}

/// A page can make a browser send any bytes to a loopback port, after a request line.
#[test]
fn a_browsers_request_is_no_message() {
    let listeners = ["line", "nul", "raw"]
        .map(|codec| format!("tcp://127.0.0.1:0?codec={codec}&subject=in.{codec}&reply=out"));
    let daemon = daemon_with(&listeners.each_ref().map(String::as_str), &[]);
    let ports: Vec<String> = daemon
        .log()
        .lines()
        .filter_map(|line| line.split_once("tcp://")?.1.split(['?', ' ']).next())
        .map(str::to_owned)
        .collect();
    assert_eq!(ports.len(), 3, "{}", daemon.log());
    for port in &ports {
        let mut browser = TcpStream::connect(port).expect("the listener accepts a connection");
        let request = b"POST /a HTTP/1.1\r\nHost: localhost\r\n\r\nstolen\n\0stolen\0";
        browser.write_all(request).expect("the peer reads the bytes");
        let mut answer = Vec::new();
        let _ = browser.read_to_end(&mut answer);
        assert!(answer.is_empty(), "{port}");
    }
    eventually("each sender is a peer", || {
        (daemon.log().matches("it speaks HTTP").count() == 3).then_some(())
    });
    assert_eq!(daemon.counter("messages_accepted"), 0);
    let mut plain = TcpStream::connect(&ports[0]).expect("the listener accepts a connection");
    plain.write_all(b"GET well soon\nPOST / HTTP/1.1\n").expect("the peer reads the bytes");
    eventually("lines are accepted", || (daemon.counter("messages_accepted") == 2).then_some(()));
}

#[test]
fn strangers_from_the_network_need_a_word_in_the_configuration() {
    let refused = |listener: &str| {
        let dir = ipcd_tests::private_dir();
        let setup = DaemonSetup::new().listen(&[]).extra(&[listener]);
        setup.spawn(dir.path()).wait().expect(2).stderr
    };
    for scheme in ["tcp", "udp"] {
        let said = refused(&format!("{scheme}://0.0.0.0:0?codec=line&subject=in"));
        assert!(said.contains("insecure=true") && said.contains("allow="), "{said}");
    }
    assert!(refused("tcp://127.0.0.1:0?codec=line").contains("subject="));
    assert!(refused("pipe://RUN/x.sock?codec=line&subject=in").contains("frames only"));
    // A peer that is not allowed is disconnected at once, and the log names it.
    let daemon = daemon_with(&["tcp://0.0.0.0:0?codec=line&subject=in&allow=127.0.0.2/32"], &[]);
    let port = address(&daemon, "tcp");
    let port = port.rsplit_once(':').expect("an address has a port").1;
    let mut stream =
        TcpStream::connect(format!("127.0.0.1:{port}")).expect("the listener accepts a connection");
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket has a timeout");
    let mut end = Vec::new();
    let _ = stream.read_to_end(&mut end);
    eventually("the log", || {
        daemon.log().contains("connection refused: address not in allow=").then_some(())
    });
}

/// The socket is for both address families.
#[test]
fn who_comes_by_ipv4_is_allowed_by_ipv4() {
    if TcpListener::bind("[::]:0").is_err() {
        return skip("there is no IPv6");
    }
    let daemon = daemon_with(&["tcp://[::]:0?codec=line&subject=in&allow=127.0.0.0/8"], &[]);
    let port = address(&daemon, "tcp");
    let port = port.rsplit_once(':').expect("an address has a port").1;
    let mut stream =
        TcpStream::connect(format!("127.0.0.1:{port}")).expect("the listener accepts a connection");
    stream.write_all(b"hello\n").expect("the peer reads the bytes");
    eventually("the message is received", || {
        (daemon.counter("messages_accepted") == 1).then_some(())
    });
}
