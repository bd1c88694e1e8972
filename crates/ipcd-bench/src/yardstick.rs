//! The yardstick: the least that routes messages. It parses frames, looks each subject up in a
//! hash map and copies each frame into its subscriber's output, which it writes in batches.
//!
//! It checks, stamps, limits and counts nothing: what ipcd does beyond this is what ipcd costs.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Write};

use foldhash::fast::RandomState;
use ipcd_proto::{Decoded, decode};

use crate::gate::{Gate, moved};
use crate::load::{LARGEST, SUBJECT};
use crate::relay::READ_BYTES;

/// Serves until the publisher closes.
pub(crate) fn serve(mut publisher: &File, mut subscriber: &File) -> io::Result<()> {
    let mut gate = Gate::new(publisher, subscriber)?;
    let mut router = Router::new();
    let mut input = vec![0; READ_BYTES];
    let (mut filled, mut written) = (0, 0);
    loop {
        gate.wait(!router.output.is_empty())?;
        if router.output.is_empty() {
            match moved(publisher.read(&mut input[filled..]))? {
                Some(0) => return Ok(()),
                count => filled += count.unwrap_or(0),
            }
            let used = router.route(&input[..filled])?;
            input.copy_within(used..filled, 0);
            filled -= used;
        }
        if !router.output.is_empty() {
            written += moved(subscriber.write(&router.output[written..]))?.unwrap_or(0);
        }
        if written == router.output.len() {
            router.output.clear();
            written = 0;
        }
    }
}

/// Subjects and their subscribers, of which there is one, and its output.
struct Router {
    subscribers: HashMap<Box<[u8]>, usize, RandomState>,
    output: Vec<u8>,
}

impl Router {
    fn new() -> Self {
        let subscribers = HashMap::from_iter([(SUBJECT.as_bytes().into(), 0)]);
        Self { subscribers, output: Vec::new() }
    }

    /// Copies the whole frames among these bytes to where they go; returns how many bytes they are.
    fn route(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut used = 0;
        loop {
            match decode(&bytes[used..], LARGEST).map_err(io::Error::other)? {
                Decoded::Incomplete(_) => return Ok(used),
                Decoded::Frame(frame, length) => {
                    if self.subscribers.contains_key(frame.subject) {
                        self.output.extend_from_slice(&bytes[used..used + length]);
                    }
                    used += length;
                }
            }
        }
    }
}
