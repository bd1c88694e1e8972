//! A fixed piece of the router's work, whose instructions `tests/guard/run` counts.
//!
//! `workload NAME BATCHES` takes in this many batches of 64 KiB, and prints the number of messages.
//! Nothing in it depends on the time, on chance or on another process, so that the count is the
//! same in each run of one binary.

use std::collections::VecDeque;
use std::hint::black_box;
use std::time::Instant;

use ipcd_core::{
    AddressedEvent, Config, DaemonInfo, Directory, Output, PeerInfo, PeerKey, RawPeer, Router,
};
use ipcd_proto::control::Origin;
use ipcd_proto::{Filter, Frame, FrameKind, FrameWriter, Header};

/// Bytes of a batch, roughly: a worker reads this much at once when it is busy.
const BATCH: usize = 64 * 1024;
const NAMES: &str = "copy, copy-1k, route, route-1k, subjects, fan-out, crossing";

fn main() {
    let mut arguments = std::env::args().skip(1);
    let (name, batches) = (arguments.next(), arguments.next());
    let batches: u32 = batches.and_then(|text| text.parse().ok()).expect("workload NAME BATCHES");
    let name = name.expect("workload NAME BATCHES");
    // Every workload copies its input for each batch, because the router writes into it.
    let run: fn(&[u8], u32) = match name.as_str() {
        "copy" | "copy-1k" => copy,
        "route" | "route-1k" | "subjects" => |batch, count| route(batch, count, 1),
        "fan-out" => |batch, count| route(batch, count, 8),
        "crossing" => cross,
        other => panic!("{other} is none of {NAMES}"),
    };
    let size = if name.ends_with("-1k") { 1024 } else { 64 };
    let (bytes, each) = batch(size, if name == "subjects" { 16 } else { 1 });
    run(&bytes, batches);
    println!("{}", u64::from(batches) * each);
}

/// Returns messages of this size, as many as fit, and their number.
fn batch(size: usize, subjects: u64) -> (Vec<u8>, u64) {
    let (mut bytes, mut count) = (Vec::new(), 0);
    let payload = &vec![7; size];
    while bytes.len() + size < BATCH {
        let header = Header::new(FrameKind::Message, count + 1);
        let subject = format!("bench.{}", count % subjects);
        let subject = subject.as_bytes();
        let frame = Frame { header, subject, reply: b"", headers: b"", payload };
        FrameWriter(&mut bytes).write(&frame);
        count += 1;
    }
    (bytes, count)
}

/// The work that any router of frames needs: it finds the end and the subject of each frame, and
/// copies it.
fn copy(batch: &[u8], count: u32) {
    let mut out = Vec::with_capacity(BATCH);
    for _ in 0..count {
        let bytes = batch.to_vec();
        let mut rest = black_box(bytes.as_slice());
        while let Some((length, _)) = rest.split_first_chunk::<4>() {
            let (frame, behind) = rest.split_at(u32::from_le_bytes(*length) as usize);
            let subject = &frame[32..32 + usize::from(frame[6])];
            if black_box(subject).starts_with(b"bench.") {
                out.extend_from_slice(frame);
            }
            rest = behind;
        }
        black_box(&out);
        out.clear();
    }
}

/// One publisher, and subscribers that take all bytes at once.
fn route(batch: &[u8], count: u32, subscribers: usize) {
    let now = Instant::now();
    let mut core = Router::new(Config::new(DaemonInfo::unknown(now)), None);
    let publisher = core.attach(now, peer(false));
    let subscribers: Vec<_> = (0..subscribers).map(|_| core.attach(now, peer(true))).collect();
    while core.poll_output().is_some() {}
    for _ in 0..count {
        take_in(&mut core, now, publisher, batch);
        while core.poll_output().is_some() {}
        for &key in &subscribers {
            drain(&mut core, now, key);
        }
    }
}

fn take_in(core: &mut Router, now: Instant, publisher: PeerKey, batch: &[u8]) {
    let mut bytes = batch.to_vec();
    let progress = core.receive(now, publisher, &mut bytes);
    assert_eq!(progress.consumed, bytes.len(), "the send queues take a whole batch");
}

fn drain(core: &mut Router, now: Instant, subscriber: PeerKey) {
    let count = black_box(core.send_queue(subscriber)).len();
    assert!(count > 0, "nothing has come");
    core.wrote(now, subscriber, count);
}

/// A publisher on one worker, and a subscriber on another.
fn cross(batch: &[u8], count: u32) {
    let now = Instant::now();
    let mut house = House::new(now);
    let publisher = house.cores[0].attach(now, peer(false));
    let subscriber = house.cores[1].attach(now, peer(true));
    house.settle();
    // The first message waits until the workers have met.
    let waits = house.cores[0].receive(now, publisher, &mut batch.to_vec()).waiting;
    assert!(waits, "the workers have met already");
    house.settle();
    for _ in 0..count {
        take_in(&mut house.cores[0], now, publisher, batch);
        house.settle();
        drain(&mut house.cores[1], now, subscriber);
        house.settle();
    }
}

/// Two routers, and the supervisor's work between them.
struct House {
    now: Instant,
    table: Directory,
    cores: Vec<Router>,
}

impl House {
    fn new(now: Instant) -> Self {
        let mut table = Directory::in_process(2, 1 << 16);
        let mut core = |slot| {
            table.add_worker(slot, 1);
            let config = Config::new(DaemonInfo::unknown(now));
            let shared = table.state();
            Router::new(Config { slot, generation: 1, ..config }, Some(shared))
        };
        let cores = (0..2).map(&mut core).collect();
        Self { now, table, cores }
    }

    /// Carries out the outputs of the routers until there are none.
    fn settle(&mut self) {
        let mut told: VecDeque<AddressedEvent> = self.table.take_events().into();
        loop {
            while let Some((slot, news)) = told.pop_front() {
                self.cores[slot as usize].handle_event(self.now, news);
            }
            for slot in 0..2 {
                while let Some(output) = self.cores[slot].poll_output() {
                    match output {
                        Output::Forward(to) => self.forward(slot, to),
                        Output::Tell(request) => {
                            let heard = self.table.handle(slot as u32, request);
                            told.extend(heard.expect("a router says nothing else"));
                        }
                        _ => {}
                    }
                }
            }
            told.extend(self.table.take_events());
            if told.is_empty() && self.cores.iter().all(Router::is_forwarded) {
                return;
            }
        }
    }

    fn forward(&mut self, from: usize, to: u32) {
        let (frames, generation) = self.cores[from].outgoing(to);
        let mut frames = frames.to_vec();
        if frames.is_empty() {
            return;
        }
        self.cores[to as usize].arrive(self.now, from as u32, generation, &mut frames);
        self.cores[from].forwarded(to, frames.len());
    }
}

fn peer(subscribes: bool) -> PeerInfo {
    let origin = Origin {
        peer: 0,
        name: None,
        transport: "guard".into(),
        pid: None,
        uid: None,
        gid: None,
        addr: None,
    };
    let all = subscribes.then(|| Filter::parse(b"bench.>").expect("it is a filter").to_owned());
    let raw =
        RawPeer { filters: all.into_iter().collect(), echo: false, largest: None, speaks: true };
    PeerInfo { listener: 0, origin, challenge: None, raw: Some(raw) }
}
