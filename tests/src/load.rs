//! Healthy peers that exchange messages all the time. Every message carries its sender, its number,
//! its time and a checksum over all of it. So a lost, repeated, misplaced, mixed or altered message
//! is found at once.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use ipcd_client::{Client, Event};

use crate::{Daemon, PATIENCE, eventually};

/// Messages of a round, which are sent at once.
const BURST: u64 = 4;
/// Bytes of the longest message; every length from the shortest on occurs.
const LONGEST: u64 = 6000;
/// The pause between two rounds: the healthy peers must not be the load that slows the machine.
const PACE: Duration = Duration::from_millis(2);
/// The time after which a datagram counts as lost.
const LOST_AFTER: Duration = Duration::from_secs(2);

/// Sender, number, time and checksum.
const HEAD: usize = 4 + 8 + 8 + 4;

/// Pairs of peers, each a sender and a receiver over one transport.
#[derive(Debug)]
pub struct HealthyLoad {
    pairs: Vec<LoadPair>,
    over: Arc<AtomicBool>,
}

#[derive(Debug)]
struct LoadPair {
    scheme: String,
    seen: Arc<PairProgress>,
    thread: Option<JoinHandle<Result<(), String>>>,
}

/// The progress of a pair.
#[derive(Debug)]
struct PairProgress {
    received: AtomicU64,
    lost: AtomicU64,
    latencies: Mutex<Histogram<u64>>,
}

/// Latencies of messages, from the publisher's call to the receiver's.
#[derive(Clone, Copy, Debug, Default)]
pub struct Latency {
    /// Messages.
    pub count: u64,
    /// Half of them took less.
    pub median: Duration,
    /// One in a hundred took longer.
    pub p99: Duration,
    /// The longest.
    pub longest: Duration,
}

impl fmt::Display for Latency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { count, median, p99, longest } = self;
        write!(f, "{count} messages, median {median:?}, p99 {p99:?}, longest {longest:?}")
    }
}

impl HealthyLoad {
    /// Starts a pair over each of these transports, on any workers.
    pub fn start(daemon: &Daemon, schemes: &[&str]) -> Self {
        Self::of(schemes, |scheme| [daemon.client(scheme), daemon.client(scheme)])
    }

    /// As [`HealthyLoad::start`], on the worker in this slot.
    pub fn start_on(daemon: &Daemon, schemes: &[&str], slot: u64) -> Self {
        let client = |scheme: &str| daemon.client_on(scheme, |at| at == slot).0;
        Self::of(schemes, |scheme| [client(scheme), client(scheme)])
    }

    fn of(schemes: &[&str], connect: impl Fn(&str) -> [Client; 2]) -> Self {
        let over = Arc::<AtomicBool>::default();
        let pairs = (0_u32..).zip(schemes).map(|(sender, &scheme)| {
            let clients = connect(scheme);
            let latencies = Mutex::new(histogram());
            let seen =
                PairProgress { received: AtomicU64::new(0), lost: AtomicU64::new(0), latencies };
            let seen = Arc::new(seen);
            let is_lossy = scheme == "udp";
            let exchange =
                PairExchange { sender, is_lossy, seen: seen.clone(), over: over.clone() };
            let thread = Some(thread::spawn(move || exchange.run(clients)));
            LoadPair { scheme: scheme.into(), seen, thread }
        });
        let load = Self { pairs: pairs.collect(), over: Arc::clone(&over) };
        load.goes_on();
        load
    }

    /// The number of its peers.
    pub fn peers(&self) -> usize {
        2 * self.pairs.len()
    }

    /// Waits for a few more messages of each pair.
    ///
    /// # Panics
    /// If they do not come, or a pair has failed.
    #[track_caller]
    pub fn goes_on(&self) {
        for pair in &self.pairs {
            let before = pair.seen.received.load(Ordering::Relaxed);
            eventually(&format!("messages over {}", pair.scheme), || {
                let failed = pair.thread.as_ref().is_none_or(JoinHandle::is_finished);
                assert!(!failed, "the healthy peers over {} were disturbed", pair.scheme);
                (pair.seen.received.load(Ordering::Relaxed) > before + 20).then_some(())
            });
        }
    }

    /// The numbers of received messages, and of lost ones, as datagrams may be.
    pub fn counts(&self) -> (u64, u64) {
        let sum = |count: fn(&PairProgress) -> &AtomicU64| {
            self.pairs.iter().map(|pair| count(&pair.seen).load(Ordering::Relaxed)).sum()
        };
        (sum(|seen| &seen.received), sum(|seen| &seen.lost))
    }

    /// The latencies since the last call.
    pub fn take_latency(&self) -> Latency {
        let mut all = histogram();
        for pair in &self.pairs {
            let mut latencies = pair.seen.latencies.lock().unwrap_or_else(PoisonError::into_inner);
            all.add(&*latencies).expect("both have the same range");
            latencies.reset();
        }
        let at = |quantile| Duration::from_nanos(all.value_at_quantile(quantile));
        let longest = Duration::from_nanos(all.max());
        Latency { count: all.len(), median: at(0.5), p99: at(0.99), longest }
    }

