//! The upgrade, frames and ends as other programs than ours do them, and hostile bytes.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ipcd_transport::{
    Channel, Endpoint, Error, Listener, RawTransport, ReadBuffer, ReadOutcome, Result, Transport,
    WriteOutcome, poll_some, poll_until,
};
use ipcd_transport_ws::Ws;
use nix::poll::{PollFd, PollFlags};
use nix::sys::socket::{setsockopt, sockopt};
use sha1::{Digest as _, Sha1};

const PATIENCE: Duration = Duration::from_secs(60);
const KEY: [u8; 4] = [7, 0, 255, 128];

/// The opcodes of RFC 6455 §5.2.
const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;

fn listen(options: &str, is_raw: bool) -> Box<dyn Listener> {
    let at: Endpoint = format!("ws://127.0.0.1:0{options}").parse().unwrap();
    if is_raw { Ws.listen_raw(&at).unwrap() } else { Ws.listen(&at).unwrap() }
}

fn accept(listener: &mut dyn Listener) -> Box<dyn Channel> {
    let fd = PollFd::new(listener.fd(), PollFlags::POLLIN);
    assert!(poll_some(&mut [fd], Some(Instant::now() + PATIENCE)).unwrap(), "no peer has come");
    Ws.adopt(listener.accept().unwrap().unwrap()).unwrap()
}

fn address(listener: &dyn Listener) -> SocketAddr {
    listener.local().address().split('/').next().unwrap().parse().unwrap()
}

/// A program that knows WebSockets, and what it has received.
struct Page(TcpStream);

impl Page {
    fn connect(listener: &dyn Listener) -> Self {
        let stream = TcpStream::connect(address(listener)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self(stream)
    }

    fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).unwrap();
    }

    /// Sends a request with this line and these fields too.
    fn ask(&mut self, line: &str, more: &str) {
        let request = format!(
            "{line}\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n{more}\r\n"
        );
        self.send(request.as_bytes());
    }

    /// The head of the answer.
    fn answer(&mut self) -> String {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            self.0.read_exact(&mut byte).unwrap();
            head.push(byte[0]);
        }
        String::from_utf8(head).unwrap()
    }

    /// The next frame of a server.
    fn frame(&mut self) -> (u8, Vec<u8>) {
        let mut header = [0; 2];
        self.0.read_exact(&mut header).unwrap();
        assert_eq!(header[0] & 0xf0, 0x80, "a whole message, and no extension");
        let length = match header[1] {
            126 => {
                let mut length = [0; 2];
                self.0.read_exact(&mut length).unwrap();
                u16::from_be_bytes(length).into()
            }
            short => usize::from(short),
        };
        assert!(length < 1 << 16, "a server's frame has no mask, and no longer length");
        let mut payload = vec![0; length];
        self.0.read_exact(&mut payload).unwrap();
        (header[0] & 0x0f, payload)
    }

    /// The events until the end of the stream.
    fn rest(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        self.0.read_to_end(&mut rest).unwrap();
        rest
    }
}

/// A frame of a client, of a message that it ends.
fn masked(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x80 | opcode];
    match payload.len() {
        short @ 0..126 => frame.push(0x80 | short as u8),
        long => {
            frame.push(0x80 | 126);
            frame.extend(u16::try_from(long).unwrap().to_be_bytes());
        }
    }
    frame.extend(KEY);
    frame.extend(payload.iter().zip(KEY.iter().cycle()).map(|(byte, key)| byte ^ key));
    frame
}

/// Reads until something other than nothing comes of it.
fn read(channel: &mut dyn Channel, into: &mut ReadBuffer) -> Result<ReadOutcome> {
    loop {
        match channel.read(into) {
            Ok(ReadOutcome::NotReady | ReadOutcome::Bytes(0)) => {
                let deadline = Instant::now() + PATIENCE;
                assert!(
                    poll_until(&channel.read_fd(), PollFlags::POLLIN, deadline).unwrap(),
                    "nothing comes"
                );
            }
            other => return other,
        }
    }
}

fn buffer() -> ReadBuffer {
    ReadBuffer::new(0, 1 << 20)
}

