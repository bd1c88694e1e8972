//! TLS: bytes before, inside and instead of the handshake, and records that no client sends.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ipcd_conformance::authority::{Authority, Issued};
use ipcd_proto::control::{Auth, Challenge, decode as body, encode};
use ipcd_proto::{DecodedFrame, FrameKind, FrameWriter, Header, decode};
use ipcd_tests::{DaemonSetup, FaultScene, PATIENCE, RawConnection, eventually};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use tempfile::TempDir;

/// The time-out of a handshake and of a frame: longer than any takes here, and soon over.
const CONFIG: &str = "[limits]\nhandshake_timeout = \"700ms\"\nframe_timeout = \"2s\"\n";
const FRAME_TIMEOUT: Duration = Duration::from_secs(2);

/// A daemon with a listener for TLS, and clients that trust it.
struct TlsStage {
    scene: FaultScene,
    issued: Issued,
    /// The directory of its certificate.
    dir: TempDir,
}

impl TlsStage {
    fn set() -> Self {
        let dir = ipcd_tests::private_dir();
        let issued = Authority::new().issue(&["127.0.0.1"]);
        issued.write(dir.path());
        let path = dir.path().display();
        let listener = format!("tls://127.0.0.1:0?cert={path}/cert.pem&key={path}/key.pem");
        let setup = DaemonSetup::new().config(CONFIG).extra(&[&listener]);
        Self { scene: FaultScene::start(setup, &["unix", "tcp"]), issued, dir }
    }

    fn address(&self) -> String {
        let listener = self.scene.daemon.address("tls");
        listener.split_once('?').expect("a listener has options").0.to_owned()
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address()).expect("the daemon listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket has a timeout");
        stream
    }

    fn client(&self) -> ClientConnection {
        let mut roots = RootCertStore::empty();
        let ca = CertificateDer::from_pem_slice(self.issued.authority.as_bytes());
        roots.add(ca.expect("it is a certificate")).expect("it is one of a CA");
        let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        let name = ServerName::try_from("127.0.0.1").expect("it is a name");
        ClientConnection::new(Arc::new(config), name).expect("a client can be made")
    }

    /// A client with an open session.
    fn member(&self) -> GuestPeer {
        let mut guest = self.guest();
        guest.send(&RawConnection::hello_bytes());
        let Challenge { nonce } =
            body(&guest.expect(FrameKind::Challenge)).expect("the frame is a CHALLENGE");
        let proof = self.scene.daemon.token().peer_proof(&RawConnection::hello().nonce, &nonce);
        let mut answer = Vec::new();
        FrameWriter(&mut answer).control(Header::new(FrameKind::Auth, 0), &encode(&Auth { proof }));
        guest.send(&answer);
        guest.expect(FrameKind::Welcome);
        guest
    }

    /// The first bytes of a client.
    fn hello(&self) -> Vec<u8> {
        let mut hello = Vec::new();
        self.client().write_tls(&mut hello).expect("memory can be written");
        hello
    }

    /// A client after its handshake.
    fn guest(&self) -> GuestPeer {
        let (mut stream, mut tls) = (self.connect(), self.client());
        while tls.is_handshaking() {
            tls.complete_io(&mut stream).expect("they shake hands");
        }
        GuestPeer { stream, tls, input: Vec::new() }
    }

    /// Sends bytes, and waits until the daemon closes.
    fn play(&self, what: &str, bytes: &[u8]) {
        let mut stream = self.connect();
        // The daemon may have closed before it has read all of it.
        let _ = stream.write_all(bytes);
        end(&mut stream, what);
    }

    /// Checks that the daemon serves as before, over TLS too.
    fn strike(self, what: &str) {
        let via = format!("tls://{}?ca={}/ca.pem", self.address(), self.dir.path().display());
        self.scene.daemon.ctl(&via, &["ping"]).run().expect(0);
        self.scene.check(what);
    }
}

struct GuestPeer {
    stream: TcpStream,
    tls: ClientConnection,
    /// Received bytes that are not a whole frame yet.
    input: Vec<u8>,
}

impl GuestPeer {
    /// The encrypted form of these bytes: whole records.
    fn encrypt(&mut self, plain: &[u8]) -> Vec<u8> {
        let mut records = Vec::new();
        self.tls.writer().write_all(plain).expect("memory can be written");
        self.write_to(&mut records);
        records
    }

    fn send(&mut self, frame: &[u8]) {
        let records = self.encrypt(frame);
        self.stream.write_all(&records).expect("the daemon reads");
    }

