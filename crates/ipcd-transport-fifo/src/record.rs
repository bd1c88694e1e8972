//! The rendezvous record, and finding it in a FIFO that any user with the right to connect may
//! write junk into.
//!
//! ```text
//! offset  bytes  field
//!      0      8  magic: "ipcdfifo"
//!      8      4  version: 1, u32 in little-endian order
//!     12     16  name: random bytes; in lower-case hexadecimal, the name of the pair
//!     28      4  CRC-32 (IEEE 802.3, as in zlib) of bytes 0 to 27, u32 in little-endian order
//! ```

use std::fmt;

use ipcd_transport::{Error, Result};

/// Bytes of a record. Below `PIPE_BUF` (pipe(7)), so that a write is all or nothing, and a divisor
/// of a page, so that a full FIFO holds whole ones.
pub(crate) const RECORD_BYTES: usize = 32;

const MAGIC: [u8; 8] = *b"ipcdfifo";
const VERSION: u32 = 1;
const NAME_AT: usize = 12;
const CHECKSUM_AT: usize = 28;

/// The name of a pair of FIFOs.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct PairName([u8; 16]);

impl PairName {
    /// A name that cannot be guessed, and that is unique.
    pub(crate) fn random() -> Result<Self> {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes)
            .map_err(|error| Error::Endpoint(format!("no randomness from the system: {error}")))?;
        Ok(Self(bytes))
    }

    /// A name that can be guessed.
    #[cfg(fuzzing)]
    pub(crate) fn zero() -> Self {
        Self([0; 16])
    }

    /// The FIFO from client to daemon.
    pub(crate) fn up(self) -> String {
        format!("{self}.up")
    }

    /// The FIFO from daemon to client.
    pub(crate) fn down(self) -> String {
        format!("{self}.down")
    }

    /// Whether the file name is one of a pair's.
    pub(crate) fn is_of_pair(file_name: &str) -> bool {
        let stem = file_name.strip_suffix(".up").or_else(|| file_name.strip_suffix(".down"));
        let hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        stem.is_some_and(|stem| stem.len() == 32 && stem.bytes().all(hex))
    }

    /// The record that tells the daemon of this pair.
    pub(crate) fn record(self) -> [u8; RECORD_BYTES] {
        let mut record = [0; RECORD_BYTES];
        record[..MAGIC.len()].copy_from_slice(&MAGIC);
        record[MAGIC.len()..NAME_AT].copy_from_slice(&VERSION.to_le_bytes());
        record[NAME_AT..CHECKSUM_AT].copy_from_slice(&self.0);
        let checksum = crc32(&record[..CHECKSUM_AT]);
        record[CHECKSUM_AT..].copy_from_slice(&checksum.to_le_bytes());
        record
    }
}

impl fmt::Display for PairName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Finds records among junk. It never holds a whole record, so that a caller that waits for the FIFO to
/// become readable misses none.
#[derive(Debug, Default)]
pub(crate) struct RecordScanner {
    held: [u8; RECORD_BYTES],
    len: usize,
    skipped: usize,
}

impl RecordScanner {
    /// The room for the next bytes: never empty, and at most what completes one record.
    pub(crate) fn room(&mut self) -> &mut [u8] {
        &mut self.held[self.len..]
    }

    /// Says that so many bytes were put there; returns the pair that a record names, if that
    /// completes one.
    pub(crate) fn accept(&mut self, count: usize) -> Option<Result<PairName>> {
        self.len += count;
        self.skip_to_magic();
        if self.len < RECORD_BYTES {
            return None;
        }
        if field(&self.held, CHECKSUM_AT) == crc32(&self.held[..CHECKSUM_AT]) {
            self.len = 0;
            return Some(self.name());
        }
        self.skip(1);
        self.skip_to_magic();
        None
    }

    /// Bytes that were no record.
    pub(crate) fn skipped(&self) -> usize {
        self.skipped
    }

    /// The same, counted from 0 again.
    pub(crate) fn take_skipped(&mut self) -> usize {
        std::mem::take(&mut self.skipped)
    }

    fn name(&self) -> Result<PairName> {
        let (mut name, version) = ([0; 16], field(&self.held, MAGIC.len()));
        name.copy_from_slice(&self.held[NAME_AT..CHECKSUM_AT]);
        if version == VERSION {
            return Ok(PairName(name));
        }
        Err(Error::Protocol(format!("a rendezvous record of version {version}, not {VERSION}")))
    }

    fn skip_to_magic(&mut self) {
        let held = &self.held[..self.len];
        let may_begin = |at: &usize| MAGIC.starts_with(&held[*at..self.len.min(at + MAGIC.len())]);
        let start = (0..self.len).find(may_begin).unwrap_or(self.len);
        self.skip(start);
    }

    fn skip(&mut self, count: usize) {
        self.held.copy_within(count..self.len, 0);
        self.len -= count;
        self.skipped += count;
    }
}

