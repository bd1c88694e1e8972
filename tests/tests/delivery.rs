//! Messages between processes over every pair of transports: all of them, in order, unaltered.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};

use ipcd_tests::{Daemon, Running, SCHEMES, Stream, check_lines, eventually, feed_lines, state};
use nix::sys::signal::Signal;

const MESSAGES: u64 = 10_000;
const LONGEST: usize = 8000;

/// A receiver whose output is compared with what is sent.
struct Receiver {
    process: Running,
    checker: JoinHandle<Result<(), String>>,
    seen: Arc<AtomicU64>,
}

impl Receiver {
    fn start(daemon: &Daemon, scheme: &str, subject: &str, stream: Stream) -> Self {
        let count = stream.count.to_string();
        let mut process = daemon.recv(scheme, &["-C", &count, subject]);
        let (stdout, seen) = (process.take_stdout(), Arc::new(AtomicU64::new(0)));
        let counter = Arc::clone(&seen);
        let checker = thread::spawn(move || check_lines(stream, stdout, &counter));
        Self { process, checker, seen }
    }

    #[track_caller]
    fn finish(mut self, what: &str) {
        let ended = self.process.wait();
        let checked = self.checker.join().expect("the checker does not panic");
        assert_eq!(checked, Ok(()), "{what}: {}", ended.stderr);
        ended.expect(0);
    }
}

/// A sender of the same messages; the thread feeds it.
fn start_sender(daemon: &Daemon, scheme: &str, subject: &str, stream: Stream) -> Running {
    let mut process = daemon.ctl(scheme, &["send", subject, "-l"]).spawn_fed();
    let stdin = process.stdin();
    thread::spawn(move || feed_lines(stream, stdin));
    process
}

/// A sender on this transport to a receiver on each, all at the same time.
fn deliver_from(sender: &str) {
    let daemon = Daemon::start();
    let pairs: Vec<_> = (0..)
        .zip(SCHEMES)
        .map(|(seed, receiver)| {
            let stream = Stream { count: MESSAGES, longest: LONGEST, seed };
            let subject = format!("pair.{sender}.{receiver}");
            let receiving = Receiver::start(&daemon, receiver, &subject, stream);
            (receiving, start_sender(&daemon, sender, &subject, stream), subject)
        })
        .collect();
    for (receiver, mut sender, subject) in pairs {
        sender.wait().expect(0);
        receiver.finish(&subject);
    }
    assert_eq!(daemon.counter("records_lost"), 0);
    assert_eq!(daemon.counter("messages_accepted"), 5 * MESSAGES);
}

#[test]
fn from_unix_to_every_transport() {
    deliver_from("unix");
}

#[test]
fn from_pipe_to_every_transport() {
    deliver_from("pipe");
}

#[test]
fn from_fifo_to_every_transport() {
    deliver_from("fifo");
}

#[test]
fn from_tcp_to_every_transport() {
    deliver_from("tcp");
}

#[test]
fn from_udp_to_every_transport() {
    deliver_from("udp");
}

/// A UDP receiver that is stopped in the middle loses nothing: the credit window holds the sender
/// back.
fn deliver_to_a_receiver_that_stops(sender: &str) {
    let daemon = Daemon::start();
    let stream = Stream { count: MESSAGES, longest: LONGEST, seed: 9 };
    let mut receiver = Receiver::start(&daemon, "udp", "stops", stream);
    let mut sender = start_sender(&daemon, sender, "stops", stream);
    eventually("a third of the messages", || {
        (receiver.seen.load(Ordering::Relaxed) > MESSAGES / 3).then_some(())
    });
    receiver.process.signal(Signal::SIGSTOP);
    let pid = receiver.process.pid();
    eventually("that it has stopped", || (state(pid) == Some('T')).then_some(()));
    // How long it stands still is what is tested; nothing is concluded from the time.
    thread::sleep(std::time::Duration::from_secs(1));
    let seen = receiver.seen.load(Ordering::Relaxed);
    assert!(seen < MESSAGES, "it was stopped too late to show anything");
    receiver.process.signal(Signal::SIGCONT);
    sender.wait().expect(0);
    receiver.finish("after the stop");
    assert_eq!(daemon.counter("records_lost"), 0);
}

#[test]
fn a_udp_receiver_of_a_udp_sender_stops_for_a_second() {
    deliver_to_a_receiver_that_stops("udp");
}

#[test]
fn a_udp_receiver_of_a_unix_sender_stops_for_a_second() {
    deliver_to_a_receiver_that_stops("unix");
}
