//! Records that are encrypted and not written yet, and which of the caller's bytes they hold.

use std::collections::VecDeque;

/// The records that wait to be written.
#[derive(Debug, Default)]
pub(crate) struct OutgoingRecords {
    bytes: Vec<u8>,
    sent: usize,
    /// The ends of the records of the caller's bytes, and the number of bytes in each.
    records: VecDeque<(usize, usize)>,
    /// The caller's bytes in records that have been written.
    done: usize,
}

impl OutgoingRecords {
    /// To append encrypted bytes to.
    pub(crate) fn sink(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// A record with so many of the caller's bytes ends here.
    pub(crate) fn end_record(&mut self, plain: usize) {
        self.records.push_back((self.bytes.len(), plain));
    }

    /// The bytes to be written.
    pub(crate) fn unsent(&self) -> &[u8] {
        &self.bytes[self.sent..]
    }

    /// So much of it was. An idle channel keeps no memory.
    pub(crate) fn sent(&mut self, count: usize) {
        self.sent += count;
        while let Some((_, plain)) = self.records.pop_front_if(|(end, _)| *end <= self.sent) {
            self.done += plain;
        }
        if self.sent == self.bytes.len() {
            (self.bytes, self.sent) = (Vec::new(), 0);
        }
    }

    /// The caller's bytes that were written since the last call.
    pub(crate) fn take_done(&mut self) -> usize {
        std::mem::take(&mut self.done)
    }

    /// The caller's bytes that are encrypted, and were not returned as written yet.
    pub(crate) fn pinned(&self) -> usize {
        self.done + self.records.iter().map(|(_, plain)| plain).sum::<usize>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_a_record_when_all_of_it_is_written() {
        let mut outgoing = OutgoingRecords::default();
        for plain in [10, 20] {
            outgoing.sink().extend_from_slice(&vec![0; plain + 22]);
            outgoing.end_record(plain);
        }
        outgoing.sent(31);
        assert_eq!((outgoing.take_done(), outgoing.pinned()), (0, 30));
        outgoing.sent(2);
        assert_eq!((outgoing.pinned(), outgoing.take_done(), outgoing.pinned()), (30, 10, 20));
        outgoing.sent(41);
        assert_eq!((outgoing.take_done(), outgoing.pinned(), outgoing.unsent().len()), (20, 0, 0));
        assert_eq!(outgoing.bytes.capacity(), 0);
    }
}
