//! NATS clients: alone, among each other, and in one conversation with clients of ipcd.

use std::fs::{self, Permissions};
use std::io::Read as _;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use ipcd_conformance::authority::Authority;
use ipcd_proto::nats::Nkey;
use ipcd_tests::{Daemon, DaemonSetup, NatsConnection, PATIENCE, eventually, private_dir};
use nix::sys::signal::Signal;
use nix::unistd::Uid;
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

const WORKERS: [&str; 2] = ["--workers", "4"];

fn daemon(args: &[&str]) -> Daemon {
    let tcp = "tcp://127.0.0.1:0?codec=nats";
    let unix = "unix:///RUN/nats.sock?codec=nats";
    DaemonSetup::new().listen(&["unix"]).extra(&[tcp, unix]).args(args).start()
}

fn connect(daemon: &Daemon) -> NatsConnection {
    NatsConnection::tcp(&daemon.address("tcp")).open()
}

#[test]
fn a_client_is_greeted_and_may_ping_before_it_connects() {
    let daemon = daemon(&[]);
    let mut client = NatsConnection::tcp(&daemon.address("tcp"));
    let info = client.info();
    assert_eq!((&info["headers"], &info["proto"]), (&true.into(), &1.into()));
    assert_eq!(info["max_payload"], 1024 * 1024);
    assert!(info["nonce"].as_str().is_some_and(|nonce| nonce.len() > 20), "{info}");
    client.flush();
    // A client that never sends CONNECT is verbose.
    client.send("SUB a 1\r\nPUB a 2\r\nhi\r\nPING\r\n");
    client.expect("+OK\r\nMSG a 1 2\r\nhi\r\n+OK\r\nPONG\r\n");
    let mut unix = NatsConnection::unix(&daemon.runtime_dir().join("nats.sock")).open();
    unix.send("SUB a x\r\nPING\r\n");
    unix.expect("PONG\r\n");
    client.send("pub a b.c 1\r\nx\r\n");
    unix.expect("MSG a x b.c 1\r\nx\r\n");
}

#[test]
fn both_kinds_of_clients_hear_each_other_over_all_workers() {
    let daemon = daemon(&WORKERS);
    let mut clients: Vec<_> = (0..8).map(|_| connect(&daemon)).collect();
    for client in &mut clients {
        client.send("SUB logs.* 7\r\n");
        client.flush();
    }
    let mut ours = daemon.recv("unix", &["-C", "2", "logs.>"]);
    daemon.send("logs.web", "hello");
    for client in &mut clients {
        client.expect("MSG logs.web 7 5\r\nhello\r\n");
    }
    clients[3].send("HPUB logs.db 18 20\r\nNATS/1.0\r\nA: b\r\n\r\nhi\r\n");
    for client in &mut clients {
        client.expect("HMSG logs.db 7 18 20\r\nNATS/1.0\r\nA: b\r\n\r\nhi\r\n");
    }
    let heard = ours.wait().expect(0).text();
    assert!(heard.contains("hello") && heard.contains("hi"), "{heard}");
}

#[test]
fn a_group_has_members_of_both_kinds() {
    let daemon = daemon(&WORKERS);
    let mut members: Vec<_> = (0..3).map(|_| connect(&daemon)).collect();
    for member in &mut members {
        member.send("SUB jobs.> work 1\r\n");
        member.flush();
    }
    let mut ours = daemon.recv("unix", &["-C", "10", "--group", "work", "jobs.>"]);
    let mut publisher = connect(&daemon);
    // Each member gets a quarter, and one message more for each of its fellows at the most.
    for number in 0..40 {
        publisher.send(format!("PUB jobs.{number} 2\r\nok\r\n"));
    }
    publisher.flush();
    let mut total = ours.wait().expect(0).text().lines().count();
    for member in &mut members {
        member.send("PING\r\n");
        loop {
            match member.line().as_str() {
                "PONG" => break,
                line if line.starts_with("MSG ") => total += 1,
                _ => {}
            }
        }
    }
    assert_eq!(total, 40);
}

