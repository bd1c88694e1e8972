//! Frames on a transport of bounded records: datagrams and sequenced packets.
//!
//! A record is either as many whole frames as fit, or a piece of a frame that is longer than a
//! record. Its first byte tells which:
//!
//! ```text
//! 0  whole frames
//! 1  number: u32, offset: u32, total: u32, then bytes of frame `number` from `offset` on
//! ```
//!
//! Integers are little-endian. Pieces of a frame follow one another; a frame of which one is
//! missing is dropped whole.

use std::ops::Range;

use crate::{Error, ReadBuffer, Result, frame_len};

const WHOLE: u8 = 0;
const PIECE: u8 = 1;
const WHOLE_HEADER: usize = 1;
const PIECE_HEADER: usize = 13;

/// Cuts frames into records.
#[derive(Debug, Default)]
pub struct RecordSplitter {
    number: u32,
    offset: usize,
    total: usize,
}

/// One record to be sent: a header, and then the first `taken` bytes that were offered.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct SplitRecord {
    header: [u8; PIECE_HEADER],
    header_len: usize,
    taken: usize,
    frame: usize,
}

impl SplitRecord {
    /// The bytes in front of the frames' bytes.
    pub fn header(&self) -> &[u8] {
        &self.header[..self.header_len]
    }

    /// The number of offered bytes that belong to the record.
    pub fn taken(&self) -> usize {
        self.taken
    }
}

impl RecordSplitter {
    /// The next record of at most `largest` bytes, or `None` when nothing is offered. It counts as
    /// sent only after [`RecordSplitter::sent`].
    pub fn next(&self, frames: &[u8], largest: usize) -> Option<SplitRecord> {
        let frame = if self.total > 0 { self.total } else { frame_len(frames)? };
        if self.offset > 0 || WHOLE_HEADER + frame > largest {
            return Some(self.piece(frames, frame, largest));
        }
        let mut taken = 0;
        while let Some(next) = frame_len(&frames[taken..]) {
            if next == 0 || taken + next > frames.len() || WHOLE_HEADER + taken + next > largest {
                break;
            }
            taken += next;
        }
        let header = [WHOLE; PIECE_HEADER];
        (taken > 0).then_some(SplitRecord { header, header_len: WHOLE_HEADER, taken, frame: 0 })
    }

    /// Remembers that the record was sent.
    pub fn sent(&mut self, record: &SplitRecord) {
        if record.frame == 0 {
            return;
        }
        self.total = record.frame;
        self.offset += record.taken;
        if self.offset == self.total {
            *self = Self { number: self.number.wrapping_add(1), offset: 0, total: 0 };
        }
    }

    fn piece(&self, frames: &[u8], frame: usize, largest: usize) -> SplitRecord {
        let taken = (frame - self.offset).min(largest - PIECE_HEADER).min(frames.len());
        let mut header = [PIECE; PIECE_HEADER];
        let fields = [self.number as usize, self.offset, frame];
        for (field, value) in header[1..].chunks_exact_mut(4).zip(fields) {
            field.copy_from_slice(&(value as u32).to_le_bytes());
        }
        SplitRecord { header, header_len: PIECE_HEADER, taken, frame }
    }
}

/// Puts frames together from records.
#[derive(Debug, Default)]
pub struct RecordJoiner {
    number: u32,
    total: usize,
    partial: Vec<u8>,
    dropped: u64,
}

impl RecordJoiner {
    /// Appends the whole frames that this record completes, and says how many bytes that are.
    /// Pieces that do not follow what came before are dropped with their frame, and counted.
    pub fn accept(&mut self, record: &[u8], into: &mut ReadBuffer) -> Result<usize> {
        into.spare(record.len())[..record.len()].copy_from_slice(record);
        self.accept_spare(0..record.len(), into)
    }

    /// The same for a record that lies in this range of the buffer's spare room.
    pub fn accept_spare(&mut self, range: Range<usize>, into: &mut ReadBuffer) -> Result<usize> {
        match into.spare(range.end)[range.clone()].first() {
            Some(&WHOLE) => {
                let count = range.len() - WHOLE_HEADER;
                let start = range.start + WHOLE_HEADER;
                if into.is_empty() {
                    // Most often: the frames stay where they are, and what is before them is passed.
                    into.commit(range.end);
                    into.consume(start);
                } else {
                    into.spare(range.end).copy_within(start..range.end, 0);
                    into.commit(count);
                }
                self.abandon();
                Ok(count)
            }
            Some(&PIECE) => self.accept_piece(range, into),
            _ => Err(Error::Protocol("a record of an unknown kind".into())),
        }
    }

