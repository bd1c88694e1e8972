//! Servers without ipcd's protocol, to which the daemon connects.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::{UnixListener, UnixStream};

use ipcd_tests::{
    Daemon, DaemonSetup, PATIENCE, children, descriptors, eventually, refusal, state,
};
use nix::sys::signal::Signal;
use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, listen, socket};

/// Both ways of spreading peers over processes.
const MODES: [&str; 2] = ["pool", "connection"];

fn connect(endpoint: &str) -> String {
    format!("[[connect]]\nendpoint = \"{endpoint}\"\nretry = \"50ms..200ms\"\n")
}

fn daemon_with(config: &str, mode: &str) -> Daemon {
    DaemonSetup::new().listen(&["unix"]).config(config).args(&["--fork", mode]).start()
}

/// A TCP server on a port of its own, and its endpoint.
fn server() -> (TcpListener, String) {
    let server = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let endpoint = format!("tcp://{}", server.local_addr().expect("the socket is bound"));
    (server, endpoint)
}

/// Waits for the daemon to connect.
fn accept(server: &TcpListener) -> BufReader<TcpStream> {
    server.set_nonblocking(true).expect("the socket is open");
    let stream = eventually("the daemon's connection", || Some(server.accept().ok()?.0));
    stream.set_nonblocking(false).expect("the socket is open");
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket has a timeout");
    BufReader::new(stream)
}

fn line(from: &mut impl BufRead) -> String {
    let mut line = String::new();
    from.read_line(&mut line).expect("the next line comes");
    line
}

/// Waits for a subscription to a subject.
fn wait_for_subscriber(daemon: &Daemon, filter: &str) -> serde_json::Value {
    eventually("the subscriber", || {
        let peers = daemon.clients();
        peers.into_iter().find(|peer| peer["subscriptions"][0] == filter)
    })
}

/// A round trip through the server, in both directions.
fn talk(daemon: &Daemon, server: &mut BufReader<TcpStream>) {
    let mut receiver = daemon.recv("unix", &["-C", "1", "in"]);
    server.get_mut().write_all(b"from the server\n").expect("the peer reads the bytes");
    assert_eq!(receiver.wait().expect(0).text(), "from the server\n");
    wait_for_subscriber(daemon, "out");
    daemon.send("out", "to the server");
    assert_eq!(line(server), "to the server\n");
}

#[test]
fn servers_of_every_kind_hear_and_are_heard() {
    for mode in MODES {
        let dir = ipcd_tests::private_dir();
        let path = dir.path().join("s");
        let unix = UnixListener::bind(&path).expect("the directory is writable");
        let udp = UdpSocket::bind("127.0.0.1:0").expect("a port is free");
        udp.set_read_timeout(Some(PATIENCE)).expect("a socket has a timeout");
        let (tcp, tcp_at) = server();
        let udp_at = udp.local_addr().expect("the socket is bound");
        let config = [
            connect(&format!("{tcp_at}?codec=line&subject=in.$1&reply=out.tcp")),
            connect(&format!("udp://{udp_at}?codec=raw&subject=in.udp&reply=out.udp")),
            connect(&format!("unix://{}?codec=nul&subject=in.unix&reply=out.>", path.display())),
        ];
        let daemon = daemon_with(&config.concat(), mode);
        let mut tap = daemon.recv("unix", &["-v", "in.>"]);
        let mut tcp = accept(&tcp);
        let (unix, _) = unix.accept().expect("the daemon connects");
        unix.set_read_timeout(Some(PATIENCE)).expect("a socket has a timeout");
        for filter in ["out.tcp", "out.udp", "out.>"] {
            wait_for_subscriber(&daemon, filter);
        }
        daemon.send("out.tcp", "over TCP");
        daemon.send("out.udp", "by datagram");
        assert_eq!(line(&mut tcp), "over TCP\n");
        let mut room = [0; 100];
        let (count, from) = udp.recv_from(&mut room).expect("a datagram comes");
        assert_eq!(&room[..count], b"by datagram");
        let mut unix = BufReader::new(unix);
        for expected in ["over TCP\0", "by datagram\0"] {
            let mut heard = Vec::new();
            unix.read_until(0, &mut heard).expect("the next line comes");
            assert_eq!(heard, expected.as_bytes());
        }
        tcp.get_mut().write_all(b"tcp one\n").expect("the peer reads the bytes");
        udp.send_to(b"two", from).expect("the datagram is sent");
        unix.get_mut().write_all(b"three\0").expect("the peer reads the bytes");
        for said in ["in.tcp one\n", "in.udp two\n", "in.unix three\n"] {
            tap.stdout().wait_for(said);
        }
        let peer = wait_for_subscriber(&daemon, "out.tcp");
        assert_eq!((&peer["transport"], &peer["bytes_in"]), (&"tcp".into(), &peer["bytes_in"]));
        assert_eq!(peer["addr"], tcp_at.trim_start_matches("tcp://"), "it is shown like any peer");
    }
}

