//! UDP: forged sources, lost, doubled and reordered datagrams, and ports that other processes want.

use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use ipcd_client::{Client, Event, Options, TokenSource};
use ipcd_tests::{Daemon, DaemonSetup, FaultScene, PATIENCE, eventually, guard, is_without, skip};
use nix::sys::signal::Signal;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, sendto, socket,
};

use crate::network::{alone, run};
use crate::proxy::{DatagramProxy, NetworkWeather};

/// RFC 9000 §8: bytes out for one in, until an address is proved.
const AMPLIFICATION: usize = 3;
const DATA: u8 = 4;
const PING: u8 = 7;
const PONG: u8 = 8;

fn init(nonce: u64) -> Vec<u8> {
    let mut init = vec![0, 1];
    init.extend(nonce.to_le_bytes());
    init.resize(64, 0);
    init
}

fn bound() -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a port is free");
    socket.set_read_timeout(Some(PATIENCE)).expect("a socket has a timeout");
    socket
}

/// Takes datagrams until the one with this COOKIE, and counts the bytes of those before.
fn bytes_before_cookie(socket: &UdpSocket, nonce: u64) -> usize {
    let (mut bytes, mut before) = ([0; 65_536], 0);
    loop {
        let count = socket.recv(&mut bytes).expect("the daemon answers INIT");
        if bytes[0] == 1 && bytes[1..9] == nonce.to_le_bytes() {
            return before;
        }
        before += count;
    }
}

#[test]
fn no_datagram_of_a_stranger_is_answered_by_more_than_three_times_its_bytes() {
    const SEED: u64 = 0x1bcd;
    let scene = FaultScene::start(DaemonSetup::new(), &["unix", "udp"]);
    let (socket, mut random) = (bound(), fastrand::Rng::with_seed(SEED));
    socket.connect(scene.daemon.address("udp")).expect("an address can be connected");
    let (mut worst, mut answered) = (0.0_f64, 0);
    for number in 0..3000_u64 {
        let most = random.usize(1..1500);
        let length = random.usize(..most);
        let mut datagram: Vec<u8> = (0..length).map(|_| random.u8(..)).collect();
        if let Some(first) = datagram.first_mut().filter(|_| number % 4 != 0) {
            *first %= 12;
        }
        socket.send(&datagram).expect("a datagram can be sent");
        socket.send(&init(number)).expect("a datagram can be sent");
        let got = bytes_before_cookie(&socket, number);
        assert!(got <= AMPLIFICATION * datagram.len(), "seed {SEED}: {got} bytes for {datagram:?}");
        worst = worst.max(got as f64 / datagram.len().max(1) as f64);
        answered += usize::from(got > 0);
    }
    eprintln!("{answered} of 3000 random datagrams were answered, at most × {worst:.2}");
    scene.check("random datagrams");
}

/// As above for an INIT that is repeated as a client does, because the queue may have been full.
fn bytes_before_own_cookie(socket: &UdpSocket, to: SocketAddr) -> usize {
    let (nonce, mut bytes, mut before) = (u64::MAX, [0; 2000], 0);
    let again = Some(Duration::from_millis(50));
    socket.set_read_timeout(again).expect("a socket has a timeout");
    eventually("the daemon's answer to INIT", || {
        socket.send_to(&init(nonce), to).expect("a datagram can be sent");
        while let Ok(count) = socket.recv(&mut bytes) {
            if bytes[0] == 1 && bytes[1..9] == nonce.to_le_bytes() {
                return Some(before);
            }
            before += count;
        }
        None
    })
}

/// An IPv4 packet with a UDP datagram in it, with any source address.
fn forged(from: SocketAddr, to: SocketAddr, payload: &[u8]) -> Vec<u8> {
    let octets = |address: SocketAddr| match address.ip() {
        std::net::IpAddr::V4(ip) => ip.octets(),
        std::net::IpAddr::V6(_) => unreachable!("these tests are on 127.0.0.0/8"),
    };
    let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0];
    packet.extend(octets(from));
    packet.extend(octets(to));
    // The kernel fills in lengths and checksum of IP; UDP's may be 0, for none (RFC 768).
    for field in [from.port(), to.port(), 8 + payload.len() as u16, 0] {
        packet.extend(field.to_be_bytes());
    }
    packet.extend(payload);
    packet
}

