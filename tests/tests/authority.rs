//! Authority over replies, names and revoked credentials, over several workers.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Instant;

use ipcd_client::{Client, DirectAddress, Event, Message, Options, Publication, SubscribeOptions};
use ipcd_tests::{Daemon, DaemonSetup, PATIENCE, RunningProcess, classes, eventually};

/// A daemon with two sockets and two workers: peers of `root` may do everything, and those of
/// `guest` have these rights.
fn two_classes(dir: &tempfile::TempDir, guest: &str) -> (Daemon, [String; 2]) {
    let (sockets, text) = classes(dir, guest);
    let setup = DaemonSetup::new().listen(&[]).config(&text).args(&["--workers", "2"]);
    (setup.start(), sockets)
}

fn dir() -> tempfile::TempDir {
    ipcd_tests::private_dir()
}

fn counter(daemon: &Daemon, via: &str, name: &str) -> u64 {
    let status = daemon.ctl(via, &["status", "-j"]).run().expect(0).text();
    let status: serde_json::Value = serde_json::from_str(&status).expect("the text is JSON");
    status["counters"][name].as_u64().expect("the counter exists")
}

fn next(client: &mut Client) -> Event {
    let event = client.next_event(Some(Instant::now() + PATIENCE)).expect("the connection lives");
    event.expect("something comes in time")
}

fn message(client: &mut Client) -> Message {
    match next(client) {
        Event::Message(message) => message,
        other => panic!("no message, but {other:?}"),
    }
}

/// The numbers of requests can be guessed: they are counted up, as are the ids of peers.
#[test]
fn only_who_was_asked_answers_in_one_worker_and_across() {
    let daemon = DaemonSetup::new().listen(&["unix"]).args(&["--workers", "2"]).start();
    let mut responders: Vec<Client> = (0..2).map(|_| daemon.client("unix")).collect();
    for responder in &mut responders {
        let options = SubscribeOptions { group: Some("g".into()), ..Default::default() };
        responder.subscribe("password.check", options).expect("the peer may subscribe");
    }
    // The same number on each worker.
    let mut forgers: Vec<Client> = (0..2).map(|_| daemon.client("unix")).collect();
    let mut requesters: Vec<Client> = (0..2).map(|_| daemon.client("unix")).collect();
    for requester in &mut requesters {
        for _ in 0..responders.len() {
            let ask = Publication { subject: "password.check", ..Default::default() };
            let request = requester.start_request(&ask, PATIENCE).expect("the connection is open");
            requester.push().expect("the client connects");
            let address =
                DirectAddress { peer: requester.peer(), request: Some(request) }.to_string();
            let has_it = |responder: &mut Client| responder.ping().is_ok() && responder.has_event();
            let asked = eventually("a responder has the request", || {
                responders.iter_mut().position(has_it)
            });
            let received = message(&mut responders[asked]);
            let others = responders.iter_mut().enumerate().filter(|(at, _)| *at != asked);
            for forger in others.map(|(_, other)| other).chain(&mut forgers) {
                let forged =
                    Publication { subject: &address, payload: b"GRANTED", ..Default::default() };
                let receipt = forger.publish_acked(&forged).expect("the connection is open");
                assert_eq!((receipt.delivered, receipt.dropped()), (0, 0), "{address}");
            }
            responders[asked].reply(&received, b"DENIED").expect("the connection is open");
            responders[asked].push().expect("the client connects");
            let Event::Reply { request: of, reply: Ok(reply) } = next(requester) else {
                panic!("no reply")
            };
            assert_eq!((of, reply.payload()), (request, &b"DENIED"[..]));
            assert_eq!(reply.sender, responders[asked].peer());
            requester.finish_request(request);
        }
    }
    assert_eq!(daemon.counter("replies_late"), 4 * 3);
}

