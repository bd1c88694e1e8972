//! The progress of a stream's records. rustls keeps the beginning of one to itself.

use std::time::Instant;

/// Bytes before a record's body: its type, a version, and the body's length (RFC 8446 §5.1).
const HEADER: usize = 5;

/// The position of a stream in its records.
#[derive(Debug, Default)]
pub(crate) struct RecordProgress {
    /// Bytes of the header that have come; 0 between two records.
    header: usize,
    /// The body's length, as far as it is known, and then how much of the body is still to come.
    left: usize,
    /// The time when the incomplete record began.
    since: Option<Instant>,
}

impl RecordProgress {
    /// Takes note of what was received.
    pub(crate) fn received(&mut self, mut bytes: &[u8]) {
        let mut is_new = self.header == 0;
        while let Some((&first, rest)) = bytes.split_first() {
            if self.header < HEADER {
                self.header += 1;
                if self.header > HEADER - 2 {
                    self.left = self.left << 8 | usize::from(first);
                }
                bytes = rest;
            } else {
                let count = self.left.min(bytes.len());
                self.left -= count;
                bytes = &bytes[count..];
            }
            if self.header == HEADER && self.left == 0 {
                (self.header, is_new) = (0, true);
            }
        }
        if self.header == 0 {
            self.since = None;
        } else if is_new {
            self.since = Some(Instant::now());
        }
    }

    /// Since when a record is incomplete.
    pub(crate) fn since(&self) -> Option<Instant> {
        self.since
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records(lengths: &[u16]) -> Vec<u8> {
        let record = |length: &u16| {
            let body = vec![7; usize::from(*length)];
            [&[23, 3, 3][..], &length.to_be_bytes(), &body].concat()
        };
        lengths.iter().flat_map(record).collect()
    }

    #[test]
    fn whole_records_leave_nothing_begun_however_they_come() {
        let bytes = records(&[0, 1, 300, 0, 16_401]);
        for size in [1, 2, 3, 5, 7, 1000, bytes.len()] {
            let mut progress = RecordProgress::default();
            bytes.chunks(size).for_each(|chunk| progress.received(chunk));
            assert_eq!(progress.since(), None, "in pieces of {size}");
        }
    }

    #[test]
    fn a_record_has_begun_when_its_first_byte_has_come_and_until_its_last() {
        let bytes = records(&[300]);
        let mut progress = RecordProgress::default();
        progress.received(&bytes[..1]);
        let since = progress.since();
        assert!(since.is_some());
        for byte in &bytes[1..bytes.len() - 1] {
            progress.received(&[*byte]);
            assert_eq!(progress.since(), since, "more of it is no new beginning");
        }
        // The next one begins with the end of this one.
        progress.received(&[7, 23]);
        assert!(progress.since() > since);
        progress.received(&bytes[1..]);
        assert_eq!(progress.since(), None);
    }
}
