//! Peers leave no memory behind. Two routers serve thousands of peers that come, talk and go, and
//! the bytes that were not freed are counted.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use ipcd_core::{Config, DaemonInfo, Directory, Output, PeerInfo, PeerKey, Router};
use ipcd_proto::control::{Hello, Origin, OverflowPolicy, Query, Subscribe, encode};
use ipcd_proto::{Frame, FrameKind, FrameWriter, Header};
use ipcd_sys::alloc_count::{Counting, LIVE_BYTES};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Peers before the first count, when caches are full, and peers between the first and the second.
/// A worker forgets the numbers of former groups at 4096 of them, so that the state repeats only
/// after that many.
const PEERS: usize = 2 * 4096;
/// The allowed growth: less than four bytes for each peer.
const SLACK: u64 = 32 * 1024;

struct World {
    now: Instant,
    table: Directory,
    cores: Vec<Router>,
    /// Bytes that the routers have not taken from their peers.
    rests: BTreeMap<(usize, PeerKey), Vec<u8>>,
    turn: usize,
}

impl World {
    fn new() -> Self {
        let now = Instant::now();
        let mut table = Directory::in_process(2, 1 << 20);
        (0..2).for_each(|slot| table.add_worker(slot, 1));
        let core = |slot| {
            let config = Config {
                slot,
                generation: 1,
                queue_limit: 64 * 1024,
                idle_timeout: Some(Duration::from_secs(3600)),
                max_bytes_per_principal: 1 << 20,
                max_subscriptions_per_principal: 10_000,
                ..Config::new(DaemonInfo::unknown(now))
            };
            Router::new(config, Some(table.state()))
        };
        let cores = (0..2).map(core).collect();
        Self { now, table, cores, rests: BTreeMap::new(), turn: 0 }
    }

    fn attach(&mut self, at: usize, name: Option<String>) -> PeerKey {
        let uid = Some(self.turn as u32 % 1000);
        let transport = "test".into();
        let origin =
            Origin { peer: 0, name: None, transport, pid: None, uid, gid: None, addr: None };
        let info = PeerInfo { listener: 0, origin, challenge: None, raw: None };
        let key = self.cores[at].attach(self.now, info);
        let (magic, nonce, token, no_echo) = (Hello::MAGIC, [0; 32], None, false);
        let (oldest, newest, features) = (1, 1, 0);
        let hello = Hello { magic, oldest, newest, features, nonce, name, token, no_echo };
        self.say(at, key, FrameKind::Hello, &encode(&hello));
        key
    }

    fn say(&mut self, at: usize, key: PeerKey, kind: FrameKind, body: &[u8]) {
        let mut bytes = Vec::new();
        FrameWriter(&mut bytes).control(Header::new(kind, 1), body);
        self.offer(at, key, bytes);
    }

    fn subscribe(&mut self, at: usize, key: PeerKey, number: u32, filter: &str, group: bool) {
        let overflow = number.is_multiple_of(2).then_some(OverflowPolicy::DropOldest);
        let (filter, group) = (filter.to_owned(), group.then(|| format!("g{}", self.turn % 7)));
        let body = Subscribe { subscription: number, filter, group, overflow, origin: true };
        self.say(at, key, FrameKind::Subscribe, &encode(&body));
    }

    fn publish(&mut self, at: usize, key: PeerKey, subject: &str, header: Header, size: usize) {
        let (payload, mut bytes) = (vec![b'x'; size], Vec::new());
        let own = format!("@{}.{}", self.cores[at].origin(key).peer, header.correlation);
        let reply = if header.request { own.as_bytes() } else { &[] };
        let (subject, headers) = (subject.as_bytes(), &[][..]);
        FrameWriter(&mut bytes).write(&Frame {
            header,
            subject,
            reply,
            headers,
            payload: &payload,
        });
        self.offer(at, key, bytes);
    }

    fn offer(&mut self, at: usize, key: PeerKey, bytes: Vec<u8>) {
        self.rests.entry((at, key)).or_default().extend(bytes);
        self.resume(at, key);
        self.settle();
    }

    fn resume(&mut self, at: usize, key: PeerKey) {
        let Some(mut rest) = self.rests.remove(&(at, key)) else { return };
        let progress = self.cores[at].receive(self.now, key, &mut rest);
        rest.drain(..progress.consumed);
        if !rest.is_empty() {
            self.rests.insert((at, key), rest);
        }
    }