    /// The body of the next frame, which must be of this kind.
    fn expect(&mut self, kind: FrameKind) -> Vec<u8> {
        loop {
            match decode(&self.input, usize::MAX).expect("the daemon sends frames only") {
                DecodedFrame::Frame(frame, length) => {
                    assert_eq!(frame.header.kind, kind);
                    let payload = frame.payload.to_vec();
                    self.input.drain(..length);
                    return payload;
                }
                DecodedFrame::Incomplete(_) => {
                    let mut bytes = [0; 4096];
                    let mut stream = rustls::Stream::new(&mut self.tls, &mut self.stream);
                    let count = stream.read(&mut bytes).expect("the daemon answers");
                    assert!(count > 0, "the daemon closed instead of sending {kind:?}");
                    self.input.extend_from_slice(&bytes[..count]);
                }
            }
        }
    }

    fn write_to(&mut self, records: &mut Vec<u8>) {
        while self.tls.wants_write() {
            self.tls.write_tls(records).expect("memory can be written");
        }
    }
}

/// Reads until the daemon has closed.
fn end(stream: &mut TcpStream, what: &str) {
    let mut bytes = [0; 4096];
    loop {
        match stream.read(&mut bytes) {
            Ok(0) => return,
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return,
            Err(error) => panic!("{what}: the daemon does not close: {error}"),
        }
    }
}

/// A record of this type, in the form of TLS 1.2 and of the first records of TLS 1.3.
fn record(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(body.len()).expect("a record is short").to_be_bytes();
    [&[kind, 3, 3][..], &length, body].concat()
}

const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const DATA: u8 = 23;