/// Each reply is let through, however many requests are open: none is forgotten.
#[test]
fn seventy_thousand_open_requests_are_all_answered_where_there_are_rules() {
    const REQUESTS: usize = 35_000;
    let dir = dir();
    let (daemon, [root, guest]) = two_classes(&dir, "subscribe = [\"work\"]");
    let connect = |at: &str| {
        let options = Options { timeout: PATIENCE, ..Options::default() };
        Client::connect(&at.parse().expect("the text is an endpoint"), options)
            .expect("the listener accepts a connection")
    };
    let mut responder = connect(&guest);
    responder.subscribe("work", SubscribeOptions::default()).expect("the peer may subscribe");
    let mut requesters = [connect(&root), connect(&root)];
    let mut asked = Vec::new();
    for requester in &mut requesters {
        for number in 1..=REQUESTS {
            let ask = Publication { subject: "work", ..Default::default() };
            requester.start_request(&ask, 10 * PATIENCE).expect("the connection is open");
            if number % 1000 == 0 {
                requester.push().expect("the client connects");
                let most = asked.len() + 1000;
                asked.extend((asked.len()..most).map(|_| message(&mut responder)));
            }
        }
    }
    assert_eq!(counter(&daemon, &root, "requests_unanswered"), 2 * REQUESTS as u64);
    for (number, request) in asked.iter().enumerate() {
        responder.reply(request, b"done").expect("the connection is open");
        if number % 1000 == 999 {
            responder.push().expect("the client connects");
            for _ in 0..1000 {
                let Event::Reply { reply: Ok(_), .. } = next(&mut requesters[number / REQUESTS])
                else {
                    panic!("no reply")
                };
            }
        }
    }
    assert_eq!(counter(&daemon, &root, "replies_late"), 0);
}

/// A guest may send requests, but cannot make a server publish where only the server may.
#[test]
fn a_server_publishes_nowhere_that_a_guest_says() {
    let dir = dir();
    let (daemon, [root, guest]) = two_classes(&dir, "publish = [\"work\"]");
    let mut admin = daemon.ctl(&root, &["recv", "-E", "-v", "admin.>", "back"]).spawn_subscribed();
    let serve = ["serve", "-E", "work", "--echo"];
    let _server = daemon.ctl(&root, &serve).spawn_subscribed();
    let handler = ["serve", "-E", "work", "--", "cat"];
    let _handler = daemon.ctl(&root, &handler).spawn_subscribed();
    daemon.ctl(&guest, &["send", "admin.cmd", "reboot"]).run().expect(6);
    daemon.ctl(&guest, &["send", "work", "--reply", "admin.cmd", "reboot"]).run().expect(0);
    // A sender that may publish there itself gets the replies there.
    daemon.ctl(&root, &["send", "work", "--reply", "back", "hello"]).run().expect(0);
    let replies = daemon.ctl(&guest, &["req", "work", "x", "--replies", "2"]).run().expect(0);
    assert_eq!(replies.text(), "x\nx\n");
    daemon.ctl(&root, &["send", "back", "last"]).run().expect(0);
    admin.stdout().wait_for("back last\n");
    // Nothing for admin.cmd.
    assert_eq!(admin.stdout().text(), "back hello\nback hello\nback last\n");
}

