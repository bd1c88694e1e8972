//! A byte stream to the daemon, for frames and for other bytes.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Instant;

use ipcd_client::Endpoint;

use ipcd_proto::auth::Token;
use ipcd_proto::control::{
    Auth, Challenge, Hello, Refusal, RefusalCode, Subscribe, Welcome, decode as decode_body, encode,
};
use ipcd_proto::{DecodedFrame, Frame, FrameKind, FrameWriter, Header, VERSION, decode};
use nix::errno::Errno;
use nix::sys::socket::sockopt::RcvBuf;
use nix::sys::socket::{MsgFlags, send, setsockopt};

use crate::PATIENCE;
use crate::far::FarEnd;

/// A connection on which a test decides about every byte.
#[derive(Debug)]
pub struct RawConnection {
    stream: ByteStream,
    input: Vec<u8>,
    peer: u64,
}

#[derive(Debug)]
enum ByteStream {
    Unix(UnixStream),
    Tcp(TcpStream),
    Far(FarEnd),
}

/// A received frame.
#[derive(Clone, Debug)]
pub struct RawFrame {
    /// Its header.
    pub header: Header,
    /// Its subject.
    pub subject: Vec<u8>,
    /// Its payload or body.
    pub payload: Vec<u8>,
}

impl RawFrame {
    /// The code and text of an ERROR frame.
    ///
    /// # Panics
    /// If it is another frame.
    #[track_caller]
    pub fn refusal(&self) -> (RefusalCode, String) {
        assert_eq!(self.header.kind, FrameKind::Error);
        let Refusal { code, message } = decode_body(&self.payload).expect("the frame is an ERROR");
        (code, message)
    }
}

impl RawConnection {
    /// Connects to a Unix socket.
    ///
    /// # Panics
    /// If no process listens there.
    pub fn unix(path: &Path) -> Self {
        let stream = UnixStream::connect(path).expect("the daemon listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket has a timeout");
        Self::on(ByteStream::Unix(stream))
    }

    /// Connects to an address.
    ///
    /// # Panics
    /// If no process listens there.
    pub fn tcp(address: &str) -> Self {
        let stream = TcpStream::connect(address).expect("the daemon listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket has a timeout");
        Self::on(ByteStream::Tcp(stream))
    }

    /// Connects over this transport, and takes the descriptors out of its channel: of pipes, FIFOs
    /// and sequenced packets. Each [`RawConnection::send`] is one record there, and only whole records come.
    ///
    /// # Panics
    /// If no process listens there.
    pub fn over(endpoint: &Endpoint) -> Self {
        Self::on(ByteStream::Far(FarEnd::connect(endpoint)))
    }

    fn on(stream: ByteStream) -> Self {
        Self { stream, input: Vec::new(), peer: 0 }
    }

    /// The id of this peer, once its session is open.
    pub fn peer(&self) -> u64 {
        self.peer
    }

    /// The socket of a TCP connection, for bytes that the daemon's transport would not send.
    pub fn tcp_socket(&self) -> Option<&TcpStream> {
        match &self.stream {
            ByteStream::Tcp(stream) => Some(stream),
            _ => None,
        }
    }

    /// Sends bytes. The daemon may have closed already, which a read shows.
    pub fn send(&mut self, bytes: &[u8]) {
        let _ = match &mut self.stream {
            ByteStream::Unix(stream) => stream.write_all(bytes),
            ByteStream::Tcp(stream) => stream.write_all(bytes),
            ByteStream::Far(far) => far.send_frames(bytes),
        };
    }

    /// Sends bytes if a Unix socket has room for all of them now; false means that none were sent.
    ///
    /// # Panics
    /// If the socket takes only a part, or is of another kind.
    pub fn send_now(&mut self, bytes: &[u8]) -> bool {
        let ByteStream::Unix(stream) = &self.stream else {
            panic!("only a Unix socket can be full")
        };
        match send(stream.as_raw_fd(), bytes, MsgFlags::MSG_DONTWAIT) {
            Err(Errno::EAGAIN) => false,
            sent => {
                assert_eq!(sent, Ok(bytes.len()), "a small write is whole");
                true
            }
        }
    }