fn field(record: &[u8; RECORD_BYTES], at: usize) -> u32 {
    let mut bytes = [0; 4];
    bytes.copy_from_slice(&record[at..at + 4]);
    u32::from_le_bytes(bytes)
}

fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32, _| if crc & 1 == 1 { (crc >> 1) ^ 0xedb8_8320 } else { crc >> 1 };
    !bytes.iter().fold(!0, |crc, &byte| (0..8).fold(crc ^ u32::from(byte), step))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds the bytes as a FIFO would: never more than there is room for, nor than `chunk`.
    fn scan(scanner: &mut RecordScanner, mut bytes: &[u8], chunk: usize) -> Vec<PairName> {
        let mut names = Vec::new();
        while !bytes.is_empty() {
            let room = scanner.room();
            let count = room.len().min(bytes.len()).min(chunk);
            room[..count].copy_from_slice(&bytes[..count]);
            bytes = &bytes[count..];
            names.extend(scanner.accept(count).map(Result::unwrap));
        }
        names
    }

    /// xorshift64: the same junk in every run.
    struct Dice(u64);

    impl Dice {
        fn below(&mut self, sides: usize) -> usize {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            (self.0 % sides as u64) as usize
        }

        /// Junk that is made of what could be mistaken for records.
        fn junk(&mut self) -> Vec<u8> {
            let mut junk = Vec::new();
            for _ in 0..self.below(4) {
                let mut spoilt = PairName([7; 16]).record();
                spoilt[self.below(RECORD_BYTES)] ^= 1 << self.below(8);
                match self.below(4) {
                    0 => junk.extend_from_slice(&MAGIC[..self.below(9)]),
                    1 => junk.extend_from_slice(&spoilt),
                    2 => junk.extend_from_slice(&spoilt[..self.below(RECORD_BYTES)]),
                    _ => junk.extend((0..self.below(100)).map(|_| b"ipcdf\0"[self.below(6)])),
                }
            }
            junk
        }
    }

    #[test]
    fn finds_every_record_whatever_is_around_it_and_however_it_is_split() {
        for seed in 1..3000 {
            let mut dice = Dice(seed);
            let (mut bytes, mut names, mut junk_bytes) = (Vec::new(), Vec::new(), 0);
            for index in 0..dice.below(5) {
                let junk = dice.junk();
                junk_bytes += junk.len();
                names.push(PairName([index as u8; 16]));
                bytes.extend([&junk[..], &names[index].record()].concat());
            }
            let (mut scanner, chunk) = (RecordScanner::default(), 1 + dice.below(40));
            assert_eq!(scan(&mut scanner, &bytes, chunk), names, "seed {seed}");
            assert_eq!(scanner.take_skipped(), junk_bytes, "seed {seed}");
        }
    }

    #[test]
    fn never_keeps_a_record_back() {
        let bytes = [PairName([1; 16]).record(), PairName([2; 16]).record()].concat();
        let mut scanner = RecordScanner::default();
        assert_eq!(scanner.room().len(), RECORD_BYTES);
        assert_eq!(scan(&mut scanner, &bytes[..RECORD_BYTES], 99).len(), 1);
        assert_eq!(scan(&mut scanner, &bytes[RECORD_BYTES..], 99).len(), 1);
        assert_eq!((scanner.len, scanner.skipped()), (0, 0));
    }

    #[test]
    fn has_the_layout_of_the_protocol() {
        let record = PairName(*b"0123456789abcdef").record();
        assert_eq!(&record[..12], b"ipcdfifo\x01\0\0\0");
        assert_eq!(&record[12..28], b"0123456789abcdef");
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926, "the check value of CRC-32");
        assert_eq!(record[28..], crc32(&record[..28]).to_le_bytes());
    }

    #[test]
    fn refuses_another_version() {
        let mut record = PairName([1; 16]).record();
        record[8] = 2;
        let checksum = crc32(&record[..CHECKSUM_AT]);
        record[CHECKSUM_AT..].copy_from_slice(&checksum.to_le_bytes());
        let mut scanner = RecordScanner::default();
        scanner.room().copy_from_slice(&record);
        let error = scanner.accept(RECORD_BYTES).unwrap().unwrap_err().to_string();
        assert!(error.contains("version 2"), "{error}");
    }

    #[test]
    fn knows_the_names_of_pairs() {
        let name = PairName::random().unwrap();
        assert!(PairName::is_of_pair(&name.up()) && PairName::is_of_pair(&name.down()));
        for other in ["", ".up", "keep", &name.to_string(), &format!("{name}.up.up")] {
            assert!(!PairName::is_of_pair(other), "{other}");
        }
        assert!(!PairName::is_of_pair(&name.up().replace(|c: char| c.is_ascii_digit(), "G")));
    }
}
