//! The load: numbered messages of one size, written in batches and checked one by one.
//!
//! The clients are lean, so that the server is what is measured: the publisher only numbers frames
//! that it has built before, the subscriber only reads lengths and numbers.

use std::fs::File;
use std::io::{self, Read, Write};

use ipcd_proto::{Frame, FrameWriter, HEADER_BYTES, Header, Kind, frame_len, limits};

/// Where all messages go.
pub(crate) const SUBJECT: &str = "bench.load";
/// Bytes of the largest frame of any load.
pub(crate) const LARGEST: usize = limits::largest_frame(limits::DEFAULT_MAX_PAYLOAD);

/// Bytes of a batch; a larger frame is one by itself.
const BATCH_BYTES: usize = 64 * 1024;
/// Bytes that the subscriber takes at once.
const READ_BYTES: usize = 256 * 1024;
/// Where in a frame its number is: at the start of the payload.
const NUMBER: usize = HEADER_BYTES + SUBJECT.len();
const NUMBER_BYTES: usize = size_of::<u64>();

/// How many messages of which size.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    /// Bytes of a payload, which begins with the message's number.
    pub(crate) payload: usize,
    pub(crate) count: u64,
    /// Whether every byte is compared, not only lengths and numbers.
    pub(crate) is_thorough: bool,
}

impl Load {
    /// Publishes all messages, once a byte has come on `go`.
    pub(crate) fn publish(self, mut go: &File, mut to: &File) -> io::Result<()> {
        let frame = self.frame();
        let per_batch = (BATCH_BYTES / frame.len()).max(1);
        let mut batch = frame.repeat(per_batch);
        go.read_exact(&mut [0])?;
        let mut next = 0;
        while next < self.count {
            let frames = per_batch.min((self.count - next) as usize);
            let bytes = &mut batch[..frames * frame.len()];
            for (bytes, number) in bytes.chunks_exact_mut(frame.len()).zip(next..) {
                stamp(bytes, number);
            }
            to.write_all(bytes)?;
            next += frames as u64;
        }
        Ok(())
    }

    /// Receives all messages, each once and in order.
    pub(crate) fn receive(self, mut from: &File) -> io::Result<()> {
        let mut check = Check { load: self, frame: self.frame(), next: 0 };
        let mut buffer = vec![0; READ_BYTES.max(2 * check.frame.len())];
        let mut filled = 0;
        while check.next < self.count || filled > 0 {
            match from.read(&mut buffer[filled..])? {
                0 => return Err(wrong(format!("the end after {} messages", check.next))),
                count => filled += count,
            }
            let used = check.take(&buffer[..filled])?;
            buffer.copy_within(used..filled, 0);
            filled -= used;
        }
        Ok(())
    }

    /// The frame of a message; all that differs among them is the number.
    fn frame(self) -> Vec<u8> {
        assert!(self.payload >= NUMBER_BYTES, "a payload has room for its number");
        let payload: Vec<u8> = (0..self.payload).map(|at| at as u8).collect();
        let header = Header::new(Kind::Message, 0);
        let subject = SUBJECT.as_bytes();
        let frame = Frame { header, subject, reply: &[], headers: &[], payload: &payload };
        let mut bytes = Vec::new();
        FrameWriter(&mut bytes).write(&frame);
        bytes
    }
}

fn stamp(frame: &mut [u8], number: u64) {
    frame[NUMBER..NUMBER + NUMBER_BYTES].copy_from_slice(&number.to_le_bytes());
}

fn number(frame: &[u8]) -> Option<u64> {
    frame.get(NUMBER..)?.first_chunk().map(|bytes| u64::from_le_bytes(*bytes))
}

/// What the subscriber knows and expects.
struct Check {
    load: Load,
    frame: Vec<u8>,
    next: u64,
}

impl Check {
    /// Checks the whole frames among these bytes; returns how many bytes they are.
    fn take(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let size = self.frame.len();
        let mut used = 0;
        while let Some(length) = frame_len(&bytes[used..]) {
            if length != size {
                return Err(wrong(format!("a frame of {length} bytes after {}", self.next)));
            }
            let Some(frame) = bytes.get(used..used + size) else {
                break;
            };
            if number(frame) != Some(self.next) || self.next >= self.load.count {
                return Err(wrong(format!("number {:?} for {}", number(frame), self.next)));
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
        stamp(&mut self.frame, self.next);
        let mut expected = self.frame.clone();
        for stamped in [12..16, 24..HEADER_BYTES] {
            expected[stamped.clone()].copy_from_slice(&frame[stamped]);
        }
        if frame == expected {
            return Ok(());
        }
        Err(wrong(format!("message {} is altered", self.next)))
    }
}

fn wrong(what: String) -> io::Error {
    io::Error::other(format!("the subscriber got {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOAD: Load = Load { payload: 20, count: 3, is_thorough: true };

    fn frames(numbers: &[u64]) -> Vec<u8> {
        let mut frame = LOAD.frame();
        let stamped = |&number| {
            stamp(&mut frame, number);
            frame.clone()
        };
        numbers.iter().flat_map(stamped).collect()
    }

    fn check(bytes: &[u8]) -> io::Result<(usize, u64)> {
        let mut check = Check { load: LOAD, frame: LOAD.frame(), next: 0 };
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
    fn sees_a_changed_byte_but_not_the_daemons_own() {
        let mut bytes = frames(&[0]);
        Frame::stamp_sender(&mut bytes, 77);
        Frame::stamp_subscription(&mut bytes, 5);
        assert!(check(&bytes).is_ok());
        *bytes.last_mut().unwrap() ^= 1;
        assert!(check(&bytes).is_err());
    }
}
