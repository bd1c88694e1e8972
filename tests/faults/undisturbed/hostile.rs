//! The costliest acts of a peer: each of them on the worker that serves the healthy peers, compared
//! with the same act on another daemon, because it may take its part of the processors.
//!
//! Each case prints a row of a table: the 99th percentile of the healthy peers, and the longest wait
//! of a PING. A worker answers a PING in its next turn, so no turn was longer. Rows go to standard
//! output, and everything else to standard error.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Once};
use std::thread;
use std::time::{Duration, Instant};

use ipcd_proto::control::{OverflowPolicy, Query, Subscribe, Unsubscribe, encode};
use ipcd_proto::{FrameKind, FrameWriter, Header};
use ipcd_tests::{Daemon, DaemonSetup, FaultScene, HealthyLoad, RawConnection};

use super::{Comparison, assert_undisturbed, finish};

/// The subscriptions that a peer may have.
const SUBSCRIPTIONS: u32 = 10_000;
/// The number of peers with as many.
const TAPS: usize = 4;

/// An act to repeat until that time.
type Attack = Box<dyn FnMut(Instant)>;

/// Tries an attack, which is prepared on a daemon first.
fn try_hostile(what: &str, attack_on: impl Fn(&Daemon) -> Attack) {
    let daemon = DaemonSetup::new().args(&["--workers", "1"]).start();
    let load = HealthyLoad::start(&daemon, &["unix", "tcp", "pipe", "fifo"]);
    let scene = FaultScene::set(daemon, load);
    let decoy = DaemonSetup::new().args(&["--workers", "1"]).start();
    let (mut attack, mut elsewhere) = (attack_on(&scene.daemon), attack_on(&decoy));
    let prober = LatencyProbe::start(&scene.daemon);
    let mut ping = Comparison { quiet: Duration::ZERO, struck: Duration::ZERO };
    let otherwise = |span| {
        prober.take();
        elsewhere(Instant::now() + span);
        ping.quiet = ping.quiet.max(prober.take());
    };
    let p99 = assert_undisturbed(&scene, what, otherwise, |span| {
        prober.take();
        attack(Instant::now() + span);
        ping.struck = ping.struck.max(prober.take());
    });
    print_row(what, &p99, &ping);
    prober.stop();
    drop(attack);
    finish(scene, what);
}

/// Prints a row of a table in Markdown, on standard output; the first one prints the head too.
fn print_row(what: &str, p99: &Comparison, ping: &Comparison) {
    static HEAD: Once = Once::new();
    HEAD.call_once(|| {
        println!("| attack | p99 of healthy peers | else | ratio | longest PING | else | ratio |");
        println!("|---|--:|--:|--:|--:|--:|--:|");
    });
    let cells =
        |it: &Comparison| format!("{:.0?} | {:.0?} | {:.2}", it.struck, it.quiet, it.ratio());
    println!("| {what} | {} | {} |", cells(p99), cells(ping));
}

/// Asks the worker for a sign of life all the time.
struct LatencyProbe {
    longest_ns: Arc<AtomicU64>,
    is_over: Arc<AtomicBool>,
    thread: thread::JoinHandle<()>,
}

impl LatencyProbe {
    fn start(daemon: &Daemon) -> Self {
        const PACE: Duration = Duration::from_micros(500);
        let (longest_ns, is_over) = (Arc::<AtomicU64>::default(), Arc::<AtomicBool>::default());
        let (longest, over, mut raw) =
            (Arc::clone(&longest_ns), Arc::clone(&is_over), daemon.session("unix"));
        let thread = thread::spawn(move || {
            while !over.load(Ordering::Relaxed) {
                let since = Instant::now();
                raw.control(FrameKind::Ping, 1, &[]);
                raw.expect(FrameKind::Pong);
                longest.fetch_max(since.elapsed().as_nanos() as u64, Ordering::Relaxed);
                thread::sleep(PACE);
            }
        });
        Self { longest_ns, is_over, thread }
    }

    /// The longest wait since the last call.
    fn take(&self) -> Duration {
        Duration::from_nanos(self.longest_ns.swap(0, Ordering::Relaxed))
    }

    fn stop(self) {
        self.is_over.store(true, Ordering::Relaxed);
        self.thread.join().expect("every PING was answered");
    }
}

fn subscribe_bytes(number: u32, filter: &str) -> Vec<u8> {
    let (filter, overflow) = (filter.to_owned(), Some(OverflowPolicy::DropOldest));
    let body = Subscribe { subscription: number, filter, group: None, overflow, origin: false };
    control_bytes(FrameKind::Subscribe, number, &encode(&body))
}

fn control_bytes(kind: FrameKind, correlation: u32, body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    FrameWriter(&mut bytes).control(Header::new(kind, correlation.into()), body);
    bytes
}

/// A peer with many subscriptions.
fn tap(daemon: &Daemon, count: u32, filter: impl Fn(u32) -> String) -> RawConnection {
    const AT_ONCE: u32 = 500;
    let mut raw = daemon.session("unix");
    let mut number = 0;
    while number < count {
        let some = number + 1..=count.min(number + AT_ONCE);
        number = *some.end();
        let (bytes, acks) =
            (some.clone().flat_map(|n| subscribe_bytes(n, &filter(n))), some.count());
        raw.send(&bytes.collect::<Vec<u8>>());
        (0..acks).for_each(|_| drop(raw.expect(FrameKind::Ack)));
    }
    raw
}