#[test]
fn what_is_no_handshake_ends_the_connection() {
    let stage = TlsStage::set();
    let hello = stage.hello();
    let longest = [&[HANDSHAKE, 3, 1, 0xff, 0xff][..], &[1; 0xffff]].concat();
    let early = record(DATA, &[0; 100]);
    let change = record(20, &[1]);
    // user_canceled, as a warning; and an unknown one.
    let warning = record(ALERT, &[1, 90]).repeat(20_000);
    let fatal = record(ALERT, &[2, 255]);
    let empty = record(HANDSHAKE, &[]).repeat(20_000);
    // A HelloRequest, which asks for a renegotiation, which TLS 1.3 lacks.
    let renegotiation = record(HANDSHAKE, &[0, 0, 0, 0]).repeat(1000);
    let twice = [&hello[..], &hello].concat();
    let announced = record(HANDSHAKE, &[1, 0xff, 0xff, 0xff, 3, 3]).repeat(1000);
    for (what, bytes) in [
        ("junk", &[0xff; 5000][..]),
        ("text", b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"),
        ("a HELLO that is not encrypted", &RawConnection::hello_bytes()),
        ("a record of the largest length there is", &longest),
        ("data before the handshake", &early),
        ("ChangeCipherSpec and nothing else", &change.repeat(1000)),
        ("a flood of warnings", &warning),
        ("warnings behind a ClientHello", &[&hello[..], &warning].concat()),
        ("a fatal alert", &fatal),
        ("a fatal alert behind a ClientHello", &[&hello[..], &fatal].concat()),
        ("a flood of empty records", &empty),
        ("requests to renegotiate", &renegotiation),
        ("two ClientHellos", &twice),
        ("a ClientHello of 16 MiB", &announced),
    ] {
        stage.play(what, bytes);
    }
    stage.strike("no handshake");
}

#[test]
fn half_a_handshake_is_waited_for_until_its_deadline() {
    let stage = TlsStage::set();
    let hello = stage.hello();
    // Cut at every 16th byte, all at once, and one connection that sends nothing; and the whole,
    // without an answer to the daemon's reply.
    let cuts = (0..=hello.len()).step_by(16).chain([hello.len()]);
    let mut silent: Vec<_> = cuts
        .map(|cut| {
            let mut stream = stage.connect();
            stream.write_all(&hello[..cut]).expect("the daemon waits");
            stream
        })
        .collect();
    silent.iter_mut().for_each(|stream| end(stream, "half a handshake"));
    let told = || stage.scene.daemon.log().matches("the handshake took too long").count();
    eventually("the log names each of them", || (told() >= silent.len()).then_some(()));
    // A peer that leaves instead of being silent.
    for cut in (1..hello.len()).step_by(16) {
        let mut stream = stage.connect();
        stream.write_all(&hello[..cut]).expect("the daemon waits");
        stream.shutdown(Shutdown::Write).expect("the socket is open");
        end(&mut stream, "the end in a handshake");
    }
    stage.strike("half a handshake");
}

#[test]
fn records_that_are_cut_or_altered_end_the_connection() {
    let stage = TlsStage::set();
    for cut in [1, 4, 5, 6, 20] {
        let mut guest = stage.guest();
        let bytes = guest.encrypt(&RawConnection::hello_bytes());
        guest.stream.write_all(&bytes[..cut]).expect("the daemon reads");
        guest.stream.shutdown(Shutdown::Write).expect("the socket is open");
        end(&mut guest.stream, "a record that is cut");
    }
    for at in [0, 3, 5, 20] {
        let mut guest = stage.guest();
        let mut bytes = guest.encrypt(&RawConnection::hello_bytes());
        bytes[at] ^= 0x80;
        // The daemon waits for the rest of a record with an altered length.
        guest.stream.write_all(&bytes).expect("the daemon reads");
        end(&mut guest.stream, "a record that is altered");
    }
    let plain = record(DATA, &RawConnection::hello_bytes());
    let mut guest = stage.guest();
    guest.stream.write_all(&plain).expect("the daemon reads");
    end(&mut guest.stream, "a record that is not encrypted");
    stage.strike("bad records");
}

/// In an open session a record may take as long as a frame, from its first byte to its last.
#[test]
fn a_record_that_does_not_end_is_waited_for_as_long_as_for_a_frame() {
    let stage = TlsStage::set();
    let frame = RawConnection::message_bytes(1, b"a", &[b'x'; 1000]);
    let mut silent: Vec<_> = [1, 4, 5, 6, 500]
        .map(|cut| {
            let mut guest = stage.member();
            let record = guest.encrypt(&frame);
            guest.stream.write_all(&record[..cut]).expect("the daemon waits");
            guest
        })
        .into();
    let mut trickling = stage.member();
    let record = trickling.encrypt(&frame);
    let start = Instant::now();
    // Ten times the time-out, a byte at a time.
    let pause = 10 * FRAME_TIMEOUT / record.len() as u32;
    let sent = record.iter().take_while(|byte| {
        std::thread::sleep(pause);
        trickling.stream.write_all(&[**byte]).is_ok()
    });
    let sent = sent.count();
    assert!(sent < record.len(), "it has trickled to its end");
    assert!(start.elapsed() >= FRAME_TIMEOUT, "it was cut off early");
    silent.iter_mut().for_each(|guest| end(&mut guest.stream, "half a record"));
    let told = || stage.scene.daemon.log().matches("a frame took too long to arrive").count();
    eventually("the log names each of them", || (told() > silent.len()).then_some(()));
    stage.strike("half a record");
}

/// Each read ends inside a record, but no record takes long.
#[test]
fn records_that_overlap_reads_are_no_offence() {
    let stage = TlsStage::set();
    let mut guest = stage.member();
    let mut ping = Vec::new();
    FrameWriter(&mut ping).control(Header::new(FrameKind::Ping, 1), &[]);
    let (start, mut pings, mut rest) = (Instant::now(), 0, Vec::new());
    while start.elapsed() < FRAME_TIMEOUT * 3 / 2 {
        rest.extend(guest.encrypt(&ping));
        let next = rest.split_off(rest.len() - 7);
        guest
            .stream
            .write_all(&std::mem::replace(&mut rest, next))
            .expect("the peer reads the bytes");
        pings += 1;
        std::thread::sleep(FRAME_TIMEOUT / 40);
    }
    guest.stream.write_all(&rest).expect("the peer reads the bytes");
    (0..pings).for_each(|_| drop(guest.expect(FrameKind::Pong)));
    drop(guest);
    stage.strike("records that overlap reads");
}

#[test]
fn keys_that_are_changed_all_the_time_keep_nobody_from_talking() {
    let stage = TlsStage::set();
    for _ in 0..10 {
        let mut guest = stage.guest();
        let mut records = guest.encrypt(&RawConnection::hello_bytes());
        for _ in 0..2000 {
            if guest.tls.refresh_traffic_keys().is_err() {
                break;
            }
            guest.write_to(&mut records);
        }
        // The daemon may have closed by now.
        let _ = guest.stream.write_all(&records);
        end(&mut guest.stream, "keys that are changed all the time");
    }
    stage.strike("a flood of key updates");
}