#[test]
fn a_server_is_dialled_until_it_comes_and_whenever_it_goes() {
    for mode in MODES {
        let (first, at) = server();
        drop(first);
        let config = connect(&format!("{at}?codec=line&subject=in&reply=out"));
        let mut daemon = daemon_with(&config, mode);
        daemon.process.stderr.wait_for("cannot connect: trying again endpoint=tcp://");
        // A few more attempts fail, which the log does not report.
        (0..20).for_each(|_| drop(daemon.ctl("unix", &["ping"]).run().expect(0)));
        assert_eq!(daemon.log().matches("cannot connect").count(), 1, "{}", daemon.log());
        let again =
            TcpListener::bind(at.trim_start_matches("tcp://")).expect("the former address is free");
        for _ in 0..3 {
            let mut connection = accept(&again);
            talk(&daemon, &mut connection);
        }
        let mut connection = accept(&again);
        // About the third peer of a worker, which is killed now.
        let peer = wait_for_subscriber(&daemon, "out");
        let worker = daemon.worker_in(peer["worker"].as_u64().expect("the field is a number"));
        daemon.signal_worker(worker.pid, Signal::SIGKILL);
        assert_eq!(connection.read(&mut [0; 10]).unwrap_or(0), 0, "it went with its worker");
        let mut connection = accept(&again);
        talk(&daemon, &mut connection);
        drop(again);
        daemon.terminate().expect(0);
    }
}

#[test]
fn dialling_again_and_again_leaves_nothing_behind() {
    let (tcp, at) = server();
    let config = format!(
        "[[connect]]\nendpoint = \"{at}\"\ncodec = \"line\"\nsubject = \"in\"\nretry = \"10ms\"\n"
    );
    let daemon = daemon_with(&config, "pool");
    drop(accept(&tcp));
    let (supervisor, worker) = (daemon.process.pid(), daemon.worker());
    let count = || (descriptors(supervisor).len(), descriptors(worker).len());
    let before = count();
    (0..50).for_each(|_| drop(accept(&tcp)));
    let last = accept(&tcp);
    eventually("as many descriptors and children as before", || {
        let now = count();
        let children = children(supervisor);
        let is_clean = children == [worker] && state(worker) != Some('Z');
        (is_clean && now.0 <= before.0 && now.1 <= before.1 + 1).then_some(())
    });
    drop(last);
}

