//! The header block of a message: keys and values that travel beside the payload.
//!
//! Each entry is `u8` key length, `u16` value length (little-endian), key, value. Keys are UTF-8.

use crate::limits::MAX_HEADERS;

/// A valid header block, borrowed from a buffer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Headers<'a>(&'a [u8]);

/// The error of a malformed header block, or of an entry that does not fit one.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum BadHeaders {
    /// The block ends inside an entry, or a key is empty or not UTF-8.
    #[error("malformed header block")]
    Malformed,
    /// A key is empty or longer than 255 bytes, or a value is longer than 65,535.
    #[error("a header key has 1 to 255 bytes, and a value at most 65535")]
    BadEntry,
    /// The block would be too long.
    #[error("headers have at most {MAX_HEADERS} bytes in all")]
    TooLong,
}

impl<'a> Headers<'a> {
    /// Checks a block.
    ///
    /// # Errors
    /// If it is malformed.
    pub fn parse(block: &'a [u8]) -> Result<Self, BadHeaders> {
        let mut rest = block;
        while !rest.is_empty() {
            let (key, _, after) = entry(rest).ok_or(BadHeaders::Malformed)?;
            if key.is_empty() || str::from_utf8(key).is_err() {
                return Err(BadHeaders::Malformed);
            }
            rest = after;
        }
        Ok(Self(block))
    }

    /// The entries, in the order of the block.
    pub fn iter(self) -> impl Iterator<Item = (&'a str, &'a [u8])> {
        let mut rest = self.0;
        std::iter::from_fn(move || {
            let (key, value, after) = entry(rest)?;
            rest = after;
            Some((str::from_utf8(key).ok()?, value))
        })
    }

    /// Appends an entry to a block.
    ///
    /// # Errors
    /// If the entry is invalid or does not fit. The block is then unchanged.
    pub fn append(block: &mut Vec<u8>, key: &str, value: &[u8]) -> Result<(), BadHeaders> {
        let key_len = u8::try_from(key.len()).map_err(|_| BadHeaders::BadEntry)?;
        let value_len = u16::try_from(value.len()).map_err(|_| BadHeaders::BadEntry)?;
        if key.is_empty() {
            return Err(BadHeaders::BadEntry);
        }
        // Before anything is appended: a refused entry leaves the block as it was.
        if block.len() + ENTRY_HEADER + key.len() + value.len() > MAX_HEADERS {
            return Err(BadHeaders::TooLong);
        }
        block.push(key_len);
        block.extend_from_slice(&value_len.to_le_bytes());
        block.extend_from_slice(key.as_bytes());
        block.extend_from_slice(value);
        Ok(())
    }
}

const ENTRY_HEADER: usize = 3;

fn entry(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let (&[key, low, high], rest) = bytes.split_first_chunk::<ENTRY_HEADER>()?;
    let (key, rest) = rest.split_at_checked(usize::from(key))?;
    let (value, rest) = rest.split_at_checked(usize::from(u16::from_le_bytes([low, high])))?;
    Some((key, value, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_wrote() {
        let mut block = Vec::new();
        Headers::append(&mut block, "Content-Type", b"text/plain").unwrap();
        Headers::append(&mut block, "x", b"").unwrap();
        let entries: Vec<_> = Headers::parse(&block).unwrap().iter().collect();
        assert_eq!(entries, [("Content-Type", &b"text/plain"[..]), ("x", b"")]);
        for cut in 1..block.len() {
            let whole = cut == block.len() - ENTRY_HEADER - 1;
            assert_eq!(Headers::parse(&block[..cut]).is_ok(), whole, "cut at {cut}");
        }
    }

    #[test]
    fn refuses_entries_that_do_not_fit() {
        let mut block = Vec::new();
        let append = Headers::append;
        assert_eq!(append(&mut block, "", b"v"), Err(BadHeaders::BadEntry));
        assert_eq!(append(&mut block, &"k".repeat(256), b"v"), Err(BadHeaders::BadEntry));
        assert_eq!(append(&mut block, "k", &[0; 65_536]), Err(BadHeaders::BadEntry));
        assert_eq!(append(&mut block, "k", &[0; MAX_HEADERS]), Err(BadHeaders::TooLong));
        assert!(block.is_empty());
        assert_eq!(Headers::parse(&[1, 0, 0, 0xff]), Err(BadHeaders::Malformed));
    }

    #[test]
    fn an_entry_without_a_key_is_malformed() {
        assert_eq!(Headers::parse(&[0, 1, 0, b'v']), Err(BadHeaders::Malformed));
    }
}
