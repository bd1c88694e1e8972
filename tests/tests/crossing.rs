//! Messages between peers of different workers: none is missed, lost or altered, and a peer that
//! stalls blocks only its publisher.

use std::time::Instant;

use ipcd_client::{Client, Event, SubscribeOptions};
use ipcd_tests::{
    Daemon, DaemonSetup, MessageStream, PATIENCE, Receiver, SCHEMES, Sender, eventually, message,
    state,
};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

/// Send queues that fill soon, and a stall time-out beyond the time of a test.
const PATIENT: &str = "[limits]\noutbox = \"64KiB\"\nstall_timeout = \"1000s\"\n";

fn next_message(client: &mut Client) -> ipcd_client::Message {
    match client.next_event(Some(Instant::now() + PATIENCE)) {
        Ok(Some(Event::Message(message))) => message,
        other => panic!("{other:?}, instead of a message"),
    }
}

fn subscribe(client: &mut Client, filter: &str) -> u32 {
    client.subscribe(filter, SubscribeOptions::default()).expect("the peer may subscribe")
}

/// Sends numbered messages from one client to another, and compares.
fn flow(from: &mut Client, to: &mut Client, subject: &str, stream: MessageStream) {
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut text = Vec::new();
            for number in 0..stream.count {
                message(stream, number, &mut text);
                from.publish(subject, &text).expect("the connection lives");
            }
            from.flush().expect("all messages are accepted");
        });
        let mut text = Vec::new();
        for number in 0..stream.count {
            message(stream, number, &mut text);
            let got = next_message(to);
            assert!(got.payload() == text, "{subject}: message {number} differs");
        }
    });
}

#[test]
fn a_stalled_receiver_makes_its_publisher_wait_and_no_other_pair_of_the_same_workers() {
    let daemon = DaemonSetup::new().config(PATIENT).args(&["--workers", "2"]).start();
    let stream = MessageStream { count: 20_000, longest: 2000, seed: 1 };
    let mut stalled = Receiver::start(&daemon, "unix", "flood", stream);
    let (here, there) = (stalled.slot, 1 - stalled.slot);
    let (mut one, _) = daemon.client_on("unix", |slot| slot == here);
    let (mut other, _) = daemon.client_on("unix", |slot| slot == there);
    subscribe(&mut one, "to.one");
    subscribe(&mut other, "to.other");
    stalled.process.signal(Signal::SIGSTOP);
    let pid = stalled.process.pid();
    eventually("the process is stopped", || (state(pid) == Some('T')).then_some(()));
    let mut sender = Sender::start_on(&daemon, "tcp", "flood", |slot| slot == there);
    sender.feed(stream);
    let queued = || {
        let peers = daemon.clients();
        let peer = peers.iter().find(|peer| peer["subscriptions"][0] == "flood")?;
        peer["queued_bytes"].as_u64()
    };
    eventually("a full outbox", || (queued()? > 32 << 10).then_some(()));
    // In both directions: with and against the stalled messages.
    let healthy = MessageStream { count: 10_000, longest: 2000, seed: 2 };
    flow(&mut other, &mut one, "to.one", healthy);
    flow(&mut one, &mut other, "to.other", healthy);
    assert_eq!(sender.process.has_ended(), None, "the publisher did not wait");
    let most = (64 << 10) + (2 << 20) + (512 << 10);
    let bytes = queued().expect("it is there");
    assert!(bytes < most, "{bytes} bytes are queued");
    stalled.process.signal(Signal::SIGCONT);
    sender.process.wait().expect(0);
    stalled.finish("after the stop");
    assert_eq!(daemon.counter("peers_cut_off"), 0);
}

/// A publisher on another worker continues when the stalled peer has gone.
#[test]
fn a_publisher_goes_on_when_the_stalled_subscriber_of_another_worker_is_killed() {
    let daemon = DaemonSetup::new().config(PATIENT).args(&["--workers", "3"]).start();
    let stream = MessageStream { count: 10_000, longest: 2000, seed: 3 };
    let mut stalled = Receiver::start(&daemon, "unix", "flood", stream);
    stalled.process.signal(Signal::SIGSTOP);
    let slot = stalled.slot;
    let mut sender = Sender::start_on(&daemon, "unix", "flood", |other| other != slot);
    sender.feed(stream);
    eventually("a full outbox", || {
        let peers = daemon.clients();
        let peer = peers.iter().find(|peer| peer["subscriptions"][0] == "flood")?;
        (peer["queued_bytes"].as_u64()? > 32 << 10).then_some(())
    });
    assert_eq!(sender.process.has_ended(), None, "the publisher did not wait");
    stalled.process.signal(Signal::SIGKILL);
    sender.process.wait().expect(0);
}

