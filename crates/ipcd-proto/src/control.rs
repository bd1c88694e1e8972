//! The bodies of control frames, in bincode 2 with fixed-size little-endian integers.
//!
//! An integer is its bytes; an `Option` is a byte 0 or 1, then the value; a string or a list is a
//! `u64` length, then the items; an enum is a `u32` index, then its fields.

mod messages;
mod queries;
mod session;

use bincode::config::{Configuration, Fixint, Limit, LittleEndian};
use serde::Serialize;
use serde::de::DeserializeOwned;

pub use self::messages::{
    DropReason, Notice, Origin, OverflowPolicy, Receipt, Subscribe, Unsubscribe,
};
pub use self::queries::{
    AccessRequest, AccessVerdict, Answer, DaemonStatus, ListenerStatus, PeerAttributes, PeerStatus,
    Query, SubscriptionStatus, WorkerStatus,
};
pub use self::session::{Auth, Challenge, Hello, Refusal, RefusalCode, Welcome};
use crate::limits::MAX_CONTROL;

/// Bytes of memory that decoding a body may claim. An item may be larger in memory than on the wire,
/// but a forged length must not reserve gigabytes.
const CLAIM: usize = 8 * MAX_CONTROL;

const CONFIG: Configuration<LittleEndian, Fixint, Limit<CLAIM>> =
    bincode::config::standard().with_fixed_int_encoding().with_limit::<CLAIM>();

/// The error of a body that cannot be decoded.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("malformed body: {0}")]
pub struct BadBody(String);

/// Encodes the body of a control frame.
///
/// # Panics
/// If it is larger than the memory limit for a control body. Bodies are made by our own code, which
/// bounds them.
pub fn encode<T: Serialize>(body: &T) -> Vec<u8> {
    bincode::serde::encode_to_vec(body, CONFIG).expect("our own control bodies are bounded")
}

/// Decodes the body of a control frame.
///
/// # Errors
/// If the bytes are not exactly one body of this type.
pub fn decode<T: DeserializeOwned>(body: &[u8]) -> Result<T, BadBody> {
    // The length first: it bounds what a hostile body can make the decoder do.
    if body.len() > MAX_CONTROL {
        return Err(BadBody(format!("{} bytes, over {MAX_CONTROL}", body.len())));
    }
    let (value, used) = bincode::serde::decode_from_slice(body, CONFIG)
        .map_err(|error| BadBody(error.to_string()))?;
    // Left-over bytes mean another type or version. Half of a body must not be acted on.
    if used < body.len() {
        return Err(BadBody(format!("{} bytes too many", body.len() - used)));
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello() -> Hello {
        Hello {
            magic: Hello::MAGIC,
            oldest: 1,
            newest: 1,
            features: 0,
            nonce: [3; 32],
            name: Some("me".into()),
            token: None,
            no_echo: false,
        }
    }

    #[test]
    fn reads_what_it_wrote_and_nothing_else() {
        let bytes = encode(&hello());
        assert_eq!(decode(&bytes), Ok(hello()));
        for cut in 0..bytes.len() {
            assert!(decode::<Hello>(&bytes[..cut]).is_err(), "cut at {cut}");
        }
        assert!(decode::<Hello>(&[&bytes[..], &[0]].concat()).is_err());
    }

    #[test]
    fn a_claimed_length_claims_no_memory() {
        let mut bytes = encode(&Answer::Peers(Vec::new()));
        bytes[4..12].copy_from_slice(&u64::MAX.to_le_bytes());
        assert!(decode::<Answer>(&bytes).is_err());
        bytes[4..12].copy_from_slice(&100_000_u64.to_le_bytes());
        assert!(decode::<Answer>(&bytes).is_err());
    }
}
