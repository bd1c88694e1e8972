//! Control bodies: a decoded body encodes to the same bytes, so each value has one encoding.
#![no_main]

use std::fmt::Debug;

use ipcd_proto::control::{
    Answer, Auth, Challenge, Hello, Notice, Query, Receipt, Refusal, Subscribe, Unsubscribe,
    Welcome, decode, encode,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Some((kind, body)) = bytes.split_first() else { return };
    match kind % 11 {
        0 => check::<Hello>(body, |value| encode(value)),
        1 => check::<Challenge>(body, |value| encode(value)),
        2 => check::<Auth>(body, |value| encode(value)),
        3 => check::<Welcome>(body, |value| encode(value)),
        4 => check::<Subscribe>(body, |value| encode(value)),
        5 => check::<Unsubscribe>(body, |value| encode(value)),
        6 => check::<Refusal>(body, |value| encode(value)),
        7 => check::<Notice>(body, |value| encode(value)),
        8 => check::<Query>(body, |value| encode(value)),
        9 => check::<Answer>(body, |value| encode(value)),
        _ => check::<Receipt>(body, |value| encode(value)),
    }
});

/// The types' traits are serde's, which this package does not name.
fn check<T: Decodable + Debug>(body: &[u8], encode: impl Fn(&T) -> Vec<u8>) {
    if let Some(value) = T::read(body) {
        assert_eq!(encode(&value), body, "{value:?}");
    }
}

trait Decodable: Sized {
    fn read(body: &[u8]) -> Option<Self>;
}

macro_rules! decodable {
    ($($kind:ty),*) => {
        $(impl Decodable for $kind {
            fn read(body: &[u8]) -> Option<Self> {
                decode(body).ok()
            }
        })*
    };
}

decodable!(
    Hello,
    Challenge,
    Auth,
    Welcome,
    Subscribe,
    Unsubscribe,
    Refusal,
    Notice,
    Query,
    Answer,
    Receipt
);