#[test]
fn nothing_is_missed_once_a_subscription_is_acknowledged() {
    let daemon = DaemonSetup::new().args(&["--workers", "3"]).start();
    let (mut receiver, slot) = daemon.client_on("unix", |_| true);
    let (mut near, _) = daemon.client_on("unix", |other| other != slot);
    let (mut far, _) = daemon.client_on("tcp", |other| other != slot);
    for round in 0..1500_u32 {
        // A subject of its own, a repeated one, and a wildcard.
        let (filter, subject) = match round % 3 {
            0 => (format!("once.{round}"), format!("once.{round}")),
            1 => ("again".into(), "again".into()),
            _ => ("any.*".into(), format!("any.{round}")),
        };
        let subscription = subscribe(&mut receiver, &filter);
        let text = round.to_string();
        let sender = if round % 2 == 0 { &mut near } else { &mut far };
        sender.publish(&subject, text.as_bytes()).expect("the connection lives");
        sender.push().expect("the connection lives");
        let got = next_message(&mut receiver);
        assert_eq!((got.subject(), got.payload()), (subject.as_str(), text.as_bytes()));
        receiver.unsubscribe(subscription).expect("the connection is open");
    }
}

/// As above with a child for each peer; the receiver's child has just started.
/// The watchdog would need an hour to end the stopped worker, so nothing waits for that.
#[test]
fn a_stopped_worker_delays_no_subscription_on_another() {
    let daemon = DaemonSetup::new()
        .config("[daemon]\nwatchdog = \"1h\"\n")
        .args(&["--workers", "3"])
        .start();
    let (mut subscriber, slot) = daemon.client_on("unix", |_| true);
    let (mut publisher, _) = daemon.client_on("unix", |other| other == (slot + 1) % 3);
    let stopped = Pid::from_raw(daemon.worker_in((slot + 2) % 3).pid);
    kill(stopped, Signal::SIGSTOP).expect("the worker is ours");
    eventually("the worker is stopped", || (state(stopped.as_raw()) == Some('T')).then_some(()));
    subscribe(&mut subscriber, "beside.it");
    publisher.publish("beside.it", b"hello").expect("the connection lives");
    publisher.flush().expect("the message is accepted");
    assert_eq!(next_message(&mut subscriber).payload(), b"hello");
    assert_eq!(state(stopped.as_raw()), Some('T'), "the worker was stopped all the time");
    kill(stopped, Signal::SIGCONT).expect("the worker is ours");
}

/// The table of interests knows a limited number of patterns. Beyond it, a worker asks for all
/// messages, and finds the subscriptions itself.
#[test]
fn filters_with_more_patterns_than_the_table_knows_work_all_the_same() {
    const FILTERS: u32 = 300;
    let daemon = DaemonSetup::new().args(&["--workers", "2"]).start();
    let (mut subscriber, slot) = daemon.client_on("unix", |_| true);
    let (mut publisher, _) = daemon.client_on("unix", |other| other != slot);
    let filter = |number: u32| {
        let token = |bit: u32| if number >> bit & 1 == 0 { "a" } else { "*" };
        (0..9).map(token).collect::<Vec<_>>().join(".")
    };
    for number in 0..FILTERS {
        subscribe(&mut subscriber, &filter(number));
    }
    let group = SubscribeOptions { group: Some("g".into()), ..SubscribeOptions::default() };
    let refused = subscriber.subscribe(&filter(FILTERS), group);
    let error = refused.expect_err("the pattern is unknown").to_string();
    assert!(error.contains("too many other patterns"), "{error}");
    let subject = ["a"; 9].join(".");
    for text in [&subject, "no.one.wants.this", &subject] {
        publisher.publish(text, b"hello").expect("the connection lives");
    }
    publisher.flush().expect("all messages are accepted");
    for _ in 0..2 * FILTERS {
        assert_eq!(next_message(&mut subscriber).subject(), subject);
    }
    // A request without a receiver ends at once, although the worker asks for all messages.
    let asked = publisher.request("no.one.wants.this", b"?", PATIENCE);
    let error = asked.expect_err("no peer can answer").to_string();
    assert!(error.contains("no peer"), "{error}");
}

#[test]
fn nothing_is_missed_by_a_child_that_was_just_born() {
    let daemon = DaemonSetup::new().args(&["--fork", "connection"]).start();
    let mut sender = daemon.client("unix");
    for round in 0..150 {
        let mut receiver = daemon.client(if round % 5 == 0 { "pipe" } else { "unix" });
        subscribe(&mut receiver, "news");
        let text = format!("round {round}");
        sender.publish("news", text.as_bytes()).expect("the connection lives");
        sender.push().expect("the connection lives");
        assert_eq!(next_message(&mut receiver).payload(), text.as_bytes());
    }
}

const LARGEST: usize = 1024 * 1024;

/// Text of the largest length that differs by seed.
fn large(seed: u64) -> Vec<u8> {
    let (mut text, mut piece) = (Vec::with_capacity(LARGEST), Vec::new());
    let stream = MessageStream { count: 0, longest: 8000, seed };
    for number in 0.. {
        message(stream, number, &mut piece);
        text.extend_from_slice(&piece[..piece.len().min(LARGEST - text.len())]);
        if text.len() == LARGEST {
            break;
        }
    }
    text
}

