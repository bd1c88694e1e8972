//! Messages between processes over every pair of transports: all of them, in order, unaltered.

use ipcd_tests::{
    Daemon, DaemonSetup, MessageStream, Receiver, SCHEMES, Sender, eventually, state,
};
use nix::sys::signal::Signal;

const MESSAGES: u64 = 10_000;
const LONGEST: usize = 8000;
/// A message between workers is written and read once more, and there are 25 pairs.
const CROSSING_MESSAGES: u64 = 2000;

/// The processes that serve a pair.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum ServingMode {
    /// One worker for both.
    Together,
    /// A worker each.
    Workers,
    /// A child each, with `--fork connection`.
    Children,
}

impl ServingMode {
    fn start(self) -> Daemon {
        match self {
            Self::Together => DaemonSetup::new().args(&["--workers", "1"]).start(),
            Self::Workers => DaemonSetup::new().args(&["--workers", "3"]).start(),
            Self::Children => DaemonSetup::new().args(&["--fork", "connection"]).start(),
        }
    }

    fn fits(self, receiver: u64, sender: u64) -> bool {
        (sender == receiver) == (self == Self::Together)
    }
}

/// A sender on this transport to a receiver on each, all at the same time.
fn deliver_from(sender: &str, mode: ServingMode) {
    let daemon = mode.start();
    let count = if mode == ServingMode::Together { MESSAGES } else { CROSSING_MESSAGES };
    let mut pairs: Vec<_> = (0..)
        .zip(SCHEMES)
        .map(|(seed, receiver)| {
            let stream = MessageStream { count, longest: LONGEST, seed };
            let subject = format!("pair.{sender}.{receiver}");
            let receiving = Receiver::start(&daemon, receiver, &subject, stream);
            let fits = |slot| mode.fits(receiving.slot, slot);
            (Sender::start_on(&daemon, sender, &subject, fits), receiving, stream, subject)
        })
        .collect();
    for (sender, _, stream, _) in &mut pairs {
        sender.feed(*stream);
    }
    for (mut sender, receiver, _, subject) in pairs {
        sender.process.wait().expect(0);
        receiver.finish(&subject);
    }
    assert_eq!(daemon.counter("records_lost"), 0);
    if mode != ServingMode::Children {
        assert_eq!(daemon.counter("messages_accepted"), SCHEMES.len() as u64 * count);
    }
}

#[test]
fn from_unix_to_every_transport() {
    deliver_from("unix", ServingMode::Together);
}

#[test]
fn from_unix_to_every_transport_across_workers() {
    deliver_from("unix", ServingMode::Workers);
}

#[test]
fn from_unix_to_every_transport_with_a_child_each() {
    deliver_from("unix", ServingMode::Children);
}

#[test]
fn from_pipe_to_every_transport() {
    deliver_from("pipe", ServingMode::Together);
}

#[test]
fn from_pipe_to_every_transport_across_workers() {
    deliver_from("pipe", ServingMode::Workers);
}

#[test]
fn from_pipe_to_every_transport_with_a_child_each() {
    deliver_from("pipe", ServingMode::Children);
}

#[test]
fn from_fifo_to_every_transport() {
    deliver_from("fifo", ServingMode::Together);
}

#[test]
fn from_fifo_to_every_transport_across_workers() {
    deliver_from("fifo", ServingMode::Workers);
}

#[test]
fn from_fifo_to_every_transport_with_a_child_each() {
    deliver_from("fifo", ServingMode::Children);
}

#[test]
fn from_tcp_to_every_transport() {
    deliver_from("tcp", ServingMode::Together);
}

#[test]
fn from_tcp_to_every_transport_across_workers() {
    deliver_from("tcp", ServingMode::Workers);
}

#[test]
fn from_tcp_to_every_transport_with_a_child_each() {
    deliver_from("tcp", ServingMode::Children);
}

#[test]
fn from_udp_to_every_transport() {
    deliver_from("udp", ServingMode::Together);
}

#[test]
fn from_udp_to_every_transport_across_workers() {
    deliver_from("udp", ServingMode::Workers);
}

#[test]
fn from_udp_to_every_transport_with_a_child_each() {
    deliver_from("udp", ServingMode::Children);
}

/// A UDP receiver that is stopped in the middle loses nothing: the credit window stops the sender.
fn deliver_to_a_receiver_that_stops(scheme: &str) {
    let daemon = Daemon::start();
    let stream = MessageStream { count: MESSAGES, longest: LONGEST, seed: 9 };
    let mut receiver = Receiver::start(&daemon, "udp", "stops", stream);
    let mut sender = Sender::start(&daemon, scheme, "stops");
    sender.feed(stream);
    eventually("a third of the messages", || (receiver.seen() > MESSAGES / 3).then_some(()));
    receiver.process.signal(Signal::SIGSTOP);
    let pid = receiver.process.pid();
    eventually("the process is stopped", || (state(pid) == Some('T')).then_some(()));
    // The time of the stop is the subject of the test; nothing is concluded from it.
    std::thread::sleep(std::time::Duration::from_secs(1));
    assert!(receiver.seen() < MESSAGES, "it was stopped too late to show anything");
    receiver.process.signal(Signal::SIGCONT);
    sender.process.wait().expect(0);
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
