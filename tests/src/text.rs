//! Generated texts of messages, which both ends know.

use std::io::{BufReader, BufWriter, Read, Write};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// The text of a message begins at one of this number of places.
const POOL_BYTES: usize = 64 * 1024;

/// The messages of one sender: their number, their greatest length, and their seed.
#[derive(Clone, Copy, Debug)]
pub struct MessageStream {
    /// The number of messages.
    pub count: u64,
    /// Bytes of the longest; every length from 1 on occurs.
    pub longest: usize,
    /// The number of the sender.
    pub seed: u64,
}

/// The text of one message: `seed:number:` and more text, cut to its length.
pub fn message(stream: MessageStream, number: u64, into: &mut Vec<u8>) {
    // 7919 is a prime that divides no length used here, so the lengths vary.
    let length = 1 + (number * 7919 + stream.seed) as usize % stream.longest;
    into.clear();
    write!(into, "{}:{number}:", stream.seed).expect("a Vec takes everything");
    let mut at = (number * 31 + stream.seed * 1009) as usize % POOL_BYTES;
    while into.len() < length {
        let piece = &pool()[at..];
        into.extend_from_slice(&piece[..piece.len().min(length - into.len())]);
        at = 0;
    }
    into.truncate(length);
}

fn pool() -> &'static [u8] {
    static POOL: OnceLock<Vec<u8>> = OnceLock::new();
    POOL.get_or_init(|| {
        let letters = b"abcdefghijklmnopqrstuvwxyz ABCDEFGHIJKLMNOPQRSTUVWXYZ\t0123456789.,;!?";
        let mut random: u64 = 0x9e37_79b9_7f4a_7c15;
        let letter = |_| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            letters[(random % letters.len() as u64) as usize]
        };
        (0..POOL_BYTES).map(letter).collect()
    })
}

/// Writes a line for each message. The reader may end early, which its exit status shows.
pub fn feed_lines(stream: MessageStream, into: impl Write) {
    let mut into = BufWriter::with_capacity(POOL_BYTES, into);
    let mut text = Vec::new();
    for number in 0..stream.count {
        message(stream, number, &mut text);
        text.push(b'\n');
        if into.write_all(&text).is_err() {
            return;
        }
    }
}

/// Reads a line for each message and compares it; `seen` counts the lines.
///
/// # Errors
/// A text that names the first difference.
pub fn check_lines(stream: MessageStream, from: impl Read, seen: &AtomicU64) -> Result<(), String> {
    let mut from = BufReader::with_capacity(POOL_BYTES, from);
    let (mut expected, mut got) = (Vec::new(), Vec::new());
    for number in 0..stream.count {
        message(stream, number, &mut expected);
        expected.push(b'\n');
        got.resize(expected.len(), 0);
        let differs = match from.read_exact(&mut got) {
            Err(error) => Some(error.to_string()),
            Ok(()) => (got != expected).then(|| String::from_utf8_lossy(&got).into_owned()),
        };
        if let Some(instead) = differs {
            let instead: String = instead.chars().take(60).collect();
            return Err(format!("message {number} of {stream:?}: {instead}"));
        }
        seen.fetch_add(1, Ordering::Relaxed);
    }
    match from.read(&mut [0]) {
        Ok(0) => Ok(()),
        _ => Err(format!("more than was sent, of {stream:?}")),
    }
}

/// Bytes as hexadecimal digits, and `-` for none.
pub fn to_hex(bytes: &[u8]) -> String {
    let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    if digits.is_empty() { "-".into() } else { digits }
}

/// The bytes that [`to_hex`] has written.
///
/// # Panics
/// If the text is something else.
pub fn from_hex(text: &str) -> Vec<u8> {
    let digits = text.as_bytes().chunks(2).filter(|_| text != "-");
    let byte = |pair: &[u8]| {
        let pair = str::from_utf8(pair).expect("digits are text");
        u8::from_str_radix(pair, 16).expect("they are hexadecimal")
    };
    digits.map(byte).collect()
}
