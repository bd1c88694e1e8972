//! The quotas of principals, over several workers.

mod script;

use std::collections::VecDeque;
use std::time::Instant;

use ipcd_core::{
    Config, DaemonInfo, Directory, DirectoryEvent, DirectoryRequest, Output, PeerInfo, PeerKey,
    QuotaUsage, Router,
};
use ipcd_proto::control::{Hello, Origin, Subscribe, encode};
use ipcd_proto::{FrameKind, FrameWriter, HEADER_BYTES, Header};
use proptest::collection::vec;
use proptest::prelude::*;
use script::check;

#[test]
fn peers_of_one_user_share_what_may_wait_for_them() {
    check(
        "
        + a@1 b@2 c@2 d@3
        limits 2900 0
        b: sub 1 x | sub 2 y
        c: sub 1 y
        d: sub 1 x
        b: stall
        c: stall
        a: pubsize x 1900
        a: pubsize x 1000
        a: pubsize x 100
        b: read 2000
        a: pubsize y 100
        c: read 200
        b: read 2000
        ",
        "
        b: ack
        b: ack
        c: ack
        d: ack
        d: message 1 x (1900 bytes)
        d: message 1 x (1000 bytes)
        a: waits
        b: message 1 x (1900 bytes)
        a: resumes
        d: message 1 x (100 bytes)
        c: message 1 y (100 bytes)
        b: message 1 x (1000 bytes)
        b: message 1 x (100 bytes)
        b: message 2 y (100 bytes)
        ",
    );
}

#[test]
fn who_takes_what_it_gets_is_not_held_up_by_others_of_its_user() {
    check(
        "
        + a@1 b@2 c@2
        limits 1000 0
        b: sub 1 x drop-newest
        c: sub 1 x | sub 2 y
        b: stall
        a: pubsize x 1500
        a: pub y 1 | pub y 2
        a: pubsize x 500
        a: pub y 3
        count messages_dropped_newest
        ",
        "
        b: ack
        c: ack
        c: ack
        c: message 1 x (1500 bytes)
        c: message 2 y 1
        c: message 2 y 2
        c: message 1 x (500 bytes)
        c: message 2 y 3
        messages_dropped_newest: 1
        ",
    );
}

#[test]
fn the_oldest_make_room_within_what_a_user_has() {
    check(
        "
        + a@1 b@2
        limits 1000 0
        b: sub 1 > drop-oldest
        b: stall
        a: pubsize x 400 | pubsize x 401 | pubsize x 402 | pubsize x 403
        b: read 9999
        b: read 9999
        ",
        "
        b: ack
        b: message 1 x (403 bytes)
        b: gap 1 3 oldest
        ",
    );
}

#[test]
fn a_user_has_so_many_subscriptions_and_gets_them_back() {
    check(
        "
        + a@1 b@1 c@2
        limits 0 3
        a: sub 1 x | sub 2 y
        b: sub 1 x | sub 2 y
        c: sub 1 x
        a: unsub 1
        b: sub 2 y
        b: sub 3 z
        - a
        b: sub 3 z
        ",
        "
        a: ack
        a: ack
        b: ack
        b: refused Limit
        c: ack
        a: ack
        b: ack
        b: refused Limit
        b: ack
        ",
    );
}

/// Workers and their directory, which tells every change at once.
struct Pair {
    now: Instant,
    table: Directory,
    cores: Vec<Router>,
}

impl Pair {
    fn new(bytes: u64, subscriptions: u64) -> Self {
        let now = Instant::now();
        Self::of(2, now, bytes, subscriptions)
    }

    fn of(workers: u32, now: Instant, bytes: u64, subscriptions: u64) -> Self {
        let mut table = Directory::in_process(workers as usize, 1 << 16);
        let mut cores = Vec::new();
        (0..workers).for_each(|slot| table.add_worker(slot, 1));
        for slot in 0..workers {
            let config = Config {
                slot,
                generation: 1,
                max_bytes_per_principal: bytes,
                max_subscriptions_per_principal: subscriptions,
                ..Config::new(DaemonInfo::unknown(now))
            };
            cores.push(Router::new(config, Some(table.state())));
        }
        Self { now, table, cores }
    }

