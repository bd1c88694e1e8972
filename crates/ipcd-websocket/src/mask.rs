//! The mask that a client puts over its payloads (RFC 6455 §5.3).

/// The key of a frame's mask.
pub(crate) type MaskKey = [u8; 4];

/// Bytes that are masked at once; the compiler makes wider steps of them.
const STEP: usize = 8;

/// Copies `from` to `to`, with the mask put over it, or taken away. The first byte is number `at` of
/// the frame's payload.
pub(crate) fn copy_masked(from: &[u8], to: &mut [u8], mut key: MaskKey, at: u64) {
    key.rotate_left((at % size_of::<MaskKey>() as u64) as usize);
    let [a, b, c, d] = key;
    let wide = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let (from, from_rest) = from.as_chunks::<STEP>();
    let (to, to_rest) = to.as_chunks_mut::<STEP>();
    for (from, to) in from.iter().zip(to) {
        *to = (u64::from_ne_bytes(*from) ^ wide).to_ne_bytes();
    }
    // A step has whole keys, so the rest begins with the first byte of one.
    for ((from, to), key) in from_rest.iter().zip(to_rest).zip(key.iter().cycle()) {
        *to = from ^ key;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop, proptest};

    use super::*;

    proptest! {
        #[test]
        fn masks_as_one_byte_after_the_other(
            bytes in prop::collection::vec(any::<u8>(), 0..200),
            key in any::<MaskKey>(),
            at in any::<u64>(),
        ) {
            let mut masked = vec![0; bytes.len()];
            copy_masked(&bytes, &mut masked, key, at);
            for (index, (plain, masked)) in bytes.iter().zip(&masked).enumerate() {
                let number = at.wrapping_add(index as u64) % 4;
                assert_eq!(plain ^ key[number as usize], *masked);
            }
        }
    }
}
