//! Memory for messages: a send queue for each peer, and the pools that the queues share. It knows
//! bytes and frames, but no peers.

pub(crate) mod buffer_pool;
pub(crate) mod chunk_pool;
pub(crate) mod lazy_queue;
pub(crate) mod message_batch;
pub(crate) mod send_queue;
