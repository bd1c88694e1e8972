//! Pacing: publishers do not run far ahead of a subscriber that reads.
//!
//! A send queue may hold megabytes, for a subscriber that pauses. A subscriber that reads needs no
//! more than the kernel takes at once. Bytes that wait longer fall out of the processor's caches,
//! and fetching them again is the largest cost of a small message: three times as much with a queue
//! of 8 MiB in front of 8 subscribers as with 256 KiB. So publishers wait already at `Config::pace`
//! while the subscriber takes bytes. A subscriber that has taken nothing for [`PATIENCE`] pauses,
//! and its queue may fill up.
//!
//! Other workers are not paced. When their messages have filled the queue beyond the amount that
//! one publisher here could add, publishers here do not wait either.

use crate::config::Config;
use crate::queue::message_batch::MAX_BATCH;
use ipcd_proto::limits::largest_frame;
use std::time::Duration;
use std::time::Instant;

/// Time without progress after which a subscriber counts as pausing.
pub(crate) const PATIENCE: Duration = Duration::from_millis(20);

/// The pacing state of a subscriber.
#[derive(Debug, Default)]
pub(crate) struct Pacing {
    /// Whether the subscriber has taken bytes since it last paused.
    pub(crate) flows: bool,
    /// The end of the current check, and the total of bytes that were written at its start.
    pub(crate) held: Option<(Instant, u64)>,
}

impl Pacing {
    /// Whether publishers wait for the subscriber.
    pub(crate) fn holds(&self) -> bool {
        self.held.is_some()
    }

    /// Returns the time of the next check.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.held.map(|(until, _)| until)
    }
}

/// Returns the queued bytes that publishers here can reach at most: one that is let through just
/// below the pace adds a batch, or one largest frame. More than that came from other workers.
pub(crate) fn most_paced(config: &Config) -> usize {
    2 * config.pace + MAX_BATCH + largest_frame(config.max_payload)
}