    fn settle(&mut self) {
        loop {
            let mut told: Vec<(u32, DirectoryEvent)> = Vec::new();
            for (slot, core) in (0..).zip(&mut self.cores) {
                while let Some(output) = core.poll_output() {
                    if let Output::Tell(request) = output {
                        told.extend(self.table.handle(slot, request).expect("an honest worker"));
                    }
                }
            }
            told.extend(self.table.take_events());
            if told.is_empty() {
                return;
            }
            for (slot, news) in told {
                self.cores[slot as usize].handle_event(self.now, news);
            }
        }
    }

    fn peer(&mut self, slot: usize) -> PeerKey {
        let (transport, uid) = ("test".into(), Some(7));
        let origin =
            Origin { peer: 0, name: None, transport, pid: None, uid, gid: None, addr: None };
        let info = PeerInfo { listener: 0, origin, challenge: None, raw: None };
        let key = self.cores[slot].attach(self.now, info);
        let (magic, nonce) = (Hello::MAGIC, [0; 32]);
        let (oldest, newest, features, no_echo) = (1, 1, 0, false);
        let (name, token) = (None, None);
        let hello = Hello { magic, oldest, newest, features, nonce, name, token, no_echo };
        self.say(slot, key, FrameKind::Hello, &encode(&hello));
        key
    }

    fn say(&mut self, slot: usize, key: PeerKey, kind: FrameKind, body: &[u8]) {
        let mut bytes = Vec::new();
        FrameWriter(&mut bytes).control(Header::new(kind, 1), body);
        let progress = self.cores[slot].receive(self.now, key, &mut bytes);
        assert_eq!(progress.consumed, bytes.len());
        self.settle();
    }

    /// Returns whether a subscription was accepted: the bytes for the peer are an ACK.
    fn subscribes(&mut self, slot: usize, key: PeerKey, subscription: u32) -> bool {
        let taken = self.cores[slot].send_queue(key).len();
        self.cores[slot].wrote(self.now, key, taken);
        let (filter, group, overflow, origin) = ("x".into(), None, None, false);
        let body = Subscribe { subscription, filter, group, overflow, origin };
        self.say(slot, key, FrameKind::Subscribe, &encode(&body));
        self.cores[slot].send_queue(key)[4] == FrameKind::Ack as u8
    }
}

#[test]
fn workers_know_what_a_user_has_at_others() {
    let mut pair = Pair::new(0, 3);
    let [here, there] = [pair.peer(0), pair.peer(1)];
    assert!(pair.subscribes(0, here, 1) && pair.subscribes(1, there, 1));
    assert!(pair.subscribes(0, here, 2) && !pair.subscribes(1, there, 2));
    pair.cores[0].detach(pair.now, here);
    pair.settle();
    assert!(pair.subscribes(1, there, 2) && pair.subscribes(1, there, 3));
    assert!(!pair.subscribes(1, there, 4));
    // The use at a worker ends with it.
    pair.table.remove_worker(1);
    pair.settle();
    let here = pair.peer(0);
    assert!((1..4).all(|number| pair.subscribes(0, here, number)));
}

#[test]
fn bytes_are_told_when_they_have_moved_by_a_part_of_what_is_allowed() {
    let mut pair = Pair::new(16_000, 0);
    let key = pair.peer(0);
    let mut told = Vec::new();
    for _ in 0..200 {
        let mut ping = Vec::new();
        FrameWriter(&mut ping).control(Header::new(FrameKind::Ping, 1), &[]);
        let _ = pair.cores[0].receive(pair.now, key, &mut ping);
        while let Some(output) = pair.cores[0].poll_output() {
            if let Output::Tell(DirectoryRequest::QuotaUsage {
                usage: QuotaUsage { bytes, .. },
                ..
            }) = output
            {
                told.push(bytes);
            }
        }
    }
    assert!(told.len() == 6 && told.is_sorted(), "{told:?}");
    let all = pair.cores[0].send_queue(key).len();
    pair.cores[0].wrote(pair.now, key, all);
    let last = pair.cores[0].poll_output();
    let is_nothing = |request: &DirectoryRequest| matches!(request, DirectoryRequest::QuotaUsage { usage, .. } if *usage == QuotaUsage::default());
    assert!(matches!(&last, Some(Output::Tell(request)) if is_nothing(request)), "{last:?}");
}

