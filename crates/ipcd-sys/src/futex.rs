//! Sleeping and waking on a word of shared memory, futex(2).

use std::io;
use std::ptr::null;
use std::sync::atomic::AtomicU32;

use nix::errno::Errno;

/// Sleeps while the word is `expected`. May return for no reason, so the caller looks again.
///
/// # Errors
/// As futex(2); a signal, or a word that is another already, is no error.
pub fn wait(word: &AtomicU32, expected: u32) -> io::Result<()> {
    let no_timeout = null::<libc::timespec>();
    // SAFETY: the word is borrowed, and so is there for as long as the kernel looks at it.
    let status = unsafe {
        libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAIT, expected, no_timeout)
    };
    match Errno::result(status) {
        Ok(_) | Err(Errno::EAGAIN | Errno::EINTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Wakes one that sleeps on the word, if there is one.
///
/// # Errors
/// As futex(2).
pub fn wake(word: &AtomicU32) -> io::Result<()> {
    // SAFETY: waking reads nothing at the word but its address.
    let status = unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, 1) };
    Errno::result(status).map(drop).map_err(io::Error::from)
}
