//! Properties of two equal send queues: one answers from the ledger, the other by parsing every
//! frame.

use std::time::{Duration, Instant};

use ipcd_proto::{FrameKind, FrameWriter, Header};
use proptest::prelude::*;

use super::drops::DropReport;
use super::tests::{batch, share, unwritten};
use super::*;

/// An event of a queue. Sizes are those of payloads, in bytes.
#[derive(Clone, Debug)]
enum Step {
    Own {
        subscription: u32,
        messages: usize,
        size: usize,
    },
    Shared {
        subscription: u32,
        messages: usize,
        size: usize,
    },
    Direct {
        size: usize,
        is_awaited: bool,
    },
    Request,
    Control {
        size: usize,
    },
    /// A part of the queue, in 256ths, is written.
    Wrote(usize),
    /// Whole frames at the front are pinned.
    Pin(usize),
    Shed(usize),
    Purge,
    Pass(u64),
}

fn any_step() -> impl Strategy<Value = Step> {
    let (numbers, counts) = (1_u32..4, 1_usize..6);
    let sizes = || prop_oneof![4 => 0_usize..200, 1 => 3000_usize..20_000];
    let messages = (numbers, counts, sizes());
    prop_oneof![
        3 => messages.clone().prop_map(|(subscription, messages, size)| {
            Step::Own { subscription, messages, size }
        }),
        3 => messages.prop_map(|(subscription, messages, size)| {
            Step::Shared { subscription, messages, size }
        }),
        2 => (sizes(), any::<bool>())
            .prop_map(|(size, is_awaited)| Step::Direct { size, is_awaited }),
        1 => Just(Step::Request),
        1 => sizes().prop_map(|size| Step::Control { size }),
        4 => (0_usize..257).prop_map(Step::Wrote),
        1 => (0_usize..4).prop_map(Step::Pin),
        1 => (0_usize..20_000).prop_map(Step::Shed),
        1 => Just(Step::Purge),
        1 => (0_u64..400).prop_map(Step::Pass),
    ]
}

struct Bench {
    queue: SendQueue,
    pool: ChunkPool,
    now: Instant,
    ticket: Ticket,
    reports: Vec<DropReport>,
    /// Whether a purge parses every frame.
    walks: bool,
}

impl Bench {
    fn new(now: Instant, walks: bool) -> Self {
        let (queue, pool) = (SendQueue::default(), ChunkPool::default());
        Self { queue, pool, now, ticket: 0, reports: Vec::new(), walks }
    }

    fn take(&mut self, step: &Step) {
        match *step {
            Step::Own { subscription, messages, size } => {
                let run = frames(Header { subscription, ..message() }, messages, size);
                self.append(&run);
            }
            Step::Shared { subscription, messages, size } => {
                let run = frames(Header { subscription, ..message() }, messages, size);
                share(&mut self.queue, &mut self.pool, &run);
            }
            Step::Direct { size, is_awaited } => {
                self.append(&frames(Header { receipt: is_awaited, ..message() }, 1, size));
                if is_awaited {
                    self.ticket += 1;
                    self.queue.await_written(self.ticket);
                }
            }
            Step::Request => {
                self.append(&frames(Header { request: true, ..message() }, 1, 9));
                self.queue.mark_request();
            }
            Step::Control { size } => {
                let frame = frames(Header::new(FrameKind::Notice, 0), 1, size);
                self.queue.append(self.now, &mut self.pool).extend(frame);
            }
            Step::Wrote(parts) => {
                let count = self.queue.len() * parts / 256;
                self.queue.wrote(count, &mut self.pool);
                while self.queue.take_written().is_some() {}
            }
            Step::Pin(frames) => {
                let bytes = self.first_frames(frames);
                self.queue.pin(bytes);
            }
            Step::Shed(target) => {
                let shed = self.queue.shed(target, &mut self.pool, |number| number != 2);
                self.reports.push(shed);
            }
            Step::Purge => {
                let gone = match self.walks {
                    true => self.queue.drop_frames(0, &mut self.pool, |_, _, _| true),
                    false => self.queue.purge(&mut self.pool),
                };
                self.reports.push(gone);
            }
            Step::Pass(millis) => self.now += Duration::from_millis(millis),
        }
    }

    fn append(&mut self, run: &[u8]) {
        self.queue.append_batch(self.now, &batch(run, None), &mut self.pool);
    }

    /// Returns the unwritten bytes of the first frames.
    fn first_frames(&mut self, frames: usize) -> usize {
        let mut lengths = Vec::new();
        self.queue.each_frame(&self.pool, u64::MAX, |_, length| lengths.push(length));
        let begun = self.queue.find_boundary(&self.pool);
        lengths.iter().take(frames).sum::<usize>().saturating_sub(begun)
    }

    /// Returns the messages for subscriptions and for the peer itself, by parsing every frame.
    fn walk(&mut self) -> (u64, u64) {
        let mut counts = self.queue.messages_by_subscription(&self.pool);
        let direct = counts.remove(&0).unwrap_or(0);
        (counts.values().sum(), direct)
    }
}

fn message() -> Header {
    Header::new(FrameKind::Message, 0)
}

fn frames(header: Header, count: usize, size: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    (0..count).for_each(|_| FrameWriter(&mut bytes).control(header, &vec![7; size]));
    bytes
}

proptest! {
    #[test]
    fn the_ledger_knows_what_a_walk_over_all_frames_finds(
        steps in proptest::collection::vec(any_step(), 1..80),
        asks_each_time in any::<bool>(),
    ) {
        let now = Instant::now();
        let (mut counted, mut walked) = (Bench::new(now, false), Bench::new(now, true));
        for step in &steps {
            counted.take(step);
            walked.take(step);
            prop_assert_eq!(counted.reports.pop(), walked.reports.pop());
            let (left, expected) = (&counted.queue, &walked.queue);
            let bytes = unwritten(left, &counted.pool);
            prop_assert_eq!(&bytes, &unwritten(expected, &walked.pool));
            prop_assert_eq!(left.len(), bytes.len());
            prop_assert_eq!(left.oldest().is_none(), bytes.is_empty());
            if asks_each_time {
                prop_assert_eq!(counted.queue.messages(&counted.pool), walked.walk());
            }
        }
        prop_assert_eq!(counted.queue.messages(&counted.pool), walked.walk());
        for side in [&mut counted, &mut walked] {
            side.queue.release(&mut side.pool);
            prop_assert!(side.pool.is_free());
        }
    }
}

#[test]
fn counting_and_purging_a_full_queue_walks_over_one_stretch() {
    let (mut queue, mut pool) = (SendQueue::default(), ChunkPool::default());
    let (now, run) = (Instant::now(), frames(Header { subscription: 1, ..message() }, 100, 64));
    for _ in 0..800 {
        queue.append_batch(now, &batch(&run, None), &mut pool);
    }
    queue.wrote(run.len() / 3, &mut pool);
    let mut walked = 0;
    let (_, end) = queue.ledger.counts(queue.written());
    let end = end.expect("the first stretch is begun");
    queue.each_frame(&pool, end, |_, _| walked += 1);
    assert!(walked <= 1000, "{walked} frames");
    assert_eq!(queue.messages(&pool).0, 80_000 - 33);
    assert_eq!(queue.purge(&mut pool).messages, 80_000 - 34);
    assert_eq!(queue.messages(&pool), (1, 0));
}
