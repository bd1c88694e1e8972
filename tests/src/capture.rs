//! The output of a process, read all the time, so that the process never waits for the test.

use std::io::Read;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::PATIENCE;

/// The output of a process so far.
#[derive(Clone, Debug)]
pub struct OutputCapture(Arc<(Mutex<CapturedOutput>, Condvar)>);

#[derive(Debug, Default)]
struct CapturedOutput {
    bytes: Vec<u8>,
    ended: bool,
}

impl OutputCapture {
    /// Reads to the end of the output, in a thread.
    pub fn of(mut source: impl Read + Send + 'static) -> Self {
        let capture = Self(Arc::default());
        let ours = capture.clone();
        std::thread::spawn(move || {
            let mut chunk = [0; 64 * 1024];
            loop {
                let count = source.read(&mut chunk).unwrap_or(0);
                let mut captured = ours.lock();
                captured.bytes.extend_from_slice(&chunk[..count]);
                captured.ended = count == 0;
                ours.0.1.notify_all();
                if count == 0 {
                    return;
                }
            }
        });
        capture
    }

    /// A test that panics while it holds the lock poisons it; the bytes behind it are still good.
    fn lock(&self) -> MutexGuard<'_, CapturedOutput> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The bytes so far.
    pub fn bytes(&self) -> Vec<u8> {
        self.lock().bytes.clone()
    }

    /// The same as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes()).into_owned()
    }

    /// Waits until `find` finds something in the text.
    ///
    /// # Panics
    /// If the output ends without it, or the watchdog fires.
    pub fn wait_until<T>(&self, what: &str, mut find: impl FnMut(&str) -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        let mut captured = self.lock();
        loop {
            let text = String::from_utf8_lossy(&captured.bytes);
            if let Some(found) = find(&text) {
                return found;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!captured.ended, "the output ended without {what}:\n{text}");
            assert!(!left.is_zero(), "watchdog: the output lacks {what}:\n{text}");
            let waited = self.0.1.wait_timeout(captured, left);
            captured = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Waits for a piece of text.
    ///
    /// # Panics
    /// As [`OutputCapture::wait_until`].
    pub fn wait_for(&self, piece: &str) {
        self.wait_until(piece, |text| text.contains(piece).then_some(()));
    }

    /// Waits for the end of the output.
    ///
    /// # Panics
    /// If the watchdog fires.
    pub fn wait_for_end(&self) -> Vec<u8> {
        let captured = self.lock();
        let waited = self.0.1.wait_timeout_while(captured, PATIENCE, |captured| !captured.ended);
        let (captured, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
        let text = String::from_utf8_lossy(&captured.bytes);
        assert!(!timeout.timed_out(), "watchdog: the output did not end:\n{text}");
        captured.bytes.clone()
    }
}
