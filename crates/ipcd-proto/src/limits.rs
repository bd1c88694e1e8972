//! The limits of the protocol. Those of a daemon may be lower.

/// Bytes of a subject, a reply subject or a filter. Their lengths travel in one byte.
pub const MAX_SUBJECT: usize = 255;
/// Tokens of a subject or a filter.
pub const MAX_TOKENS: usize = 16;
/// Bytes of a header block.
pub const MAX_HEADERS: usize = 16 * 1024;
/// Bytes of a payload, unless the daemon is configured otherwise.
pub const DEFAULT_MAX_PAYLOAD: usize = 1024 * 1024;
/// Bytes of the largest payload that a configuration may allow.
pub const MAX_MAX_PAYLOAD: usize = 256 * 1024 * 1024;
/// Bytes of a control body, such as SUBSCRIBE.
pub const MAX_CONTROL: usize = 64 * 1024;
/// Bytes of the largest frame of a peer whose session is not open yet. Such a peer must not make the
/// daemon keep more.
pub const MAX_HANDSHAKE_FRAME: usize = 4 * 1024;
/// Bytes of all frames of such a peer together.
pub const MAX_HANDSHAKE: usize = MAX_HANDSHAKE_FRAME;
/// Bytes of a peer's name, and of a group's.
pub const MAX_NAME: usize = 64;

/// Bytes of the largest frame for payloads of at most `max_payload` bytes.
pub const fn largest_frame(max_payload: usize) -> usize {
    let payload = if max_payload > MAX_CONTROL { max_payload } else { MAX_CONTROL };
    crate::HEADER_BYTES + 2 * MAX_SUBJECT + MAX_HEADERS + payload
}
