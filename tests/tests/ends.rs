//! Ends that are none, and errors that are no ends: what a peer had said by then is heard.

use std::net::UdpSocket;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use ipcd_tests::{Daemon, PATIENCE, Setup};
use nix::sys::signal::Signal;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, UnixAddr, connect, send, socket,
};

fn daemon_with(listeners: &[&str]) -> Daemon {
    Setup::new().listen(&["unix"]).extra(listeners).start()
}

fn seqpacket(path: &Path) -> OwnedFd {
    let made = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::empty(), None);
    let made = made.expect("a descriptor is left");
    connect(made.as_raw_fd(), &UnixAddr::new(path).expect("it is short")).expect("it listens");
    made
}

fn say(socket: &OwnedFd, record: &[u8]) {
    send(socket.as_raw_fd(), record, MsgFlags::empty()).expect("there is room");
}

/// The kernel reports the reset ahead of what came before it.
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
    // What it never reads makes its end a reset. The worker is stopped, so that this comes first.
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

/// On a wildcard address the kernel would choose another one to answer from.
#[test]
fn a_datagram_is_answered_from_the_address_that_it_went_to() {
    let listener = "udp://0.0.0.0:0?codec=raw&subject=in&reply=out&insecure=true";
    let daemon = daemon_with(&[listener]);
    let mut receiver = daemon.recv("unix", &["in"]);
    receiver.stdout();
    let address = daemon.address("udp");
    let port = address.rsplit(':').next().expect("it has a port");
    let peers = ["127.0.0.5", "127.0.0.6"].map(|host| {
        let peer = UdpSocket::bind("127.0.0.1:0").expect("there is a port");
        peer.connect(format!("{host}:{port}")).expect("it is an address");
        peer.set_read_timeout(Some(PATIENCE)).expect("a socket has a timeout");
        peer
    });
    for number in 0..20 {
        for (peer, name) in peers.iter().zip(["a", "b"]) {
            peer.send(format!("{name}{number}.").as_bytes()).expect("it is sent");
            receiver.stdout().wait_for(&format!("{name}{number}.\n"));
        }
    }
    let udp = daemon.clients().iter().filter(|peer| peer["transport"] == "udp").count();
    assert_eq!(udp, 2, "a peer for each socket, not for each datagram");
    daemon.send("out", "answer");
    for peer in &peers {
        let mut room = [0; 16];
        let count = peer.recv(&mut room).expect("it comes from where it was sent to");
        assert_eq!(&room[..count], b"answer");
    }
    // A client of frames has to be answered before it is known.
    let framed = daemon_with(&["udp://0.0.0.0:0"]);
    let address = framed.address("udp");
    let via = format!("udp://{}", address.replace("0.0.0.0", "127.0.0.7"));
    framed.ctl(&via, &["ping", "-c", "1"]).run().expect(0);
}
