//! The channel's own traffic, hostile bytes, and what is known of a peer.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::LazyLock;
use std::thread;
use std::time::{Duration, Instant};

use ipcd_conformance::authority::{Authority, Issued};
use ipcd_transport::{
    Channel, Endpoint, Error, Listener, ReadBuffer, ReadOutcome, Result, Transport, WriteOutcome,
    poll_some,
};
use ipcd_transport_tls::Tls;
use nix::poll::{PollFd, PollFlags};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, connect, setsockopt, socket, sockopt,
};
use proptest::prelude::{ProptestConfig, any, prop, proptest};
use rcgen::{CertificateParams, SanType};
use rustls::crypto::ring;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::version::TLS13;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(60);

/// A listener that asks for certificates and trusts itself.
struct Place {
    listener: Box<dyn Listener>,
    _dir: TempDir,
}

impl Place {
    fn new(issued: &Issued) -> Self {
        Self::named(issued, "localhost")
    }

    /// The name is what clients look for.
    fn named(issued: &Issued, name: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        issued.write(dir.path());
        let mut at = Endpoint::new("tls", "127.0.0.1:0");
        for (option, file) in [("cert", "cert.pem"), ("key", "key.pem"), ("ca", "ca.pem")] {
            at.set_option(option, dir.path().join(file).to_str().unwrap());
        }
        at.set_option("name", name);
        Self { listener: Tls.listen(&at).unwrap(), _dir: dir }
    }

    fn accept(&mut self) -> Box<dyn Channel> {
        let fd = PollFd::new(self.listener.fd(), PollFlags::POLLIN);
        assert!(poll_some(&mut [fd], Some(Instant::now() + PATIENCE)).unwrap(), "no peer has come");
        Tls.adopt(self.listener.accept().unwrap().unwrap()).unwrap()
    }

    /// A client's channel and the server's.
    fn pair(&mut self) -> (Box<dyn Channel>, Box<dyn Channel>) {
        let deadline = Instant::now() + PATIENCE;
        let client = Tls.connect(self.listener.local(), deadline).unwrap();
        (client, self.accept())
    }

    /// A stream that says what it likes, and the channel at which that arrives.
    fn raw(&mut self) -> (TcpStream, Box<dyn Channel>) {
        let address: SocketAddr = self.listener.local().address().parse().unwrap();
        (TcpStream::connect(address).unwrap(), self.accept())
    }
}

fn ordinary() -> Issued {
    Authority::new().issue(&["localhost"])
}

/// Serves both, whenever they ask for it, until each has shaken hands.
fn shake_hands(client: &mut dyn Channel, server: &mut dyn Channel) {
    let deadline = Instant::now() + PATIENCE;
    // A client sends first.
    client.serve().unwrap();
    while client.wants_service() || server.wants_service() {
        assert!(poll_some(&mut [waits(client), waits(server)], Some(deadline)).unwrap());
        serve_if_due(client);
        serve_if_due(server);
    }
}

/// The events that the channel waits for.
fn waits(channel: &dyn Channel) -> PollFd<'_> {
    let input = if channel.wants_service() { PollFlags::POLLIN } else { PollFlags::empty() };
    let room = if channel.wants_room() { PollFlags::POLLOUT } else { PollFlags::empty() };
    PollFd::new(channel.read_fd(), input | room)
}

fn serve_if_due(channel: &mut dyn Channel) {
    if poll_some(&mut [waits(channel)], Some(Instant::now())).unwrap() {
        channel.serve().unwrap();
    }
}

/// Reads until something other than nothing comes of it.
fn read(channel: &mut dyn Channel, into: &mut ReadBuffer) -> Result<ReadOutcome> {
    loop {
        match channel.read(into) {
            Ok(ReadOutcome::NotReady | ReadOutcome::Bytes(0)) => {
                let fd = PollFd::new(channel.read_fd(), PollFlags::POLLIN);
                assert!(poll_some(&mut [fd], Some(Instant::now() + PATIENCE)).unwrap(), "nothing");
            }
            other => return other,
        }
    }
}

