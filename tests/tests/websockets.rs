//! WebSockets: pages of a browser as raw peers and as clients of NATS, the check of their origin, and
//! our own clients.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use ipcd_conformance::authority::Authority;
use ipcd_tests::{CtlCommand, Daemon, DaemonSetup, PATIENCE, eventually, private_dir};
use tempfile::TempDir;

/// The bytes that a page in a browser sends over a WebSocket and gets.
struct Page(TcpStream);

impl Page {
    /// Asks for a WebSocket at this address, as a page of this origin does.
    fn ask(address: &str, origin: &str) -> Self {
        let (host, path) = address.split_at(address.find('/').unwrap_or(address.len()));
        let mut stream = TcpStream::connect(host).expect("the daemon listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("the option can be set");
        let path = if path.is_empty() { "/" } else { path };
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {host}\r\nOrigin: {origin}\r\nUpgrade: websocket\r\n\
             Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).expect("the socket has room");
        Self(stream)
    }

    /// The status of the answer.
    fn status(&mut self) -> String {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            self.0.read_exact(&mut byte).expect("the answer has an end");
            head.push(byte[0]);
        }
        String::from_utf8_lossy(&head[9..12]).into_owned()
    }

    /// A page of the listener's own host, which is admitted.
    fn open(address: &str) -> Self {
        let mut page = Self::ask(address, "http://127.0.0.1:8000");
        assert_eq!(page.status(), "101");
        page
    }

    /// Sends a text message, with a mask that changes nothing.
    fn send(&mut self, text: &str) {
        let length = u8::try_from(text.len()).expect("the text is short");
        assert!(length < 126, "the text is short");
        let frame = [&[0x81, 0x80 | length, 0, 0, 0, 0][..], text.as_bytes()].concat();
        self.0.write_all(&frame).expect("the socket has room");
    }

    /// The payload of the next message, which is short.
    fn message(&mut self) -> String {
        let mut header = [0; 2];
        self.0.read_exact(&mut header).expect("a message comes");
        assert_eq!(header[0], 0x82, "a binary message");
        let mut length = usize::from(header[1]);
        if length == 126 {
            self.0.read_exact(&mut header).expect("a message comes whole");
            length = u16::from_be_bytes(header).into();
        }
        let mut payload = vec![0; length];
        self.0.read_exact(&mut payload).expect("a message comes whole");
        String::from_utf8(payload).expect("it is text")
    }

    /// Reads messages until their text has come.
    fn expect(&mut self, text: &str) {
        let mut heard = String::new();
        while !heard.contains(text) {
            heard += &self.message();
        }
    }
}

fn daemon(listener: &str, fork: &str) -> Daemon {
    DaemonSetup::new().listen(&["unix"]).extra(&[listener]).args(&["--fork", fork]).start()
}

/// The daemon's listener, without its options.
fn address(daemon: &Daemon, scheme: &str) -> String {
    let address = daemon.address(scheme);
    address.split('?').next().expect("there is one").to_owned()
}

#[test]
fn our_clients_prove_a_token_over_a_websocket() {
    for fork in ["pool", "connection"] {
        let daemon = daemon("ws://127.0.0.1:0/bus", fork);
        let via = format!("ws://{}", daemon.address("ws"));
        let mut receiver = daemon.recv(&via, &["-v", "-C", "2", "s.>"]);
        daemon.ctl(&via, &["send", "s.ws", "over a WebSocket"]).run().expect(0);
        daemon.send("s.unix", "over a socket");
        let heard = receiver.wait().expect(0).text();
        assert_eq!(heard, "s.ws over a WebSocket\ns.unix over a socket\n");
        let stranger = CtlCommand::new(&daemon, &via).args(["ping", "--token-file", "/nowhere/t"]);
        assert!(stranger.run().expect(6).stderr.contains("no token"));
        let elsewhere = via.replace("/bus", "/other");
        let refused = daemon.ctl(&elsewhere, &["ping"]).run().expect(3).stderr;
        assert!(refused.contains("404 Not Found: there is no WebSocket at this path"), "{refused}");
    }
}

/// Frames that are larger than a message of the WebSocket, for many at once.
#[test]
fn large_messages_pass_whole() {
    let daemon = daemon("ws://127.0.0.1:0", "pool");
    let via = daemon.via("ws");
    let body = "0123456789abcdef".repeat(60_000);
    let mut receivers: Vec<_> = (0..5).map(|_| daemon.recv(&via, &["-C", "3", "large"])).collect();
    let file = private_dir();
    let file = file.path().join("body");
    std::fs::write(&file, &body).expect("the directory is writable");
    for _ in 0..3 {
        let send = daemon.ctl(&via, &["send", "--file"]);
        send.args([file.to_str().expect("the path is plain"), "large"]).run().expect(0);
    }
    let expected = format!("{body}\n").repeat(3);
    for receiver in &mut receivers {
        assert!(receiver.wait().expect(0).text() == expected, "a message was changed");
    }
}

#[test]
fn a_page_and_a_terminal_hear_each_other() {
    for fork in ["pool", "connection"] {
        let daemon = daemon("ws://127.0.0.1:0?codec=line&subject=lines&reply=lines", fork);
        let mut page = Page::open(&address(&daemon, "ws"));
        let mut receiver = daemon.recv("unix", &["-C", "1", "lines"]);
        page.send("hel");
        page.send("lo\n");
        assert_eq!(receiver.wait().expect(0).text(), "hello\n");
        eventually("the page is admitted", || daemon.log().contains("transport=ws").then_some(()));
        daemon.send("lines", "hello, page");
        assert_eq!(page.message(), "hello, page\n");
    }
}

