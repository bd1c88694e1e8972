//! Requests over transports and workers: one outcome each, whichever process dies.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use ipcd_client::{Client, Error, Event, Publication, RefusalCode};
use ipcd_proto::control::{Welcome, decode, encode};
use ipcd_proto::{DirectAddress, Frame, FrameKind, FrameWriter, Header};
use ipcd_tests::{
    Daemon, DaemonSetup, NeighbourPair, PATIENCE, RawConnection, RunningProcess, eventually,
};
use nix::sys::signal::Signal;

const CLIENTS: usize = 8;
const TRANSPORTS: [&str; 4] = ["unix", "tcp", "pipe", "udp"];
/// The requests of one client.
const REQUESTS: u64 = 12_500;
/// The requests that a client has in flight.
const IN_FLIGHT: usize = 100;
/// The time for which a reply is awaited.
const TIMEOUT: Duration = Duration::from_secs(20);

/// A responder that replies with the request; it shares the work with others.
fn responder(daemon: &Daemon, scheme: &str) -> RunningProcess {
    daemon.ctl(scheme, &["serve", "echo", "--echo", "-g", "team", "-E"]).spawn_subscribed()
}

/// The outcomes of requests.
#[derive(Debug, Default)]
struct OutcomeTally {
    replies: u64,
    unanswered: u64,
    no_responder: u64,
    late: u64,
}

impl OutcomeTally {
    fn add(&mut self, other: &Self) {
        self.replies += other.replies;
        self.unanswered += other.unanswered;
        self.no_responder += other.no_responder;
        self.late += other.late;
    }

    fn all(&self) -> u64 {
        self.replies + self.unanswered + self.no_responder + self.late
    }
}

/// Sends requests, some at once, and checks that each has one outcome and the right reply.
fn ask(client: &mut Client, who: usize, count: u64) -> OutcomeTally {
    let (mut tally, mut open, mut next) = (OutcomeTally::default(), HashMap::new(), 0);
    while next < count || !open.is_empty() {
        while next < count && open.len() < IN_FLIGHT {
            let payload = format!("{who}:{next}");
            let message =
                Publication { subject: "echo", payload: payload.as_bytes(), ..Default::default() };
            let id = client.start_request(&message, TIMEOUT).expect("the connection is open");
            open.insert(id, payload);
            next += 1;
        }
        let event = client.next_event(Some(Instant::now() + PATIENCE));
        let Some(Event::Reply { request, reply }) = event.expect("the connection lives") else {
            panic!("no outcome came, with {} open", open.len());
        };
        let payload = open.remove(&request).expect("an outcome of a request that is open");
        match reply {
            Ok(message) => {
                assert_eq!(message.payload(), payload.as_bytes());
                client.finish_request(request);
                tally.replies += 1;
            }
            Err(Error::Refused(refusal)) if refusal.code == RefusalCode::Unanswered => {
                tally.unanswered += 1
            }
            Err(Error::Refused(refusal)) if refusal.code == RefusalCode::NoResponder => {
                tally.no_responder += 1
            }
            Err(Error::TimedOut(_)) => tally.late += 1,
            Err(error) => panic!("{payload}: {error}"),
        }
    }
    tally
}

fn ask_all(daemon: &Daemon) -> OutcomeTally {
    let mut sum = OutcomeTally::default();
    thread::scope(|scope| {
        let asking = (0..CLIENTS).map(|who| {
            scope.spawn(move || {
                let mut client = daemon.client(TRANSPORTS[who % TRANSPORTS.len()]);
                ask(&mut client, who, REQUESTS)
            })
        });
        let asking: Vec<_> = asking.collect();
        for one in asking {
            sum.add(&one.join().expect("the thread does not panic"));
        }
    });
    sum
}

#[test]
fn a_hundred_thousand_requests_have_one_outcome_each() {
    let daemon = DaemonSetup::new().args(&["--workers", "2"]).start();
    let _responders = ["unix", "tcp", "fifo", "udp"].map(|scheme| responder(&daemon, scheme));
    let tally = ask_all(&daemon);
    assert_eq!(tally.replies, CLIENTS as u64 * REQUESTS, "{tally:?}");
    assert_eq!(daemon.counter("replies_late"), 0);
}

