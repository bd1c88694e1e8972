//! Many subscribers that do not read: the daemon's memory stays within its configured limits, and
//! each subscriber receives the reason of its disconnection.

use std::thread;

use ipcd_client::{Error, RefusalCode};
use ipcd_proto::FrameKind;
use ipcd_tests::{Daemon, DaemonSetup, RawConnection, eventually, memory};

/// The bytes that a publisher may add to a nearly full send queue, and one read of a worker.
const TURN: u64 = (16 << 10) + (256 << 10);

/// Subscribes peers to a subject each, and publishes to each more than its send queue takes.
/// Returns the peers, and the growth of the daemon's memory when all send queues are full.
fn stuck(daemon: &Daemon, count: u64, outbox: u64) -> (Vec<RawConnection>, u64) {
    let pids = [daemon.process.pid(), daemon.worker()];
    let subscribers: Vec<RawConnection> = (0..count)
        .map(|number| {
            let mut subscriber = daemon.raw("unix").open();
            subscriber.subscribe(1, &format!("stuck.{number}"));
            subscriber
        })
        .collect();
    let before = memory(&pids);
    let publishers: Vec<_> = (0..count)
        .map(|number| {
            let mut client = daemon.client("unix");
            thread::spawn(move || {
                let (subject, payload) = (format!("stuck.{number}"), [b'x'; 1000]);
                // It waits while the send queue is full, and continues when the subscriber is
                // disconnected.
                (0..outbox / 500).for_each(|_| {
                    client.publish(&subject, &payload).expect("the connection lives");
                });
                client.flush().expect("all messages are accepted");
            })
        })
        .collect();
    let grown = eventually("full outboxes", || {
        let queued = daemon.clients();
        let full = queued.iter().filter(|one| one["queued_bytes"].as_u64() >= Some(outbox));
        let (full, grown) = (full.count() as u64, memory(&pids).saturating_sub(before));
        (full == count || daemon.counter("peers_cut_off") > 0).then_some((full, grown))
    });
    assert_eq!(grown.0, count, "some were cut off before all were full");
    publishers.into_iter().for_each(|one| one.join().expect("the thread does not panic"));
    (subscribers, grown.1)
}

fn check(count: u64, outbox: u64) {
    let config = format!("[limits]\noutbox = \"{outbox}\"\nstall_timeout = \"8s\"\n");
    let daemon = DaemonSetup::new().config(&config).args(&["--workers", "1"]).start();
    let (subscribers, grown) = stuck(&daemon, count, outbox);
    let limit = count * (outbox + TURN);
    println!("{count} subscribers: {grown} bytes of {limit}");
    assert!(grown <= limit + limit / 10, "{grown} bytes instead of at most {limit}");
    assert_eq!(daemon.counter("peers_cut_off"), count);
    for mut subscriber in subscribers {
        // All bytes in its socket, and then the reason, however late it reads.
        let mut messages = 0;
        let refusal = loop {
            let frame = subscriber.frame().expect("the reason comes before the end");
            match frame.header.kind {
                FrameKind::Message => messages += 1,
                _ => break frame.refusal(),
            }
        };
        assert_eq!(refusal.0, RefusalCode::TooSlow);
        assert!(messages > 0 && subscriber.end().is_none());
    }
}

#[test]
fn ten_stuck_subscribers_stay_within_the_limits_and_are_told_why() {
    check(10, 8 << 20);
}

#[test]
fn a_hundred_stuck_subscribers_stay_within_the_limits_and_are_told_why() {
    check(100, 1 << 20);
}

/// As above over every transport with a kernel buffer, for a client of the library.
#[test]
fn a_client_that_reads_again_late_learns_why_it_was_cut_off() {
    let config = "[limits]\noutbox = \"64KiB\"\nstall_timeout = \"300ms\"\n";
    for scheme in ["unix", "pipe", "fifo", "tcp"] {
        let daemon = DaemonSetup::new().config(config).start();
        let mut late = daemon.client(scheme);
        late.subscribe("stuck", Default::default()).expect("the peer may subscribe");
        let mut publisher = daemon.client("unix");
        for _ in 0..20_000 {
            publisher.publish("stuck", &[b'x'; 1000]).expect("the connection lives");
        }
        publisher.flush().expect("all messages are accepted");
        eventually("the peer is gone", || {
            daemon.clients().iter().all(|one| one["subscriptions"][0] != "stuck").then_some(())
        });
        let error = loop {
            match late.next_event(None) {
                Ok(_) => {}
                Err(error) => break error,
            }
        };
        let is_told = matches!(&error, Error::Refused(why) if why.code == RefusalCode::TooSlow);
        assert!(is_told, "{scheme}: {error}");
    }
}

/// A hundred send queues with the same messages hold them once. When half of the subscribers have
/// gone and the others have read their messages, the memory is free for the next ones.
#[test]
fn a_hundred_stuck_subscribers_of_one_subject_take_the_memory_of_one() {
    const OUTBOX: u64 = 4 << 20;
    let config = format!("[limits]\noutbox = \"{OUTBOX}\"\nstall_timeout = \"60s\"\n");
    let daemon = DaemonSetup::new().config(&config).args(&["--workers", "1"]).start();
    let pids = [daemon.process.pid(), daemon.worker()];
    let before = memory(&pids);
    for round in 0..2 {
        let subscribers = all_stuck(&daemon, 2 * OUTBOX / 1000, OUTBOX);
        let grown = memory(&pids).saturating_sub(before);
        println!("round {round}: {grown} bytes");
        let limit = OUTBOX + OUTBOX * 3 / 4 + TURN;
        assert!(grown <= limit, "{grown} bytes for outboxes of {OUTBOX} with the same");
        read_on(subscribers);
        assert_eq!(daemon.counter("messages_queued"), 0);
    }
}

/// Subscribers of one subject that read nothing, and messages for them until their send queues are
/// full.
struct AllStuck {
    subscribers: Vec<RawConnection>,
    messages: u64,
    publishing: thread::JoinHandle<()>,
}

fn all_stuck(daemon: &Daemon, messages: u64, outbox: u64) -> AllStuck {
    let subscribers: Vec<RawConnection> = (0..100)
        .map(|_| {
            let mut subscriber = daemon.raw("unix").open();
            subscriber.subscribe(1, "stuck");
            subscriber
        })
        .collect();
    let mut client = daemon.client("unix");
    let publishing = thread::spawn(move || {
        for number in 0..messages {
            client.publish("stuck", &payload(number)).expect("the connection lives");
        }
        client.flush().expect("all messages are accepted");
    });
    eventually("full outboxes", || {
        let full = daemon.clients();
        let full = full.iter().filter(|one| one["queued_bytes"].as_u64() >= Some(outbox)).count();
        (full == subscribers.len()).then_some(())
    });
    AllStuck { subscribers, messages, publishing }
}

/// Half of them leave, and the others read all messages.
fn read_on(stuck: AllStuck) {
    let AllStuck { mut subscribers, messages, publishing } = stuck;
    subscribers.truncate(50);
    let read = move |mut subscriber: RawConnection| {
        thread::spawn(move || {
            for number in 0..messages {
                let frame = subscriber.expect(FrameKind::Message);
                assert!(frame.payload == payload(number), "message {number} is another");
            }
        })
    };
    let reading: Vec<_> = subscribers.into_iter().map(read).collect();
    reading.into_iter().for_each(|one| one.join().expect("the thread ends without a panic"));
    publishing.join().expect("the thread ends without a panic");
}

/// A thousand bytes that differ from all other messages.
fn payload(number: u64) -> Vec<u8> {
    number.to_le_bytes().repeat(125)
}
