//! Exit statuses, and the errors that go with them.

use std::fmt;
use std::process::ExitCode;

use ipcd_client::{Error, RefusalCode};
use serde_json::json;

use crate::args::OutputFormat;
use crate::json;
use crate::output::{say, visible};

/// The result of a verb.
pub(crate) type Outcome<T = ()> = Result<T, Failure>;

/// The failure of a verb: its exit status and its message.
#[derive(Debug)]
pub(crate) struct Failure {
    exit: FailureKind,
    message: String,
    /// Whether another attempt may succeed soon.
    is_temporary: bool,
}

/// The kinds of failure; some have the same exit status.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum FailureKind {
    Internal,
    Usage,
    CannotConnect,
    Timeout,
    NoPeer,
    NoReceiver,
    NoResponder,
    Denied,
    NotAccepted,
    Dropped,
    Unanswered,
    BadMessage,
    HandlerFailed,
    Threshold,
    NotExecutable,
    NotFound,
}

impl FailureKind {
    fn status(self) -> u8 {
        match self {
            Self::Internal => 1,
            Self::Usage => 2,
            Self::CannotConnect => 3,
            Self::Timeout => 4,
            Self::NoPeer | Self::NoReceiver | Self::NoResponder => 5,
            Self::Denied => 6,
            Self::NotAccepted | Self::Dropped | Self::Unanswered => 7,
            Self::BadMessage => 8,
            Self::HandlerFailed => 9,
            Self::Threshold => 10,
            Self::NotExecutable => 126,
            Self::NotFound => 127,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Internal => "internal",
            Self::Usage => "usage",
            Self::CannotConnect => "cannot-connect",
            Self::Timeout => "timeout",
            Self::NoPeer => "no-peer",
            Self::NoReceiver => "no-receiver",
            Self::NoResponder => "no-responder",
            Self::Denied => "denied",
            Self::NotAccepted => "not-accepted",
            Self::Dropped => "dropped",
            Self::Unanswered => "unanswered",
            Self::BadMessage => "bad-message",
            Self::HandlerFailed => "handler-failed",
            Self::Threshold => "threshold",
            Self::NotExecutable => "not-executable",
            Self::NotFound => "not-found",
        }
    }
}

impl Failure {
    pub(crate) fn new(exit: FailureKind, message: impl Into<String>) -> Self {
        Self { exit, message: message.into(), is_temporary: false }
    }

    /// The exit status.
    pub(crate) fn status(&self) -> u8 {
        self.exit.status()
    }

    /// Whether another attempt may succeed soon, as after a restart of the daemon.
    pub(crate) fn is_temporary(&self) -> bool {
        self.is_temporary
    }

    /// The same failure, with the attempted action before the message.
    pub(crate) fn during(self, what: impl fmt::Display) -> Self {
        Self { message: format!("{what}: {}", self.message), ..self }
    }

    /// Prints the failure on standard error, and returns the exit status.
    pub(crate) fn report(&self, format: OutputFormat) -> ExitCode {
        let (exit, message) = (self.status(), &self.message);
        let line = match format {
            OutputFormat::Text => format!("ipcctl: {}", visible(message)),
            OutputFormat::Json | OutputFormat::Jsonl => {
                let error = json!({"code": self.exit.name(), "exit": exit, "message": message});
                json::compact(&json!({ "error": error }))
            }
        };
        say(&line);
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
                return Self::new(FailureKind::Usage, what.clone());
            }
            // A daemon that does not answer is not an absent one: scripts may try again.
            Error::Connect(Transport::TimedOut(_)) => (FailureKind::Timeout, ""),
            Error::Connect(_) => (
                FailureKind::CannotConnect,
                " (is ipcd running and listening there? see --via and --runtime-dir)",
            ),
            Error::Refused(refusal) if refusal.code == RefusalCode::NoResponder => {
                (FailureKind::NoResponder, " (see ipcctl subs for subscriptions)")
            }
            Error::Refused(refusal) => (exit_of(refusal.code), ""),
            Error::TimedOut(_) => (FailureKind::Timeout, " (see --timeout)"),
            Error::Disconnected(_) => (FailureKind::NotAccepted, ""),
            Error::Token(_) => (FailureKind::Denied, " (give --token-file, or use --via unix)"),
            Error::TooLarge { .. }
            | Error::BadSubject(_)
            | Error::NoRequest
            | Error::BadHeaders(_)
            | Error::Protocol(_) => (FailureKind::BadMessage, ""),
        };
        let is_temporary = error.is_temporary();
        Self { is_temporary, ..Self::new(exit, format!("{error}{advice}")) }
    }
}

fn exit_of(code: RefusalCode) -> FailureKind {
    match code {
        RefusalCode::Protocol
        | RefusalCode::Version
        | RefusalCode::TooLarge
        | RefusalCode::BadSubject
        | RefusalCode::Unsupported => FailureKind::BadMessage,
        RefusalCode::Denied | RefusalCode::NameTaken | RefusalCode::Limit => FailureKind::Denied,
        RefusalCode::TimedOut => FailureKind::Timeout,
        RefusalCode::TooSlow | RefusalCode::Ending | RefusalCode::Kicked => {
            FailureKind::NotAccepted
        }
        RefusalCode::NoResponder => FailureKind::NoResponder,
        RefusalCode::Unanswered => FailureKind::Unanswered,
    }
}

impl From<ipcd_transport::Error> for Failure {
    fn from(error: ipcd_transport::Error) -> Self {
        Error::Connect(error).into()
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::new(FailureKind::Internal, error.to_string())
    }
}
