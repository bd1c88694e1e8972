//! What every way between two processes looks like to a measurement.

use std::io;
use std::time::Duration;

/// How long an end that may lose messages waits for one.
pub(crate) const PATIENCE: Duration = Duration::from_millis(200);

/// One end of a way that messages travel, in the process that uses it.
pub(crate) trait MessageEnd {
    /// Sends a message, or gathers it until [`MessageEnd::flush`].
    fn send(&mut self, message: &[u8]) -> io::Result<()>;

    /// Sends what was gathered.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }

    /// Sees to it that what was sent goes out, before the process ends.
    fn finish(&mut self) -> io::Result<()> {
        self.flush()
    }

    /// Waits for messages, and gives what has come to `take`. Returns how many: 0 when none came
    /// within [`PATIENCE`], if the way may lose messages.
    fn receive(&mut self, take: &mut dyn FnMut(&[u8])) -> io::Result<usize>;
}

/// Which end.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum LaneSide {
    /// The one that begins.
    Near,
    /// The one that answers, or only receives.
    Far,
}

/// A way between two processes, prepared before they are forked.
pub(crate) trait Lane {
    /// Opens one end, in the process that will use it.
    fn open(&mut self, side: LaneSide) -> io::Result<Box<dyn MessageEnd>>;
}

/// Sends everything to several ends, where the way itself has one receiver.
pub(crate) struct FanOutEnd(pub(crate) Vec<Box<dyn MessageEnd>>);

impl MessageEnd for FanOutEnd {
    fn send(&mut self, message: &[u8]) -> io::Result<()> {
        self.0.iter_mut().try_for_each(|end| end.send(message))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.iter_mut().try_for_each(|end| end.flush())
    }

    fn finish(&mut self) -> io::Result<()> {
        self.0.iter_mut().try_for_each(|end| end.finish())
    }

    fn receive(&mut self, _: &mut dyn FnMut(&[u8])) -> io::Result<usize> {
        Err(io::Error::other("nothing comes back from several receivers"))
    }
}
