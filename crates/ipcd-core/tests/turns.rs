//! The cost of one peer for the others: one turn, no matter how much it sends. No time is measured:
//! the router itself tells which work it has deferred.

use std::time::Instant;

use ipcd_core::{Config, DaemonInfo, Output, PeerInfo, PeerKey, Router};
use ipcd_proto::control::{Hello, Origin, OverflowPolicy, Query, Subscribe, Unsubscribe, encode};
use ipcd_proto::{DecodedFrame, Frame, FrameKind, FrameWriter, Header, decode};

/// Turns after which deferred work counts as forgotten.
const TURNS: usize = 100_000;

struct Hall {
    core: Router,
    now: Instant,
}

impl Hall {
    fn new() -> Self {
        Self::with(|_| {})
    }

    fn with(change: impl FnOnce(&mut Config)) -> Self {
        let now = Instant::now();
        let mut config = Config::new(DaemonInfo::unknown(now));
        change(&mut config);
        Self { core: Router::new(config, None), now }
    }

    fn open(&mut self) -> PeerKey {
        let transport = "test".into();
        let origin =
            Origin { peer: 0, name: None, transport, pid: None, uid: None, gid: None, addr: None };
        let info = PeerInfo { listener: 0, origin, challenge: None, raw: None };
        let key = self.core.attach(self.now, info);
        let (magic, nonce, token, no_echo) = (Hello::MAGIC, [0; 32], None, true);
        let (oldest, newest, features, name) = (1, 1, 0, None);
        let hello = Hello { magic, oldest, newest, features, nonce, name, token, no_echo };
        self.say(key, frame(FrameKind::Hello, &encode(&hello)));
        self.read(key);
        key
    }

    /// Offers bytes of a peer to the router, and returns the number of bytes that are left.
    fn say(&mut self, key: PeerKey, mut bytes: Vec<u8>) -> Vec<u8> {
        let progress = self.core.receive(self.now, key, &mut bytes);
        bytes.split_off(progress.consumed)
    }

    /// Offers bytes over as many turns as necessary.
    fn say_all(&mut self, key: PeerKey, bytes: Vec<u8>) {
        let mut rest = self.say(key, bytes);
        for _ in 0..TURNS {
            let resumed = self.turn();
            if resumed.contains(&key) {
                rest = self.say(key, rest);
            }
            if rest.is_empty() && !self.core.has_deferred() {
                return;
            }
        }
        panic!("no end after {TURNS} turns");
    }

    fn subscribe(&mut self, key: PeerKey, numbers: std::ops::Range<u32>, filter: &str) {
        let subscribe = |subscription| {
            let (filter, overflow) = (filter.to_owned(), Some(OverflowPolicy::DropOldest));
            let body = Subscribe { subscription, filter, group: None, overflow, origin: false };
            frame(FrameKind::Subscribe, &encode(&body))
        };
        self.say_all(key, numbers.flat_map(subscribe).collect());
        self.read(key);
    }

    /// Ends a turn with a slice of deferred work, and returns the peers that continue.
    fn turn(&mut self) -> Vec<PeerKey> {
        let mut resumed = Vec::new();
        for goes_on in [false, true] {
            if goes_on {
                self.core.run_deferred(self.now);
            }
            while let Some(output) = self.core.poll_output() {
                resumed.extend(match output {
                    Output::Resume(key) => Some(key),
                    _ => None,
                });
            }
        }
        resumed
    }

    /// Returns the subscription numbers of all messages that are queued for a peer.
    fn read(&mut self, key: PeerKey) -> Vec<u32> {
        let bytes = self.core.queue_pieces(key).collect::<Vec<_>>().concat();
        self.core.wrote(self.now, key, bytes.len());
        let (mut rest, mut numbers) = (&bytes[..], Vec::new());
        while let Ok(DecodedFrame::Frame(frame, length)) = decode(rest, usize::MAX) {
            numbers.extend(
                (frame.header.kind == FrameKind::Message).then_some(frame.header.subscription),
            );
            rest = &rest[length..];
        }
        numbers
    }
}

fn frame(kind: FrameKind, body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    FrameWriter(&mut bytes).control(Header::new(kind, 1), body);
    bytes
}

fn message(subject: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let (header, subject) = (Header::new(FrameKind::Message, 0), subject.as_bytes());
    let frame = Frame { header, subject, reply: b"", headers: b"", payload: b"" };
    FrameWriter(&mut bytes).write(&frame);
    bytes
}

