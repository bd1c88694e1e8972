//! Bytes that are still to be written to an end, or records that are written one by one.

use std::collections::VecDeque;

/// Memory that an empty queue keeps, so that idle pairs need little.
const KEPT: usize = 4096;

/// Bytes in order. Its owner bounds it, by filling it only when it is empty.
#[derive(Debug, Default)]
pub(crate) struct WriteQueue {
    bytes: Vec<u8>,
    start: usize,
    /// The lengths of the records, if it has records.
    records: Option<VecDeque<usize>>,
}

impl WriteQueue {
    pub(crate) fn new(keeps_records: bool) -> Self {
        Self { records: keeps_records.then(VecDeque::new), ..Self::default() }
    }

    pub(crate) fn is_empty(&self) -> bool {
        match &self.records {
            Some(records) => records.is_empty(),
            None => self.start == self.bytes.len(),
        }
    }

    /// Appends bytes, as a new record if there are records.
    pub(crate) fn push(&mut self, append: impl FnOnce(&mut Vec<u8>)) {
        let before = self.bytes.len();
        append(&mut self.bytes);
        if let Some(records) = &mut self.records {
            records.push_back(self.bytes.len() - before);
        }
    }

    /// The next bytes or record to write.
    pub(crate) fn next(&self) -> &[u8] {
        let end = match &self.records {
            Some(records) => self.start + records.front().copied().unwrap_or(0),
            None => self.bytes.len(),
        };
        &self.bytes[self.start..end]
    }

    /// Notes that bytes were written: all of a record, if there are records.
    pub(crate) fn wrote(&mut self, count: usize) {
        self.start += count;
        if let Some(records) = &mut self.records {
            records.pop_front();
        }
        if self.is_empty() {
            self.clear();
        }
    }

    /// Forgets everything.
    pub(crate) fn clear(&mut self) {
        self.start = 0;
        match self.bytes.capacity() {
            0..=KEPT => self.bytes.clear(),
            _ => self.bytes = Vec::new(),
        }
        if let Some(records) = &mut self.records {
            *records = VecDeque::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fill(queue: &mut WriteQueue, parts: &[&[u8]]) {
        for part in parts {
            queue.push(|bytes| bytes.extend_from_slice(part));
        }
    }

    #[test]
    fn a_stream_is_written_in_any_pieces() {
        let mut queue = WriteQueue::new(false);
        fill(&mut queue, &[b"abc", b"", b"def"]);
        queue.wrote(4);
        assert_eq!((queue.next(), queue.is_empty()), (&b"ef"[..], false));
        queue.wrote(2);
        assert!(queue.is_empty() && queue.next().is_empty());
    }

    #[test]
    fn records_stay_what_they_are_also_empty_ones() {
        let mut queue = WriteQueue::new(true);
        fill(&mut queue, &[b"abc", b"", b"d"]);
        for record in [&b"abc"[..], b"", b"d"] {
            assert!(!queue.is_empty());
            assert_eq!(queue.next(), record);
            queue.wrote(record.len());
        }
        assert!(queue.is_empty());
    }

    #[test]
    fn an_empty_queue_keeps_no_memory() {
        let mut queue = WriteQueue::new(false);
        fill(&mut queue, &[&[0; 100_000]]);
        queue.wrote(100_000);
        assert_eq!(queue.bytes.capacity(), 0);
    }
}
