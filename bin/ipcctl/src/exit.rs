//! Exit statuses, and what is said with them.

use std::fmt;
use std::io::Write;
use std::process::ExitCode;

use ipcd_client::{Code, Error};
use serde_json::json;

use crate::args::Format;
use crate::output::visible;

/// The result of a verb.
pub(crate) type Outcome<T = ()> = Result<T, Failure>;

/// Why a verb failed.
#[derive(Debug)]
pub(crate) struct Failure {
    exit: Exit,
    message: String,
}

/// The exit statuses other than 0.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub(crate) enum Exit {
    Internal = 1,
    Usage = 2,
    CannotConnect = 3,
    Timeout = 4,
    NoPeer = 5,
    Denied = 6,
    NotAccepted = 7,
    BadMessage = 8,
}

impl Exit {
    fn name(self) -> &'static str {
        match self {
            Self::Internal => "internal",
            Self::Usage => "usage",
            Self::CannotConnect => "cannot-connect",
            Self::Timeout => "timeout",
            Self::NoPeer => "no-peer",
            Self::Denied => "denied",
            Self::NotAccepted => "not-accepted",
            Self::BadMessage => "bad-message",
        }
    }
}

impl Failure {
    pub(crate) fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into() }
    }

    /// The same with what was tried before the message.
    pub(crate) fn during(self, what: impl fmt::Display) -> Self {
        Self { message: format!("{what}: {}", self.message), ..self }
    }

    /// Says it on standard error, and returns the exit status.
    pub(crate) fn report(&self, format: Format) -> ExitCode {
        let (exit, message) = (self.exit as u8, &self.message);
        let line = match format {
            Format::Text => format!("ipcctl: {}", visible(message)),
            Format::Json | Format::Jsonl => {
                let error = json!({"code": self.exit.name(), "exit": exit, "message": message});
                json!({ "error": error }).to_string()
            }
        };
        // Nobody is left to hear of a failure to say it.
        let _ = writeln!(std::io::stderr(), "{line}");
        ExitCode::from(exit)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        use ipcd_transport::Error as Transport;
        let (exit, advice) = match &error {
            Error::Connect(Transport::Endpoint(what)) => {
                return Self::new(Exit::Usage, what.clone());
            }
            Error::Connect(Transport::TimedOut(_)) => (Exit::Timeout, ""),
            Error::Connect(_) => (
                Exit::CannotConnect,
                " (is ipcd running, and listening there? see --via and --runtime-dir)",
            ),
            Error::Refused(refusal) => (exit_of(refusal.code), ""),
            Error::TimedOut(_) => (Exit::Timeout, " (see --timeout)"),
            Error::Disconnected(_) => (Exit::NotAccepted, ""),
            Error::Token(_) => (Exit::Denied, " (give --token-file, or use --via unix)"),
            Error::TooLarge { .. }
            | Error::BadSubject(_)
            | Error::BadHeaders(_)
            | Error::Protocol(_) => (Exit::BadMessage, ""),
        };
        Self::new(exit, format!("{error}{advice}"))
    }
}

fn exit_of(code: Code) -> Exit {
    match code {
        Code::Protocol | Code::Version | Code::TooLarge | Code::BadSubject | Code::Unsupported => {
            Exit::BadMessage
        }
        Code::Denied | Code::NameTaken | Code::Limit => Exit::Denied,
        Code::TimedOut => Exit::Timeout,
        Code::TooSlow | Code::Ending | Code::Kicked => Exit::NotAccepted,
    }
}

impl From<ipcd_transport::Error> for Failure {
    fn from(error: ipcd_transport::Error) -> Self {
        Error::Connect(error).into()
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::new(Exit::Internal, error.to_string())
    }
}