fn a_mebibyte_from_several_at_once(daemon: &Daemon, different: bool) {
    const EACH: u64 = 4;
    let (mut receivers, mut slots) = (Vec::new(), Vec::new());
    for scheme in ["unix", "udp"] {
        let (mut receiver, slot) = daemon.client_on(scheme, |_| true);
        subscribe(&mut receiver, "big.*");
        receivers.push(receiver);
        slots.push(slot);
    }
    let fits = |slot| !different || !slots.contains(&slot);
    let senders: Vec<_> = ["unix", "tcp", "fifo"].map(|via| daemon.client_on(via, fits).0).into();
    std::thread::scope(|scope| {
        for (sender, who) in senders.into_iter().zip(0_u64..) {
            scope.spawn(move || {
                let mut sender = sender;
                for number in 0..EACH {
                    let text = large(who * EACH + number);
                    sender.publish(&format!("big.{who}"), &text).expect("the connection lives");
                    // Short messages between the pieces of long ones.
                    sender
                        .publish(&format!("big.{who}"), b"small")
                        .expect("the connection is open");
                }
                sender.flush().expect("all messages are accepted");
            });
        }
        for mut receiver in receivers {
            scope.spawn(move || {
                let mut next = [0_u64; 3];
                for _ in 0..3 * 2 * EACH {
                    let got = next_message(&mut receiver);
                    let who: u64 = got.subject()[4..].parse().expect("a number");
                    let at = &mut next[who as usize];
                    let (number, is_large) = (*at / 2, at.is_multiple_of(2));
                    *at += 1;
                    let good = match is_large {
                        true => got.payload() == large(who * EACH + number),
                        false => got.payload() == b"small",
                    };
                    assert!(good, "number {number} of sender {who} was altered");
                }
            });
        }
    });
    assert_eq!(daemon.counter("records_lost"), 0);
}

#[test]
fn the_largest_messages_cross_workers_in_pieces_unaltered() {
    let daemon = DaemonSetup::new().args(&["--workers", "3"]).start();
    a_mebibyte_from_several_at_once(&daemon, false);
    let daemon = DaemonSetup::new().args(&["--workers", "5"]).start();
    a_mebibyte_from_several_at_once(&daemon, true);
}

#[test]
fn the_largest_messages_cross_children_in_pieces_unaltered() {
    let daemon = DaemonSetup::new().args(&["--fork", "connection", "--max-children", "12"]).start();
    a_mebibyte_from_several_at_once(&daemon, true);
}

/// A receiver on one worker, and a sender of each transport on others, one after another.
#[test]
fn who_sent_it_is_told_across_workers() {
    let daemon = DaemonSetup::new().args(&["--workers", "3"]).start();
    who_sent_it(&daemon, |receiver, sender| receiver != sender);
}

#[test]
fn who_sent_it_is_told_across_children() {
    let daemon = DaemonSetup::new().args(&["--fork", "connection"]).start();
    who_sent_it(&daemon, |receiver, sender| receiver != sender);
}

fn who_sent_it(daemon: &Daemon, fits: impl Fn(u64, u64) -> bool) {
    let (mut receiver, slot) = daemon
        .on_slot(|_| true, |name| daemon.recv("tcp", &["-o", "jsonl", "--name", name, "who"]));
    for scheme in SCHEMES {
        let mut sender = Sender::start_on(daemon, scheme, "who", |other| fits(slot, other));
        // An earlier receiver, on the wrong worker, may still be there.
        let is_it = |peer: &Value| {
            peer["transport"] == scheme && peer["worker"] == sender.slot && is_sender(peer)
        };
        let listed = daemon.clients().into_iter().find(is_it).expect("the entry exists");
        let pid = sender.process.pid();
        sender.feed(MessageStream { count: 1, longest: 1, seed: 0 });
        sender.process.wait().expect(0);
        let line = receiver.stdout().wait_until("the message", |text| {
            let wanted = format!("\"transport\":\"{scheme}\"");
            text.lines().find(|line| line.contains(&wanted)).map(str::to_owned)
        });
        let line: Value = serde_json::from_str(&line).expect("the text is JSON");
        let from = &line["from"];
        assert_eq!(from["peer"], listed["id"], "{scheme}");
        for field in ["name", "uid", "gid", "pid", "addr"] {
            assert_eq!(from[field], listed[field], "{scheme}: {field}");
        }
        if matches!(scheme, "unix" | "pipe") {
            assert_eq!(from["pid"], pid, "{scheme}");
        }
        if matches!(scheme, "tcp" | "udp") {
            assert!(from["addr"].as_str().is_some_and(|addr| addr.starts_with("127.0.0.1:")));
        }
    }
}

fn is_sender(peer: &Value) -> bool {
    peer["name"].is_string() && peer["subscriptions"].as_array().is_some_and(Vec::is_empty)
}