    /// Ends all pairs.
    ///
    /// # Panics
    /// If a message was lost, repeated, misplaced or altered.
    #[track_caller]
    pub fn finish(mut self) {
        self.over.store(true, Ordering::Relaxed);
        for pair in &mut self.pairs {
            let outcome = pair.thread.take().map(JoinHandle::join);
            let outcome = outcome.map(|joined| joined.unwrap_or_else(|_| Err("panic".into())));
            assert_eq!(outcome, Some(Ok(())), "the healthy peers over {}", pair.scheme);
        }
    }
}

impl Drop for HealthyLoad {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        for thread in self.pairs.iter_mut().filter_map(|pair| pair.thread.take()) {
            let _ = thread.join();
        }
    }
}

/// The thread of one pair.
struct PairExchange {
    sender: u32,
    is_lossy: bool,
    seen: Arc<PairProgress>,
    over: Arc<AtomicBool>,
}

impl PairExchange {
    fn run(self, [mut publisher, mut subscriber]: [Client; 2]) -> Result<(), String> {
        let said = |error: ipcd_client::Error| error.to_string();
        let subject = format!("load.{}", self.sender);
        subscriber.subscribe(&subject, Default::default()).map_err(said)?;
        let (start, mut next, mut payload) = (Instant::now(), 0, Vec::new());
        while !self.over.load(Ordering::Relaxed) {
            for number in next..next + BURST {
                write(&mut payload, self.sender, number, start.elapsed());
                publisher.publish(&subject, &payload).map_err(said)?;
            }
            publisher.push().map_err(said)?;
            self.receive(&mut subscriber, start, next, next + BURST)?;
            next += BURST;
            thread::sleep(PACE);
        }
        Ok(())
    }

    /// Receives the messages from `next` to `end`.
    fn receive(
        &self,
        subscriber: &mut Client,
        start: Instant,
        mut next: u64,
        end: u64,
    ) -> Result<(), String> {
        let patience = if self.is_lossy { LOST_AFTER } else { PATIENCE };
        while next < end {
            match subscriber.next_event(Some(Instant::now() + patience)) {
                Ok(Some(Event::Message(message))) => {
                    let (number, sent) = read(message.payload(), self.sender)?;
                    let is_next = number == next || self.is_lossy && number > next;
                    if !is_next {
                        return Err(format!("message {number} came, where {next} should"));
                    }
                    self.note(number - next, start.elapsed().saturating_sub(sent));
                    next = number + 1;
                }
                Ok(None) if self.is_lossy => {
                    self.seen.lost.fetch_add(end - next, Ordering::Relaxed);
                    return Ok(());
                }
                other => return Err(format!("{other:?}, where message {next} should come")),
            }
        }
        Ok(())
    }

    fn note(&self, skipped: u64, took: Duration) {
        self.seen.lost.fetch_add(skipped, Ordering::Relaxed);
        self.seen.received.fetch_add(1, Ordering::Relaxed);
        let mut latencies = self.seen.latencies.lock().unwrap_or_else(PoisonError::into_inner);
        latencies.saturating_record(took.as_nanos() as u64);
    }
}

/// A histogram of nanoseconds, up to the watchdog's patience.
fn histogram() -> Histogram<u64> {
    Histogram::new_with_max(PATIENCE.as_nanos() as u64, 3).expect("the range is a good one")
}

fn write(payload: &mut Vec<u8>, sender: u32, number: u64, sent: Duration) {
    payload.clear();
    payload.extend(sender.to_le_bytes());
    payload.extend(number.to_le_bytes());
    payload.extend((sent.as_nanos() as u64).to_le_bytes());
    payload.extend([0; 4]);
    // 7919 is a prime that divides no length used here, so the lengths vary.
    let longer = (number * 7919 + u64::from(sender)) % (LONGEST - HEAD as u64);
    payload.extend((0..longer).map(|at| (at * 31 + number) as u8));
    let checksum = crc32fast::hash(payload).to_le_bytes();
    payload[HEAD - 4..HEAD].copy_from_slice(&checksum);
}

/// The number of a message, and its time.
fn read(payload: &[u8], expected: u32) -> Result<(u64, Duration), String> {
    let (head, rest) = payload.split_first_chunk::<HEAD>().ok_or("a message was cut")?;
    let field = |at: usize| head[at..].first_chunk::<8>().map(|bytes| u64::from_le_bytes(*bytes));
    let (number, sent) = (field(4).unwrap_or_default(), field(12).unwrap_or_default());
    let mut checksum = crc32fast::Hasher::new();
    [&head[..HEAD - 4], &[0; 4], rest].iter().for_each(|part| checksum.update(part));
    if head[HEAD - 4..] != checksum.finalize().to_le_bytes() {
        return Err(format!("message {number} was altered"));
    }
    if head[..4] != expected.to_le_bytes() {
        return Err(format!("a message of another sender came: {:?}", &head[..4]));
    }
    Ok((number, Duration::from_nanos(sent)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_that_is_cut_altered_or_anothers_is_found() {
        let mut payload = Vec::new();
        write(&mut payload, 3, 7, Duration::from_nanos(9));
        assert_eq!(read(&payload, 3), Ok((7, Duration::from_nanos(9))));
        assert!(read(&payload, 4).is_err());
        assert!(read(&payload[..payload.len() - 1], 3).is_err());
        for at in 0..payload.len() {
            payload[at] ^= 1;
            assert!(read(&payload, 3).is_err(), "byte {at}");
            payload[at] ^= 1;
        }
    }
}
