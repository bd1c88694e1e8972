//! Refusals of the kernel that are of the moment.

use std::time::Duration;

use nix::errno::Errno;

/// The pause before a refused call is tried again. Waiting for room would spin: the kernel reports
/// that there is room, refuses the write, and reports it again at once.
pub(crate) const PAUSE: Duration = Duration::from_millis(10);

/// Whether the kernel had no memory, or the user waits for too much already (epoll_ctl(2)): no fault
/// of the call, and nothing that ends a process.
pub(crate) fn is_exhaustion(error: Errno) -> bool {
    matches!(error, Errno::ENOMEM | Errno::ENOBUFS | Errno::ENOSPC)
}
