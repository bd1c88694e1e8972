//! Outcomes of messages: receipts over transports and workers.

use std::collections::HashMap;
use std::thread;
use std::time::{Duration, Instant};

use ipcd_client::{Client, DropReason, Event, Publication, Receipt, SubscribeOptions};
use ipcd_tests::{Daemon, DaemonSetup, PATIENCE, RunningProcess, SCHEMES, eventually, state};
use nix::sys::signal::Signal;

/// Send queues that fill soon, and a stall time-out beyond the time of a test.
const PATIENT: &str = "[limits]\noutbox = \"64KiB\"\nstall_timeout = \"1000s\"\n";

fn message(payload: &[u8]) -> Publication<'_> {
    Publication { subject: "news", payload, ..Default::default() }
}

fn dropped(receipt: &Receipt, reason: DropReason) -> u64 {
    receipt.dropped.iter().find(|(known, _)| *known == reason).map_or(0, |(_, count)| *count)
}

fn stopped(daemon: &Daemon, scheme: &str, args: &[&str]) -> RunningProcess {
    let mut receiver = daemon.recv(scheme, args);
    receiver.stdout();
    receiver.signal(Signal::SIGSTOP);
    let pid = receiver.pid();
    eventually("the process is stopped", || (state(pid) == Some('T')).then_some(()));
    receiver
}

#[test]
fn a_receipt_counts_the_receivers_of_every_transport_and_worker() {
    let daemon = DaemonSetup::new().args(&["--workers", "2"]).start();
    let mut receivers: Vec<Client> =
        SCHEMES.iter().chain(&SCHEMES).map(|scheme| daemon.client(scheme)).collect();
    for receiver in &mut receivers {
        receiver.subscribe("news", SubscribeOptions::default()).expect("the peer may subscribe");
    }
    for scheme in SCHEMES {
        let mut publisher = daemon.client(scheme);
        let receipt = publisher.publish_acked(&message(b"extra")).expect("a receipt comes");
        assert_eq!((receipt.delivered, receipt.dropped()), (receivers.len() as u64, 0), "{scheme}");
        let nobody = Publication { subject: "silence", ..message(b"") };
        let receipt = publisher.publish_acked(&nobody).expect("a receipt comes");
        assert_eq!((receipt.delivered, receipt.dropped()), (0, 0), "{scheme}");
    }
}

/// Many receipts outstanding, to a receiver that reads and to one that drops: one outcome each, and
/// together they equal the messages of each receiver.
#[test]
fn many_receipts_are_outstanding_and_add_up() {
    const MESSAGES: u64 = 5000;
    let daemon = DaemonSetup::new().config(PATIENT).args(&["--workers", "2"]).start();
    let mut reader = daemon.recv("tcp", &["news"]);
    reader.stdout();
    let options = ["--overflow", "drop-newest", "news"];
    let mut sleeper = stopped(&daemon, "unix", &options);
    let mut publisher = daemon.client("unix");
    let mut open = HashMap::new();
    let (mut delivered, mut lost) = (0, 0);
    let payload = [b'x'; 999];
    for number in 0..MESSAGES {
        let id = publisher.publish_tracked(&message(&payload)).expect("the connection lives");
        open.insert(id, number);
    }
    publisher.push().expect("the connection lives");
    // Messages that wait for the sleeper have no outcome yet: they may still be delivered.
    let mut settle = |publisher: &mut Client, until: &dyn Fn(usize) -> bool| {
        while !until(open.len()) {
            let event = publisher.next_event(Some(Instant::now() + PATIENCE));
            let Some(Event::Outcome { id, outcome }) = event.expect("the connection lives") else {
                panic!("no outcome comes of {} that are open", open.len());
            };
            let receipt = outcome.expect("a receipt");
            assert!(open.remove(&id).is_some(), "one outcome each");
            assert_eq!(receipt.delivered + receipt.dropped(), 2, "{receipt:?}");
            delivered += receipt.delivered;
            lost += dropped(&receipt, DropReason::Newest);
        }
    };
    settle(&mut publisher, &|open| open < 200);
    sleeper.signal(Signal::SIGCONT);
    settle(&mut publisher, &|open| open == 0);
    assert_eq!(delivered + lost, 2 * MESSAGES);
    assert_eq!(lost, daemon.counter("messages_dropped_newest"));
    let lines = |receiver: &mut RunningProcess, wanted: u64| {
        receiver.stdout().wait_until("the messages", |text| {
            (text.lines().count() as u64 == wanted).then_some(())
        });
    };
    lines(&mut reader, MESSAGES);
    lines(&mut sleeper, MESSAGES - lost);
}