#[test]
fn a_request_without_responder_is_answered_at_once() {
    let daemon = daemon(&WORKERS);
    let mut client = connect(&daemon);
    client.send("SUB _INBOX.x.* 3\r\nPUB sum _INBOX.x.1 3\r\n1+1\r\n");
    client.expect("HMSG _INBOX.x.1 3 35 35\r\nNATS/1.0 503\r\nNats-Subject: sum\r\n\r\n\r\n");
    let mut responder = connect(&daemon);
    responder.send("SUB sum q 1\r\n");
    responder.flush();
    eventually("that the client's worker knows the responder", || {
        client.send("PUB sum _INBOX.x.2 3\r\n1+1\r\nPING\r\n");
        let is_answered = client.line() == "PONG";
        if !is_answered {
            (0..5).for_each(|_| drop(client.line()));
        }
        is_answered.then_some(())
    });
    responder.expect("MSG sum 1 _INBOX.x.2 3\r\n1+1\r\n");
    responder.send("PUB _INBOX.x.2 1\r\n2\r\n");
    client.expect("MSG _INBOX.x.2 3 1\r\n2\r\n");
}

#[test]
fn a_nats_responder_answers_a_request_of_ours() {
    let daemon = daemon(&WORKERS);
    let mut responder = connect(&daemon);
    responder.send("SUB sum 1\r\n");
    responder.flush();
    let mut ours = daemon.ctl("unix", &["request", "sum", "1+1"]).spawn();
    let line = responder.line();
    assert_eq!(responder.line(), "1+1");
    let reply = line.split(' ').nth(3).expect("a request has a reply subject");
    assert!(reply.starts_with('@'), "{line}");
    responder.send(format!("PUB {reply} 1\r\n2\r\n"));
    assert_eq!(ours.wait().expect(0).text().trim(), "2");
}

#[test]
fn a_subscription_ends_after_its_messages_and_a_group_loses_none() {
    let daemon = daemon(&WORKERS);
    let mut some = connect(&daemon);
    some.send("SUB jobs work 1\r\nUNSUB 1 3\r\n");
    some.flush();
    let mut rest = connect(&daemon);
    rest.send("SUB jobs work 1\r\n");
    rest.flush();
    let mut publisher = connect(&daemon);
    publisher.send("PUB jobs 1\r\nx\r\n".repeat(20));
    publisher.flush();
    for _ in 0..17 {
        rest.expect("MSG jobs 1 1\r\nx\r\n");
    }
    some.expect(&"MSG jobs 1 1\r\nx\r\n".repeat(3));
    some.flush();
    // The name and the number are free again.
    some.send("SUB jobs.b 1\r\nPUB jobs.b 0\r\n\r\n");
    some.expect("MSG jobs.b 1 0\r\n\r\n");
}

#[test]
fn what_is_wrong_is_told_in_the_words_of_nats_server() {
    let daemon = daemon(&[]);
    let no_headers = "CONNECT {\"verbose\":false,\"no_responders\":true}\r\n";
    for (bytes, told) in [
        ("FOO\r\n", "-ERR 'Unknown Protocol Operation'\r\n"),
        ("PUB a 2000000\r\n", "-ERR 'Maximum Payload Violation'\r\n"),
        ("PUB a x\r\n", ""),
        (no_headers, "-ERR 'no responders requires headers support'\r\n"),
        ("CONNECT {\"protocol\":9}\r\n", "-ERR 'invalid client protocol'\r\n"),
        ("GET / HTTP/1.1\r\n", "-ERR 'Unknown Protocol Operation'\r\n"),
    ] {
        let mut client = NatsConnection::tcp(&daemon.address("tcp"));
        client.info();
        client.send(bytes);
        assert_eq!(client.rest(), told, "{bytes}");
    }
    let mut client = connect(&daemon);
    client.send("PUB a.* 1\r\nx\r\nSUB a..b 1\r\nPING\r\n");
    client.expect("-ERR 'Invalid Publish Subject'\r\n-ERR 'Invalid Subject'\r\nPONG\r\n");
    // Everything that came before the fault is accepted.
    let mut other = connect(&daemon);
    other.send("SUB a 1\r\n");
    other.flush();
    client.send("PUB a 1\r\nx\r\nBAD\r\n");
    other.expect("MSG a 1 1\r\nx\r\n");
    assert_eq!(client.rest(), "-ERR 'Unknown Protocol Operation'\r\n");
}