#[test]
fn a_flight_that_does_not_fit_goes_on_when_there_is_room() {
    let mut issued = ordinary();
    // A chain of more than the kernel takes at once.
    let padding = Authority::new().issue(&["localhost"]).certificate;
    for _ in 0..90 {
        issued.certificate.push_str(&padding);
    }
    let mut place = Place::new(&issued);
    let address: SocketAddr = place.listener.local().address().parse().unwrap();
    let flags = SockFlag::SOCK_CLOEXEC;
    let client = socket(AddressFamily::Inet, SockType::Stream, flags, None).unwrap();
    // Before it says how much it would take.
    setsockopt(&client, sockopt::RcvBuf, &1).unwrap();
    connect(client.as_raw_fd(), &SockaddrStorage::from(address)).unwrap();
    let mut client = TcpStream::from(client);
    let mut server = place.accept();
    setsockopt(&server.write_fd(), sockopt::SndBuf, &1).unwrap();
    client.write_all(&client_hello()).unwrap();
    let deadline = Instant::now() + PATIENCE;
    assert!(poll_some(&mut [waits(&*server)], Some(deadline)).unwrap());
    server.serve().unwrap();
    assert!(server.wants_room(), "it fitted: the test tests nothing");
    let (mut came, mut bytes) = (0, [0; 4096]);
    while server.wants_room() {
        came += client.read(&mut bytes).unwrap();
        serve_if_due(&mut *server);
    }
    assert!(came > 0 && server.wants_service(), "the handshake goes on");
}

#[test]
fn who_connects_and_does_not_shake_hands_is_let_go() {
    let mut place = Place::new(&ordinary());
    let (mut client, mut server) = place.pair();
    assert!(client.wants_room() && !server.wants_room(), "the client speaks first, unasked");
    let now = Instant::now();
    let by = server.tick(now).unwrap().expect("there is a deadline");
    assert_eq!(client.tick(by).unwrap(), None, "who connects has a deadline of its own");
    shake_hands(&mut *client, &mut *server);
    assert_eq!(server.tick(by).unwrap(), None);
    let (_silent, mut server) = place.raw();
    let by = server.tick(now).unwrap().expect("there is a deadline");
    assert!(matches!(server.tick(by), Err(Error::TimedOut(_))));
}

#[test]
fn an_end_without_goodbye_is_an_error_and_one_with_it_is_not() {
    let mut place = Place::new(&ordinary());
    for says_goodbye in [true, false] {
        let (mut client, mut server) = place.pair();
        shake_hands(&mut *client, &mut *server);
        assert_eq!(client.write(b"\x05\0\0\0x").unwrap(), WriteOutcome::Bytes(5));
        if says_goodbye {
            client.finish().unwrap();
        }
        drop(client);
        let mut buffer = ReadBuffer::new(100, 100);
        while let Ok(ReadOutcome::Bytes(_)) = read(&mut *server, &mut buffer) {}
        assert_eq!(buffer.filled(), b"\x05\0\0\0x");
        match server.read(&mut buffer) {
            Ok(ReadOutcome::Closed) => assert!(says_goodbye),
            Err(_) => assert!(!says_goodbye),
            other => panic!("an end was due: {other:?}"),
        }
    }
}

/// A goodbye ends the stream, also if the socket stays open.
#[test]
fn a_goodbye_alone_is_an_end() {
    let issued = ordinary();
    let mut place = Place::new(&issued);
    let authority = issued.authority;
    let (stream, mut server) = place.raw();
    let client = thread::spawn(move || {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(authority.as_bytes()).unwrap()).unwrap();
        let config = ClientConfig::builder_with_provider(ring::default_provider().into())
            .with_protocol_versions(&[&TLS13])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = "localhost".try_into().unwrap();
        let connection = ClientConnection::new(config.into(), name).unwrap();
        let mut stream = StreamOwned::new(connection, stream);
        stream.write_all(b"\x04\0\0\0").unwrap();
        stream.conn.send_close_notify();
        stream.flush().unwrap();
        stream
    });
    let mut buffer = ReadBuffer::new(100, 100);
    while let Ok(ReadOutcome::Bytes(_)) = read(&mut *server, &mut buffer) {}
    assert_eq!(buffer.filled(), b"\x04\0\0\0");
    assert_eq!(server.read(&mut buffer).unwrap(), ReadOutcome::Closed);
    // Its socket is open still.
    assert!(client.join().unwrap().sock.peer_addr().is_ok());
}

