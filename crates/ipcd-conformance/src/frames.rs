//! The frames that the cases send, and the check of what arrives: length, sequence number, pattern.

use std::sync::LazyLock;

use ipcd_transport::LENGTH_BYTES;

/// Bytes of the largest frame that ipcd sends: a payload of 1 MiB, headers of 16 KiB, and a fixed
/// header, subject and reply, for which 1 KiB is more than enough.
pub(crate) const LARGEST: usize = (1024 + 16 + 1) * 1024;

const NUMBER_BYTES: usize = 4;
const HEADER: usize = LENGTH_BYTES + NUMBER_BYTES;

/// No power of two, so that nothing that is off by a page or a record matches by chance.
const PERIOD: usize = 251;

static PATTERN: LazyLock<Vec<u8>> =
    LazyLock::new(|| (0..LARGEST + PERIOD).map(|index| (index % PERIOD) as u8).collect());

/// Appends frame `number`, of `len` bytes. One that is too short for its number holds part of it.
pub(crate) fn append(into: &mut Vec<u8>, number: u32, len: usize) {
    assert!((LENGTH_BYTES..=LARGEST).contains(&len), "no frame has {len} bytes");
    let mut header = [0; HEADER];
    header[..LENGTH_BYTES].copy_from_slice(&(len as u32).to_le_bytes());
    header[LENGTH_BYTES..].copy_from_slice(&number.to_le_bytes());
    into.extend_from_slice(&header[..len.min(HEADER)]);
    into.extend_from_slice(pattern(number, len));
}

/// The frames from number 0 on that have these lengths.
pub(crate) fn all(lengths: impl IntoIterator<Item = usize>) -> Vec<u8> {
    let mut frames = Vec::new();
    for (number, len) in (0..).zip(lengths) {
        append(&mut frames, number, len);
    }
    frames
}

/// The frames that have arrived so far.
#[derive(Debug)]
pub(crate) struct ReceivedFrames {
    /// Frames.
    pub(crate) count: u32,
    next: u32,
    may_lose: bool,
}

impl ReceivedFrames {
    pub(crate) fn nothing(may_lose: bool) -> Self {
        Self { count: 0, next: 0, may_lose }
    }

    /// Lets frames be missing, and so begin anywhere.
    pub(crate) fn may_miss_some(&mut self) {
        self.may_lose = true;
    }

    /// Checks the next frame: the very one that is due, or a later one if the transport may lose
    /// some.
    pub(crate) fn check(&mut self, frame: &[u8]) {
        let number = if self.may_lose { number_of(frame) } else { None }.unwrap_or(self.next);
        let due = self.next;
        assert!(number >= due, "frame {number} came again, or late: {due} was due");
        let mut expected = Vec::new();
        append(&mut expected, number, frame.len());
        assert!(frame == expected, "a frame of {} bytes is not what was sent: {}", frame.len(), {
            let at = frame.iter().zip(&expected).position(|(a, b)| a != b);
            format!("number {number}, first difference at {at:?}")
        });
        (self.next, self.count) = (number + 1, self.count + 1);
    }
}

fn number_of(frame: &[u8]) -> Option<u32> {
    let bytes = frame.get(LENGTH_BYTES..HEADER)?;
    Some(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
}

fn pattern(number: u32, len: usize) -> &'static [u8] {
    let start = number as usize % PERIOD;
    &PATTERN[start..start + len.saturating_sub(HEADER)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn received(frames: &[&[u8]], may_lose: bool) -> ReceivedFrames {
        let mut received = ReceivedFrames::nothing(may_lose);
        frames.iter().for_each(|frame| received.check(frame));
        received
    }

    fn frame(number: u32, len: usize) -> Vec<u8> {
        let mut frame = Vec::new();
        append(&mut frame, number, len);
        frame
    }

    #[test]
    fn passes_what_was_sent() {
        let frames = [frame(0, 4), frame(1, 7), frame(2, 8), frame(3, 5000)];
        assert_eq!(received(&frames.each_ref().map(|f| &f[..]), false).count, 4);
        assert_eq!(received(&[&frame(3, 9), &frame(7, 9)], true).count, 2);
    }

    #[test]
    #[should_panic(expected = "not what was sent")]
    fn fails_a_frame_that_was_changed() {
        let mut frame = frame(0, 100);
        frame[77] ^= 1;
        received(&[&frame], false);
    }

    #[test]
    #[should_panic(expected = "not what was sent")]
    fn fails_a_gap() {
        received(&[&frame(1, 100)], false);
    }

    #[test]
    #[should_panic(expected = "came again")]
    fn fails_a_frame_that_comes_twice() {
        received(&[&frame(1, 100), &frame(1, 100)], true);
    }
}
