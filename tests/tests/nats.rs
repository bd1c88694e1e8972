//! NATS clients: alone, among each other, and in one conversation with clients of ipcd.

use ipcd_tests::{Daemon, DaemonSetup, NatsConnection, eventually};

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
    // What came before the fault is accepted.
    let mut other = connect(&daemon);
    other.send("SUB a 1\r\n");
    other.flush();
    client.send("PUB a 1\r\nx\r\nBAD\r\n");
    other.expect("MSG a 1 1\r\nx\r\n");
    assert_eq!(client.rest(), "-ERR 'Unknown Protocol Operation'\r\n");
}
