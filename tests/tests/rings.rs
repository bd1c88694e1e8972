//! Rings between the workers of a pool: each reaches its own only; one that stops or is killed in
//! the middle of something loses, doubles and alters nothing of the others'.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use ipcd_client::{Client, Event, SubscribeOptions};
use ipcd_tests::{PATIENCE, Setup, Stream, eventually, message, state};
use nix::sys::signal::Signal;

const PATIENT: &str = "[daemon]\nwatchdog = \"1000s\"\n[limits]\nstall_timeout = \"1000s\"\n";

/// Bytes that this process shares with those it was forked from or has forked.
fn shared_bytes(pid: i32) -> usize {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).expect("it lives");
    let shared = maps.lines().filter(|line| line.contains("/dev/zero (deleted)"));
    let length = |line: &str| {
        let (from, to) = line.split_once(' ')?.0.split_once('-')?;
        let number = |text| usize::from_str_radix(text, 16).ok();
        Some(number(to)? - number(from)?)
    };
    shared.filter_map(length).sum()
}

fn subscribe(client: &mut Client, filter: &str) {
    client.subscribe(filter, SubscribeOptions::default()).expect("it may");
}

fn next(client: &mut Client) -> ipcd_client::Message {
    match client.next_event(Some(Instant::now() + PATIENCE)) {
        Ok(Some(Event::Message(message))) => message,
        other => panic!("{other:?}, where a message should come"),
    }
}

#[test]
fn a_worker_reaches_the_rings_from_and_to_itself_only() {
    let daemon = Setup::new().args(&["--workers", "4"]).start();
    let all = shared_bytes(daemon.process.pid());
    let ring = all / 16;
    assert!(ring > 512 << 10, "{all} bytes for sixteen rings, of which four are never used");
    for worker in daemon.workers() {
        let own = shared_bytes(worker.pid);
        assert!((6 * ring - ring / 2..6 * ring + ring / 2).contains(&own), "{own} of {all} bytes");
    }
}

#[test]
fn children_of_single_peers_and_a_lonely_worker_have_none() {
    for mode in [&["--workers", "1"][..], &["--fork", "connection"]] {
        let daemon = Setup::new().args(mode).start();
        let _peer = daemon.client("unix");
        // Its workers have what it had before their birth.
        assert!(shared_bytes(daemon.process.pid()) < 512 << 10, "{mode:?}");
    }
}

/// More than a ring holds waits for a worker that has stopped, and goes on by itself afterwards.
#[test]
fn a_full_ring_is_no_end() {
    const COUNT: u64 = 600;
    let daemon = Setup::new().config(PATIENT).args(&["--workers", "2"]).start();
    let (mut sender, slot) = daemon.client_on("unix", |_| true);
    let (mut receiver, _) = daemon.client_on("unix", |at| at != slot);
    subscribe(&mut receiver, "news");
    let pid = daemon.worker_in(1 - slot).pid;
    daemon.signal_worker(pid, Signal::SIGSTOP);
    eventually("that it has stopped", || (state(pid) == Some('T')).then_some(()));
    let text = |number: u64| vec![number as u8; 8000];
    let published = AtomicU64::new(0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for number in 0..COUNT {
                sender.publish("news", &text(number)).expect("its worker lives");
                published.store(number, Ordering::Relaxed);
            }
            sender.flush().expect("all is accepted in the end");
        });
        // As many bytes as the ring and both sockets' buffers hold, or nearly so.
        eventually("a full ring", || (published.load(Ordering::Relaxed) > 80).then_some(()));
        daemon.signal_worker(pid, Signal::SIGCONT);
        for number in 0..COUNT {
            assert!(next(&mut receiver).payload() == text(number), "message {number}");
        }
    });
}

/// A publisher's worker is killed in the middle of large and small messages, again and again: what
/// comes is a whole beginning of what was sent, and its successor is heard behind it.
#[test]
fn a_worker_that_is_killed_while_it_hands_over_leaves_whole_messages() {
    // The receiver does not read while it waits for the successor.
    let daemon = Setup::new().config(PATIENT).args(&["--workers", "2"]).start();
    let (mut receiver, slot) = daemon.client_on("unix", |_| true);
    subscribe(&mut receiver, "flood");
    subscribe(&mut receiver, "over");
    for round in 0..8_u64 {
        let (mut sender, other) = daemon.client_on("unix", |at| at != slot);
        let stream = Stream { count: u64::MAX, longest: 150_000, seed: round };
        let victim = daemon.worker_in(other).pid;
        let flooding = std::thread::spawn(move || {
            let mut text = Vec::new();
            for number in 0.. {
                message(stream, number, &mut text);
                if sender.publish("flood", &text).and_then(|()| sender.push()).is_err() {
                    return;
                }
            }
        });
        expect(&mut receiver, stream, 0..10 * round + 1);
        daemon.signal_worker(victim, Signal::SIGKILL);
        flooding.join().expect("it ends with its worker");
        let (mut successor, _) = daemon.client_on("unix", |at| at != slot);
        successor.publish("over", b"").expect("the successor lives");
        successor.flush().expect("the successor lives");
        expect(&mut receiver, stream, 10 * round + 1..u64::MAX);
    }
}

/// Compares what comes with the messages of these numbers, until there comes one that says that it
/// is over.
fn expect(receiver: &mut Client, stream: Stream, numbers: Range<u64>) {
    let mut text = Vec::new();
    for number in numbers {
        let got = next(receiver);
        if got.subject() == "over" {
            return;
        }
        message(stream, number, &mut text);
        assert!(got.payload() == text, "message {number} differs");
    }
}
