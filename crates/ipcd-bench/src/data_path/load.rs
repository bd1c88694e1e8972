//! The load: numbered messages of one size, written in batches or one by one, and checked at each
//! subscriber.
//!
//! The clients are lean, so that mostly the server is measured: the publisher numbers frames that it
//! has built before, and the subscribers read lengths and numbers. All subscribers are one process.

use std::io::{self, Read, Write};

use ipcd_proto::{Frame, FrameKind, FrameWriter, HEADER_BYTES, Header, frame_len, limits};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use super::line::{ClientLine, LineSource};
use crate::children::StartSignal;
use crate::clock;
use crate::job::ProcessFindings;
use crate::usage::UsageMeter;

/// The subject of all messages of a load with one subject.
pub(super) const SUBJECT: &str = "bench.load";
/// The subscription to all subjects of a load with many.
pub(super) const FILTER: &str = "bench.*";
/// Subjects of a load with many: as many as four digits can tell apart, and so few that a batch
/// repeats some.
const SUBJECTS: u64 = 1000;
/// Bytes of the largest frame of any load.
pub(super) const LARGEST: usize = limits::largest_frame(limits::DEFAULT_MAX_PAYLOAD);

/// Bytes of a batch; a larger frame is one by itself.
const BATCH_BYTES: usize = 64 * 1024;
/// Bytes that the subscriber takes at once.
const READ_BYTES: usize = 256 * 1024;
/// The place of the number in a frame: the start of the payload.
const NUMBER: usize = HEADER_BYTES + SUBJECT.len();
const NUMBER_BYTES: usize = size_of::<u64>();
/// Digits at the end of each of many subjects.
const DIGITS: usize = "0000".len();

/// The messages that are published, and the number of subscribers.
#[derive(Clone, Copy, Debug)]
pub(super) struct LoadShape {
    /// Bytes of a payload, which begins with the message's number.
    pub(super) payload: usize,
    pub(super) count: u64,
    /// Subscribers, each of which gets every message.
    pub(super) subscribers: usize,
    /// Whether each message is written by itself, not as many as fit a batch.
    pub(super) is_single: bool,
    /// Whether no message has the subject of the one before.
    pub(super) has_many_subjects: bool,
    /// Whether a crowd has subscribed to other subjects.
    pub(super) has_crowd: bool,
    /// Whether every byte is compared, not only lengths and numbers.
    pub(super) is_thorough: bool,
}

impl LoadShape {
    /// Batches of messages of one subject to one subscriber, which looks at numbers only.
    pub(super) fn plain(payload: usize, count: u64) -> Self {
        Self {
            payload,
            count,
            subscribers: 1,
            is_single: false,
            has_many_subjects: false,
            has_crowd: false,
            is_thorough: false,
        }
    }

    /// Messages that are received in all.
    pub(super) fn deliveries(self) -> u64 {
        self.count * self.subscribers as u64
    }

    /// Publishes all messages, once all processes are ready.
    pub(super) fn publish(
        self,
        to: &mut ClientLine,
        start: &mut StartSignal<'_>,
    ) -> io::Result<ProcessFindings> {
        let mut to = to.sink()?;
        let frame = self.frame();
        let per_batch = if self.is_single { 1 } else { (BATCH_BYTES / frame.len()).max(1) };
        // The batch is built once, and only numbers change: the publisher costs next to nothing.
        let mut batch = frame.repeat(per_batch);
        start()?;
        let first = clock::now();
        let mut next = 0;
        while next < self.count {
            let frames = per_batch.min((self.count - next) as usize);
            let bytes = &mut batch[..frames * frame.len()];
            for (bytes, number) in bytes.chunks_exact_mut(frame.len()).zip(next..) {
                self.stamp(bytes, number);
            }
            to.write_all(bytes)?;
            next += frames as u64;
        }
        Ok(ProcessFindings { first, last: clock::now(), ..ProcessFindings::default() })
    }

