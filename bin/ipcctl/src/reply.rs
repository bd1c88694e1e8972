//! The headers of a reply that describe the handler's result.

use ipcd_client::{Headers, Message};

use crate::job::JobResult;

/// The header with the handler's exit status, in decimal digits.
const STATUS: &str = "exit-status";
/// The header with the reason for missing output.
const ERROR: &str = "error";

/// The headers of a reply to a request that a handler has handled.
pub(crate) fn result_headers(ended: &JobResult) -> Vec<u8> {
    status_block(ended.status, ended.error.as_deref())
}

/// The headers of a reply that only reports a failure.
pub(crate) fn failure_headers(status: u8, error: &str) -> Vec<u8> {
    status_block(status, Some(error))
}

fn status_block(status: u8, error: Option<&str>) -> Vec<u8> {
    let mut block = Vec::new();
    let status = status.to_string();
    let entries = [(STATUS, Some(status.as_str())), (ERROR, error)];
    for (key, value) in entries {
        if let Some(value) = value {
            let fits = "a status and a message of ours are short";
            Headers::append(&mut block, key, value.as_bytes()).expect(fits);
        }
    }
    block
}

/// The reason for the handler's failure, if the reply reports one.
pub(crate) fn failure(reply: &Message) -> Option<String> {
    failure_in(reply.headers())
}

fn failure_in<'a>(headers: impl Iterator<Item = (&'a str, &'a [u8])>) -> Option<String> {
    let (mut status, mut error) = (None, None);
    for (key, value) in headers {
        match key {
            STATUS => drop(status.get_or_insert(value)),
            ERROR => drop(error.get_or_insert(value)),
            _ => {}
        }
    }
    let text = String::from_utf8_lossy;
    match (status, error) {
        (None | Some(b"0"), None) => None,
        (_, Some(error)) => Some(text(error).into_owned()),
        (Some(status), None) => Some(format!("exit status {}", text(status))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_is_a_success_unless_its_headers_report_a_failure() {
        let failure = |headers: &[(&'static str, &'static str)]| {
            failure_in(headers.iter().map(|(key, value)| (*key, value.as_bytes())))
        };
        assert_eq!(failure(&[]), None);
        assert_eq!(failure(&[("exit-status", "0"), ("other", "x")]), None);
        assert_eq!(failure(&[("exit-status", "3")]).as_deref(), Some("exit status 3"));
        assert_eq!(failure(&[("exit-status", "")]).as_deref(), Some("exit status "));
        assert_eq!(failure(&[("exit-status", "0"), ("error", "no")]).as_deref(), Some("no"));
        assert_eq!(failure(&[("error", "timed out")]).as_deref(), Some("timed out"));
    }
}
