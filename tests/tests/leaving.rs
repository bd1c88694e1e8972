//! A child for each peer, and members of a group that leave: messages on their way to one go to
//! another, requesters get an outcome, and the child leaves no counters behind.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use ipcd_proto::control::{Subscribe, Unsubscribe, encode};
use ipcd_proto::{Frame, FrameKind, FrameWriter, Header};
use ipcd_tests::{Daemon, DaemonSetup, RawConnection, RawFrame, children, eventually};

const GROUP: &str = "team";
/// Members that come and go.
const GUESTS: usize = 12;
/// Messages that are published at once.
const BATCH: u64 = 50;
/// Requests on their way when a member leaves.
const REQUESTS: u64 = 100;

/// Joins, and returns the messages that came meanwhile.
fn join(peer: &mut RawConnection) -> Vec<Vec<u8>> {
    let (filter, group) = ("work".into(), Some(GROUP.to_owned()));
    let body = Subscribe { subscription: 1, filter, group, overflow: None, origin: false };
    peer.control(FrameKind::Subscribe, 1, &encode(&body));
    until(peer, FrameKind::Ack).into_iter().map(|frame| frame.payload).collect()
}

/// The frames until one of this kind.
fn until(peer: &mut RawConnection, kind: FrameKind) -> Vec<RawFrame> {
    let mut got = Vec::new();
    loop {
        let frame = peer.frame().expect("a frame comes");
        if frame.header.kind == kind {
            return got;
        }
        got.push(frame);
    }
}

/// The messages that have come by now.
fn so_far(peer: &mut RawConnection) -> Vec<RawFrame> {
    peer.control(FrameKind::Ping, 9, &[]);
    until(peer, FrameKind::Pong)
}

/// Leaves as the client library does, and returns the messages until the end.
fn leave_politely(mut peer: RawConnection) -> Vec<Vec<u8>> {
    peer.control(FrameKind::Unsubscribe, 2, &encode(&Unsubscribe { subscription: 1 }));
    peer.control(FrameKind::Bye, 0, &[]);
    let mut got = Vec::new();
    while let Some(frame) = peer.frame() {
        got.extend((frame.header.kind == FrameKind::Message).then_some(frame.payload));
    }
    got
}

/// Sets a flag when dropped: the members have come and gone, also if a test fails.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn start() -> Daemon {
    DaemonSetup::new().args(&["--fork", "connection", "--max-children", "40"]).start()
}

/// Waits until all peers and their children have gone, and returns the counters then.
fn left(daemon: &Daemon, counters: &[&str]) -> Vec<u64> {
    eventually("an end of the children", || {
        children(daemon.process.pid()).is_empty().then_some(())
    });
    counters.iter().map(|name| daemon.counter(name)).collect()
}

#[test]
fn a_member_that_leaves_takes_no_message_along() {
    let daemon = start();
    let mut stays = daemon.raw("unix").open();
    join(&mut stays);
    let is_over = AtomicBool::new(false);
    let (sent, mut got) = thread::scope(|scope| {
        let publisher = scope.spawn(|| {
            let mut publisher = daemon.raw("unix").open();
            let mut sent = 0_u64;
            while !is_over.load(Ordering::Relaxed) {
                let message =
                    |number: u64| RawConnection::message_bytes(0, b"work", &number.to_le_bytes());
                publisher.send(&(sent..sent + BATCH).flat_map(message).collect::<Vec<u8>>());
                publisher.control(FrameKind::Flush, 7, &[]);
                publisher.expect(FrameKind::Ack);
                sent += BATCH;
            }
            sent
        });
        let (stays, is_over) = (&mut stays, &is_over);
        let stayer = scope.spawn(move || {
            let mut got = Vec::new();
            while !is_over.load(Ordering::Relaxed) {
                got.extend(so_far(stays).into_iter().map(|frame| frame.payload));
            }
            got
        });
        let over = Ends(is_over);
        let mut got = Vec::new();
        for _ in 0..GUESTS {
            let mut guest = daemon.raw("unix").open();
            got.extend(join(&mut guest));
            got.push(guest.expect(FrameKind::Message).payload);
            got.extend(leave_politely(guest));
        }
        drop(over);
        got.extend(stayer.join().expect("the thread does not panic"));
        (publisher.join().expect("the thread does not panic"), got)
    });
    // The remaining member receives all messages that are still on their way.
    while (got.len() as u64) < sent {
        got.push(stays.expect(FrameKind::Message).payload);
    }
    let all: BTreeSet<&Vec<u8>> = got.iter().collect();
    assert_eq!((all.len() as u64, got.len() as u64), (sent, sent), "each message came once");
    drop(stays);
    let counted = left(&daemon, &["messages_unclaimed", "records_stale", "messages_queued"]);
    assert_eq!(counted, [0, 0, 0]);
}

fn request(number: u64, from: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    let header = Header { request: true, wait: 60, ..Header::new(FrameKind::Message, number) };
    let reply = format!("@{from}.{number}");
    let (subject, reply) = (&b"work"[..], reply.as_bytes());
    FrameWriter(&mut bytes).write(&Frame { header, subject, reply, headers: &[], payload: b"?" });
    bytes
}

/// A member breaks off with requests on their way to it: those that another member gets are
/// answered, and none of them is reported as unanswered.
#[test]
fn requests_that_another_member_gets_are_not_called_unanswered() {
    let daemon = start();
    let mut stays = daemon.raw("unix").open();
    join(&mut stays);
    let mut asks = daemon.raw("unix").open();
    let (mut asked, mut refused) = (0, 0);
    for _ in 0..GUESTS {
        let mut guest = daemon.raw("unix").open();
        join(&mut guest);
        for part in 0..2 {
            let numbers = asked + 1..=asked + REQUESTS / 2;
            let batch: Vec<u8> = numbers.flat_map(|number| request(number, asks.peer())).collect();
            asks.send(&batch);
            asked += REQUESTS / 2;
            if part == 0 {
                asks.control(FrameKind::Flush, 0, &[]);
                guest.expect(FrameKind::Message);
            }
        }
        drop(guest);
        // Each request of this round has an outcome: the remaining member replies to its requests.
        let mut ended = 0;
        while ended < REQUESTS {
            for frame in so_far(&mut stays) {
                let to = format!("@{}.{}", frame.header.sender, frame.header.correlation);
                stays.message(0, to.as_bytes(), b"!");
            }
            for frame in so_far(&mut asks) {
                match frame.header.kind {
                    FrameKind::Message => ended += 1,
                    FrameKind::Error => {
                        let (code, why) = frame.refusal();
                        assert!(why.contains("has gone"), "{code:?}: {why}");
                        (ended, refused) = (ended + 1, refused + 1);
                    }
                    _ => {}
                }
            }
        }
    }
    assert!(refused < asked, "nothing was answered");
    drop((stays, asks));
    let counted = left(&daemon, &["replies_late", "outcomes_open", "requests_unanswered"]);
    assert_eq!(counted, [0, 0, 0]);
}
