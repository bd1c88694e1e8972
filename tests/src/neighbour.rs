//! A pair of peers that exchanges messages all the time, beside another test.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};

use ipcd_client::{Client, Endpoint, Options};

use crate::{Daemon, PATIENCE, eventually};

/// Two clients over the Unix socket: one sends a number, and the other must receive that number.
#[derive(Debug)]
pub struct NeighbourPair {
    rounds: Arc<AtomicU64>,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<(), String>>>,
}

impl NeighbourPair {
    /// Starts exchanging.
    ///
    /// # Panics
    /// If the daemon has no Unix socket.
    pub fn of(daemon: &Daemon) -> Self {
        let (rounds, over) = (Arc::<AtomicU64>::default(), Arc::<AtomicBool>::default());
        let endpoint: Endpoint = daemon.via("unix").parse().expect("the text is an endpoint");
        let (counter, end) = (Arc::clone(&rounds), Arc::clone(&over));
        let thread = thread::spawn(move || {
            exchange(&endpoint, &counter, &end).map_err(|error| error.to_string())
        });
        let neighbour = Self { rounds, over, thread: Some(thread) };
        neighbour.goes_on();
        neighbour
    }

    /// Waits for a few more messages.
    ///
    /// # Panics
    /// If they do not come.
    pub fn goes_on(&self) {
        let seen = self.rounds.load(Ordering::Relaxed);
        eventually("the neighbours' exchange", || {
            let failed = self.thread.as_ref().is_none_or(JoinHandle::is_finished);
            assert!(!failed, "the neighbours were disturbed");
            (self.rounds.load(Ordering::Relaxed) > seen + 3).then_some(())
        });
    }
}

impl Drop for NeighbourPair {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        let outcome = self.thread.take().map(JoinHandle::join);
        if !thread::panicking() {
            let outcome = outcome.map(|joined| joined.unwrap_or_else(|_| Err("panic".into())));
            assert_eq!(outcome, Some(Ok(())), "the neighbours were disturbed");
        }
    }
}

fn exchange(at: &Endpoint, rounds: &AtomicU64, over: &AtomicBool) -> ipcd_client::Result<()> {
    let options = Options { timeout: PATIENCE, ..Options::default() };
    let mut sender = Client::connect(at, options.clone())?;
    let mut receiver = Client::connect(at, options)?;
    receiver.subscribe("neighbours", Default::default())?;
    let mut messages = receiver.messages();
    while !over.load(Ordering::Relaxed) {
        let number = rounds.fetch_add(1, Ordering::Relaxed).to_string();
        sender.send("neighbours", number.as_bytes())?;
        if let Some(message) = messages.next() {
            assert_eq!(message?.payload(), number.as_bytes());
        }
    }
    Ok(())
}
