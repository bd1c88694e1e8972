//! What a reply says about the handler that made it.

use ipcd_client::{Headers, Message};

use crate::job::JobResult;

/// The header with the handler's exit status, in decimal digits.
const STATUS: &str = "exit-status";
/// The header with the reason why there is no output.
const ERROR: &str = "error";

/// The headers of a reply with a handler's output, or without it.
pub(crate) fn headers(ended: &JobResult) -> Vec<u8> {
    block(ended.status, ended.error.as_deref())
}

/// The headers of a reply that says only what went wrong.
pub(crate) fn failed(status: u8, error: &str) -> Vec<u8> {
    block(status, Some(error))
}

fn block(status: u8, error: Option<&str>) -> Vec<u8> {
    let mut block = Vec::new();
    let status = status.to_string();
    let entries = [(STATUS, Some(status.as_str())), (ERROR, error)];
    for (key, value) in entries {
        if let Some(value) = value {
            let fits = "a status and a sentence of ours are short";
            Headers::append(&mut block, key, value.as_bytes()).expect(fits);
        }
    }
    block
}

/// Why the handler failed, if the reply says that it did.
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
        (Some(status), None) => Some(format!("it ended with {}", text(status))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_reply_that_says_nothing_else_is_a_success() {
        let failure = |headers: &[(&'static str, &'static str)]| {
            failure_in(headers.iter().map(|(key, value)| (*key, value.as_bytes())))
        };
        assert_eq!(failure(&[]), None);
        assert_eq!(failure(&[("exit-status", "0"), ("other", "x")]), None);
        assert_eq!(failure(&[("exit-status", "3")]).as_deref(), Some("it ended with 3"));
        assert_eq!(failure(&[("exit-status", "")]).as_deref(), Some("it ended with "));
        assert_eq!(failure(&[("exit-status", "0"), ("error", "no")]).as_deref(), Some("no"));
        assert_eq!(failure(&[("error", "timed out")]).as_deref(), Some("timed out"));
    }
}
