//! Ends of input that are no ends of a peer, and errors that are no ends: earlier bytes are
//! accepted.

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use ipcd_tests::{Daemon, DaemonSetup, PATIENCE, RawConnection, RunningProcess};
use nix::sys::signal::Signal;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, UnixAddr, connect, send, socket,
};

fn daemon_with(listeners: &[&str]) -> Daemon {
    DaemonSetup::new().listen(&["unix"]).extra(listeners).start()
}

fn seqpacket(path: &Path) -> OwnedFd {
    let made = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::empty(), None);
    let made = made.expect("a descriptor is left");
    connect(made.as_raw_fd(), &UnixAddr::new(path).expect("it is short"))
        .expect("the listener accepts a connection");
    made
}

fn say(socket: &OwnedFd, record: &[u8]) {
    send(socket.as_raw_fd(), record, MsgFlags::empty()).expect("the datagram is sent");
}

/// The kernel reports the reset before the records that came earlier.
#[test]
fn records_of_a_peer_that_left_something_unread_are_all_heard() {
    let daemon = daemon_with(&["unix://RUN/bare?type=seqpacket&codec=raw&subject=in&reply=out"]);
    let mut receiver = daemon.recv("unix", &["in"]);
    receiver.stdout();
    let peer = seqpacket(&daemon.runtime_dir().join("bare"));
    say(&peer, b"first");
    receiver.stdout().wait_for("first\n");
    let worker = daemon.worker();
    daemon.signal_worker(worker, Signal::SIGSTOP);
    let said: String = (0..200).map(|number| format!("{number}\n")).collect();
    said.lines().for_each(|line| say(&peer, line.as_bytes()));
    daemon.signal_worker(worker, Signal::SIGCONT);
    receiver.stdout().wait_for("\n199\n");
    // Unread input makes its close a reset. The worker is stopped, so that the reset comes first.
    daemon.send("out", "never read");
    daemon.signal_worker(worker, Signal::SIGSTOP);
    (200..400).for_each(|number| say(&peer, number.to_string().as_bytes()));
    drop(peer);
    daemon.signal_worker(worker, Signal::SIGCONT);
    receiver.stdout().wait_for("\n399\n");
    let all: String = (0..400).map(|number| format!("{number}\n")).collect();
    assert_eq!(receiver.stdout().text(), format!("first\n{all}"));
}

#[test]
fn an_empty_record_is_a_message_and_no_end() {
    let daemon = daemon_with(&["unix://RUN/bare?type=seqpacket&codec=raw&subject=in"]);
    let mut receiver = daemon.recv("unix", &["in"]);
    receiver.stdout();
    let peer = seqpacket(&daemon.runtime_dir().join("bare"));
    for record in ["", "one", "", "", "two", ""] {
        say(&peer, record.as_bytes());
    }
    drop(peer);
    receiver.stdout().wait_for("two\n\n");
    assert_eq!(receiver.stdout().text(), "\none\n\n\ntwo\n\n");
}

/// On a wildcard address the kernel would choose another source address for the answer.
#[test]
fn a_datagram_is_answered_from_the_address_that_it_went_to() {
    let listener = "udp://0.0.0.0:0?codec=raw&subject=in&reply=out&insecure=true";
    let daemon = daemon_with(&[listener]);
    let mut receiver = daemon.recv("unix", &["in"]);
    receiver.stdout();
    let address = daemon.address("udp");
    let port = address.rsplit(':').next().expect("it has a port");
    let peers = ["127.0.0.5", "127.0.0.6"].map(|host| {
        let peer = UdpSocket::bind("127.0.0.1:0").expect("a port is free");
        peer.connect(format!("{host}:{port}")).expect("the address can be connected");
        peer.set_read_timeout(Some(PATIENCE)).expect("a socket has a timeout");
        peer
    });
    for number in 0..20 {
        for (peer, name) in peers.iter().zip(["a", "b"]) {
            peer.send(format!("{name}{number}.").as_bytes()).expect("the datagram is sent");
            receiver.stdout().wait_for(&format!("{name}{number}.\n"));
        }
    }
    let udp = daemon.clients().iter().filter(|peer| peer["transport"] == "udp").count();
    assert_eq!(udp, 2, "a peer for each socket, not for each datagram");
    daemon.send("out", "answer");
    for peer in &peers {
        let mut room = [0; 16];
        let count = peer.recv(&mut room).expect("a datagram comes");
        assert_eq!(&room[..count], b"answer");
    }
    // A client of frames must be answered before it is a peer.
    let framed = daemon_with(&["udp://0.0.0.0:0"]);
    let address = framed.address("udp");
    let via = format!("udp://{}", address.replace("0.0.0.0", "127.0.0.7"));
    framed.ctl(&via, &["ping", "-c", "1"]).run().expect(0);
}

