//! What can go wrong for a client.

use ipcd_proto::control::{BadBody, Code, Refusal};
use ipcd_proto::{BadHeaders, BadSubject, FrameError};

/// The result of a client's operation.
pub type Result<T> = std::result::Result<T, Error>;

/// Why an operation failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no connection to the daemon.
    #[error("cannot connect: {0}")]
    Connect(#[source] ipcd_transport::Error),
    /// The daemon refused, or ended the session.
    #[error("{}{}", if is_cut_off(.0) { "cut off: " } else { "" }, .0.message)]
    Refused(Refusal),
    /// Nothing came in time.
    #[error("no {0} came in time")]
    TimedOut(&'static str),
    /// The connection was lost; what was not confirmed may not have been accepted.
    #[error("the connection was lost: {0}")]
    Disconnected(String),
    /// The payload is larger than the daemon takes.
    #[error("a payload of {bytes} bytes, where the daemon takes at most {limit} (max_message)")]
    TooLarge {
        /// Bytes of the payload.
        bytes: usize,
        /// Bytes that the daemon takes.
        limit: usize,
    },
    /// This is no subject or filter.
    #[error(transparent)]
    BadSubject(#[from] BadSubject),
    /// What is to be replied to is no request: nobody waits for a reply, and where its sender says that
    /// answers should go may be a place to which only the receiver may publish.
    #[error("it is no request: its sender waits for no reply")]
    NoRequest,
    /// These headers cannot be sent.
    #[error(transparent)]
    BadHeaders(#[from] BadHeaders),
    /// The daemon wants a token, and there is none that could be used.
    #[error("no token: {0}")]
    Token(String),
    /// What came is not the protocol of ipcd.
    #[error("the daemon does not speak the protocol: {0}")]
    Protocol(String),
}

impl Error {
    /// Whether the daemon may be back in a moment, as after a restart, so that it is worth to try again.
    pub fn is_temporary(&self) -> bool {
        match self {
            Self::Connect(ipcd_transport::Error::Endpoint(_)) => false,
            Self::Connect(_) | Self::TimedOut(_) | Self::Disconnected(_) => true,
            Self::Refused(refusal) => {
                matches!(refusal.code, Code::Ending | Code::Limit | Code::NameTaken | Code::TooSlow)
            }
            _ => false,
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

fn is_cut_off(refusal: &Refusal) -> bool {
    matches!(refusal.code, Code::TooSlow | Code::Kicked)
}