    /// Whether pieces of a frame wait for the others.
    pub fn is_joining(&self) -> bool {
        !self.partial.is_empty()
    }

    /// Frames dropped because a piece was missing.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    fn accept_piece(&mut self, range: Range<usize>, into: &mut ReadBuffer) -> Result<usize> {
        let largest = into.largest_frame();
        let piece = &into.spare(range.end)[range][1..];
        let Some((header, bytes)) = piece.split_first_chunk::<{ PIECE_HEADER - 1 }>() else {
            return Err(Error::Protocol("a piece shorter than its header".into()));
        };
        let field = |at: usize| frame_len(&header[at..]).expect("the header has three fields");
        let (number, offset, total) = (field(0) as u32, field(4), field(8));
        if total > largest {
            return Err(Error::Protocol(format!(
                "a frame of {total} bytes in pieces, over {largest}"
            )));
        }
        if offset == 0 {
            self.abandon();
            (self.number, self.total) = (number, total);
        }
        let follows = number == self.number && total == self.total && offset == self.partial.len();
        if !follows || bytes.is_empty() || offset + bytes.len() > total {
            self.abandon();
            return Ok(0);
        }
        self.partial.extend_from_slice(bytes);
        if self.partial.len() < total {
            return Ok(0);
        }
        into.extend(&self.partial);
        self.partial = Vec::new();
        self.total = 0;
        Ok(total)
    }

    fn abandon(&mut self) {
        if !self.partial.is_empty() {
            self.dropped += 1;
            self.partial = Vec::new();
        }
        self.total = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(len: usize) -> Vec<u8> {
        let mut bytes: Vec<u8> = (0..len).map(|i| i as u8).collect();
        bytes[..4].copy_from_slice(&(len as u32).to_le_bytes());
        bytes
    }

    fn records(mut frames: &[u8], largest: usize) -> Vec<Vec<u8>> {
        let mut splitter = RecordSplitter::default();
        let mut records = Vec::new();
        while let Some(record) = splitter.next(frames, largest) {
            let (now, later) = frames.split_at(record.taken());
            records.push([record.header(), now].concat());
            assert!(records.last().unwrap().len() <= largest);
            splitter.sent(&record);
            frames = later;
        }
        assert!(frames.is_empty());
        records
    }

    #[test]
    fn joins_what_was_split() {
        let frames = [frame(10), frame(100), frame(4), frame(64), frame(63), frame(300)].concat();
        let mut buffer = ReadBuffer::new(16, 1000);
        let mut joiner = RecordJoiner::default();
        for record in records(&frames, 64) {
            joiner.accept(&record, &mut buffer).unwrap();
        }
        assert_eq!(buffer.filled(), frames);
        assert_eq!(joiner.dropped(), 0);
    }

    #[test]
    fn drops_a_frame_of_which_a_piece_is_missing() {
        let (first, second) = (frame(200), frame(150));
        for missing in 0..4 {
            let mut buffer = ReadBuffer::new(16, 1000);
            let mut joiner = RecordJoiner::default();
            let mut sent = records(&[first.clone(), second.clone()].concat(), 64);
            assert_eq!(sent.len(), 7);
            sent.remove(missing);
            for record in sent {
                joiner.accept(&record, &mut buffer).unwrap();
            }
            assert_eq!(buffer.filled(), second, "without piece {missing}");
        }
    }

    #[test]
    fn refuses_a_frame_that_is_too_large_before_keeping_any_of_it() {
        let mut buffer = ReadBuffer::new(16, 100);
        let record = records(&frame(101), 64).remove(0);
        assert!(RecordJoiner::default().accept(&record, &mut buffer).is_err());
        assert!(RecordJoiner::default().accept(&[], &mut buffer).is_err());
        assert!(RecordJoiner::default().accept(&[9, 1, 2], &mut buffer).is_err());
        assert!(RecordJoiner::default().accept(&[1, 1, 2], &mut buffer).is_err());
    }
}