    /// Receives all messages at each subscriber, each once and in order, and measures the processor
    /// time of the movers.
    pub(super) fn receive(
        self,
        from: &mut [ClientLine],
        movers: &[u32],
        start: &mut StartSignal<'_>,
    ) -> io::Result<ProcessFindings> {
        // A single subscriber waits in read(2): epoll would be a call more for each.
        let epoll = if from.len() > 1 { Some(watch(from)?) } else { None };
        let ends = from.iter_mut().map(|line| Subscriber::new(self, line));
        let mut ends = ends.collect::<io::Result<Vec<_>>>()?;
        let mut read_buf = vec![0; READ_BYTES.max(2 * self.frame().len())];
        // The movers are idle until the start, so no more than this load is counted.
        let meter = UsageMeter::start(movers);
        start()?;
        let mut events = [EpollEvent::empty(); 64];
        while !ends.iter().all(Subscriber::is_done) {
            let Some(epoll) = &epoll else {
                ends[0].read(&mut read_buf)?;
                continue;
            };
            let count = epoll.wait(&mut events, EpollTimeout::NONE)?;
            for event in &events[..count] {
                ends[event.data() as usize].read(&mut read_buf)?;
            }
        }
        let last = clock::now();
        let (usage, daemon) = meter.stop(movers);
        Ok(ProcessFindings { last, usage, daemon, ..ProcessFindings::default() })
    }

    /// The frame of a message; all that differs among them is the number.
    fn frame(self) -> Vec<u8> {
        assert!(self.payload >= NUMBER_BYTES, "a payload has room for its number");
        let payload: Vec<u8> = (0..self.payload).map(|at| at as u8).collect();
        let header = Header::new(FrameKind::Message, 0);
        // Both subjects have the same length, so the number has the same place.
        let subject = if self.has_many_subjects { "bench.0000" } else { SUBJECT }.as_bytes();
        let frame = Frame { header, subject, reply: &[], headers: &[], payload: &payload };
        let mut bytes = Vec::new();
        FrameWriter(&mut bytes).write(&frame);
        bytes
    }

    fn stamp(self, frame: &mut [u8], number: u64) {
        frame[NUMBER..NUMBER + NUMBER_BYTES].copy_from_slice(&number.to_le_bytes());
        if self.has_many_subjects {
            let digits = &mut frame[NUMBER - DIGITS..NUMBER];
            let mut rest = number % SUBJECTS;
            for digit in digits.iter_mut().rev() {
                *digit = b'0' + (rest % 10) as u8;
                rest /= 10;
            }
        }
    }
}

fn watch(lines: &[ClientLine]) -> io::Result<Epoll> {
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    for (line, place) in lines.iter().zip(0..) {
        epoll.add(line, EpollEvent::new(EpollFlags::EPOLLIN, place))?;
    }
    Ok(epoll)
}

fn number(frame: &[u8]) -> Option<u64> {
    frame.get(NUMBER..)?.first_chunk().map(|bytes| u64::from_le_bytes(*bytes))
}

/// A subscriber and its unfinished input.
struct Subscriber<'a> {
    source: LineSource<'a>,
    check: FrameCheck,
    /// The beginning of a frame, the remainder of which has not come.
    partial: Vec<u8>,
}

impl<'a> Subscriber<'a> {
    fn new(load: LoadShape, line: &'a mut ClientLine) -> io::Result<Self> {
        let check = FrameCheck { load, frame: load.frame(), next: 0 };
        Ok(Self { source: line.source()?, check, partial: Vec::new() })
    }

    fn is_done(&self) -> bool {
        self.check.next >= self.check.load.count && self.partial.is_empty()
    }

    /// Reads once, and checks the whole frames.
    fn read(&mut self, read_buf: &mut [u8]) -> io::Result<()> {
        let Self { source, check, .. } = self;
        let source = match source {
            LineSource::Bytes(source) => source,
            LineSource::Channel(channel) => return channel.take_in(|frames| check.take(frames)),
        };
        let held = self.partial.len();
        read_buf[..held].copy_from_slice(&self.partial);
        self.partial.clear();
        let count = source.read(&mut read_buf[held..])?;
        if count == 0 {
            return Err(wrong_input(format!("the end after {} messages", self.check.next)));
        }
        let filled = &read_buf[..held + count];
        let used = self.check.take(filled)?;
        self.partial.extend_from_slice(&filled[used..]);
        Ok(())
    }
}

