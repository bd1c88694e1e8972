//! A message or several of one subject, on their way into send queues.

use crate::model::ids::Ticket;
use crate::queue::chunk_pool::ChunkSlice;

/// Bytes of a batch: the most that a send queue holds beyond its limit.
pub(crate) const MAX_BATCH: usize = 16 * 1024;

/// What is delivered: one message or a run of them.
#[derive(Clone, Copy)]
pub(crate) struct MessageBatch<'a> {
    pub(crate) bytes: &'a [u8],
    pub(crate) count: u64,
    /// Whether it is one message for the peer alone, and not for a subscription.
    pub(crate) is_direct: bool,
    /// Where the fate of the copies is noted.
    pub(crate) ticket: Option<Ticket>,
    /// Where the bytes are kept for all who get them.
    pub(crate) shared: Option<ChunkSlice>,
}
