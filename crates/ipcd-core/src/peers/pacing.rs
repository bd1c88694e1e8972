//! Pacing: publishers do not run far ahead of a subscriber that reads.
//!
//! A send queue may hold megabytes, for a subscriber that pauses. One that reads needs no more than
//! the kernel takes at once: bytes that wait longer fall out of the processor's caches, and fetching
//! them again costs more than the rest of a small message's way: three times as much with a queue of
//! 8 MiB in front of 8 subscribers as with 256 KiB. So publishers wait already at `Config::pace`, for as
//! long as the subscriber takes something; when it has taken nothing for [`PATIENCE`], it pauses, and
//! its queue may fill up.
//!
//! Other workers are not paced. When their messages have filled the queue beyond what one publisher
//! here could, publishers here wait no longer than they do.

use crate::model::config::Config;
use crate::queue::message_batch::MAX_BATCH;
use ipcd_proto::limits::largest_frame;
use std::time::Duration;
use std::time::Instant;

/// How long a subscriber may take nothing before it counts as one that pauses.
pub(crate) const PATIENCE: Duration = Duration::from_millis(20);

/// How a peer takes what is for it.
#[derive(Debug, Default)]
pub(crate) struct Pacing {
    /// Whether it has taken something since it last paused.
    pub(crate) flows: bool,
    /// Until when publishers wait for it at the longest, and what it had taken before.
    pub(crate) held: Option<(Instant, u64)>,
}

impl Pacing {
    /// Whether publishers wait.
    pub(crate) fn holds(&self) -> bool {
        self.held.is_some()
    }

    /// When it is to be found out whether the peer pauses.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.held.map(|(until, _)| until)
    }
}

/// Bytes in an outbox beyond which not only publishers here have filled it: the last of these has put
/// in a run, or one largest frame, at twice the pace.
pub(crate) fn most_paced(config: &Config) -> usize {
    2 * config.pace + MAX_BATCH + largest_frame(config.max_payload)
}
