//! A daemon of which a test says every word.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::{Duration, Instant};

use ipcd_client::{Client, Endpoint, Event, Options, Receipt, Refusal, RefusalCode};
use ipcd_proto::control::{Welcome, encode};
use ipcd_proto::{
    DecodedFrame, DirectAddress, Frame, FrameKind, FrameWriter, Header, decode, limits,
};
use ipcd_transport::poll_until;
use nix::poll::PollFlags;
use tempfile::TempDir;

/// After this a test fails instead of waiting on.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

const LARGEST: usize = limits::largest_frame(limits::DEFAULT_MAX_PAYLOAD);

/// A listening socket.
pub(crate) struct Fake {
    listener: UnixListener,
    directory: TempDir,
}

impl Fake {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let listener = UnixListener::bind(directory.path().join("fake.sock"));
        Self { listener: listener.expect("a listener"), directory }
    }

    fn endpoint(&self) -> Endpoint {
        let path = self.directory.path().join("fake.sock");
        format!("unix://{}", path.display()).parse().expect("an endpoint")
    }

    /// A client and its session, in which it is this peer.
    pub(crate) fn meet(&self, peer: u64, options: Options) -> (Client, Session) {
        let endpoint = self.endpoint();
        self.accept_during(peer, || Client::connect(&endpoint, options).expect("a connection"))
    }

    /// Does this while the fake waits for a client to connect.
    pub(crate) fn accept_during<T>(&self, peer: u64, act: impl FnOnce() -> T) -> (T, Session) {
        std::thread::scope(|scope| {
            let session = scope.spawn(|| self.accept(peer));
            (act(), session.join().expect("a client connects"))
        })
    }

    fn accept(&self, peer: u64) -> Session {
        let deadline = Instant::now() + PATIENCE;
        let came = poll_until(&self.listener, PollFlags::POLLIN, deadline).expect("polling works");
        assert!(came, "no client connects");
        let (stream, _) = self.listener.accept().expect("a peer");
        stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
        stream.set_write_timeout(Some(PATIENCE)).expect("a time-out");
        let mut session = Session { stream, input: Vec::new(), peer };
        assert_eq!(session.next().header.kind, FrameKind::Hello);
        let max_payload = limits::DEFAULT_MAX_PAYLOAD as u32;
        let server = "fake".to_owned();
        let welcome = Welcome { version: 1, features: 0, peer, max_payload, server, proof: None };
        session.control(FrameKind::Welcome, 0, &encode(&welcome));
        session
    }
}

/// The daemon's end of a session.
pub(crate) struct Session {
    stream: UnixStream,
    input: Vec<u8>,
    peer: u64,
}

/// A frame of the client's.
#[derive(Debug)]
pub(crate) struct Came {
    pub(crate) header: Header,
    pub(crate) subject: String,
    pub(crate) reply: String,
    pub(crate) payload: Vec<u8>,
}

impl Session {
    /// The next frame of the client's.
    pub(crate) fn next(&mut self) -> Came {
        loop {
            if let Some(came) = self.take() {
                return came;
            }
            let mut chunk = [0; 65_536];
            let count = self.stream.read(&mut chunk).expect("a frame comes in time");
            assert!(count > 0, "the client has gone");
            self.input.extend_from_slice(&chunk[..count]);
        }
    }

    fn take(&mut self) -> Option<Came> {
        let DecodedFrame::Frame(frame, length) = decode(&self.input, LARGEST).expect("frames")
        else {
            return None;
        };
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("text");
        let came = Came {
            header: frame.header,
            subject: text(frame.subject),
            reply: text(frame.reply),
            payload: frame.payload.to_vec(),
        };
        self.input.drain(..length);
        Some(came)
    }

    /// The next frame, which is of this kind.
    pub(crate) fn expect(&mut self, kind: FrameKind) -> Came {
        let came = self.next();
        assert_eq!(came.header.kind, kind, "{came:?}");
        came
    }

    pub(crate) fn control(&mut self, kind: FrameKind, correlation: u64, body: &[u8]) {
        let mut bytes = Vec::new();
        FrameWriter(&mut bytes).control(Header::new(kind, correlation), body);
        self.stream.write_all(&bytes).expect("the client reads");
    }

    pub(crate) fn acknowledge(&mut self, kind: FrameKind) {
        let id = self.expect(kind).header.correlation;
        self.control(FrameKind::Ack, id, &[]);
    }

    pub(crate) fn refuse(&mut self, correlation: u64, code: RefusalCode) {
        let message = format!("{code:?}");
        self.control(FrameKind::Error, correlation, &encode(&Refusal { code, message }));
    }

    pub(crate) fn receipt(&mut self, correlation: u64, receipt: &Receipt) {
        self.control(FrameKind::Receipt, correlation, &encode(receipt));
    }

    pub(crate) fn message(&mut self, header: Header, subject: &str, reply: &str, payload: &[u8]) {
        let mut bytes = Vec::new();
        let (subject, reply) = (subject.as_bytes(), reply.as_bytes());
        let frame = Frame { header, subject, reply, headers: &[], payload };
        FrameWriter(&mut bytes).write(&frame);
        self.stream.write_all(&bytes).expect("the client reads");
    }

    /// A reply to a request of the client's.
    pub(crate) fn reply(&mut self, request: u64, payload: &str) {
        let subject = DirectAddress { peer: self.peer, request: Some(request) }.to_string();
        let header = Header { sender: 77, ..Header::new(FrameKind::Message, 1) };
        self.message(header, &subject, "", payload.as_bytes());
    }
}

/// Options of a client that may wait long, and fails a test when nothing comes.
pub(crate) fn patient() -> Options {
    Options { timeout: PATIENCE, ..Options::default() }
}

/// The next event, which comes in time.
pub(crate) fn event(client: &mut Client) -> Event {
    let event = client.next_event(Some(Instant::now() + PATIENCE)).expect("the session goes on");
    event.expect("an event comes in time")
}

/// Does this while the fake plays its part.
pub(crate) fn during<T>(play: impl FnOnce() + Send, act: impl FnOnce() -> T) -> T {
    std::thread::scope(|scope| {
        let play = scope.spawn(play);
        let done = act();
        play.join().expect("the fake plays its part");
        done
    })
}
