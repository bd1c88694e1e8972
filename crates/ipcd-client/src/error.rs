//! Errors of a client.

use ipcd_proto::control::{BadBody, Refusal, RefusalCode};
use ipcd_proto::{BadHeaders, BadSubject, FrameError};

/// The result of an operation.
pub type Result<T> = std::result::Result<T, Error>;

/// The reason for which an operation failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The connection to the daemon could not be made.
    #[error("cannot connect: {0}")]
    Connect(#[source] ipcd_transport::Error),
    /// The daemon refused, or ended the session.
    #[error("{}{}", if is_disconnect(.0) { "disconnected by the daemon: " } else { "" }, .0.message)]
    Refused(Refusal),
    /// The awaited answer, which the text names, did not come in time.
    #[error("no {0} came in time")]
    TimedOut(&'static str),
    /// The connection was lost. Unconfirmed messages may not have been accepted.
    #[error("the connection was lost: {0}")]
    Disconnected(String),
    /// The payload is larger than the daemon accepts.
    #[error("the payload has {bytes} bytes, and the daemon accepts at most {limit} (max_message)")]
    TooLarge {
        /// Bytes of the payload.
        bytes: usize,
        /// Bytes that the daemon accepts.
        limit: usize,
    },
    /// The subject or filter is invalid.
    #[error(transparent)]
    BadSubject(#[from] BadSubject),
    /// The message to reply to is not a request. Its sender waits for no reply, and its reply subject may
    /// be one on which only the receiver may publish.
    #[error("the message is not a request: its sender waits for no reply")]
    NoRequest,
    /// The headers are invalid.
    #[error(transparent)]
    BadHeaders(#[from] BadHeaders),
    /// The daemon asks for a token, and no usable one is there.
    #[error("no token: {0}")]
    Token(String),
    /// The bytes from the daemon violate the protocol.
    #[error("the daemon does not speak the protocol: {0}")]
    Protocol(String),
}

impl Error {
    /// Whether another attempt may succeed soon, as after a restart of the daemon.
    pub fn is_temporary(&self) -> bool {
        match self {
            Self::Connect(ipcd_transport::Error::Endpoint(_)) => false,
            Self::Connect(_) | Self::TimedOut(_) | Self::Disconnected(_) => true,
            Self::Refused(refusal) => {
                matches!(
                    refusal.code,
                    RefusalCode::Ending
                        | RefusalCode::Limit
                        | RefusalCode::NameTaken
                        | RefusalCode::TooSlow
                )
            }
            _ => false,
        }
    }
}

#[cfg(feature = "async")]
impl Error {
    /// The same error for another caller who waited for the same connection.
    pub(crate) fn repeat(&self) -> Self {
        match self {
            Self::Refused(refusal) => Self::Refused(refusal.clone()),
            Self::TimedOut(awaited) => Self::TimedOut(awaited),
            Self::Disconnected(why) => Self::Disconnected(why.clone()),
            Self::Token(why) => Self::Token(why.clone()),
            Self::Protocol(why) => Self::Protocol(why.clone()),
            other => Self::Disconnected(other.to_string()),
        }
    }
}

impl From<FrameError> for Error {
    fn from(error: FrameError) -> Self {
        Self::Protocol(error.to_string())
    }
}

impl From<BadBody> for Error {
    fn from(error: BadBody) -> Self {
        Self::Protocol(error.to_string())
    }
}

fn is_disconnect(refusal: &Refusal) -> bool {
    matches!(refusal.code, RefusalCode::TooSlow | RefusalCode::Kicked)
}