struct PacketForger(std::os::fd::OwnedFd);

impl PacketForger {
    fn new() -> Self {
        let (kind, flags) = (SockType::Raw, SockFlag::SOCK_CLOEXEC);
        let made = socket(AddressFamily::Inet, kind, flags, SockProtocol::Raw);
        Self(made.expect("root has raw sockets"))
    }

    fn send(&self, from: SocketAddr, to: SocketAddr, payload: &[u8]) {
        let SocketAddr::V4(target) = to else { unreachable!("these tests are on 127.0.0.0/8") };
        let packet = forged(from, to, payload);
        let sent =
            sendto(self.0.as_raw_fd(), &packet, &SockaddrIn::from(target), MsgFlags::empty());
        sent.expect("a packet can be sent");
    }
}

#[test]
fn a_forged_source_gets_little_and_takes_over_nothing() {
    alone(|| {
        let scene = FaultScene::start(DaemonSetup::new(), &["unix", "udp"]);
        let to: SocketAddr = scene.daemon.address("udp").parse().expect("an address");
        let (victim, forger) = (bound(), PacketForger::new());
        let from = victim.local_addr().expect("the socket is bound");
        let mut sent = 0;
        for nonce in 0..200 {
            forger.send(from, to, &init(nonce));
            let mut guess = vec![2];
            guess.extend(nonce.to_le_bytes());
            guess.extend(100_000_u32.to_le_bytes());
            guess.extend([nonce as u8; 32]);
            forger.send(from, to, &guess);
            sent += 64 + guess.len();
        }
        let got = bytes_before_own_cookie(&victim, to);
        assert!(got > 0 && got <= AMPLIFICATION * sent, "{got} bytes for {sent}");
        // A datagram in the name of an existing peer, without its id, is ignored.
        let mut peer = scene.daemon.client("udp");
        let address = scene.daemon.clients().into_iter().find_map(|found| {
            let is_peer = found["id"].as_u64() == Some(peer.peer());
            is_peer.then(|| found["addr"].as_str().and_then(|addr| addr.parse().ok()))?
        });
        let address: SocketAddr = address.expect("a peer over UDP has an address");
        for kind in 0..=11 {
            for id in [0, 1, u64::MAX] {
                let mut datagram = vec![kind];
                datagram.extend(id.to_le_bytes());
                datagram.resize(if kind == 0 { 64 } else { 41 }, 0);
                forger.send(address, to, &datagram);
            }
        }
        peer.flush().expect("the connection is open");
        drop(peer);
        scene.check("forged sources");
    });
}

/// A connection on which the test makes every datagram.
struct UdpSession {
    socket: UdpSocket,
    id: u64,
}

impl UdpSession {
    fn open(daemon: &Daemon) -> Self {
        let socket = bound();
        socket.connect(daemon.address("udp")).expect("an address can be connected");
        let nonce = 7_u64;
        socket.send(&init(nonce)).expect("a datagram can be sent");
        let mut bytes = [0; 100];
        let count = socket.recv(&mut bytes).expect("COOKIE comes");
        assert_eq!((count, bytes[0]), (41, 1));
        let mut connect = vec![2];
        connect.extend(nonce.to_le_bytes());
        connect.extend(100_000_u32.to_le_bytes());
        connect.extend(&bytes[9..41]);
        socket.send(&connect).expect("a datagram can be sent");
        let count = socket.recv(&mut bytes).expect("ACCEPT comes");
        assert_eq!((count, bytes[0]), (21, 3));
        let id = bytes[9..17].try_into().map(u64::from_le_bytes).expect("eight bytes");
        Self { socket, id }
    }

    fn send(&self, kind: u8, rest: &[u8]) {
        let mut datagram = vec![kind];
        datagram.extend(self.id.to_le_bytes());
        datagram.extend(rest);
        // The daemon may have closed it, which the kernel reports as ECONNREFUSED.
        let _ = self.socket.send(&datagram);
    }

