//! Codecs of raw peers: any cut of the bytes gives the same messages.
#![no_main]

use ipcd_proto::{Codec, MessageDecoder};
use libfuzzer_sys::fuzz_target;

const LARGEST: usize = 64;

fuzz_target!(|bytes: &[u8]| {
    let [codec, step, bytes @ ..] = bytes else { return };
    let codec = if codec % 2 == 0 { Codec::Line } else { Codec::Nul };
    let whole = messages(codec, bytes, bytes.len().max(1));
    assert_eq!(whole, messages(codec, bytes, usize::from(*step).max(1)));
    for message in whole.into_iter().flatten().filter(|message| !message.ends_with(b"\r")) {
        let mut again = Vec::new();
        codec.encode(&message, &mut again);
        assert_eq!(messages(codec, &again, again.len()), [Some(message)]);
    }
});

/// The messages; `None` if one is too long.
fn messages(codec: Codec, bytes: &[u8], step: usize) -> Vec<Option<Vec<u8>>> {
    let (mut decoder, mut found) = (MessageDecoder::new(codec, LARGEST), Vec::new());
    for piece in bytes.chunks(step) {
        decoder.feed(piece, |message| found.push(message.ok().map(<[u8]>::to_vec)));
    }
    decoder.finish(|message| found.push(message.ok().map(<[u8]>::to_vec)));
    assert!(found.iter().flatten().all(|message| message.len() <= LARGEST));
    found
}