    fn settle(&mut self) {
        loop {
            let next = |at: usize| Some((at, self.cores[at].poll_output()?));
            let outputs: Vec<_> = (0..2).filter_map(next).collect();
            let told = self.table.take_events();
            if outputs.is_empty() && told.is_empty() {
                return;
            }
            for (slot, news) in told {
                self.cores[slot as usize].handle_event(self.now, news);
            }
            for (at, output) in outputs {
                self.obey(at, output);
            }
        }
    }

    fn obey(&mut self, at: usize, output: Output) {
        match output {
            Output::Write(key) => {
                let count = self.cores[at].send_queue(key).len();
                self.cores[at].wrote(self.now, key, count);
            }
            Output::Resume(key) => self.resume(at, key),
            Output::Close(key, _) | Output::Drop(key, _) => self.detach(at, key),
            Output::Forward(slot) => {
                let (frames, _) = self.cores[at].outgoing(slot);
                let mut frames = frames.to_vec();
                self.cores[at].forwarded(slot, frames.len());
                self.cores[slot as usize].arrive(self.now, at as u32, 1, &mut frames);
            }
            Output::Tell(request) => {
                let told = self.table.handle(at as u32, request).expect("an honest worker");
                for (slot, news) in told {
                    self.cores[slot as usize].handle_event(self.now, news);
                }
            }
            Output::Opened(_) | Output::Denied(..) => {}
        }
    }

    fn detach(&mut self, at: usize, key: PeerKey) {
        let count = self.cores[at].send_queue(key).len();
        self.cores[at].wrote(self.now, key, count);
        self.cores[at].detach(self.now, key);
        self.rests.remove(&(at, key));
    }

    /// A peer that comes, does some of everything, and goes.
    fn visit(&mut self) {
        self.turn += 1;
        let (turn, at) = (self.turn, self.turn % 2);
        let key = self.attach(at, turn.is_multiple_of(3).then(|| format!("peer-{turn}")));
        self.subscribe(at, key, 1, &format!("a.{turn}.>"), false);
        self.subscribe(at, key, 2, &format!("b.{}", turn % 5), true);
        let plain = Header::new(FrameKind::Message, 0);
        self.publish(at, key, "all.things", plain, turn * 7919 % 6_000);
        self.publish(at, key, &format!("a.{}.x", turn % 50), plain, 10);
        let asked = Header { request: true, wait: 5, ..Header::new(FrameKind::Message, 7) };
        self.publish(at, key, &format!("b.{}", (turn + 1) % 5), asked, 10);
        self.publish(at, key, "all.asked", asked, 10);
        let receipt = Header { receipt: true, ..Header::new(FrameKind::Message, 8) };
        self.publish(at, key, "all.receipt", receipt, 10);
        self.say(at, key, FrameKind::Query, &encode(&Query::Matching("all.x".into())));
        match turn % 4 {
            0 => self.say(at, key, FrameKind::Bye, &[]),
            1 => self.say(at, key, FrameKind::Welcome, &[]),
            _ => self.detach(at, key),
        }
        self.settle();
        self.pass(Duration::from_millis(10));
    }

    fn pass(&mut self, span: Duration) {
        self.now += span;
        (0..2).for_each(|at| self.cores[at].tick(self.now));
        self.settle();
    }

    /// Returns the bytes in use after all deferred work is done.
    fn live(&mut self) -> u64 {
        for _ in 0..100 {
            self.pass(Duration::from_secs(1));
        }
        LIVE_BYTES.load(Ordering::Relaxed)
    }
}

#[test]
fn peers_that_have_gone_leave_no_memory_behind() {
    let mut world = World::new();
    for at in 0..2 {
        let key = world.attach(at, None);
        world.subscribe(at, key, 1, "all.>", false);
    }
    (0..PEERS).for_each(|_| world.visit());
    let before = world.live();
    (0..PEERS).for_each(|_| world.visit());
    let after = world.live();
    println!("{before} bytes after {PEERS} peers, {after} after as many more");
    assert!(after <= before + SLACK, "{before} bytes, and {after} after {PEERS} more peers");
}
