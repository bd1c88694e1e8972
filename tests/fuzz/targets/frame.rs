//! Frames: a decoded frame encodes to the same bytes, and any cut of them gives the same frame.
#![no_main]

use ipcd_proto::{
    DecodedFrame, DirectAddress, Filter, FrameWriter, Headers, Subject, decode, limits,
};
use libfuzzer_sys::fuzz_target;

const LARGEST: usize = limits::largest_frame(limits::DEFAULT_MAX_PAYLOAD);

fuzz_target!(|bytes: &[u8]| {
    // Only the flags that exist are written again.
    let mut rest = bytes;
    while let Ok(DecodedFrame::Frame(frame, length)) = decode(rest, LARGEST) {
        assert!((32..=rest.len()).contains(&length));
        let mut written = Vec::new();
        FrameWriter(&mut written).write(&frame);
        assert_eq!(written[32..], rest[32..length]);
        assert_eq!(decode(&written, LARGEST), Ok(DecodedFrame::Frame(frame, length)));
        for cut in [4, 31, length - 1] {
            assert!(matches!(decode(&rest[..cut], LARGEST), Ok(DecodedFrame::Incomplete(_))));
        }
        parts(frame.subject, frame.headers);
        rest = &rest[length..];
    }
    parts(bytes, bytes);
});

fn parts(subject: &[u8], headers: &[u8]) {
    let (subject_is, address) = (Subject::parse(subject), DirectAddress::parse(subject));
    if let Ok(parsed) = subject_is {
        assert!(!parsed.as_str().chars().any(char::is_control));
        assert_eq!(parsed.as_str().starts_with('@'), address.is_some());
    }
    if let Some(address) = address {
        assert_eq!(address.to_string().as_bytes(), subject);
    }
    if let Ok(filter) = Filter::parse(subject) {
        assert_eq!(subject_is.is_ok_and(|subject| !filter.matches(subject)), false);
    }
    if let Ok(block) = Headers::parse(headers) {
        let mut written = Vec::new();
        for (key, value) in block.iter() {
            Headers::append(&mut written, key, value).expect("it did fit");
        }
        assert_eq!(written, headers);
    }
}