#[test]
fn a_peer_is_known_by_the_first_fit_name_of_its_certificate() {
    let text = |text: &str| text.try_into().unwrap();
    let long = format!("https://{}", "x".repeat(300));
    let cases = [
        (
            vec![SanType::URI(text("spiffe://a/b")), SanType::DnsName(text("localhost"))],
            "localhost",
        ),
        (vec![SanType::Rfc822Name(text("ann@a.example"))], "ann@a.example"),
        (vec![SanType::URI(text(&long)), SanType::URI(text("spiffe://a/c"))], "spiffe://a/c"),
        (vec![SanType::URI(text("a\nb c"))], ""),
        // A URI or an e-mail address does not name a host.
        (vec![SanType::URI(text("bob.example"))], ""),
        (vec![SanType::Rfc822Name(text("bob.example"))], ""),
        (vec![SanType::Rfc822Name(text("spiffe://a@b"))], ""),
        (vec![SanType::DnsName(text("ann@a.example")), SanType::URI(text("u:x"))], "u:x"),
        (vec![SanType::IpAddress([127, 0, 0, 1].into())], ""),
    ];
    for (mut names, expected) in cases {
        // The same certificate serves both sides here, and the client looks for its name.
        if !names.iter().any(|name| matches!(name, SanType::IpAddress(_))) {
            names.push(SanType::IpAddress([127, 0, 0, 1].into()));
        }
        let mut params = CertificateParams::default();
        params.subject_alt_names = names;
        let mut place = Place::named(&Authority::new().sign(params), "127.0.0.1");
        let (mut client, mut server) = place.pair();
        shake_hands(&mut *client, &mut *server);
        assert_eq!(server.identity().certificate.as_deref().unwrap_or_default(), expected);
        assert_eq!(client.identity().certificate, None);
    }
}

/// For cases that are many.
static ISSUED: LazyLock<Issued> = LazyLock::new(ordinary);

/// The first bytes of a client.
fn client_hello() -> Vec<u8> {
    let mut place = Place::new(&ISSUED);
    let (mut client, server) = place.pair();
    client.serve().unwrap();
    let mut hello = vec![0; 4096];
    let fd = server.read_fd().try_clone_to_owned().unwrap();
    poll_some(&mut [PollFd::new(server.read_fd(), PollFlags::POLLIN)], None).unwrap();
    let count = std::fs::File::from(fd).read(&mut hello).unwrap();
    hello.truncate(count);
    hello
}

/// Gives these bytes to a channel, which may end in any way but by a panic, and answers little.
fn throw(place: &mut Place, bytes: &[u8]) {
    let (mut stream, mut server) = place.raw();
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(std::net::Shutdown::Write);
    let mut buffer = ReadBuffer::new(100, 100);
    loop {
        match read(&mut *server, &mut buffer) {
            Ok(ReadOutcome::Closed) | Err(_) => break,
            Ok(_) => assert!(buffer.is_empty(), "a stranger's bytes were taken for frames"),
        }
    }
    assert!(server.identity().certificate.is_none());
    assert!(server.write(b"\x04\0\0\0").is_err());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..3000)) {
        throw(&mut Place::new(&ISSUED), &bytes);
    }

    #[test]
    fn a_hello_that_was_changed_is_survived(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..5),
        cut in any::<prop::sample::Index>(),
        more in prop::collection::vec(any::<u8>(), 0..500),
    ) {
        let mut hello = client_hello();
        for (at, byte) in changes {
            let at = at.index(hello.len());
            hello[at] ^= byte;
        }
        hello.truncate(cut.index(hello.len()) + 1);
        hello.extend(more);
        throw(&mut Place::new(&ISSUED), &hello);
    }

    /// A record header that announces whatever it likes.
    #[test]
    fn any_record_is_survived(kind in 18_u8..26, body in prop::collection::vec(any::<u8>(), 0..2000)) {
        let mut record = vec![kind, 3, 3];
        record.extend((body.len() as u16).to_be_bytes());
        record.extend(body);
        let mut bytes = client_hello();
        bytes.extend(record);
        throw(&mut Place::new(&ISSUED), &bytes);
    }
}
