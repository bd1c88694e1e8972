//! The yardstick: the least that routes messages. It parses frames, looks each subject up in a
//! hash map and copies each frame into its subscriber's output, which it writes in batches.
//!
//! It checks, stamps, limits and counts nothing: what ipcd does beyond this is what ipcd costs.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Write};

use foldhash::fast::RandomState;
use ipcd_proto::{Decoded, decode};

use crate::gate::{Gate, INPUT, NOTHING, ROOM, moved};
use crate::load::{LARGEST, SUBJECT};
use crate::relay::READ_BYTES;

/// What the requester of [`exchange`] has subscribed to.
pub(crate) const REPLIES: &str = "bench.replies";

/// Serves until the publisher closes.
pub(crate) fn serve(publisher: &File, subscriber: &File) -> io::Result<()> {
    let mut gate = Gate::new([publisher, subscriber])?;
    let mut router = Router::new([SUBJECT]);
    let mut input = Input::new();
    loop {
        gate.wait_one_way(router.is_blocked())?;
        if !router.is_blocked() && !input.read(publisher, &mut router)? {
            return Ok(());
        }
        router.write([subscriber])?;
    }
}

/// Serves both ways, until one of the two closes: messages to the load's subject go to the
/// responder, and what it answers to [`REPLIES`] goes to the requester.
pub(crate) fn exchange(requester: &File, responder: &File) -> io::Result<()> {
    let peers = [requester, responder];
    let mut gate = Gate::new(peers)?;
    let mut router = Router::new([REPLIES, SUBJECT]);
    let mut inputs = [Input::new(), Input::new()];
    loop {
        let input = if router.is_blocked() { NOTHING } else { INPUT };
        let wanted = |output: &Output| if output.is_empty() { input } else { ROOM };
        let ready = gate.wait(router.outputs.each_ref().map(wanted))?;
        for ((peer, input), is_ready) in peers.into_iter().zip(&mut inputs).zip(ready) {
            if is_ready && !router.is_blocked() && !input.read(peer, &mut router)? {
                return Ok(());
            }
        }
        router.write(peers)?;
    }
}

/// What was read of a peer and is no whole frame yet.
struct Input {
    bytes: Vec<u8>,
    filled: usize,
}

impl Input {
    fn new() -> Self {
        Self { bytes: vec![0; READ_BYTES.max(LARGEST)], filled: 0 }
    }

    /// Reads once, and routes the whole frames; false at the end.
    fn read<const N: usize>(
        &mut self,
        mut from: &File,
        router: &mut Router<N>,
    ) -> io::Result<bool> {
        let end = self.bytes.len().min(self.filled + READ_BYTES);
        match moved(from.read(&mut self.bytes[self.filled..end]))? {
            Some(0) => return Ok(false),
            count => self.filled += count.unwrap_or(0),
        }
        let used = router.route(&self.bytes[..self.filled])?;
        self.bytes.copy_within(used..self.filled, 0);
        self.filled -= used;
        Ok(true)
    }
}

/// Subjects and their subscribers, each of which has one, and their outputs.
struct Router<const N: usize> {
    subscribers: HashMap<Box<[u8]>, usize, RandomState>,
    outputs: [Output; N],
}

impl<const N: usize> Router<N> {
    fn new(subjects: [&str; N]) -> Self {
        let subjects = subjects.map(|subject| subject.as_bytes().into());
        let subscribers = subjects.into_iter().zip(0..).collect();
        Self { subscribers, outputs: [const { Output::new() }; N] }
    }

    /// Copies the whole frames among these bytes to where they go; returns how many bytes they are.
    fn route(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut used = 0;
        loop {
            match decode(&bytes[used..], LARGEST).map_err(io::Error::other)? {
                Decoded::Incomplete(_) => return Ok(used),
                Decoded::Frame(frame, length) => {
                    if let Some(&place) = self.subscribers.get(frame.subject) {
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
        !self.outputs.iter().all(Output::is_empty)
    }

    fn write(&mut self, to: [&File; N]) -> io::Result<()> {
        self.outputs.iter_mut().zip(to).try_for_each(|(output, file)| output.write(file))
    }
}

/// What is still to be written to a peer.
struct Output {
    bytes: Vec<u8>,
    written: usize,
}

impl Output {
    const fn new() -> Self {
        Self { bytes: Vec::new(), written: 0 }
    }

    fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Writes as much as there is room for.
    fn write(&mut self, mut to: &File) -> io::Result<()> {
        if !self.is_empty() {
            self.written += moved(to.write(&self.bytes[self.written..]))?.unwrap_or(0);
        }
        if self.written == self.bytes.len() {
            self.bytes.clear();
            self.written = 0;
        }
        Ok(())
    }
}
