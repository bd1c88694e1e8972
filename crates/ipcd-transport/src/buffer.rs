//! The buffer that a channel reads into.

/// Bytes read and not yet consumed, in one piece, with room behind them.
///
/// It grows only as bytes arrive, never by what a peer claims is coming.
#[derive(Debug)]
pub struct ReadBuffer {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
    largest_frame: usize,
}

impl ReadBuffer {
    /// An empty buffer with room for `capacity` bytes, for frames of at most `largest_frame` bytes.
    pub fn new(capacity: usize, largest_frame: usize) -> Self {
        Self { bytes: vec![0; capacity], start: 0, end: 0, largest_frame }
    }

    /// A buffer that holds exactly these bytes.
    pub fn holding(bytes: &[u8], largest_frame: usize) -> Self {
        Self { bytes: bytes.to_vec(), start: 0, end: bytes.len(), largest_frame }
    }

    /// The longest frame that is welcome now; a transport that puts frames together from pieces
    /// must refuse a longer one before it keeps any of it.
    pub fn largest_frame(&self) -> usize {
        self.largest_frame
    }

    /// Sets the longest frame that is welcome from now on.
    pub fn set_largest_frame(&mut self, bytes: usize) {
        self.largest_frame = bytes;
    }

    /// The bytes that were read and not consumed.
    pub fn filled(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    /// The bytes that were read and not consumed, to be changed in place.
    pub fn filled_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.end]
    }

    /// Whether everything was consumed.
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Bytes that can be held without growing.
    pub fn capacity(&self) -> usize {
        self.bytes.len()
    }

    /// Room behind the bytes, at least `least` long.
    pub fn spare(&mut self, least: usize) -> &mut [u8] {
        if self.bytes.len() - self.end < least {
            self.make_room(least);
        }
        &mut self.bytes[self.end..]
    }

    /// Says that the first `count` bytes of [`ReadBuffer::spare`] have been filled.
    ///
    /// # Panics
    /// If there was less room than that.
    pub fn commit(&mut self, count: usize) {
        assert!(count <= self.bytes.len() - self.end, "committed more than there was room for");
        self.end += count;
    }

    /// Appends a copy of these bytes.
    pub fn extend(&mut self, bytes: &[u8]) {
        self.spare(bytes.len())[..bytes.len()].copy_from_slice(bytes);
        self.commit(bytes.len());
    }

    /// Forgets the first `count` bytes.
    ///
    /// # Panics
    /// If fewer are there.
    pub fn consume(&mut self, count: usize) {
        assert!(count <= self.end - self.start, "consumed more than there was");
        self.start += count;
        if self.start == self.end {
            self.clear();
        }
    }

    /// Forgets everything and keeps the memory.
    pub fn clear(&mut self) {
        (self.start, self.end) = (0, 0);
    }

    fn make_room(&mut self, least: usize) {
        self.bytes.copy_within(self.start..self.end, 0);
        (self.start, self.end) = (0, self.end - self.start);
        let needed = self.end + least;
        if self.bytes.len() < needed {
            self.bytes.resize(needed.max(2 * self.end), 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_bytes_in_order_while_it_moves_and_grows() {
        let mut buffer = ReadBuffer::new(4, 100);
        buffer.extend(b"abcd");
        buffer.consume(3);
        buffer.extend(b"efg");
        assert_eq!((buffer.filled(), buffer.capacity()), (&b"defg"[..], 4));
        buffer.extend(b"hi");
        assert_eq!(buffer.filled(), b"defghi");
        buffer.consume(6);
        assert!(buffer.is_empty());
        assert!(buffer.spare(1).len() >= 6);
    }
}
