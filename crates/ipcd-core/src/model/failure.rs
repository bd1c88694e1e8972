//! The refusal of a frame: its code, and the reason that the peer reads.

use ipcd_proto::control::RefusalCode;

/// A refusal, or the end of a session.
pub(crate) type Failure = (RefusalCode, String);
