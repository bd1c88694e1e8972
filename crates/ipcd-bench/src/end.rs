//! The interface between a measurement and the connection that it measures.

use std::io;
use std::time::Duration;

/// The longest wait for a message on a connection that may lose it.
pub(crate) const PATIENCE: Duration = Duration::from_millis(200);

/// One end of a connection, in the process that uses it.
pub(crate) trait MessageEnd {
    /// Sends a message, or gathers it until [`MessageEnd::flush`].
    fn send(&mut self, message: &[u8]) -> io::Result<()>;

    /// Sends the gathered messages.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }

    /// Waits until all sent messages have left, before the process ends.
    fn finish(&mut self) -> io::Result<()> {
        self.flush()
    }

    /// Waits for messages and passes them to `take`. Returns their number: 0 if none came within
    /// [`PATIENCE`] on a connection that may lose them.
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
        Err(io::Error::other("a fan-out has no replies"))
    }
}
