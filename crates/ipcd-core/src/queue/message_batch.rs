//! A batch: one message or several of the same subject, on the way into send queues.

use crate::model::ids::Ticket;
use crate::queue::chunk_pool::ChunkSlice;

/// Bytes of a batch, and so the most that a send queue holds beyond its limit.
pub(crate) const MAX_BATCH: usize = 16 * 1024;

/// One message, or several that were routed together.
#[derive(Clone, Copy)]
pub(crate) struct MessageBatch<'a> {
    pub(crate) bytes: &'a [u8],
    pub(crate) count: u64,
    /// Whether this is a single message for the peer itself, not for a subscription.
    pub(crate) is_direct: bool,
    /// The ticket for the outcomes of the copies.
    pub(crate) ticket: Option<Ticket>,
    /// The slice in which the bytes are stored for all receivers.
    pub(crate) shared: Option<ChunkSlice>,
}