    /// Whether a PING is answered by PONG, and not by GONE.
    fn is_alive(&self) -> bool {
        self.send(PING, &[]);
        let mut bytes = [0; 65_536];
        loop {
            let Ok(count) = self.socket.recv(&mut bytes) else { return false };
            match bytes[0] {
                PONG => return true,
                11 if count == 9 => return false,
                _ => {}
            }
        }
    }
}

#[test]
fn cut_and_oversize_datagrams_of_a_peer_are_ignored() {
    let config = "[limits]\nhandshake_timeout = \"3s\"\n";
    let scene = FaultScene::start(DaemonSetup::new().config(config), &["unix", "udp"]);
    let data = |sequence: u32, position: u64, record: &[u8]| {
        [&sequence.to_le_bytes()[..], &position.to_le_bytes(), record].concat()
    };
    // Invalid credit, probes and farewells, cut at every byte and too long.
    for kind in 5..=12_u8 {
        let session = UdpSession::open(&scene.daemon);
        for length in (0..30).chain([1000, 20_000, 60_000]) {
            if kind == 9 && length == 4 || kind == 11 && length == 0 {
                continue;
            }
            session.send(kind, &vec![0xff; length]);
        }
        assert!(session.is_alive(), "kind {kind}");
    }
    for length in (0..12).chain([15_001, 40_000, 65_000]) {
        let session = UdpSession::open(&scene.daemon);
        let mut rest = data(0, 768, &[0; 65_000]);
        rest.truncate(length);
        session.send(DATA, &rest);
        assert!(session.is_alive(), "DATA with {length} bytes behind its id");
    }
    // Datagrams with an invalid record may end their own connection, and no other.
    for record in [&b""[..], &[2], &[1, 0], &[0xff; 40], &[0, 0xff, 0xff, 0xff, 0xff]] {
        let session = UdpSession::open(&scene.daemon);
        session.send(DATA, &data(0, 900, record));
        scene.load().goes_on();
    }
    // Their handshake is never finished, and they leave without BYE: the kernel reports that.
    scene.check("cut and oversize datagrams");
}

/// ICMP reports a peer whose process has died as soon as a datagram is sent to it.
#[test]
fn a_port_that_nobody_has_any_more_is_noticed() {
    let scene = FaultScene::start(DaemonSetup::new(), &["unix", "udp"]);
    let mut receiver = scene.daemon.recv("udp", &["news"]);
    scene.daemon.wait_for_peers(scene.load().peers() + 1);
    receiver.signal(Signal::SIGKILL);
    receiver.wait();
    scene.daemon.send("news", "without a reader");
    scene.daemon.wait_for_peers(scene.load().peers());
    scene.check("a port that no socket has");
}

#[test]
fn another_user_cannot_bind_the_port_beside_the_daemon() {
    if !nix::unistd::Uid::effective().is_root() {
        return skip("only root can be another user");
    }
    if is_without(&["socat"]) {
        return;
    }
    let scene = FaultScene::start(DaemonSetup::new(), &["unix", "udp"]);
    let _peer = UdpSession::open(&scene.daemon);
    let address = scene.daemon.address("udp");
    let (_, port) = address.rsplit_once(':').expect("an address has a port");
    for options in ["", ",reuseaddr", ",reuseport", ",reuseaddr,reuseport"] {
        let listen = format!("UDP4-RECV:{port},bind=127.0.0.1{options}");
        let mut command = Command::new("socat");
        command.args(["-T1", "-u", &listen, "-"]).uid(65_534).gid(65_534);
        guard(&mut command);
        let output = command.stdin(Stdio::null()).output().expect("socat runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{options}: it has the port");
        assert!(said.contains("in use"), "{options}: {said}");
    }
    drop(_peer);
    scene.check("another user at the port");
}