/// A TLS stream over a connection that has said INFO already, or is about to.
fn tls(stream: TcpStream, authority: &str) -> StreamOwned<ClientConnection, TcpStream> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(authority.as_bytes()) {
        roots.add(certificate.expect("the CA has a certificate")).expect("it is one");
    }
    let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let name = "localhost".try_into().expect("it is a name");
    let connection = ClientConnection::new(Arc::new(config), name).expect("the options fit");
    StreamOwned::new(connection, stream)
}

/// Reads a line byte by byte, so that nothing behind it is taken.
fn clear_line(stream: &mut TcpStream) -> String {
    let mut line = Vec::new();
    while line.last() != Some(&b'\n') {
        let mut byte = [0];
        stream.read_exact(&mut byte).expect("the daemon speaks first");
        line.extend(byte);
    }
    String::from_utf8(line).expect("INFO is text")
}

fn stream(daemon: &Daemon, scheme: &str) -> TcpStream {
    let address = daemon.address(scheme);
    let address = address.split('?').next().expect("it has a host and a port");
    let stream = TcpStream::connect(address).expect("the daemon listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket has a timeout");
    stream
}

#[test]
fn tls_begins_behind_info_or_ahead_of_it() {
    let (authority, dir) = (Authority::new(), private_dir());
    authority.issue(&["localhost"]).write(dir.path());
    let issued = authority.issue(&["localhost"]);
    issued.write(dir.path());
    let file = |name: &str| dir.path().join(name).display().to_string();
    for first in [false, true] {
        let listener = format!(
            "tls://127.0.0.1:0?codec=nats&cert={}&key={}&handshake_first={first}",
            file("cert.pem"),
            file("key.pem")
        );
        let token = file("token");
        fs::write(&token, "a secret of ann, long enough\n").expect("the directory is writable");
        fs::set_permissions(&token, Permissions::from_mode(0o600)).expect("it is ours");
        let config = format!("[[token]]\nname = \"ann\"\nfile = \"{token}\"\n");
        let daemon =
            DaemonSetup::new().listen(&["unix"]).extra(&[&listener]).config(&config).start();
        let mut clear = stream(&daemon, "tls");
        if !first {
            let info = clear_line(&mut clear);
            assert!(info.contains("\"tls_required\":true"), "{info}");
        }
        let mut client = NatsConnection::on(tls(clear, &issued.authority));
        if first {
            assert_eq!(client.info()["tls_required"], true);
        }
        let connect = "CONNECT {\"verbose\":false,\"user\":\"ann\",\"pass\":\"PASS\"}\r\nPING\r\n";
        client.send(connect.replace("PASS", "a secret of ann, long enough"));
        assert_eq!(client.line(), "PONG", "{}", daemon.log());
        client.send("SUB a 1\r\nPUB a 2\r\nhi\r\n");
        client.expect("MSG a 1 2\r\nhi\r\n");
        let mut wrong = stream(&daemon, "tls");
        if !first {
            clear_line(&mut wrong);
        }
        let mut wrong = NatsConnection::on(tls(wrong, &issued.authority));
        if first {
            wrong.info();
        }
        wrong.send(connect.replace("PASS", "a secret of bob, long enough"));
        assert_eq!(wrong.rest(), "-ERR 'Authorization Violation'\r\n");
    }
}

