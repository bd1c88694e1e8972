//! Copies between shared and own memory, at the speed of memcpy(3). Word by word, as other
//! processors do it, a record takes up to four times as long.

use std::arch::asm;
use std::sync::atomic::AtomicU64;

/// Stores these bytes in as many words as they take.
///
/// # Panics
/// If there are fewer.
pub(super) fn fill(words: &[AtomicU64], bytes: &[u8]) {
    assert!(bytes.len() <= size_of_val(words), "more bytes than words to hold them");
    // SAFETY: both are as long as that, and apart: one is borrowed memory, the other is shared and
    // changes only as atomics do, for which it may be written to.
    unsafe { move_bytes(words.as_ptr().cast_mut().cast(), bytes.as_ptr(), bytes.len()) };
}

/// Loads so many bytes.
///
/// # Panics
/// If there are not as many.
pub(super) fn copy(words: &[AtomicU64], bytes: &mut [u8]) {
    assert!(bytes.len() <= size_of_val(words), "more bytes than there are");
    // SAFETY: as above; these bytes are ours alone.
    unsafe { move_bytes(bytes.as_mut_ptr(), words.as_ptr().cast(), bytes.len()) };
}

/// The compiler sees no load or store of the shared bytes, and concludes nothing from them: for it
/// this is as good as relaxed accesses of single bytes, which is what the processor makes of it. It
/// moves nothing across, for the block may touch any memory. What another process writes meanwhile
/// comes as whatever bytes there are.
///
/// # Safety
/// So many bytes can be read and written there, and do not overlap.
unsafe fn move_bytes(to: *mut u8, from: *const u8, count: usize) {
    // SAFETY: the caller's. The direction flag is clear, as it always is on entry.
    unsafe {
        asm!(
            "rep movsb",
            inout("rcx") count => _,
            inout("rdi") to => _,
            inout("rsi") from => _,
            options(nostack, preserves_flags),
        );
    }
}
