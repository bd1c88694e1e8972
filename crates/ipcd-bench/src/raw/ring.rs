//! RingLane in shared memory, one there and one back.

use std::io;

use ipcd_sys::shm::{Bell, Consumer, Producer, ring};

use crate::end::{Lane, LaneSide, MessageEnd};

/// Bytes of a ring's messages, about; as a large pipe holds.
const BYTES: usize = 1 << 20;
/// Messages that a ring holds at the least, and at the most.
const SLOTS: (usize, usize) = (8, 4096);

/// The halves, until an end takes its two.
pub(super) struct RingLane {
    producers: [Option<Producer>; 2],
    consumers: [Option<Consumer>; 2],
}

impl RingLane {
    pub(super) fn new(size: usize, bell: Bell) -> io::Result<Self> {
        let slots = (BYTES / size).clamp(SLOTS.0, SLOTS.1);
        let (there, back) = (ring(slots, size, bell)?, ring(slots, size, bell)?);
        Ok(Self {
            producers: [Some(there.0), Some(back.0)],
            consumers: [Some(back.1), Some(there.1)],
        })
    }
}

impl Lane for RingLane {
    fn open(&mut self, side: LaneSide) -> io::Result<Box<dyn MessageEnd>> {
        let which = usize::from(side == LaneSide::Far);
        let (out, into) = (self.producers[which].take(), self.consumers[which].take());
        let taken = || io::Error::other("an end of a ring is opened once");
        Ok(Box::new(RingEnd { out: out.ok_or_else(taken)?, into: into.ok_or_else(taken)? }))
    }
}

struct RingEnd {
    out: Producer,
    into: Consumer,
}

impl MessageEnd for RingEnd {
    fn send(&mut self, message: &[u8]) -> io::Result<()> {
        self.out.push(message)
    }

    fn receive(&mut self, take: &mut dyn FnMut(&[u8])) -> io::Result<usize> {
        self.into.drain(take)
    }
}
