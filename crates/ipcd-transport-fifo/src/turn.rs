//! The one channel of a FIFO: whether a process serves it.

use std::os::fd::AsFd;

use ipcd_transport::{ChannelParts, Error, Result};
use nix::sys::eventfd::{EfdFlags, EventFd};

/// Readable while no process serves the channel.
///
/// Writing can only fail when the count would overflow, and then it is readable anyway.
pub(crate) struct ChannelTurn(EventFd);

impl ChannelTurn {
    /// A channel that no process serves yet.
    pub(crate) fn free() -> Result<Self> {
        made(EventFd::from_value_and_flags(1, flags())).map(Self)
    }

    /// The descriptor to wait for.
    pub(crate) fn fd(&self) -> &impl AsFd {
        &self.0
    }

    /// The parts of the channel, unless a process serves it.
    pub(crate) fn take(
        &self,
        parts: impl FnOnce() -> Result<ChannelParts>,
    ) -> Result<Option<ChannelParts>> {
        if self.0.read().is_err() {
            return Ok(None);
        }
        let parts = parts();
        if parts.is_err() {
            self.give_back();
        }
        parts.map(Some)
    }

    /// Notes that no process serves it any more.
    pub(crate) fn give_back(&self) {
        let _ = self.0.write(1);
    }
}

/// A descriptor that never becomes readable.
pub(crate) fn silence() -> Result<EventFd> {
    made(EventFd::from_flags(flags()))
}

fn made(event: nix::Result<EventFd>) -> Result<EventFd> {
    event.map_err(|error| Error::system("make an event descriptor", error))
}

fn flags() -> EfdFlags {
    EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_SEMAPHORE
}