const KEY_SEED: [u8; 32] = [7; 32];

#[test]
fn rules_know_a_client_by_its_user_or_its_key() {
    let dir = private_dir();
    let token = dir.path().join("token");
    fs::write(&token, "a secret of ann, long enough\n").expect("the directory is writable");
    fs::set_permissions(&token, Permissions::from_mode(0o600)).expect("it is ours");
    let key = KeyPair::of(&KEY_SEED);
    let config = format!(
        "[[token]]\nname = \"ann\"\nfile = \"{}\"\n[[token]]\nname = \"bob\"\nnkey = \"{}\"\n\
         [[acl]]\ntoken = \"ann\"\npublish = [\"a.>\"]\nsubscribe = [\"_INBOX.>\", \"b.*\"]\n\
         [[acl]]\ntoken = \"bob\"\npublish = [\"b.>\"]\nsubscribe = [\"a.>\"]\n",
        token.display(),
        key.public
    );
    let listeners = ["tcp://127.0.0.1:0?codec=nats", "unix:///RUN/n?codec=nats&auth=required"];
    let daemon = DaemonSetup::new().listen(&["unix"]).extra(&listeners).config(&config).start();
    let path = daemon.runtime_dir().join("n");
    // The secret is not taken where others may read it, nor is nothing where a proof is needed.
    let ann = "CONNECT {\"verbose\":false,\"user\":\"ann\",\"pass\":\"a secret of ann, long enough\"}\r\n";
    let mut open = NatsConnection::tcp(&daemon.address("tcp"));
    assert_eq!(open.info()["auth_required"], true);
    open.send(ann);
    let told = open.rest();
    assert!(told.starts_with("-ERR 'Authorization Violation: ") && told.contains("TLS"), "{told}");
    let mut nobody = NatsConnection::unix(&path);
    nobody.info();
    nobody.send("CONNECT {}\r\n");
    assert_eq!(nobody.rest(), "-ERR 'Authorization Violation'\r\n");
    let mut bob = NatsConnection::tcp(&daemon.address("tcp"));
    let nonce = bob.info()["nonce"].as_str().expect("a nonce is text").to_owned();
    let sig = key.sign(&nonce);
    bob.send(format!(
        "CONNECT {{\"verbose\":false,\"nkey\":\"{}\",\"sig\":\"{sig}\"}}\r\nSUB a.> 1\r\nSUB b.> 2\r\nPING\r\n",
        key.public
    ));
    bob.expect("-ERR 'Permissions Violation for Subscription to \"b.>\"'\r\nPONG\r\n");
    let mut ann = NatsConnection::unix(&path).open_with(ann);
    ann.send("PUB b.x 1\r\nx\r\nPUB a.x 1\r\nx\r\nPING\r\n");
    ann.expect("-ERR 'Permissions Violation for Publish to \"b.x\"'\r\nPONG\r\n");
    bob.expect("MSG a.x 1 1\r\nx\r\n");
    let clients = daemon.log();
    assert!(!clients.contains("long enough"), "a secret is in the log");
    // A key that is not known, and a signature of something else.
    let stranger = KeyPair::of(&[8; 32]);
    for (key, signed) in [(&stranger, None), (&key, Some("another nonce"))] {
        let mut client = NatsConnection::tcp(&daemon.address("tcp"));
        let nonce = client.info()["nonce"].as_str().expect("a nonce is text").to_owned();
        let sig = key.sign(signed.unwrap_or(&nonce));
        client.send(format!("CONNECT {{\"nkey\":\"{}\",\"sig\":\"{sig}\"}}\r\n", key.public));
        assert_eq!(client.rest(), "-ERR 'Authorization Violation'\r\n");
    }
}

/// A key of a client, as `nk` makes it.
struct KeyPair {
    pair: Ed25519KeyPair,
    public: String,
}

