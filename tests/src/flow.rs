//! Processes that send and receive numbered messages, on workers that the test chooses.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};

use crate::{Daemon, MessageStream, RunningProcess, check_lines, feed_lines};

/// A receiver whose output is compared with the messages that were sent.
#[derive(Debug)]
pub struct Receiver {
    /// The `ipcctl recv`.
    pub process: RunningProcess,
    /// The slot of its worker.
    pub slot: u64,
    checker: JoinHandle<Result<(), String>>,
    seen: Arc<AtomicU64>,
}

impl Receiver {
    /// Starts a receiver on any worker, subscribed.
    pub fn start(daemon: &Daemon, scheme: &str, subject: &str, stream: MessageStream) -> Self {
        Self::start_on(daemon, scheme, subject, stream, |_| true)
    }

    /// Starts a receiver on a worker in a slot that fits.
    pub fn start_on(
        daemon: &Daemon,
        scheme: &str,
        subject: &str,
        stream: MessageStream,
        fits: impl Fn(u64) -> bool,
    ) -> Self {
        let count = stream.count.to_string();
        let (mut process, slot) = daemon
            .on_slot(fits, |name| daemon.recv(scheme, &["-C", &count, "--name", name, subject]));
        let (stdout, seen) = (process.take_stdout(), Arc::new(AtomicU64::new(0)));
        let counter = Arc::clone(&seen);
        let checker = thread::spawn(move || check_lines(stream, stdout, &counter));
        Self { process, slot, checker, seen }
    }

    /// The number of messages that it has received unaltered.
    pub fn seen(&self) -> u64 {
        self.seen.load(Ordering::Relaxed)
    }

    /// Waits until it has received all messages.
    ///
    /// # Panics
    /// If another text came.
    #[track_caller]
    pub fn finish(mut self, what: &str) {
        let ended = self.process.wait();
        let checked = self.checker.join().expect("the checker does not panic");
        assert_eq!(checked, Ok(()), "{what}: {}", ended.stderr);
        ended.expect(0);
    }
}

/// A sender that is connected, and sends nothing until it is fed.
#[derive(Debug)]
pub struct Sender {
    /// The `ipcctl send -l`.
    pub process: RunningProcess,
    /// The slot of its worker.
    pub slot: u64,
}

impl Sender {
    /// Starts a sender on any worker.
    pub fn start(daemon: &Daemon, scheme: &str, subject: &str) -> Self {
        Self::start_on(daemon, scheme, subject, |_| true)
    }

    /// Starts a sender on a worker in a slot that fits.
    pub fn start_on(
        daemon: &Daemon,
        scheme: &str,
        subject: &str,
        fits: impl Fn(u64) -> bool,
    ) -> Self {
        let (process, slot) = daemon.on_slot(fits, |name| {
            daemon.ctl(scheme, &["send", subject, "-l", "--name", name]).spawn_fed()
        });
        Self { process, slot }
    }

    /// Feeds it with the messages, in a thread.
    pub fn feed(&mut self, stream: MessageStream) {
        let stdin = self.process.stdin();
        thread::spawn(move || feed_lines(stream, stdin));
    }
}
