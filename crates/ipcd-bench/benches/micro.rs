//! The parts of the data path without any I/O: the decoder, the router, and the send queues that it
//! fills.

use std::hint::black_box;
use std::time::Instant;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use ipcd_core::{Config, DaemonInfo, PeerInfo, PeerKey, RawPeer, Router};
use ipcd_proto::control::Origin;
use ipcd_proto::{DecodedFrame, Filter, Frame, FrameKind, FrameWriter, Header, decode};

/// Bytes of a batch, about as many as a busy worker reads at once.
const BATCH: usize = 64 * 1024;
/// Payload bytes of a message.
const SIZES: [usize; 3] = [64, 1024, 16 * 1024];
/// Bytes that a socket takes at once, in the benchmark of the send queues.
const WRITTEN: usize = 4096;

criterion_group!(micro, decoder, router, outbox);
criterion_main!(micro);

fn decoder(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("decoder");
    for size in SIZES {
        let (bytes, count) = batch(size, 1);
        group.throughput(Throughput::Elements(count));
        group.bench_with_input(BenchmarkId::from_parameter(size), &bytes, |bencher, bytes| {
            bencher.iter(|| assert_eq!(decode_all(black_box(bytes)), count));
        });
    }
}

fn decode_all(mut bytes: &[u8]) -> u64 {
    let mut count = 0;
    while let Ok(DecodedFrame::Frame(frame, length)) = decode(bytes, BATCH) {
        black_box(frame);
        bytes = &bytes[length..];
        count += 1;
    }
    count
}

/// One publisher, one subscriber, and messages of one subject or of several.
fn router(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("router");
    for (name, subjects) in [("one-subject", 1), ("16-subjects", 16)] {
        for size in SIZES {
            let (bytes, count) = batch(size, subjects);
            let mut stage = Stage::new(1);
            group.throughput(Throughput::Elements(count));
            group.bench_with_input(BenchmarkId::new(name, size), &bytes, |bencher, bytes| {
                let copy = || bytes.clone();
                let routed = |mut bytes: Vec<u8>| stage.route(&mut bytes, usize::MAX);
                bencher.iter_batched(copy, routed, BatchSize::LargeInput);
            });
        }
    }
}

/// One publisher, and eight subscribers that each take a little at a time.
fn outbox(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("outbox");
    for size in SIZES {
        let (bytes, count) = batch(size, 1);
        let mut stage = Stage::new(8);
        group.throughput(Throughput::Elements(8 * count));
        group.bench_with_input(BenchmarkId::new("1-to-8", size), &bytes, |bencher, bytes| {
            let copy = || bytes.clone();
            let routed = |mut bytes: Vec<u8>| stage.route(&mut bytes, WRITTEN);
            bencher.iter_batched(copy, routed, BatchSize::LargeInput);
        });
    }
}

/// As many messages of this size as fit a batch, and their number.
fn batch(size: usize, subjects: usize) -> (Vec<u8>, u64) {
    let (mut bytes, mut count) = (Vec::new(), 0);
    while bytes.len() + size < BATCH {
        let subject = format!("bench.{}", count as usize % subjects);
        let header = Header::new(FrameKind::Message, count + 1);
        let subject = subject.as_bytes();
        let payload = &vec![7; size];
        FrameWriter(&mut bytes).write(&Frame {
            header,
            subject,
            reply: b"",
            headers: b"",
            payload,
        });
        count += 1;
    }
    (bytes, count)
}

/// A router with a publisher and subscribers.
struct Stage {
    core: Router,
    now: Instant,
    publisher: PeerKey,
    subscribers: Vec<PeerKey>,
}

impl Stage {
    fn new(subscribers: usize) -> Self {
        let now = Instant::now();
        let mut core = Router::new(Config::new(DaemonInfo::unknown(now)), None);
        let all = Filter::parse(b"bench.>").expect("it is a filter").to_owned();
        let publisher = core.attach(now, peer(None));
        let subscribers =
            (0..subscribers).map(|_| core.attach(now, peer(Some(all.clone())))).collect();
        while core.poll_output().is_some() {}
        Self { core, now, publisher, subscribers }
    }

    /// Takes all messages in, and writes all of them out in pieces of this size.
    fn route(&mut self, bytes: &mut [u8], written: usize) {
        let progress = self.core.receive(self.now, self.publisher, bytes);
        assert_eq!(progress.consumed, bytes.len(), "the send queues take a whole batch");
        while self.core.poll_output().is_some() {}
        for &key in &self.subscribers {
            loop {
                let count = self.core.send_queue(key).len().min(written);
                if count == 0 {
                    break;
                }
                self.core.wrote(self.now, key, count);
            }
        }
        while self.core.poll_output().is_some() {}
    }
}

fn peer(filter: Option<Filter>) -> PeerInfo {
    let origin = Origin {
        peer: 0,
        name: None,
        transport: "bench".into(),
        pid: None,
        uid: None,
        gid: None,
        addr: None,
    };
    PeerInfo {
        listener: 0,
        origin,
        challenge: None,
        raw: Some(RawPeer {
            filters: filter.into_iter().collect(),
            echo: false,
            largest: None,
            speaks: true,
        }),
    }
}