/// INFO waits for the end of the upgrade, although it is in no queue.
#[test]
fn a_page_is_a_client_of_nats() {
    for fork in ["pool", "connection"] {
        let daemon = daemon("ws://127.0.0.1:0?codec=nats", fork);
        let mut page = Page::open(&address(&daemon, "ws"));
        let info = page.message();
        assert!(info.starts_with("INFO {") && !info.contains("tls_required\":true"), "{info}");
        page.send("CONNECT {\"verbose\":false}\r\nSUB room 1\r\nPING\r\n");
        page.expect("PONG\r\n");
        daemon.send("room", "hello, page");
        page.expect("MSG room 1 11\r\nhello, page\r\n");
        let mut receiver = daemon.recv("unix", &["-C", "1", "room"]);
        page.send("PUB room 5\r\nhello\r\n");
        assert_eq!(receiver.wait().expect(0).text(), "hello\n");
    }
}

#[test]
fn a_page_is_admitted_by_its_origin() {
    let config = |options: &str| {
        format!("[[listen]]\nendpoint = \"ws://127.0.0.1:0?codec=line&subject=lines{options}\"\n")
    };
    let daemon = DaemonSetup::new().listen(&[]).config(&config("")).start();
    let at = address(&daemon, "ws");
    let status = |origin: &str| Page::ask(&at, origin).status();
    assert_eq!(status("http://127.0.0.1:8000"), "101");
    assert_eq!(status("https://evil.example"), "403");
    eventually("the log has the origin", || {
        daemon.log().contains(&format!("(https://evil.example to {at})")).then_some(())
    });
    // The listener stays, and peers that come from now on are judged by its new options.
    daemon.reload(&config("&origin=https://a.example,https://b.example"));
    assert_eq!(status("https://b.example"), "101");
    assert_eq!(status("http://127.0.0.1:8000"), "403");
    daemon.reload(&config("&origin=*"));
    assert_eq!(status("https://evil.example"), "101");
}

/// Certificates of one CA, each in a directory with its name.
struct Certificates(TempDir);

impl Certificates {
    fn new(all: &[(&str, &str)]) -> Self {
        let (authority, dir) = (Authority::new(), private_dir());
        for (name, host) in all {
            let dir = dir.path().join(name);
            std::fs::create_dir(&dir).expect("the directory is writable");
            authority.issue(&[host]).write(&dir);
        }
        Self(dir)
    }

    fn path(&self, name: &str, file: &str) -> String {
        self.0.path().join(name).join(file).display().to_string()
    }

    /// The options that name a certificate and its key.
    fn own(&self, name: &str) -> String {
        format!("cert={}&key={}", self.path(name, "cert.pem"), self.path(name, "key.pem"))
    }

    /// The option that names the CA.
    fn ca(&self) -> String {
        format!("ca={}", self.path("server", "ca.pem"))
    }
}

/// Neither of the two has a message to write first, and the handshakes are made all the same.
#[test]
fn a_daemon_connects_to_the_websocket_of_another() {
    let files = Certificates::new(&[("server", "localhost")]);
    let trust = format!("&{}&name=localhost", files.ca());
    for (scheme, own, trust) in
        [("ws", "", ""), ("wss", &*format!("&{}", files.own("server")), &*trust)]
    {
        let listener = format!("{scheme}://127.0.0.1:0/x?codec=line&subject=out&reply=in{own}");
        let there = daemon(&listener, "pool");
        let at = format!("{scheme}://{}", address(&there, scheme));
        let endpoint = format!("{at}?codec=line&subject=heard&reply=said{trust}");
        let config = format!("[[connect]]\nendpoint = \"{endpoint}\"\nretry = \"50ms\"\n");
        let here = DaemonSetup::new().listen(&["unix"]).config(&config).start();
        eventually("the peer", || {
            there.log().contains(&format!("transport={scheme} ")).then_some(())
        });
        let mut heard = here.recv("unix", &["-C", "1", "heard"]);
        there.send("in", "to a client");
        assert_eq!(heard.wait().expect(0).text(), "to a client\n");
        let mut out = there.recv("unix", &["-C", "1", "out"]);
        here.send("said", "from a client");
        assert_eq!(out.wait().expect(0).text(), "from a client\n");
    }
}

#[test]
fn a_certificate_is_known_under_a_websocket() {
    let files = Certificates::new(&[("server", "localhost"), ("ann", "ann.example")]);
    let ca = files.ca();
    for fork in ["pool", "connection"] {
        let daemon = daemon(&format!("wss://127.0.0.1:0/bus?{}&{ca}", files.own("server")), fork);
        let at = format!("wss://{}?{ca}&name=localhost", address(&daemon, "wss"));
        daemon.ctl(&at, &["ping"]).run().expect(0);
        let ann = format!("{at}&{}", files.own("ann"));
        let ping = CtlCommand::new(&daemon, &ann).args(["ping", "--token-file", "/nowhere/t"]);
        ping.run().expect(0);
        assert!(daemon.log().contains("certificate=ann.example"), "{}", daemon.log());
        let refused = daemon.ctl(&at.replace("/bus", ""), &["ping"]).run().expect(3).stderr;
        assert!(refused.contains("404 Not Found"), "{refused}");
    }
}
