//! The yardstick: the least that routes messages. It parses frames, looks each subject up in a
//! hash map and copies each frame into its subscriber's output, which it writes in batches.
//!
//! It checks, stamps, limits and counts nothing. Everything that ipcd does beyond this is ipcd's
//! cost.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Write};

use foldhash::fast::RandomState;
use ipcd_proto::{DecodedFrame, decode};

use super::forwarder::READ_BYTES;
use super::gate::{INPUT, NOTHING, ROOM, ReadyGate, bytes_moved};
use super::load::{LARGEST, SUBJECT};

/// The subject of replies in [`exchange`].
pub(super) const REPLIES: &str = "bench.replies";

/// Serves until the publisher closes.
pub(super) fn serve(publisher: &File, subscribers: &[File]) -> io::Result<()> {
    let mut gate = ReadyGate::new(std::iter::once(publisher).chain(subscribers))?;
    let mut router = YardstickRouter::new(subscribers.iter().map(|_| SUBJECT));
    let mut input = FrameInput::new();
    loop {
        gate.wait_one_way(router.outputs.iter().map(|output| !output.is_empty()))?;
        if !router.is_blocked() && !input.read(publisher, &mut router)? {
            return Ok(());
        }
        router.write(subscribers)?;
    }
}

/// Serves both directions, until one of the two peers closes: messages to the load's subject go to
/// the responder, and messages to [`REPLIES`] to the requester.
pub(super) fn exchange(requester: &File, responders: &[File]) -> io::Result<()> {
    let peers = [requester, &responders[0]];
    let mut gate = ReadyGate::new(peers)?;
    let mut router = YardstickRouter::new([REPLIES, SUBJECT]);
    let mut inputs = [FrameInput::new(), FrameInput::new()];
    loop {
        let input = if router.is_blocked() { NOTHING } else { INPUT };
        let wanted = |output: &FrameOutput| if output.is_empty() { input } else { ROOM };
        let ready = gate.wait(router.outputs.iter().map(wanted))?;
        for ((peer, input), is_ready) in peers.into_iter().zip(&mut inputs).zip(ready) {
            // A blocked output stops all input: the yardstick has no queues beyond one batch.
            if *is_ready && !router.is_blocked() && !input.read(peer, &mut router)? {
                return Ok(());
            }
        }
        router.write(peers)?;
    }
}

/// The bytes of a peer that are not a whole frame yet.
struct FrameInput {
    bytes: Vec<u8>,
    filled: usize,
}

impl FrameInput {
    fn new() -> Self {
        Self { bytes: vec![0; READ_BYTES.max(LARGEST)], filled: 0 }
    }

    /// Reads once, and routes the whole frames; false at the end.
    fn read(&mut self, mut from: &File, router: &mut YardstickRouter) -> io::Result<bool> {
        let end = self.bytes.len().min(self.filled + READ_BYTES);
        match bytes_moved(from.read(&mut self.bytes[self.filled..end]))? {
            Some(0) => return Ok(false),
            count => self.filled += count.unwrap_or(0),
        }
        let used = router.route(&self.bytes[..self.filled])?;
        self.bytes.copy_within(used..self.filled, 0);
        self.filled -= used;
        Ok(true)
    }
}

/// Subjects and their subscribers, and the output of each.
struct YardstickRouter {
    subscribers: HashMap<Box<[u8]>, Vec<usize>, RandomState>,
    outputs: Vec<FrameOutput>,
}

impl YardstickRouter {
    /// For subscribers of one subject each.
    fn new<'a>(subjects: impl IntoIterator<Item = &'a str>) -> Self {
        let mut router = Self { subscribers: HashMap::default(), outputs: Vec::new() };
        for (subject, place) in subjects.into_iter().zip(0..) {
            router.subscribers.entry(subject.as_bytes().into()).or_default().push(place);
            router.outputs.push(FrameOutput::new());
        }
        router
    }

    /// Copies the whole frames among these bytes to where they go; returns how many bytes they are.
    fn route(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut used = 0;
        loop {
            match decode(&bytes[used..], LARGEST).map_err(io::Error::other)? {
                DecodedFrame::Incomplete(_) => return Ok(used),
                DecodedFrame::Frame(frame, length) => {
                    for &place in self.subscribers.get(frame.subject).into_iter().flatten() {
                        let output = &mut self.outputs[place];
                        output.bytes.extend_from_slice(&bytes[used..used + length]);
                    }
                    used += length;
                }
            }
        }
    }

    /// Whether an output waits for room.
    fn is_blocked(&self) -> bool {
        !self.outputs.iter().all(FrameOutput::is_empty)
    }

    fn write<'a>(&mut self, to: impl IntoIterator<Item = &'a File>) -> io::Result<()> {
        self.outputs.iter_mut().zip(to).try_for_each(|(output, file)| output.write(file))
    }
}

/// The bytes that are still to be written to a peer.
struct FrameOutput {
    bytes: Vec<u8>,
    written: usize,
}

impl FrameOutput {
    const fn new() -> Self {
        Self { bytes: Vec::new(), written: 0 }
    }

    fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Writes as much as there is room for.
    fn write(&mut self, mut to: &File) -> io::Result<()> {
        if !self.is_empty() {
            self.written += bytes_moved(to.write(&self.bytes[self.written..]))?.unwrap_or(0);
        }
        if self.written == self.bytes.len() {
            self.bytes.clear();
            self.written = 0;
        }
        Ok(())
    }
}