    /// Sends bytes: as one record, if the channel keeps records.
    pub fn send_record(&mut self, bytes: &[u8]) {
        match &mut self.stream {
            ByteStream::Far(far) => drop(far.write_all(bytes)),
            _ => self.send(bytes),
        }
    }

    /// Shrinks the kernel's buffer for received bytes as far as possible.
    ///
    /// # Panics
    /// If the kernel refuses.
    pub fn shrink(&mut self) {
        let shrunk = match &self.stream {
            ByteStream::Unix(stream) => setsockopt(stream, RcvBuf, &0),
            // A window below half of its former size makes the kernel wait for its persist timer.
            ByteStream::Tcp(_) => Ok(()),
            ByteStream::Far(far) => far.shrink(),
        };
        shrunk.expect("a buffer may be small");
    }

    /// Clears `O_NONBLOCK` wherever it is set on our descriptors.
    ///
    /// # Panics
    /// If the kernel refuses.
    pub fn block(&mut self) {
        if let ByteStream::Far(far) = &mut self.stream {
            far.block().expect("a descriptor of ours has flags");
        }
    }

    /// Ends the sending direction, but not the receiving one.
    pub fn finish(&mut self) {
        let _ = match &mut self.stream {
            ByteStream::Unix(stream) => stream.shutdown(Shutdown::Write),
            ByteStream::Tcp(stream) => stream.shutdown(Shutdown::Write),
            ByteStream::Far(far) => far.finish(),
        };
    }

    /// Sends a control frame.
    pub fn control(&mut self, kind: FrameKind, correlation: u64, body: &[u8]) {
        let mut frame = Vec::new();
        FrameWriter(&mut frame).control(Header::new(kind, correlation), body);
        self.send(&frame);
    }

    /// Sends a message.
    pub fn message(&mut self, correlation: u64, subject: &[u8], payload: &[u8]) {
        self.send(&Self::message_bytes(correlation, subject, payload));
    }

    /// The bytes of a message.
    pub fn message_bytes(correlation: u64, subject: &[u8], payload: &[u8]) -> Vec<u8> {
        let mut frame = Vec::new();
        let header = Header::new(FrameKind::Message, correlation);
        FrameWriter(&mut frame).write(&Frame {
            header,
            subject,
            reply: &[],
            headers: &[],
            payload,
        });
        frame
    }

    /// A HELLO as clients send it.
    pub fn hello() -> Hello {
        Hello {
            magic: Hello::MAGIC,
            oldest: VERSION,
            newest: VERSION,
            features: 0,
            nonce: [7; 32],
            name: None,
            token: None,
            no_echo: false,
        }
    }

    /// The frame that [`RawConnection::open`] begins with.
    pub fn hello_bytes() -> Vec<u8> {
        let mut frame = Vec::new();
        FrameWriter(&mut frame).control(Header::new(FrameKind::Hello, 0), &encode(&Self::hello()));
        frame
    }

    /// Takes the challenge that answers [`RawConnection::hello_bytes`], and returns the frame of the proof.
    ///
    /// # Panics
    /// If another frame comes.
    pub fn answer_challenge(&mut self, token: &Token) -> Vec<u8> {
        let challenge = self.expect(FrameKind::Challenge);
        let Challenge { nonce } =
            decode_body(&challenge.payload).expect("the frame is a CHALLENGE");
        let proof = token.peer_proof(&Self::hello().nonce, &nonce);
        let mut frame = Vec::new();
        FrameWriter(&mut frame).control(Header::new(FrameKind::Auth, 0), &encode(&Auth { proof }));
        frame
    }

    /// Opens a session on a transport that requires no token.
    ///
    /// # Panics
    /// If the daemon refuses.
    #[must_use]
    pub fn open(mut self) -> Self {
        self.control(FrameKind::Hello, 0, &encode(&Self::hello()));
        self.welcomed();
        self
    }

