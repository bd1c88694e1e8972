//! Errors of the client as exceptions of the package.

use ipcd_client::{Error, RefusalCode};
use pyo3::prelude::*;

/// The exception for an error. Its text is the client's, with the daemon's reason in it.
pub(crate) fn exception(py: Python<'_>, error: &Error) -> PyErr {
    make(py, error).unwrap_or_else(|failure| failure)
}

fn make(py: Python<'_>, error: &Error) -> PyResult<PyErr> {
    let class = py.import("ipcd._errors")?.getattr(class(error))?;
    let value = class.call1((error.to_string(),))?;
    if let Error::Refused(refusal) = error {
        value.setattr("code", format!("{:?}", refusal.code))?;
    }
    Ok(PyErr::from_value(value))
}

fn class(error: &Error) -> &'static str {
    match error {
        Error::Connect(_) => "ConnectError",
        Error::Refused(refusal) => match refusal.code {
            RefusalCode::NoResponder => "NoResponder",
            RefusalCode::Unanswered => "Unanswered",
            _ => "Refused",
        },
        Error::TimedOut(_) => "TimedOut",
        Error::Disconnected(_) => "Disconnected",
        Error::TooLarge { .. } | Error::BadSubject(_) | Error::NoRequest | Error::BadHeaders(_) => {
            "InvalidMessage"
        }
        Error::Token(_) => "TokenError",
        Error::Protocol(_) => "ProtocolError",
    }
}
