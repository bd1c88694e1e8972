//! The bare limit of datagrams: two hops over UDP with the pace of ipcd's channels, and nothing
//! else.
//!
//! Bare datagrams get lost, and a lost one was cheap to relay. So each hop has a window of credit
//! as large as ipcd's, and packs whole frames into a datagram: neither side of the comparison loses
//! anything. The sockets have no identity, no sequence numbers, no probes, and end by a signal
//! only.

use std::fs::File;
use std::io::{self, Read, Write};

use ipcd_proto::frame_len;
use nix::sys::socket::{getsockopt, sockopt};

use super::gate::{INPUT, NOTHING, ReadyGate, bytes_moved};

/// Bytes of the largest datagram, as ipcd sends them on the loopback.
pub(super) const LARGEST: usize = 15_000;
/// The kernel's memory for a datagram beyond its bytes, as ipcd counts it.
const OVERHEAD: usize = 768;
/// Datagrams that are taken before others have their turn, as many as ipcd takes.
const READS: usize = 16;
/// The part of a window after which its sender is told, as ipcd does.
const REPORTS: u64 = 4;

/// Bytes of a report: the position up to which everything was consumed.
const REPORT: usize = size_of::<u64>();

/// One end of a hop: its credit, and the bytes that it has taken.
pub(super) struct DatagramHop<'a> {
    socket: &'a File,
    window: u64,
    sent: u64,
    credited: u64,
    consumed: u64,
    reported: u64,
    /// Bytes of a frame in pieces that are still to be sent.
    begun: usize,
}

impl<'a> DatagramHop<'a> {
    /// Over a connected socket; both ends have buffers of the same size.
    pub(super) fn new(socket: &'a File) -> io::Result<Self> {
        let window = getsockopt(socket, sockopt::RcvBuf)? as u64 / 2;
        Ok(Self { socket, window, sent: 0, credited: 0, consumed: 0, reported: 0, begun: 0 })
    }

    /// Sends a datagram, if there is credit and room.
    fn send(&mut self, datagram: &[u8]) -> io::Result<bool> {
        let after = self.sent + cost(datagram);
        if after - self.credited > self.window {
            return Ok(false);
        }
        let is_sent = bytes_moved(self.socket.write(datagram))?.is_some();
        if is_sent {
            self.sent = after;
        }
        Ok(is_sent)
    }

    /// Takes a report, if there is one.
    fn take_credit(&mut self) -> io::Result<bool> {
        let mut report = [0; REPORT];
        match bytes_moved(self.socket.read(&mut report))? {
            Some(REPORT) => self.credited = self.credited.max(u64::from_le_bytes(report)),
            Some(_) => {
                return Err(io::Error::other("received bytes that are not a report of credit"));
            }
            None => return Ok(false),
        }
        Ok(true)
    }

    /// Reports, when it is time to, that this datagram was used.
    fn consume(&mut self, datagram: &[u8]) -> io::Result<()> {
        self.consumed += cost(datagram);
        if self.consumed - self.reported >= self.window / REPORTS {
            self.reported = self.consumed;
            self.socket.write_all(&self.consumed.to_le_bytes())?;
        }
        Ok(())
    }
}

/// A publisher writes to its hop as to a stream.
impl Write for DatagramHop<'_> {
    fn write(&mut self, frames: &[u8]) -> io::Result<usize> {
        if self.begun == 0 {
            self.begun = packed_len(frames);
        }
        let datagram = &frames[..self.begun.min(LARGEST)];
        while !self.send(datagram)? {
            // The socket is blocking here, so this waits for the next report.
            self.take_credit()?;
        }
        self.begun -= datagram.len();
        Ok(datagram.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// And a subscriber reads from one.
impl Read for DatagramHop<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = self.socket.read(into)?;
        self.consume(&into[..count])?;
        Ok(count)
    }
}

fn cost(datagram: &[u8]) -> u64 {
    (datagram.len() + OVERHEAD) as u64
}

/// The bytes of the next datagram: as many whole frames as fit, or the first part of one that does
/// not.
fn packed_len(frames: &[u8]) -> usize {
    let mut end = 0;
    while let Some(length) = frame_len(&frames[end..]) {
        if end > 0 && end + length > LARGEST {
            break;
        }
        end += length;
    }
    end
}

/// Moves datagrams to the subscriber, until it is ended.
pub(super) fn serve(publisher: &File, subscribers: &[File]) -> io::Result<()> {
    let [subscriber] = subscribers else {
        return Err(io::Error::other("bare datagrams have one subscriber"));
    };
    let mut gate = ReadyGate::new([publisher, subscriber])?;
    let (mut from, mut to) = (DatagramHop::new(publisher)?, DatagramHop::new(subscriber)?);
    let mut room = vec![0; LARGEST];
    let mut held = 0;
    loop {
        let input = if held > 0 { NOTHING } else { INPUT };
        if let [_, true] = gate.wait([input, INPUT])? {
            while to.take_credit()? {}
        }
        for _ in 0..READS {
            if held == 0 {
                held = bytes_moved((&mut from.socket).read(&mut room))?.unwrap_or(0);
            }
            // Without credit the datagram is held, and no further one is read.
            if held == 0 || !to.send(&room[..held])? {
                break;
            }
            from.consume(&room[..std::mem::take(&mut held)])?;
        }
    }
}

#[cfg(test)]
mod tests {
    use ipcd_proto::{FrameKind, FrameWriter, Header};

    use super::*;

    #[test]
    fn packs_whole_frames_and_leaves_large_ones_alone() {
        let frames = |payload: usize, count: usize| {
            let mut bytes = Vec::new();
            let (header, payload) = (Header::new(FrameKind::Message, 0), vec![0; payload]);
            (0..count).for_each(|_| FrameWriter(&mut bytes).control(header, &payload));
            bytes
        };
        let one = frames(4000, 1).len();
        assert_eq!(packed_len(&frames(4000, 2)), 2 * one, "all there is");
        assert_eq!(packed_len(&frames(4000, 9)), 3 * one);
        assert_eq!(packed_len(&frames(20_000, 2)), frames(20_000, 1).len());
    }
}