#[test]
fn names_are_in_rules_and_guests_cannot_take_a_service_over() {
    let dir = dir();
    let (daemon, [root, guest]) = two_classes(
        &dir,
        "publish = [\"@\"]\nsubscribe = [\"news\"]\nname = [\"guest-*\", \"bob\"]",
    );
    let refused = |name: &str, status: i32, said: &str| {
        let ended = daemon.ctl(&guest, &["ping", "-c", "1", "--name", name]).run().expect(status);
        assert!(ended.stderr.contains(said), "{name}: {}", ended.stderr);
    };
    refused("vault", 6, "may not use the name vault");
    daemon.ctl(&guest, &["ping", "-c", "1", "--name", "guest-1"]).run().expect(0);
    let mut vault = daemon.ctl(&root, &["recv", "-E", "x", "--name", "vault"]).spawn_subscribed();
    daemon.ctl(&guest, &["send", "@vault", "for the vault"]).run().expect(0);
    vault.stdout().wait_for("for the vault\n");
    drop(vault);
    refused("vault", 6, "may not use the name vault");
    daemon.ctl(&root, &["send", "@vault", "x"]).run().expect(5);
    for name in ["7", "007", "+7", "7.1", "@7", "@bob"] {
        refused(name, 8, "looks like the id");
    }
    let file = daemon.config_file().display().to_string();
    for (listener, name, status) in
        [("guest", "bob", 0), ("guest", "bobby", 6), ("guest", "guest-", 0), ("root", "any", 0)]
    {
        let check = ["acl", "check", "--listener", listener, "--named", name];
        daemon.ctl(&root, &check).run().expect(status);
        daemon.ctl(&root, &[&check[..], &["-c", &file]].concat()).run().expect(status);
    }
    // At HUP a name that would be refused now ends the session, and no other change does.
    let mut bob = daemon.ctl(&guest, &["recv", "-E", "news", "--name", "bob"]).spawn_subscribed();
    let mut other = daemon.recv(&guest, &["news"]);
    let text = fs::read_to_string(&file).expect("the file can be read");
    daemon.reload(&text.replace("\"bob\"", "\"ann\""));
    let ended = bob.wait().expect(6);
    assert!(ended.stderr.contains("may not use the name bob any more"), "{}", ended.stderr);
    daemon.ctl(&root, &["send", "news", "goes on"]).run().expect(0);
    other.stdout().wait_for("goes on\n");
}

fn with_token(daemon: &Daemon, scheme: &str, name: &str) -> RunningProcess {
    let file = daemon.dir().join(name).display().to_string();
    let args = ["--token-file", &file, "--token-name", name, "a.>"];
    daemon.recv(scheme, &args)
}

/// A leaked token is of use only until the next HUP.
#[test]
fn revoked_tokens_end_their_sessions_and_no_others() {
    let setup = DaemonSetup::new().listen(&["unix", "tcp", "udp"]).args(&["--workers", "2"]);
    let daemon = setup.config("").start();
    let secret = |name: &str, text: &str| {
        let path = daemon.dir().join(name);
        write_secret(&path, &text.repeat(16));
        format!("[[token]]\nname = \"{name}\"\nfile = \"{}\"\n", path.display())
    };
    let [gone, changed, same] = ["gone", "changed", "same"].map(|name| secret(name, name));
    daemon.reload(&format!("{gone}{changed}{same}"));
    let start = |name| ["tcp", "udp"].map(|scheme| with_token(&daemon, scheme, name));
    let (gone, renewed, stays) = (start("gone"), start("changed"), start("same"));
    let own = ["tcp", "udp", "unix"].map(|scheme| daemon.recv(scheme, &["a.>"]));
    let ended = |receivers: Vec<RunningProcess>, said: &str| {
        for mut receiver in receivers {
            let ended = receiver.wait().expect(6);
            assert!(ended.stderr.contains(said), "{}", ended.stderr);
        }
    };
    secret("changed", "another");
    daemon.reload(&format!("{changed}{same}"));
    ended(gone.into(), "the token gone was revoked");
    ended(renewed.into(), "the token changed was revoked or changed");
    write_secret(&daemon.runtime_dir().join("token"), "a new one, of bytes enough");
    daemon.reload(&format!("{changed}{same}\n"));
    let [tcp, udp, mut unix] = own;
    ended(vec![tcp, udp], "the daemon's token was revoked or changed");
    daemon.send("a.x", "for who is left");
    for mut receiver in stays {
        receiver.stdout().wait_for("for who is left\n");
    }
    unix.stdout().wait_for("for who is left\n");
    let_in(&daemon, "tcp");
}

/// Only for its owner: a token that others can read is not in force.
fn write_secret(path: &Path, text: &str) {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let mut file = options.open(path).expect("the directory is writable");
    file.write_all(text.as_bytes()).expect("the peer reads the bytes");
}

/// The new token is good, and the old one is refused.
fn let_in(daemon: &Daemon, scheme: &str) {
    daemon.ctl(scheme, &["ping", "-c", "1"]).run().expect(0);
}