/// Workers that learn of each other with delay, each with a peer that reads only now and then.
struct Crowd {
    pair: Pair,
    peers: Vec<PeerKey>,
    /// The events that each worker has not received yet.
    late: Vec<VecDeque<DirectoryEvent>>,
}

impl Crowd {
    fn new(workers: u32, bytes: u64) -> Self {
        let mut pair = Pair::of(workers, Instant::now(), bytes, 0);
        let peers: Vec<_> = (0..workers as usize).map(|slot| pair.peer(slot)).collect();
        let late = peers.iter().map(|_| VecDeque::new()).collect();
        Self { pair, peers, late }
    }

    /// Lets a worker's peer send queries until it has to wait, up to a number. Each answer stays
    /// queued.
    fn ask(&mut self, slot: usize, times: u32) {
        for _ in 0..times {
            let mut ping = Vec::new();
            FrameWriter(&mut ping).control(Header::new(FrameKind::Ping, 1), &[]);
            if self.pair.cores[slot].receive(self.pair.now, self.peers[slot], &mut ping).waiting {
                break;
            }
        }
    }

    fn read(&mut self, slot: usize) {
        let taken = self.pair.cores[slot].send_queue(self.peers[slot]).len();
        self.pair.cores[slot].wrote(self.pair.now, self.peers[slot], taken);
    }

    /// Passes a worker's requests to the directory, and collects the events for all.
    fn tell(&mut self, slot: usize) {
        while let Some(output) = self.pair.cores[slot].poll_output() {
            if let Output::Tell(request) = output {
                let told = self.pair.table.handle(slot as u32, request).expect("an honest worker");
                told.into_iter().for_each(|(slot, news)| self.late[slot as usize].push_back(news));
            }
        }
        for (slot, news) in self.pair.table.take_events() {
            self.late[slot as usize].push_back(news);
        }
    }

    fn hear(&mut self, slot: usize) {
        if let Some(news) = self.late[slot].pop_front() {
            self.pair.cores[slot].handle_event(self.pair.now, news);
        }
    }

    fn waiting(&self) -> usize {
        (0..self.peers.len()).map(|slot| self.pair.cores[slot].queued(self.peers[slot])).sum()
    }
}

/// The limit of bytes in all of these tests.
const ALLOWED: u64 = 32_000;

proptest! {
    /// The workers stay below twice the limit, no matter what they do and how late they learn of
    /// each other. Each of them notices the limit only with the frame that exceeds it.
    #[test]
    fn bursts_at_any_number_of_workers_stay_below_twice_of_what_is_allowed(
        workers in 1..40_u32,
        acts in vec((any::<prop::sample::Index>(), 0..8_u8, 1..400_u32), 1..400),
    ) {
        let mut crowd = Crowd::new(workers, ALLOWED);
        let most = 2 * ALLOWED as usize + workers as usize * HEADER_BYTES;
        for (which, act, times) in acts {
            let slot = which.index(workers as usize);
            match act {
                0..3 => crowd.ask(slot, times),
                3 => crowd.read(slot),
                4..6 => crowd.tell(slot),
                _ => crowd.hear(slot),
            }
            prop_assert!(crowd.waiting() <= most, "{} of {most}", crowd.waiting());
        }
    }
}

#[test]
fn a_burst_at_all_of_many_workers_at_once_is_what_is_allowed() {
    const WORKERS: u32 = 64;
    let mut crowd = Crowd::new(WORKERS, ALLOWED);
    for slot in 0..WORKERS as usize {
        crowd.ask(slot, u32::MAX);
    }
    let most = ALLOWED as usize + WORKERS as usize * HEADER_BYTES;
    assert!(crowd.waiting() <= most, "{} of {most}", crowd.waiting());
}

#[test]
fn one_of_many_workers_may_use_what_the_others_leave() {
    const WORKERS: u32 = 32;
    let mut crowd = Crowd::new(WORKERS, ALLOWED);
    // Each time all workers know of the last use, the next share of the rest may be used.
    for _ in 0..200 {
        crowd.ask(0, u32::MAX);
        crowd.tell(0);
        for slot in 0..WORKERS as usize {
            while !crowd.late[slot].is_empty() {
                crowd.hear(slot);
            }
            crowd.tell(slot);
        }
    }
    let used = crowd.waiting() as u64;
    assert!(used > ALLOWED / 4 * 3, "{used} of {ALLOWED}");
}