const MANY: u32 = 9_000;

#[test]
fn a_message_for_thousands_of_subscriptions_reaches_them_over_many_turns() {
    let mut hall = Hall::new();
    let (tap, flooder, quiet, listener) = (hall.open(), hall.open(), hall.open(), hall.open());
    hall.subscribe(tap, 1..MANY + 1, ">");
    hall.subscribe(listener, 1..2, "quiet");
    let rest = hall.say(flooder, [message("a"), message("b")].concat());
    assert_eq!(rest, message("b"), "its messages stay in order");
    assert!(hall.core.has_deferred());
    hall.turn();
    assert!(hall.core.has_deferred());
    // Other peers come in between.
    hall.say(quiet, message("quiet"));
    assert_eq!(hall.read(listener), [1]);
    hall.say_all(flooder, rest);
    let mut got = hall.read(tap);
    got.sort_unstable();
    let expected: Vec<u32> = (1..=MANY).flat_map(|number| [number; 3]).collect();
    assert_eq!(got.len(), expected.len());
    assert_eq!(got, expected, "each subscription gets each message once");
}

/// Send queues of taps that read nothing fill at the same time, and to search one for messages to
/// drop takes long.
#[test]
fn send_queues_that_are_full_at_once_are_shortened_over_many_turns() {
    const TAPS: usize = 20;
    const LIMIT: usize = 64 * 1024;
    let mut hall =
        Hall::with(|config| (config.queue_limit, config.turn, config.slice) = (LIMIT, 1024, 128));
    let taps: Vec<PeerKey> = (0..TAPS).map(|_| hall.open()).collect();
    taps.iter().for_each(|tap| hall.subscribe(*tap, 1..2, ">"));
    let publishers: Vec<PeerKey> = (0..TAPS).map(|_| hall.open()).collect();
    let mut sent = 0;
    while hall.core.queued(taps[0]) < LIMIT - 100 {
        hall.say_all(publishers[0], message("a"));
        sent += 1;
    }
    let lengths = |hall: &Hall| taps.iter().map(|tap| hall.core.queued(*tap)).collect::<Vec<_>>();
    let shorter = |before: &[usize], after: &[usize]| {
        before.iter().zip(after).filter(|(before, after)| after < before).count()
    };
    let mut before = lengths(&hall);
    // In one turn all publishers send, and each message would fill all queues.
    let large = message(&"a".repeat(99));
    let mut rests: Vec<_> = publishers.iter().map(|key| hall.say(*key, large.clone())).collect();
    for _ in 0..TURNS {
        let after = lengths(&hall);
        let in_turn = shorter(&before, &after);
        assert!(in_turn <= 4, "{in_turn} send queues in one turn");
        if !hall.core.has_deferred() && rests.iter().all(Vec::is_empty) {
            break;
        }
        before = after;
        for key in hall.turn() {
            let at = publishers.iter().position(|publisher| *publisher == key);
            let rest = &mut rests[at.expect("only publishers wait")];
            *rest = hall.say(key, std::mem::take(rest));
        }
    }
    // Each tap has the newest messages, and none twice.
    for tap in &taps {
        let got = hall.read(*tap).len();
        assert!((TAPS..sent + TAPS).contains(&got), "{got}");
    }
    let mut count = |name: &str| {
        let counters = hall.core.counters();
        counters.into_iter().find(|(known, _)| known == name).map_or(0, |(_, count)| count)
    };
    assert_eq!(count("messages_matched"), ((sent + TAPS) * TAPS) as u64);
    assert!(count("messages_dropped_oldest") > 0);
}

#[test]
fn a_publisher_that_goes_meanwhile_has_sent_it_to_all() {
    let mut hall = Hall::new();
    let (tap, flooder) = (hall.open(), hall.open());
    hall.subscribe(tap, 1..MANY + 1, ">");
    hall.say(flooder, message("a"));
    hall.core.detach(hall.now, flooder);
    // The peer has the key of the one that went, and is not a receiver.
    let next = hall.open();
    assert_eq!(next, flooder);
    hall.say_all(next, Vec::new());
    assert_eq!(hall.read(tap).len(), MANY as usize);
    assert!(hall.read(next).is_empty());
}