#[test]
fn requests_have_one_outcome_each_while_responders_are_killed() {
    let daemon = DaemonSetup::new().args(&["--workers", "2"]).start();
    let (is_over, kills) = (AtomicBool::new(false), AtomicU64::new(0));
    let start = |scheme| (scheme, responder(&daemon, scheme));
    let mut alive = ["unix", "tcp", "fifo", "udp"].map(start);
    let tally = thread::scope(|scope| {
        scope.spawn(|| {
            let mut turn = 0;
            while !is_over.load(Ordering::Relaxed) {
                let (scheme, victim) = &mut alive[turn * 7 % 4];
                victim.signal(Signal::SIGKILL);
                victim.wait();
                *victim = responder(&daemon, scheme);
                kills.fetch_add(1, Ordering::Relaxed);
                turn += 1;
            }
        });
        let tally = ask_all(&daemon);
        is_over.store(true, Ordering::Relaxed);
        tally
    });
    let kills = kills.into_inner();
    println!("{kills} kills: {tally:?}");
    assert_eq!(tally.all(), CLIENTS as u64 * REQUESTS);
    // Three responders live all the time, and a dead one is noticed at once.
    assert_eq!((tally.no_responder, tally.late), (0, 0), "{tally:?}");
    assert!(kills > 3 && tally.replies > 0 && tally.unanswered > 0, "{kills} kills: {tally:?}");
}

/// A requester that never reads is disconnected when its replies have filled its send queue for
/// `stall_timeout`; the responder and all other peers continue meanwhile.
#[test]
fn a_requester_that_never_reads_disturbs_nobody() {
    let config = "[limits]\noutbox = \"256KiB\"\nstall_timeout = \"1s\"\n";
    let daemon = DaemonSetup::new().config(config).args(&["--workers", "2"]).start();
    let neighbour = NeighbourPair::of(&daemon);
    let _responder = responder(&daemon, "unix");
    let mut requester = daemon.raw("unix");
    requester.control(FrameKind::Hello, 0, &encode(&RawConnection::hello()));
    let welcome: Welcome =
        decode(&requester.expect(FrameKind::Welcome).payload).expect("it is one");
    let id = welcome.peer;
    thread::scope(|scope| {
        // It writes until the daemon reads it no more.
        scope.spawn(move || {
            for number in 1..=100_000_u64 {
                requester.send(&request(id, number));
            }
            requester
        });
        let mut other = daemon.client("tcp");
        let mut rounds = 0;
        while daemon.counter("peers_cut_off") == 0 {
            assert_eq!(ask(&mut other, rounds, 100).replies, 100);
            neighbour.goes_on();
            rounds += 1;
        }
        assert_eq!(ask(&mut other, rounds, 1000).replies, 1000);
    });
    neighbour.goes_on();
}

/// The bytes of a request with a large reply.
fn request(id: u64, number: u64) -> Vec<u8> {
    let mut frame = Vec::new();
    let header = Header { request: true, wait: 60, ..Header::new(FrameKind::Message, number) };
    let reply = DirectAddress { peer: id, request: Some(number) }.to_string();
    let (subject, payload) = (b"echo", [b'x'; 1000]);
    let parts = Frame { header, subject, reply: reply.as_bytes(), headers: &[], payload: &payload };
    FrameWriter(&mut frame).write(&parts);
    frame
}

/// No responder replies, and none goes: each request ends by its own deadline.
#[test]
fn requests_to_a_stopped_responder_end_at_their_deadlines() {
    const WAIT: Duration = Duration::from_millis(500);
    let daemon = DaemonSetup::new().args(&["--workers", "2"]).start();
    let mut stopped = responder(&daemon, "unix");
    stopped.signal(Signal::SIGSTOP);
    for scheme in TRANSPORTS {
        let mut client = daemon.client(scheme);
        let mut ends = HashMap::new();
        for _ in 0..1000 {
            let message = Publication { subject: "echo", payload: b"?", ..Default::default() };
            let id = client.start_request(&message, WAIT).expect("the connection is open");
            ends.insert(id, Instant::now() + WAIT);
        }
        let mut latest = Duration::ZERO;
        while !ends.is_empty() {
            let event = client.next_event(None).expect("the connection lives");
            let Some(Event::Reply { request, reply: Err(Error::TimedOut(_)) }) = event else {
                panic!("{event:?} without a responder");
            };
            let end = ends.remove(&request).expect("one outcome each");
            latest = latest.max(end.elapsed());
        }
        println!("{scheme}: at most {latest:?} after the deadline");
    }
    stopped.signal(Signal::SIGCONT);
    // Its reply now is late, and counted; it does not come in another form.
    eventually("late replies", || (daemon.counter("replies_late") >= 4000).then_some(()));
}
