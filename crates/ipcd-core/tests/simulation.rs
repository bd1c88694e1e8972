//! Simulation: several routers with their directory, links and inboxes, in memory and in virtual
//! time. A seed decides every step of the scheduler. Workers are killed and started meanwhile.
//!
//! A failure prints its seed; `SEED=… cargo test -p ipcd-core --test simulation` repeats it, and
//! `SEEDS=…` plays more of them. The checks are: the promises for publishing, groups, requests and
//! receipts; that no change of a flow state is forgotten; that every message is accounted for; the
//! bounds on memory; names; and queries.

use std::env;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

#[path = "simulation/acts.rs"]
mod acts;
#[path = "simulation/checks.rs"]
mod checks;
#[path = "simulation/client.rs"]
mod client;
#[path = "simulation/frames.rs"]
mod frames;
#[path = "simulation/ledger.rs"]
mod ledger;
#[path = "simulation/outcomes.rs"]
mod outcomes;
#[path = "simulation/places.rs"]
mod places;
#[path = "simulation/play.rs"]
mod play;
#[path = "simulation/rng.rs"]
mod rng;
#[path = "simulation/world.rs"]
mod world;

/// Seeds to play, unless the environment sets another number.
const SEEDS: u64 = 2000;

#[test]
fn keeps_its_promises_whatever_overtakes_and_whoever_dies() {
    let number = |name| env::var(name).ok().map(|text| text.parse().expect("a number"));
    let (first, end) = match number("SEED") {
        Some(seed) => (seed, seed + 1),
        None => (0, number("SEEDS").unwrap_or(SEEDS)),
    };
    let next = AtomicU64::new(first);
    let deliveries = AtomicU64::new(0);
    let play_some = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= end {
                return;
            }
            let guard = Guard(seed);
            deliveries.fetch_add(play::play(seed), Ordering::Relaxed);
            std::mem::forget(guard);
        }
    };
    let threads = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(play_some))));
    println!("{} seeds, {deliveries:?} messages", end - first);
}

/// Prints the seed on failure.
struct Guard(u64);

impl Drop for Guard {
    fn drop(&mut self) {
        eprintln!("to repeat: SEED={} cargo test -p ipcd-core --test simulation", self.0);
    }
}