/// A page whose upgrade is over, and its channel.
fn open(listener: &mut dyn Listener) -> (Page, Box<dyn Channel>) {
    let mut page = Page::connect(listener);
    let mut channel = accept(listener);
    page.ask("GET / HTTP/1.1", "");
    while channel.wants_service() {
        assert!(!channel.wants_room(), "nothing is to be written before the request has come");
        let deadline = Instant::now() + PATIENCE;
        assert!(poll_until(&channel.read_fd(), PollFlags::POLLIN, deadline).unwrap());
        channel.serve().unwrap();
    }
    assert!(page.answer().starts_with("HTTP/1.1 101 "));
    (page, channel)
}

#[test]
fn another_request_is_answered_with_the_reason() {
    let mut listener = listen("/bus?origin=https://a.example", false);
    for (line, more, status) in [
        ("GET /bus HTTP/1.1", "Origin: https://evil.example\r\n", "403 Forbidden"),
        ("GET /bus HTTP/1.1", "Origin: http://127.0.0.1\r\n", "403 Forbidden"),
        ("GET /other HTTP/1.1", "", "404 Not Found"),
        ("POST /bus HTTP/1.1", "", "405 Method Not Allowed"),
        ("\x16\x03\x01", "", "400 Bad Request"),
    ] {
        let mut page = Page::connect(&*listener);
        let mut channel = accept(&mut *listener);
        page.ask(line, more);
        let error = read(&mut *channel, &mut buffer()).unwrap_err();
        assert!(matches!(error, Error::Protocol(_)), "{error}");
        assert!(error.to_string().starts_with(&format!("HTTP {}", &status[..3])), "{error}");
        assert!(channel.write(b"\x04\0\0\0").unwrap_err().is_disconnect());
        drop(channel);
        assert!(page.answer().starts_with(&format!("HTTP/1.1 {status}\r\n")));
    }
    let mut page = Page::connect(&*listener);
    let mut channel = accept(&mut *listener);
    page.ask("GET /bus HTTP/1.1", "Origin: https://a.example\r\n");
    page.send(b"");
    assert!(matches!(channel.write(b"\x04\0\0\0"), Ok(WriteOutcome::NoCredit)));
    channel.serve().unwrap();
    assert!(page.answer().starts_with("HTTP/1.1 101 "));
}

#[test]
fn binary_and_text_are_bytes() {
    let mut listener = listen("", true);
    let (mut page, mut channel) = open(&mut *listener);
    page.send(&[masked(TEXT, b"one\n"), masked(BINARY, b"\xff\xfe")].concat());
    let mut came = buffer();
    while came.filled().len() < 6 {
        read(&mut *channel, &mut came).unwrap();
    }
    assert_eq!(came.filled(), b"one\n\xff\xfe");
    assert_eq!(channel.write(b"two").unwrap(), WriteOutcome::Bytes(3));
    assert_eq!(page.frame(), (BINARY, b"two".to_vec()));
}

/// A frame that is under way is not broken by the answer.
#[test]
fn a_ping_is_answered_behind_the_message_under_way() {
    let mut listener = listen("", true);
    let (mut page, mut channel) = open(&mut *listener);
    setsockopt(&channel.write_fd(), sockopt::SndBuf, &1).unwrap();
    let bytes: Vec<u8> = (0..1_000_000_u32).map(|number| number as u8).collect();
    let mut taken = 0;
    while let WriteOutcome::Bytes(count) = channel.write(&bytes[taken..]).unwrap() {
        taken += count;
    }
    assert!(channel.pinned() > 0, "no frame is under way: the test tests nothing");
    page.send(&[masked(PING, b"first"), masked(PING, b"second"), masked(TEXT, b"x")].concat());
    let mut came = buffer();
    read(&mut *channel, &mut came).unwrap();
    let (mut payload, mut pongs) = (Vec::new(), Vec::new());
    let end = masked(TEXT, b"end");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while payload.len() < bytes.len() || pongs.is_empty() {
                match page.frame() {
                    (BINARY, more) => payload.extend(more),
                    (PONG, name) => pongs.push(name),
                    other => panic!("{other:?}"),
                }
            }
            page.send(&end);
        });
        while taken < bytes.len() || channel.wants_room() {
            let deadline = Instant::now() + PATIENCE;
            assert!(poll_until(&channel.write_fd(), PollFlags::POLLOUT, deadline).unwrap());
            match channel.wants_room() {
                true => channel.serve().unwrap(),
                false => match channel.write(&bytes[taken..]).unwrap() {
                    WriteOutcome::Bytes(count) => taken += count,
                    outcome => assert_eq!(outcome, WriteOutcome::NotReady),
                },
            }
        }
        read(&mut *channel, &mut came).unwrap();
    });
    assert!(payload == bytes, "the bytes came in another way");
    assert_eq!(pongs, [b"second"]);
}

