//! Records of seqpacket and UDP: frames in pieces come out whole, or not at all.
#![no_main]

use ipcd_transport::{RecordJoiner, ReadBuffer, RecordSplitter, frame_len};
use libfuzzer_sys::fuzz_target;

const LARGEST: usize = 4096;

fuzz_target!(|bytes: &[u8]| {
    let Some((size, bytes)) = bytes.split_first() else { return };
    from_anybody(bytes, usize::from(*size).max(1));
    from_ourselves(bytes, usize::from(*size).max(14));
});

fn from_anybody(bytes: &[u8], size: usize) {
    let (mut joiner, mut buffer) = (RecordJoiner::default(), ReadBuffer::new(0, LARGEST));
    for record in bytes.chunks(size) {
        let before = buffer.filled().len();
        match joiner.accept(record, &mut buffer) {
            Ok(count) => assert_eq!(buffer.filled().len(), before + count),
            Err(_) => return,
        }
        assert!(buffer.filled().len() <= bytes.len());
    }
}

/// Frames of the lengths in the bytes.
fn from_ourselves(bytes: &[u8], largest: usize) {
    let mut frames = Vec::new();
    for (number, byte) in bytes.iter().take(64).enumerate() {
        let length = 4 + usize::from(*byte);
        frames.extend((length as u32).to_le_bytes());
        frames.resize(frames.len() + length - 4, number as u8);
    }
    let (mut splitter, mut joiner) = (RecordSplitter::default(), RecordJoiner::default());
    let (mut buffer, mut sent) = (ReadBuffer::new(0, LARGEST), 0);
    while let Some(record) = splitter.next(&frames[sent..], largest) {
        let body = &frames[sent..sent + record.taken()];
        let whole = [record.header(), body].concat();
        assert!(whole.len() <= largest && !body.is_empty());
        splitter.sent(&record);
        sent += record.taken();
        joiner.accept(&whole, &mut buffer).expect("it is one of ours");
    }
    assert_eq!(buffer.filled(), frames);
    assert!(frames.is_empty() || frame_len(buffer.filled()).is_some());
}