/// Checks the frames of a subscriber.
struct FrameCheck {
    load: LoadShape,
    frame: Vec<u8>,
    next: u64,
}

impl FrameCheck {
    /// Checks the whole frames among these bytes; returns how many bytes they are.
    fn take(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let size = self.frame.len();
        let mut used = 0;
        while let Some(length) = frame_len(&bytes[used..]) {
            if length != size {
                return Err(wrong_input(format!("a frame of {length} bytes after {}", self.next)));
            }
            let Some(frame) = bytes.get(used..used + size) else {
                break;
            };
            if number(frame) != Some(self.next) || self.next >= self.load.count {
                return Err(wrong_input(format!("number {:?} for {}", number(frame), self.next)));
            }
            if self.load.is_thorough {
                self.compare(frame)?;
            }
            self.next += 1;
            used += size;
        }
        Ok(used)
    }

    /// Compares all that a server must not change: everything but the sender and the subscription.
    fn compare(&mut self, frame: &[u8]) -> io::Result<()> {
        self.load.stamp(&mut self.frame, self.next);
        let mut expected = self.frame.clone();
        // The daemon writes the sender and the subscription into the header.
        for stamped in [12..16, 24..HEADER_BYTES] {
            expected[stamped.clone()].copy_from_slice(&frame[stamped]);
        }
        if frame == expected {
            return Ok(());
        }
        Err(wrong_input(format!("message {} is altered", self.next)))
    }
}

fn wrong_input(what: String) -> io::Error {
    io::Error::other(format!("the subscriber received {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load() -> LoadShape {
        LoadShape { is_thorough: true, ..LoadShape::plain(20, 3) }
    }

    fn frames(numbers: &[u64]) -> Vec<u8> {
        let mut frame = load().frame();
        let stamped = |&number| {
            load().stamp(&mut frame, number);
            frame.clone()
        };
        numbers.iter().flat_map(stamped).collect()
    }

    fn check(bytes: &[u8]) -> io::Result<(usize, u64)> {
        let mut check = FrameCheck { load: load(), frame: load().frame(), next: 0 };
        check.take(bytes).map(|used| (used, check.next))
    }

    #[test]
    fn takes_whole_frames_in_order_only() {
        let bytes = frames(&[0, 1, 2]);
        let size = bytes.len() / 3;
        assert_eq!(check(&bytes).unwrap(), (3 * size, 3));
        assert_eq!(check(&bytes[..2 * size + 5]).unwrap(), (2 * size, 2));
        assert!(check(&frames(&[0, 2])).is_err(), "a gap");
        assert!(check(&frames(&[0, 0])).is_err(), "a message twice");
        assert!(check(&frames(&[0, 1, 2, 3])).is_err(), "one too many");
    }

    #[test]
    fn no_two_neighbours_have_one_subject() {
        let load = LoadShape { has_many_subjects: true, ..load() };
        let mut frame = load.frame();
        let mut subject = |number| {
            load.stamp(&mut frame, number);
            String::from_utf8(frame[HEADER_BYTES..NUMBER].to_vec()).unwrap()
        };
        let subjects = [0, 1, 998, 999, 1000, 12345].map(&mut subject);
        let digits = ["0000", "0001", "0998", "0999", "0000", "0345"];
        assert_eq!(subjects, digits.map(|digits| format!("bench.{digits}")));
    }

    #[test]
    fn sees_a_changed_byte_but_not_the_daemons_own() {
        let mut bytes = frames(&[0]);
        Frame::stamp_sender(&mut bytes, 77);
        Frame::stamp_subscription(&mut bytes, 5);
        assert!(check(&bytes).is_ok());
        *bytes.last_mut().unwrap() ^= 1;
        assert!(check(&bytes).is_err());
    }
}