#[test]
fn what_is_no_frame_ends_the_connection_and_the_peer_is_told() {
    let mut listener = listen("", false);
    let fragment_of_nothing = [&[0x80_u8, 0x80][..], &KEY].concat();
    for (bytes, why) in [
        (b"\x82\x01x".to_vec(), "without a mask"),
        (b"\xc2\x80".to_vec(), "extension"),
        (fragment_of_nothing, "no message"),
        (b"\x82\xff\xff\xff\xff\xff\xff\xff\xff\xff".to_vec(), "63 bits"),
        (b"\x83\x80".to_vec(), "unknown kind"),
    ] {
        let (mut page, mut channel) = open(&mut *listener);
        page.send(&[masked(TEXT, b"good"), bytes].concat());
        let mut came = buffer();
        let error = loop {
            match read(&mut *channel, &mut came) {
                Ok(ReadOutcome::Bytes(_)) => {}
                other => break other.unwrap_err(),
            }
        };
        assert!(error.to_string().contains(why), "{error}");
        assert_eq!(came.filled(), b"good", "what came before is read");
        assert!(channel.write(b"x").unwrap_err().is_disconnect());
        assert_eq!(page.frame(), (CLOSE, 1002_u16.to_be_bytes().to_vec()));
        assert_eq!(page.rest(), b"");
    }
}

#[test]
fn a_close_of_a_raw_peer_is_answered_at_once() {
    let mut listener = listen("", true);
    let (mut page, mut channel) = open(&mut *listener);
    page.send(&[masked(TEXT, b"last"), masked(CLOSE, &1001_u16.to_be_bytes())].concat());
    let mut came = buffer();
    while let ReadOutcome::Bytes(_) = read(&mut *channel, &mut came).unwrap() {}
    assert_eq!(came.filled(), b"last");
    assert_eq!(channel.read(&mut came).unwrap(), ReadOutcome::Closed);
    assert_eq!(page.frame(), (CLOSE, 1000_u16.to_be_bytes().to_vec()));
    assert_eq!(page.rest(), b"");
    assert!(channel.write(b"x").unwrap_err().is_disconnect());
}

/// The last line of a peer that was cut off is no message.
#[test]
fn an_end_without_a_close_is_an_error() {
    let mut listener = listen("", true);
    let (mut page, mut channel) = open(&mut *listener);
    page.send(&masked(TEXT, b"half a li"));
    drop(page);
    let mut came = buffer();
    assert_eq!(read(&mut *channel, &mut came).unwrap(), ReadOutcome::Bytes(9));
    let error = read(&mut *channel, &mut came).unwrap_err();
    assert!(matches!(error, Error::Truncated(_)), "{error}");
}

#[test]
fn a_peer_that_does_not_ask_in_time_is_let_go() {
    for is_raw in [false, true] {
        let mut listener = listen("", is_raw);
        let mut page = Page::connect(&*listener);
        let mut channel = accept(&mut *listener);
        let by = channel.tick(Instant::now()).unwrap().expect("there is a deadline");
        page.send(b"GET / HTTP/1.1\r\nHost: ");
        assert!(
            poll_until(&channel.read_fd(), PollFlags::POLLIN, Instant::now() + PATIENCE).unwrap()
        );
        channel.serve().unwrap();
        assert!(matches!(channel.tick(by), Err(Error::TimedOut(_))));
        assert!(!channel.wants_service());
        assert!(page.answer().starts_with("HTTP/1.1 408 "));
        let (_page, mut channel) = open(&mut *listener);
        assert_eq!(channel.tick(by + PATIENCE).unwrap(), None);
    }
}