/// Messages on two subjects in turn, so that none uses the route of the one before.
fn alternating(count: usize) -> Vec<u8> {
    let subjects: [&[u8]; 2] = [b"flood.a", b"flood.b"];
    subjects
        .iter()
        .cycle()
        .take(count)
        .flat_map(|at| RawConnection::message_bytes(0, at, b"x"))
        .collect()
}

/// Messages for peers with as many subscriptions as they may have, which read nothing.
fn try_messages_for(what: &str, taps: usize) {
    try_hostile(what, |daemon| {
        let taps: Vec<RawConnection> =
            (0..taps).map(|_| tap(daemon, SUBSCRIPTIONS, |_| "flood.>".into())).collect();
        let mut publisher = daemon.session("unix");
        let batch = alternating(4);
        Box::new(move |end| {
            while Instant::now() < end {
                publisher.send(&batch);
                publisher.control(FrameKind::Flush, 1, &[]);
                publisher.expect(FrameKind::Ack);
            }
            assert!(!taps.is_empty(), "the peers are connected and read nothing");
        })
    });
}

#[test]
#[ignore = "long: half a minute"]
fn messages_for_ten_thousand_subscriptions_disturb_nobody() {
    try_messages_for("10,000 subscriptions to one filter", 1);
}

#[test]
#[ignore = "long: half a minute"]
fn messages_for_forty_thousand_subscriptions_disturb_nobody() {
    try_messages_for("40,000 subscriptions to one filter", TAPS);
}

#[test]
#[ignore = "long: half a minute"]
fn subjects_with_thousands_of_ways_through_the_filters_disturb_nobody() {
    const TOKENS: u32 = 13;
    try_hostile("8,192 filters of *", |daemon| {
        let filter = |number: u32| {
            let token = |bit| if (number - 1) >> bit & 1 == 0 { "a" } else { "*" };
            (0..TOKENS).map(token).collect::<Vec<_>>().join(".") + ".z"
        };
        let peer = tap(daemon, 1 << TOKENS, filter);
        let mut publisher = daemon.session("unix");
        let stem = ["a"; TOKENS as usize].join(".");
        let mut number = 0_u64;
        Box::new(move |end| {
            while Instant::now() < end {
                let mut batch = Vec::new();
                for _ in 0..100 {
                    number += 1;
                    let subject = format!("{stem}.{number}");
                    batch.extend(RawConnection::message_bytes(0, subject.as_bytes(), b""));
                }
                publisher.send(&batch);
                publisher.control(FrameKind::Flush, 1, &[]);
                publisher.expect(FrameKind::Ack);
            }
            assert!(peer.peer() > 0, "it is there");
        })
    });
}

#[test]
#[ignore = "long: half a minute"]
fn peers_with_ten_thousand_subscriptions_that_hang_up_disturb_nobody() {
    try_hostile("peers that hang up", |daemon| {
        let address = daemon.runtime_dir().join("ipcd.sock");
        let all: Vec<u8> =
            (1..=SUBSCRIPTIONS).flat_map(|number| subscribe_bytes(number, "flood.>")).collect();
        Box::new(move |end| {
            while Instant::now() < end {
                let mut raw = RawConnection::unix(&address).open();
                raw.send(&all);
                (0..SUBSCRIPTIONS).for_each(|_| drop(raw.expect(FrameKind::Ack)));
            }
        })
    });
}

#[test]
#[ignore = "long: half a minute"]
fn questions_about_full_outboxes_disturb_nobody() {
    try_hostile("questions", |daemon| {
        let taps: Vec<RawConnection> =
            (0..TAPS).map(|_| tap(daemon, 1000, |_| "flood.>".into())).collect();
        let mut publisher = daemon.session("unix");
        publisher.send(&alternating(400));
        let asks = [Query::Status, Query::Subscriptions, Query::Peers].map(|query| encode(&query));
        Box::new(move |end| {
            while Instant::now() < end {
                for body in &asks {
                    publisher.control(FrameKind::Query, 7, body);
                    while publisher.expect(FrameKind::Answer).header.more {}
                }
            }
            assert_eq!(taps.len(), TAPS, "the peers are connected and read nothing");
        })
    });
}

#[test]
#[ignore = "long: half a minute"]
fn interests_that_come_and_go_disturb_nobody() {
    const AT_ONCE: u32 = 1000;
    try_hostile("interests that come and go", |daemon| {
        let mut raw = daemon.session("unix");
        let come =
            (1..=AT_ONCE).flat_map(|number| subscribe_bytes(number, &format!("churn.{number}")));
        let go = (1..=AT_ONCE).flat_map(|subscription| {
            control_bytes(FrameKind::Unsubscribe, 1, &encode(&Unsubscribe { subscription }))
        });
        let bytes: Vec<u8> = come.chain(go).collect();
        Box::new(move |end| {
            while Instant::now() < end {
                raw.send(&bytes);
                (0..2 * AT_ONCE).for_each(|_| drop(raw.expect(FrameKind::Ack)));
            }
        })
    });
}