impl KeyPair {
    fn of(seed: &[u8; 32]) -> Self {
        let pair = Ed25519KeyPair::from_seed_unchecked(seed).expect("any seed is one");
        let bytes = pair.public_key().as_ref().try_into().expect("a key has 32 bytes");
        Self { public: Nkey::from_bytes(bytes).to_string(), pair }
    }

    fn sign(&self, nonce: &str) -> String {
        BASE64_URL_SAFE_NO_PAD.encode(self.pair.sign(nonce.as_bytes()))
    }
}

#[test]
fn a_client_is_told_that_the_daemon_is_about_to_end() {
    let mut daemon = daemon(&[]);
    let mut client = connect(&daemon);
    daemon.process.signal(Signal::SIGTERM);
    assert_eq!(client.info()["ldm"], true);
    assert_eq!(client.rest(), "");
}

#[test]
fn a_client_that_does_not_read_is_disconnected_and_holds_nobody_up() {
    let tcp = "tcp://127.0.0.1:0?codec=nats";
    let setup = DaemonSetup::new().listen(&["unix"]).extra(&[tcp]);
    let daemon = setup.config("[limits]\noutbox = \"1MiB\"\n").start();
    let mut slow = connect(&daemon);
    slow.send("SUB a 1\r\n");
    slow.flush();
    let mut quick = connect(&daemon);
    quick.send("SUB a 1\r\n");
    quick.flush();
    let mut publisher = connect(&daemon);
    let message = format!("PUB a 100000\r\n{}\r\n", "x".repeat(100_000));
    for _ in 0..200 {
        publisher.send(&message);
        quick.expect(&message.replace("PUB a ", "MSG a 1 "));
    }
    publisher.flush();
    let rest = slow.rest();
    assert!(
        rest.ends_with("-ERR 'Slow Consumer'\r\n"),
        "{}",
        &rest[rest.len().saturating_sub(80)..]
    );
}

#[test]
fn our_responder_answers_a_nats_request_but_lends_nobody_its_rights() {
    let config = "[[acl]]\nuid = 0\nadmin = true\npublish = [\">\"]\nsubscribe = [\">\"]\n\
                  [[acl]]\nlistener = \"guests\"\npublish = [\"sum\"]\nsubscribe = [\"_INBOX.>\", \"orders\"]\n";
    let config = format!(
        "[[listen]]\nname = \"guests\"\nendpoint = \"tcp://127.0.0.1:0?codec=nats\"\n\
         [[listen]]\nendpoint = \"unix:///RUN/ipcd.sock\"\n{}",
        config.replace("uid = 0", &format!("uid = {}", Uid::current()))
    );
    let dir = private_dir();
    let run = dir.path().join("run").display().to_string();
    let setup =
        DaemonSetup::new().listen(&[]).config(&config.replace("RUN", run.trim_start_matches('/')));
    let daemon = setup.start_in(dir);
    let _serve = daemon.ctl("unix", &["serve", "sum", "2"]).spawn();
    let mut orders = daemon.recv("unix", &["-C", "1", "orders"]);
    let mut client = connect(&daemon);
    client.send("SUB _INBOX.x.* 1\r\n");
    client.flush();
    eventually("that the responder is there", || {
        client.send("PUB sum _INBOX.x.1 3\r\n1+1\r\n");
        let is_answered = client.line().starts_with("MSG _INBOX.x.1 1 1");
        (0..if is_answered { 1 } else { 4 }).for_each(|_| drop(client.line()));
        is_answered.then_some(())
    });
    // The guest may hear `orders`, but not publish there: neither does the responder for it.
    client.send("PUB sum orders 3\r\n1+1\r\nPUB sum _INBOX.x.2 3\r\n1+1\r\n");
    client.line();
    client.line();
    daemon.send("orders", "the only one");
    assert_eq!(orders.wait().expect(0).text().trim(), "the only one");
}
