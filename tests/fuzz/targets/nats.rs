//! The protocol of NATS clients: however the bytes are cut, the operations are the same; headers that
//! were translated once survive a second time; CONNECT and nkeys take any bytes.
#![no_main]

use ipcd_proto::Headers;
use ipcd_proto::nats::{
    ConnectOptions, DecodedOperation, Nkey, decode, headers_from_nats, headers_to_nats,
};
use libfuzzer_sys::fuzz_target;

const LARGEST: usize = 256;

fuzz_target!(|bytes: &[u8]| {
    let [step, bytes @ ..] = bytes else { return };
    let whole = operations(bytes, bytes.len().max(1));
    assert_eq!(whole, operations(bytes, usize::from(*step).max(1)));
    let mut options = ConnectOptions::default();
    let _ = options.update(bytes);
    if let Some(key) = str::from_utf8(bytes).ok().and_then(|text| text.parse::<Nkey>().ok()) {
        assert_eq!(key.to_string().parse(), Ok(key));
    }
    translate(bytes);
});

/// The operations in words, and the error at the end.
fn operations(bytes: &[u8], step: usize) -> Vec<String> {
    let (mut held, mut found) = (Vec::new(), Vec::new());
    for piece in bytes.chunks(step) {
        held.extend_from_slice(piece);
        loop {
            match decode(&held, LARGEST) {
                Ok(DecodedOperation::Operation(operation, used)) => {
                    found.push(format!("{operation:?}"));
                    held.drain(..used);
                }
                Ok(DecodedOperation::Incomplete(least)) => {
                    assert!(least > held.len());
                    break;
                }
                Err(error) => {
                    found.push(error.to_string());
                    return found;
                }
            }
            if held.is_empty() {
                break;
            }
        }
    }
    found
}

fn translate(block: &[u8]) {
    let entries = |block: &[u8]| {
        let mut ours = Vec::new();
        headers_from_nats(block, &mut ours).ok()?;
        Headers::parse(&ours).expect("the block is valid");
        Some(ours)
    };
    let Some(ours) = entries(block) else { return };
    let mut theirs = Vec::new();
    headers_to_nats(&ours, &mut theirs);
    assert_eq!(entries(&theirs), Some(ours));
    // A frame's block may be anything.
    headers_to_nats(block, &mut theirs);
}