/// A listener with a full backlog answers no one, like a host behind a black hole.
#[test]
fn a_server_that_does_not_answer_delays_nobody() {
    let flags = SockFlag::SOCK_CLOEXEC;
    let silent = socket(AddressFamily::Inet, SockType::Stream, flags, None).expect("a socket");
    let any = nix::sys::socket::SockaddrIn::new(127, 0, 0, 1, 0);
    nix::sys::socket::bind(std::os::fd::AsRawFd::as_raw_fd(&silent), &any).expect("a port");
    listen(&silent, Backlog::new(0).expect("0 is a number")).expect("the socket is bound");
    let silent = TcpListener::from(silent);
    let at = silent.local_addr().expect("the socket is bound");
    let mut waiting = Vec::new();
    // The backlog is full when the kernel does not answer any more.
    while let Ok(stream) = TcpStream::connect_timeout(&at, std::time::Duration::from_millis(300)) {
        waiting.push(stream);
    }
    let config = connect(&format!("tcp://{at}?codec=line&subject=in"));
    let mut daemon = daemon_with(&config, "pool");
    let supervisor = daemon.process.pid();
    eventually("the dialler", || (children(supervisor).len() == 2).then_some(()));
    let mut receiver = daemon.recv("unix", &["-C", "20", "s"]);
    (0..20).for_each(|_| daemon.send("s", "served meanwhile"));
    receiver.wait().expect(0);
    assert_eq!(children(supervisor).len(), 2, "it is still dialling");
    let ended = daemon.terminate().expect(0);
    assert!(!ended.stderr.contains("cannot connect"), "{}", ended.stderr);
}

#[test]
fn a_reload_adds_and_removes_servers_and_leaves_the_others_alone() {
    for mode in MODES {
        let [(stays, stays_at), (goes, goes_at), (comes, comes_at)] =
            [server(), server(), server()];
        let entry = |at: &str| connect(&format!("{at}?codec=line&subject=in&reply=out"));
        let daemon = daemon_with(&(entry(&stays_at) + &entry(&goes_at)), mode);
        let (mut stays, mut goes) = (accept(&stays), accept(&goes));
        daemon.reload(&(entry(&comes_at) + &entry(&stays_at)));
        assert_eq!(line(&mut goes), "", "it is hung up on");
        let mut comes = accept(&comes);
        eventually("both replies", || {
            let peers = daemon.clients();
            let found = peers.iter().filter(|peer| peer["subscriptions"][0] == "out").count();
            (found == 2).then_some(())
        });
        daemon.send("out", "to both");
        assert_eq!((line(&mut stays), line(&mut comes)), ("to both\n".into(), "to both\n".into()));
    }
}

#[test]
fn a_bad_entry_is_found_before_it_is_dialled() {
    for (entry, what) in [
        ("endpoint = \"tcp://127.0.0.1:1\"", "links between daemons are not in this version"),
        ("endpoint = \"pipe:cat\"\ncodec = \"line\"\nreply = \"a\"", "frames only"),
        ("endpoint = \"tcp://127.0.0.1:1\"\ncodec = \"line\"", "subject="),
    ] {
        let said = refusal(&format!("[log]\n\n[[connect]]\n{entry}\n"));
        assert!(said.starts_with("3:1: ") && said.contains(what), "{said}");
    }
}

/// A silent connected server does not keep the daemon from ending.
#[test]
fn servers_hear_what_was_accepted_and_then_the_end() {
    let dir = ipcd_tests::private_dir();
    let path = dir.path().join("s");
    let unix = UnixListener::bind(&path).expect("the directory is writable");
    let config = connect(&format!("unix://{}?codec=line&reply=out", path.display()));
    let mut daemon = daemon_with(&config, "pool");
    let (mut stream, _): (UnixStream, _) = unix.accept().expect("the daemon connects");
    wait_for_subscriber(&daemon, "out");
    let send = ["send", "out", "-l"];
    let body = "a line\n".repeat(1000);
    daemon.ctl("unix", &send).run_fed(body.as_bytes()).expect(0);
    let reader = std::thread::spawn(move || {
        let mut heard = String::new();
        stream.read_to_string(&mut heard).expect("the stream ends");
        heard
    });
    daemon.terminate().expect(0);
    assert_eq!(reader.join().expect("reading does not panic"), body);
}