/// As a worker gets it that takes over from another one.
#[test]
fn an_upgrade_goes_on_in_another_channel() {
    let mut listener = listen("", false);
    let mut page = Page::connect(&*listener);
    let mut channel = accept(&mut *listener);
    page.send(b"GET / HTTP/1.1\r\nX-First: ");
    assert!(poll_until(&channel.read_fd(), PollFlags::POLLIN, Instant::now() + PATIENCE).unwrap());
    channel.serve().unwrap();
    let mut channel = Ws.adopt(channel.into_parts()).unwrap();
    page.ask("half", "");
    let frame = masked(TEXT, b"behind");
    let mut came = buffer();
    while channel.wants_service() {
        let deadline = Instant::now() + PATIENCE;
        assert!(poll_until(&channel.read_fd(), PollFlags::POLLIN, deadline).unwrap());
        assert_eq!(channel.read(&mut came).unwrap(), ReadOutcome::Bytes(0));
    }
    assert!(page.answer().starts_with("HTTP/1.1 101 "));
    page.send(&frame[..3]);
    assert!(poll_until(&channel.read_fd(), PollFlags::POLLIN, Instant::now() + PATIENCE).unwrap());
    assert_eq!(channel.read(&mut came).unwrap(), ReadOutcome::Bytes(0));
    assert!(channel.partial_since().is_some());
    let mut channel = Ws.adopt(channel.into_parts()).unwrap();
    page.send(&frame[3..]);
    assert_eq!(read(&mut *channel, &mut came).unwrap(), ReadOutcome::Bytes(6));
    assert!(channel.partial_since().is_none());
}

/// A server of another kind, which answers the next request and sends `behind` in the same segment.
fn serve_once(server: &TcpListener, fields: &str, behind: &[u8]) -> TcpStream {
    let (mut stream, _) = server.accept().unwrap();
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap();
    let (_, key) = head.split_once("Sec-WebSocket-Key: ").unwrap();
    let key = key.split("\r\n").next().unwrap();
    let hash = Sha1::new().chain_update(key).chain_update("258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    let accept = STANDARD.encode(hash.finalize());
    let answer = format!(
        "HTTP/1.1 101 Yes\r\nConnection: upgrade\r\nUpgrade: WebSocket\r\n\
         Sec-WebSocket-Accept: {accept}\r\n{fields}\r\n"
    );
    stream.write_all(&[answer.as_bytes(), behind].concat()).unwrap();
    stream
}

#[test]
fn what_comes_right_behind_the_answer_is_read() {
    for serves in [true, false] {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let to = Endpoint::new("ws", server.local_addr().unwrap().to_string());
        let parts = Ws.connect_raw(&to, Instant::now() + PATIENCE, &[]).unwrap();
        let mut client = Ws.adopt_raw(parts).unwrap().channel;
        assert!(client.wants_room(), "it speaks first");
        assert_eq!(client.write(b"early").unwrap(), WriteOutcome::NoCredit);
        let _stream = serve_once(&server, "", b"\x81\x05hello\x89\x00\x82\x03y");
        let mut came = buffer();
        while client.wants_service() {
            let deadline = Instant::now() + PATIENCE;
            assert!(poll_until(&client.read_fd(), PollFlags::POLLIN, deadline).unwrap());
            if serves {
                client.serve().unwrap();
            } else {
                client.read(&mut came).unwrap();
            }
        }
        while came.filled().len() < 6 {
            client.read(&mut came).unwrap();
        }
        assert_eq!(came.filled(), b"helloy");
    }
}

#[test]
fn a_client_says_how_the_server_is_another() {
    for (fields, why) in [
        ("Sec-WebSocket-Extensions: permessage-deflate\r\n", "extension"),
        ("Sec-WebSocket-Protocol: mqtt\r\n", "not of ipcd"),
    ] {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let to = Endpoint::new("ws", server.local_addr().unwrap().to_string());
        let mut client = Ws.connect(&to, Instant::now() + PATIENCE).unwrap();
        client.serve().unwrap();
        let _stream = serve_once(&server, fields, b"");
        let error = read(&mut *client, &mut buffer()).unwrap_err();
        assert!(error.to_string().contains(why), "{error}");
    }
}