/// Sends a line, ends its sending direction, and waits for an answer.
fn ask(mut stream: impl Read + Write, finish: impl FnOnce(&mut dyn Write), daemon: &Daemon) {
    let mut receiver = daemon.recv("unix", &["-C", "1", "in"]);
    stream.write_all(b"a question").expect("the peer reads the bytes");
    finish(&mut stream);
    assert_eq!(receiver.wait().expect(0).text(), "a question\n");
    for answer in ["an answer", "and another"] {
        daemon.send("out", answer);
        let mut heard = vec![0; answer.len() + 1];
        stream.read_exact(&mut heard).expect("the answer comes");
        assert_eq!(heard, format!("{answer}\n").as_bytes());
    }
}

#[test]
fn a_bare_peer_that_has_said_its_last_still_hears() {
    let options = "codec=line&subject=in&reply=out";
    let listeners = ["tcp://127.0.0.1:0?", "unix://RUN/bare?"].map(|at| format!("{at}{options}"));
    let mut daemon = daemon_with(&listeners.each_ref().map(String::as_str));
    let tcp = TcpStream::connect(daemon.address("tcp")).expect("the listener accepts a connection");
    tcp.set_read_timeout(Some(PATIENCE)).expect("a socket has a timeout");
    ask(&tcp, |_| tcp.shutdown(Shutdown::Write).expect("the socket is open"), &daemon);
    let path = daemon.runtime_dir().join("bare");
    let unix = UnixStream::connect(path).expect("the listener accepts a connection");
    unix.set_read_timeout(Some(PATIENCE)).expect("a socket has a timeout");
    ask(&unix, |_| unix.shutdown(Shutdown::Write).expect("the socket is open"), &daemon);
    daemon.wait_for_peers(2);
    // A Unix-domain socket reports the end of the other direction; TCP only when something is
    // written.
    drop(unix);
    daemon.wait_for_peers(1);
    // The end of the daemon ends their input.
    daemon.terminate().expect(0);
    let mut rest = String::new();
    (&tcp).read_to_string(&mut rest).expect("the stream ends");
    assert_eq!(rest, "an answer\nand another\n", "it heard the other's answers, too");
}

/// The last line of a writer is unfinished, and the next writer's is a new one.
#[test]
fn what_the_last_writer_of_a_fifo_has_begun_is_a_message() {
    let daemon = daemon_with(&["fifo://RUN/in?codec=line&subject=in"]);
    let mut receiver = daemon.recv("unix", &["in"]);
    receiver.stdout();
    let fifo = daemon.runtime_dir().join("in");
    let mut expected = String::new();
    for said in ["no end", "one\ntwo, without an end", "with an end\n", "last"] {
        fs::write(&fifo, said).expect("the file can be written");
        expected += said.trim_end();
        expected += "\n";
        receiver.stdout().wait_for(&expected);
    }
    // While a writer stays, its line may come in pieces, whatever other writers do.
    let mut stays = fs::File::options().write(true).open(&fifo).expect("the FIFO has a reader");
    stays.write_all(b"a line ").expect("the peer reads the bytes");
    drop(fs::File::options().write(true).open(&fifo).expect("the FIFO has a reader"));
    stays.write_all(b"in pieces\n").expect("the peer reads the bytes");
    expected += "a line in pieces\n";
    receiver.stdout().wait_for(&expected);
    drop(stays);
    let long: String = (0..20_000).map(|number| format!("{number}\n")).collect();
    fs::write(&fifo, &long).expect("the file can be written");
    receiver.stdout().wait_for("\n19999\n");
    assert_eq!(receiver.stdout().text(), expected + &long);
}

/// Messages wait for a slow subscriber when their sender's connection breaks.
#[test]
fn what_a_sender_had_sent_before_it_broke_is_accepted_later() {
    // More than the subscriber's send queue holds.
    const AT_LEAST: u64 = 100;
    let limits = "[limits]\noutbox = \"64KiB\"\nstall_timeout = \"10m\"\n";
    let daemon = DaemonSetup::new().listen(&["unix"]).config(limits).start();
    let mut slow: RunningProcess = daemon.recv("unix", &["--overflow", "block", "big"]);
    slow.stdout();
    slow.signal(Signal::SIGSTOP);
    let mut sender = daemon.session("unix");
    sender.subscribe(1, "words");
    let body = [b'x'; 1000];
    let message = |number: u64| {
        let text = [format!("{number} ").as_bytes(), &body].concat();
        RawConnection::message_bytes(number, b"big", &text)
    };
    (1..=AT_LEAST).for_each(|number| sender.send(&message(number)));
    // The way that the daemon's reads divide the bytes decides how many more the sockets hold.
    let refused = (AT_LEAST + 1..).find(|number| !sender.send_now(&message(*number)));
    let messages = refused.expect("a stopped subscriber blocks its publishers") - 1;
    drop(sender);
    // It cannot receive the reason, and has unread input: its connection is reset.
    daemon.send("words", "to one that has gone");
    slow.signal(Signal::SIGCONT);
    slow.stdout().wait_for(&format!("\n{messages} "));
    let text = slow.stdout().text();
    let numbers = text.lines().map(|line| line.split_once(' ').expect("it has a number").0);
    assert!(numbers.eq((1..=messages).map(|number| number.to_string())), "some are missing");
}