/// Messages over a bad network: those that come are in order and intact, and the others are
/// counted.
fn through(
    weather: &NetworkWeather,
    publisher: &mut Client,
    subscriber: &mut Client,
) -> (u64, u64) {
    const MESSAGES: u64 = 3000;
    weather.turn_bad();
    let mut next = 0;
    let take = |subscriber: &mut Client, wait: Option<Instant>, next: &mut u64| {
        let mut came = 0;
        while let Some(event) = subscriber.next_event(wait).expect("the session lives") {
            let Event::Message(message) = event else { continue };
            let (number, rest) = message.payload().split_first_chunk().expect("a number");
            let number = u64::from_le_bytes(*number);
            // Only the last one is sent more than once.
            let is_next = number >= *next || number == MESSAGES;
            assert!(is_next, "message {number} came behind {}", *next - 1);
            assert!(rest.iter().all(|byte| *byte == number as u8), "message {number} was altered");
            *next = number + 1;
            came += 1;
        }
        came
    };
    let mut received = 0;
    for number in 0..MESSAGES {
        let mut payload = number.to_le_bytes().to_vec();
        payload.resize(8 + (number * 7919 % 3000) as usize, number as u8);
        publisher.publish("storm", &payload).expect("the session lives");
        publisher.push().expect("the session lives");
        received += take(subscriber, Some(Instant::now()), &mut next);
    }
    weather.turn_good();
    // The last one is sent until it comes: it may be lost like any other.
    let last = MESSAGES.to_le_bytes();
    eventually("the last message", || {
        publisher.send("storm", &last).expect("the session lives");
        received += take(subscriber, Some(Instant::now() + Duration::from_millis(50)), &mut next);
        next = next.min(MESSAGES);
        (next == MESSAGES).then_some(())
    });
    (MESSAGES, received)
}

fn client_at(daemon: &Daemon, address: SocketAddr) -> Client {
    let token = TokenSource::File(daemon.runtime_dir().join("token"));
    let options = Options { token, timeout: PATIENCE, ..Options::default() };
    let endpoint = format!("udp://{address}").parse().expect("the text is an endpoint");
    Client::connect(&endpoint, options).expect("the weather is good yet")
}

#[test]
fn loss_doubling_and_reordering_lose_only_what_is_counted() {
    const SEED: u64 = 42;
    let scene = FaultScene::start(DaemonSetup::new(), &["unix", "udp"]);
    let target = scene.daemon.address("udp").parse().expect("an address");
    let weather = NetworkWeather::new();
    let proxies = [0, 1].map(|number| DatagramProxy::start(target, SEED + number, &weather));
    let [mut publisher, mut subscriber] =
        proxies.each_ref().map(|proxy| client_at(&scene.daemon, proxy.address()));
    subscriber.subscribe("storm", Default::default()).expect("the peer may subscribe");
    let (sent, received) = through(&weather, &mut publisher, &mut subscriber);
    let lost = scene.daemon.counter("records_lost");
    eprintln!("seed {SEED}: {received} of {sent} came; {lost} records lost on the way in");
    assert!(received > sent / 10, "{received} of {sent}");
    assert!(lost > 0, "loss was not counted");
    drop((publisher, subscriber));
    scene.check("a bad network");
}

/// As above by the kernel: every fifth datagram to or from the port is lost.
#[test]
fn a_fifth_of_all_packets_lost_by_the_kernel() {
    if is_without(&["nft"]) {
        return;
    }
    alone(|| {
        let scene = FaultScene::start(DaemonSetup::new(), &["unix"]);
        let target = scene.daemon.address("udp").parse().expect("an address");
        let [mut publisher, mut subscriber] = [0, 1].map(|_| client_at(&scene.daemon, target));
        subscriber.subscribe("storm", Default::default()).expect("the peer may subscribe");
        run("nft", &["add table inet storm"]);
        run("nft", &["add chain inet storm in { type filter hook input priority 0; }"]);
        let weather = NetworkWeather::of_kernel(
            "add rule inet storm in meta l4proto udp numgen random mod 100 < 20 drop",
            "flush chain inet storm in",
        );
        let (sent, received) = through(&weather, &mut publisher, &mut subscriber);
        let lost = scene.daemon.counter("records_lost");
        eprintln!("{received} of {sent} came; {lost} records lost on the way in");
        assert!(received > sent / 10 && lost > 0, "{received} of {sent}, {lost} counted");
        drop((publisher, subscriber));
        scene.check("a fifth of all packets lost");
    });
}