#[test]
fn a_subscription_made_meanwhile_is_another_one() {
    let mut hall = Hall::new();
    let (tap, flooder) = (hall.open(), hall.open());
    hall.subscribe(tap, 1..MANY + 1, ">");
    hall.say(flooder, message("a"));
    let again = Subscribe {
        subscription: MANY,
        filter: "z".into(),
        group: None,
        overflow: None,
        origin: false,
    };
    let gone = encode(&Unsubscribe { subscription: MANY });
    let swap = [frame(FrameKind::Unsubscribe, &gone), frame(FrameKind::Subscribe, &encode(&again))];
    hall.say_all(tap, swap.concat());
    hall.say_all(flooder, Vec::new());
    let mut got = hall.read(tap);
    got.sort_unstable();
    assert_eq!(got, (1..MANY).collect::<Vec<_>>());
}

#[test]
fn a_peer_whose_messages_are_looked_up_long_is_not_read_to_the_end() {
    let mut hall = Hall::new();
    let (heavy, light) = (hall.open(), hall.open());
    for number in 0..1 << 11 {
        let token = |bit: u32| if number >> bit & 1 == 0 { "a" } else { "*" };
        let filter = (0..11).map(token).collect::<Vec<_>>().join(".");
        hall.subscribe(heavy, number + 1..number + 2, &format!("{filter}.>"));
    }
    // All filters match each subject, and no route is remembered.
    let subject = |number: u32| format!("a.a.a.a.a.a.a.a.a.a.a.{number}");
    let batch: Vec<u8> = (0..1000).flat_map(|number| message(&subject(number))).collect();
    let rest = hall.say(heavy, batch.clone());
    assert!(rest.len() > batch.len() / 2 && hall.core.has_deferred());
    assert!(hall.say(light, message("b")).is_empty());
    hall.say_all(heavy, rest);
    let accepted = hall.core.counters().into_iter().find(|(name, _)| name == "messages_accepted");
    assert_eq!(accepted.map(|(_, count)| count), Some(1001));
}

#[test]
fn peers_that_hang_up_are_forgotten_over_many_turns() {
    let mut hall = Hall::new();
    let (quiet, listener) = (hall.open(), hall.open());
    hall.subscribe(listener, 1..2, "quiet");
    let taps: Vec<PeerKey> = (0..3).map(|_| hall.open()).collect();
    for tap in &taps {
        hall.subscribe(*tap, 1..MANY + 1, ">");
    }
    taps.iter().for_each(|tap| hall.core.detach(hall.now, *tap));
    assert_eq!(hall.core.peer_count(), 2);
    assert!(hall.core.has_deferred());
    // Their keys, and the messages still queued for them, go to no other peer before they are
    // forgotten.
    let next = hall.open();
    assert!(!taps.contains(&next));
    hall.say_all(quiet, message("quiet"));
    assert_eq!(hall.read(listener), [1]);
    assert!(hall.read(next).is_empty());
    assert!(taps.contains(&hall.open()), "their places are free again");
    let matched = hall.core.counters().into_iter().find(|(name, _)| name == "messages_matched");
    assert_eq!(matched.map(|(_, count)| count), Some(1));
}

#[test]
fn answers_about_thousands_of_subscriptions_take_many_turns_and_few_are_open_at_once() {
    const ASKED: usize = 6;
    let mut hall = Hall::new();
    let (tap, curious, quiet) = (hall.open(), hall.open(), hall.open());
    hall.subscribe(tap, 1..MANY + 1, ">");
    let question = frame(FrameKind::Query, &encode(&Query::Subscriptions));
    let rest = hall.say(curious, question.repeat(ASKED));
    assert_eq!(rest.len(), question.len() * (ASKED - 4), "four are open, and no more");
    hall.turn();
    assert!(hall.core.has_deferred());
    assert!(hall.say(quiet, message("b")).is_empty());
    hall.say_all(curious, rest);
    let bytes = hall.core.queue_pieces(curious).collect::<Vec<_>>().concat();
    let (mut rest, mut answers) = (&bytes[..], 0);
    while let Ok(DecodedFrame::Frame(frame, length)) = decode(rest, usize::MAX) {
        answers += usize::from(frame.header.kind == FrameKind::Answer && !frame.header.more);
        rest = &rest[length..];
    }
    assert_eq!(answers, ASKED);
}