    fn welcomed(&mut self) -> Welcome {
        let frame = self.expect(FrameKind::Welcome);
        let welcome: Welcome = decode_body(&frame.payload).expect("the frame is a WELCOME");
        self.peer = welcome.peer;
        welcome
    }

    /// Opens a session with a token, and checks the daemon's own proof.
    ///
    /// # Panics
    /// If the daemon refuses.
    #[must_use]
    pub fn open_with(mut self, token: &Token) -> Self {
        let hello = Self::hello();
        self.control(FrameKind::Hello, 0, &encode(&hello));
        let challenge = self.expect(FrameKind::Challenge);
        let Challenge { nonce } =
            decode_body(&challenge.payload).expect("the frame is a CHALLENGE");
        let proof = token.peer_proof(&hello.nonce, &nonce);
        self.control(FrameKind::Auth, 0, &encode(&Auth { proof }));
        let welcome = self.welcomed();
        let proof = welcome.proof.expect("the daemon proves itself, too");
        assert!(token.verify_daemon(&proof, &hello.nonce, &nonce));
        self
    }

    /// Subscribes, and waits for the confirmation.
    ///
    /// # Panics
    /// If the daemon refuses.
    pub fn subscribe(&mut self, subscription: u32, filter: &str) {
        let (filter, group, overflow, origin) = (filter.into(), None, None, false);
        let body = Subscribe { subscription, filter, group, overflow, origin };
        self.control(FrameKind::Subscribe, 1000 + u64::from(subscription), &encode(&body));
        self.expect(FrameKind::Ack);
    }

    /// The next frame; `None` when the daemon has closed.
    ///
    /// # Panics
    /// If the watchdog fires, or the bytes are not a frame.
    #[track_caller]
    pub fn frame(&mut self) -> Option<RawFrame> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let decoded = decode(&self.input, usize::MAX).expect("the daemon sends frames only");
            if let DecodedFrame::Frame(frame, length) = decoded {
                let (subject, payload) = (frame.subject.to_vec(), frame.payload.to_vec());
                let found = RawFrame { header: frame.header, subject, payload };
                self.input.drain(..length);
                return Some(found);
            }
            let mut chunk = [0; 64 * 1024];
            let read = match &mut self.stream {
                ByteStream::Unix(stream) => stream.read(&mut chunk),
                ByteStream::Tcp(stream) => stream.read(&mut chunk),
                ByteStream::Far(far) => far.read(&mut chunk),
            };
            match read {
                Ok(0) => return None,
                Ok(count) => self.input.extend_from_slice(&chunk[..count]),
                Err(error) if is_reset(error.kind()) => return None,
                Err(error) => panic!("watchdog: no frame and no end: {error}"),
            }
            assert!(Instant::now() < deadline, "watchdog: no whole frame came");
        }
    }

    /// The next frame, which must be of this kind.
    ///
    /// # Panics
    /// If the daemon closes, or another frame comes.
    #[track_caller]
    pub fn expect(&mut self, kind: FrameKind) -> RawFrame {
        let frame =
            self.frame().unwrap_or_else(|| panic!("the daemon closed instead of sending {kind:?}"));
        assert_eq!(frame.header.kind, kind, "{frame:?}");
        frame
    }

    /// Waits until the daemon closes, and returns the ERROR before that, if there is one.
    ///
    /// # Panics
    /// If the watchdog fires, or another frame comes.
    #[track_caller]
    pub fn end(&mut self) -> Option<(RefusalCode, String)> {
        let mut refusal = None;
        while let Some(frame) = self.frame() {
            match frame.header.kind {
                FrameKind::Error => refusal = Some(frame.refusal()),
                FrameKind::Bye | FrameKind::Ping => {}
                kind => panic!("{kind:?} instead of the end"),
            }
        }
        refusal
    }
}

fn is_reset(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::ConnectionReset | ErrorKind::BrokenPipe)
}
