//! Refusals of the kernel that are of the moment.

use std::time::Duration;

use nix::errno::Errno;

/// When to try again what was refused. To wait for room would be in vain: the kernel says that there
/// is some, refuses the write, and says so again at once.
pub(crate) const PAUSE: Duration = Duration::from_millis(10);

/// Whether the kernel had no memory, or the user waits for too much already (epoll_ctl(2)): no fault
/// of the call, and nothing that ends a process.
pub(crate) fn is_exhaustion(error: Errno) -> bool {
    matches!(error, Errno::ENOMEM | Errno::ENOBUFS | Errno::ENOSPC)
}