#[test]
fn who_goes_or_is_cut_off_with_a_message_is_said_in_its_receipt() {
    let daemon = DaemonSetup::new().config(PATIENT).args(&["--workers", "2"]).start();
    let mut publisher = daemon.client("tcp");
    for scheme in ["unix", "fifo", "tcp"] {
        let mut cut = daemon.client_as(scheme, Some("cut"));
        cut.subscribe("news", SubscribeOptions::default()).expect("the peer may subscribe");
        let mut going = stopped(&daemon, scheme, &["--name", "going", "news"]);
        // Their sockets and send queues fill: later messages wait until these peers are gone.
        let mut tracked = Vec::new();
        let payload = [b'x'; 60_000];
        while daemon.peer_named("going")["queued_bytes"].as_u64() == Some(0) {
            tracked.push(
                publisher.publish_tracked(&message(&payload)).expect("the connection is open"),
            );
            publisher.push().expect("the connection lives");
            let settled = Instant::now() + Duration::from_millis(5);
            publisher.wait_until(settled).expect("the connection lives");
        }
        going.signal(Signal::SIGKILL);
        let id = daemon.peer_named("cut")["id"].as_u64().expect("the field is a number");
        daemon.ctl("unix", &["kick", &id.to_string()]).run().expect(0);
        let (mut departed, mut cut_off) = (0, 0);
        for _ in 0..tracked.len() {
            let event = publisher.next_event(Some(Instant::now() + PATIENCE));
            let Ok(Some(Event::Outcome { outcome: Ok(receipt), .. })) = event else {
                panic!("{scheme}: {event:?}");
            };
            assert_eq!(receipt.delivered + receipt.dropped(), 2, "{scheme}: {receipt:?}");
            departed += dropped(&receipt, DropReason::Departed);
            cut_off += dropped(&receipt, DropReason::CutOff);
        }
        assert!(departed > 0, "{scheme}: no drop was reported for the peer that has gone");
        assert!(cut_off <= tracked.len() as u64);
        drop(cut);
        eventually("both peers are gone", || {
            let is_there = |name: &str| daemon.clients().iter().any(|peer| peer["name"] == name);
            (!is_there("cut") && !is_there("going")).then_some(())
        });
    }
}

/// A worker that dies takes copies with it: their receipts say so, and none is left out.
#[test]
fn a_killed_worker_leaves_no_receipt_open() {
    let daemon = DaemonSetup::new().config(PATIENT).args(&["--workers", "2"]).start();
    let (mut publisher, here) = daemon.client_on("unix", |_| true);
    let (sleeper, _) = daemon.on_slot(
        |slot| slot != here,
        |name| stopped(&daemon, "unix", &["--name", name, "--overflow", "drop-newest", "news"]),
    );
    let ids: Vec<u64> = (0..2000)
        .map(|_| publisher.publish_tracked(&message(&[b'x'; 999])).expect("the connection is open"))
        .collect();
    publisher.push().expect("the connection lives");
    eventually("messages that wait there", || {
        (daemon.counter("messages_dropped_newest") > 0).then_some(())
    });
    daemon.signal_worker(daemon.worker_in(1 - here).pid, Signal::SIGKILL);
    let mut died = 0;
    for _ in &ids {
        let event = publisher.next_event(Some(Instant::now() + PATIENCE));
        let Ok(Some(Event::Outcome { outcome: Ok(receipt), .. })) = event else {
            panic!("{event:?}");
        };
        assert_eq!(receipt.delivered + receipt.dropped(), 1, "{receipt:?}");
        died += dropped(&receipt, DropReason::WorkerDied);
    }
    assert!(died > 0, "queued messages were lost with the worker");
    drop(sleeper);
}

/// A publisher with as many open outcomes as are allowed waits until some are known.
#[test]
fn open_outcomes_are_bounded() {
    const MESSAGES: u64 = 70_000;
    let config = "[limits]\noutbox = \"64MiB\"\nstall_timeout = \"1000s\"\n";
    let daemon = DaemonSetup::new().config(config).start();
    let mut sleeper = stopped(&daemon, "unix", &["-C", "70000", "news"]);
    let mut publisher = daemon.client("unix");
    let publishing = thread::spawn(move || {
        // Its writes block while the daemon does not read it.
        for _ in 0..MESSAGES {
            publisher.publish_tracked(&message(&[b'x'; 100])).expect("the connection is open");
        }
        for _ in 0..MESSAGES {
            let event = publisher.next_event(Some(Instant::now() + PATIENCE));
            assert!(matches!(event, Ok(Some(Event::Outcome { outcome: Ok(_), .. }))), "{event:?}");
        }
    });
    let accepted = eventually("the publisher waits", || {
        let accepted = daemon.counter("messages_accepted");
        (accepted >= 65_536).then_some(accepted)
    });
    // Some are in the sleeper's socket already, and concluded.
    assert!(accepted < MESSAGES, "{accepted} were accepted");
    sleeper.signal(Signal::SIGCONT);
    publishing.join().expect("each has an outcome");
    sleeper.wait().expect(0);
}
