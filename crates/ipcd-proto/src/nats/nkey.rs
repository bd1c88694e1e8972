//! Public keys of users, in the notation of nkeys: base32 (RFC 4648) of a prefix, the 32 bytes of
//! an Ed25519 key, and a CRC-16.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Bytes of a public key.
const KEY_BYTES: usize = 32;
/// The prefix of a user's key: it makes the text begin with `U`.
const USER: u8 = 20 << 3;
/// Bytes of prefix, key and check sum.
const ENCODED_BYTES: usize = 1 + KEY_BYTES + 2;
const DIGITS: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";

/// The Ed25519 public key of a user.
#[derive(Clone, Copy, Deserialize, Eq, Hash, PartialEq, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct Nkey([u8; KEY_BYTES]);

/// The error of a text that is not the public key of a user.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("an nkey is the public key of a user: 56 letters and digits that begin with U")]
pub struct BadNkey;

impl Nkey {
    /// The key of these bytes.
    pub fn from_bytes(bytes: [u8; KEY_BYTES]) -> Self {
        Self(bytes)
    }

    /// The bytes of the key.
    pub fn as_bytes(&self) -> &[u8; KEY_BYTES] {
        &self.0
    }
}

impl FromStr for Nkey {
    type Err = BadNkey;

    fn from_str(text: &str) -> Result<Self, BadNkey> {
        let bytes = decode(text.as_bytes()).ok_or(BadNkey)?;
        let (body, sum) = bytes.split_at(ENCODED_BYTES - 2);
        let [prefix, key @ ..] = body else { return Err(BadNkey) };
        if *prefix != USER || sum != crc(body).to_le_bytes() {
            return Err(BadNkey);
        }
        key.try_into().map(Self).map_err(|_| BadNkey)
    }
}

impl TryFrom<String> for Nkey {
    type Error = BadNkey;

    fn try_from(text: String) -> Result<Self, BadNkey> {
        text.parse()
    }
}

impl From<Nkey> for String {
    fn from(key: Nkey) -> Self {
        key.to_string()
    }
}

impl fmt::Display for Nkey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = vec![USER];
        bytes.extend(self.0);
        bytes.extend(crc(&bytes).to_le_bytes());
        // 35 bytes are exactly 56 digits.
        for group in bytes.chunks(5) {
            let bits = group.iter().fold(0u64, |bits, byte| bits << 8 | u64::from(*byte));
            for digit in (0..8).rev() {
                write!(f, "{}", char::from(DIGITS[(bits >> (5 * digit)) as usize & 31]))?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Nkey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

fn decode(text: &[u8]) -> Option<[u8; ENCODED_BYTES]> {
    let mut bytes = [0; ENCODED_BYTES];
    if text.len() != ENCODED_BYTES * 8 / 5 {
        return None;
    }
    for (group, into) in text.chunks(8).zip(bytes.chunks_mut(5)) {
        let bits = group.iter().try_fold(0u64, |bits, digit| {
            let value = DIGITS.iter().position(|known| known == digit)?;
            Some(bits << 5 | value as u64)
        })?;
        into.copy_from_slice(&bits.to_be_bytes()[3..]);
    }
    Some(bytes)
}

/// CRC-16/XMODEM.
fn crc(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |mut sum: u16, byte| {
        sum ^= u16::from(*byte) << 8;
        for _ in 0..8 {
            let carry = sum & 0x8000 != 0;
            sum = sum << 1 ^ if carry { 0x1021 } else { 0 };
        }
        sum
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_read_as_it_is_written() {
        // From the documentation of NATS.
        let known = "UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4";
        assert_eq!(known.parse::<Nkey>().map(|key| key.to_string()), Ok(known.into()));
        let key = Nkey([7; KEY_BYTES]);
        let text = key.to_string();
        assert!(text.starts_with('U') && text.len() == 56, "{text}");
        assert_eq!(text.parse(), Ok(key));
        let mut other = text.clone().into_bytes();
        other[10] = if other[10] == b'A' { b'B' } else { b'A' };
        let other = String::from_utf8(other).unwrap();
        for bad in ["", "U", &other, &text.to_lowercase(), &text[1..], "@"] {
            assert_eq!(bad.parse::<Nkey>(), Err(BadNkey), "{bad}");
        }
    }

    #[test]
    fn the_check_sum_is_that_of_nkeys() {
        assert_eq!(crc(b"123456789"), 0x31c3);
    }
}
