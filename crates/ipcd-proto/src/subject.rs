//! Subjects and filters: tokens joined by dots, as in NATS.

use std::fmt;

use crate::limits::{MAX_SUBJECT, MAX_TOKENS};

/// A valid subject of a message: 1 to 16 tokens joined by `.`, at most 255 bytes of UTF-8. It has no
/// control characters and no white space. No token is empty, `*` or `>`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Subject<'a>(&'a str);

impl<'a> Subject<'a> {
    /// Checks a subject.
    ///
    /// # Errors
    /// If it breaks a rule, which the error names.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, BadSubject> {
        let text = check(bytes)?;
        // Only whole tokens are wildcards, as in NATS: `a*` is an ordinary token.
        if text.split('.').any(|token| token == "*" || token == ">") {
            return Err(BadSubject::Wildcard);
        }
        if text.starts_with('@') && DirectAddress::parse(bytes).is_none() {
            return Err(BadSubject::Reserved);
        }
        Ok(Self(text))
    }

    /// The subject as text.
    pub fn as_str(self) -> &'a str {
        self.0
    }

    /// Its tokens.
    pub fn tokens(self) -> impl Iterator<Item = &'a str> {
        self.0.split('.')
    }
}

/// The subject of messages to one peer: `@ID`, or `@ID.NUMBER` for replies to one of its requests.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct DirectAddress {
    /// The peer's id.
    pub peer: u64,
    /// The correlation of the request.
    pub request: Option<u64>,
}

impl DirectAddress {
    /// Parses a subject as an address. Numbers are decimal, without leading zeros, so that each address
    /// has one form.
    pub fn parse(subject: &[u8]) -> Option<Self> {
        let numbers = subject.strip_prefix(b"@")?;
        let mut parts = numbers.split(|&byte| byte == b'.');
        let peer = number(parts.next()?)?;
        let request = match parts.next() {
            Some(part) => Some(number(part)?),
            None => None,
        };
        parts.next().is_none().then_some(Self { peer, request })
    }
}

impl fmt::Display for DirectAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.request {
            Some(request) => write!(f, "@{}.{request}", self.peer),
            None => write!(f, "@{}", self.peer),
        }
    }
}

fn number(digits: &[u8]) -> Option<u64> {
    let is_plain = digits.iter().all(u8::is_ascii_digit)
        && (digits[..] == *b"0" || digits.first() != Some(&b'0'));
    let text = str::from_utf8(digits).ok().filter(|_| is_plain)?;
    text.parse().ok()
}

/// A valid filter: a subject in which a token may be `*`, which matches any one token, and the last one
/// `>`, which matches one or more.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Filter(Box<str>);

impl Filter {
    /// Checks a filter.
    ///
    /// # Errors
    /// If it breaks a rule, which the error names.
    pub fn parse(bytes: &[u8]) -> Result<Self, BadSubject> {
        let text = check(bytes)?;
        let tail = text.split('.').position(|token| token == ">");
        if tail.is_some_and(|at| at + 1 != text.split('.').count()) {
            return Err(BadSubject::TailNotLast);
        }
        // A message to an address goes to its peer and no subscription, so the filter would match
        // nothing.
        if text.starts_with('@') {
            return Err(BadSubject::Reserved);
        }
        Ok(Self(text.into()))
    }

    /// The filter as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Its tokens, wildcards included.
    pub fn tokens(&self) -> impl Iterator<Item = &str> {
        self.0.split('.')
    }

    /// Whether it ends in `>`.
    pub fn has_tail(&self) -> bool {
        self.tokens().last() == Some(">")
    }

    /// Whether it matches the subject.
    pub fn matches(&self, subject: Subject<'_>) -> bool {
        let mut tokens = subject.tokens();
        for wanted in self.tokens() {
            match (wanted, tokens.next()) {
                (">", Some(_)) => return true,
                ("*", Some(_)) => {}
                (wanted, Some(token)) if wanted == token => {}
                _ => return false,
            }
        }
        tokens.next().is_none()
    }
}

/// The error of an invalid subject or filter.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum BadSubject {
    /// The text is empty.
    #[error("a subject is needed, such as logs.web")]
    Empty,
    /// It has more bytes than its length field can express.
    #[error("a subject has at most {MAX_SUBJECT} bytes")]
    TooLong,
    /// It has too many tokens.
    #[error("a subject has at most {MAX_TOKENS} tokens")]
    TooManyTokens,
    /// A token is empty: two dots in a row, or a dot at the beginning or the end.
    #[error("a subject has no empty tokens")]
    EmptyToken,
    /// It is not UTF-8, or contains control characters or white space.
    #[error("a subject has no control characters or white space, and is UTF-8")]
    BadCharacter,
    /// A message cannot be published on a wildcard.
    #[error("a message needs one subject; * and > are for subscribing")]
    Wildcard,
    /// Tokens follow after `>`.
    #[error("> can only be the last token of a filter")]
    TailNotLast,
    /// The text begins with `@`, but is not the address of a peer.
    #[error(
        "a subject that begins with @ is the address of a peer: @ID, or @ID.NUMBER for a reply"
    )]
    Reserved,
}

fn check(bytes: &[u8]) -> Result<&str, BadSubject> {
    if bytes.is_empty() {
        return Err(BadSubject::Empty);
    }
    // The length first: it bounds the work of all checks below.
    if bytes.len() > MAX_SUBJECT {
        return Err(BadSubject::TooLong);
    }
    let text = str::from_utf8(bytes).map_err(|_| BadSubject::BadCharacter)?;
    // A terminal obeys control characters, and a log splits fields at white space.
    if text.chars().any(|c| c.is_control() || c.is_whitespace()) {
        return Err(BadSubject::BadCharacter);
    }
    if text.split('.').any(str::is_empty) {
        return Err(BadSubject::EmptyToken);
    }
    if text.split('.').count() > MAX_TOKENS {
        return Err(BadSubject::TooManyTokens);
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_parsed_as_they_are_printed() {
        for (peer, request) in [(0, None), (7, Some(0)), (u64::MAX, Some(u64::MAX))] {
            let address = DirectAddress { peer, request };
            assert_eq!(DirectAddress::parse(address.to_string().as_bytes()), Some(address));
        }
        let bad = ["@", "7", "@x", "@7.", "@07", "@7.8.9", "@-1", "@+1", "@18446744073709551616"];
        for bad in bad {
            assert_eq!(DirectAddress::parse(bad.as_bytes()), None, "{bad}");
        }
        assert_eq!(Subject::parse(b"@x.y"), Err(BadSubject::Reserved));
        assert_eq!(Filter::parse(b"@7"), Err(BadSubject::Reserved));
        assert!(Subject::parse(b"a.@x").is_ok() && Subject::parse(b"@7.8").is_ok());
    }

    #[test]
    fn accepts_subjects_and_names_what_is_wrong() {
        let error = |text: &str| Subject::parse(text.as_bytes()).unwrap_err();
        for good in ["a", "a.b.c", "logs.web-1.ä", "a*b", "x>", "$1", &"t.".repeat(15), "t"] {
            let good = good.trim_end_matches('.');
            assert_eq!(Subject::parse(good.as_bytes()).unwrap().as_str(), good);
        }
        assert_eq!(error(""), BadSubject::Empty);
        assert_eq!(error(&"x".repeat(256)), BadSubject::TooLong);
        assert_eq!(error(&["t"; 17].join(".")), BadSubject::TooManyTokens);
        for empty in [".", "a..b", ".a", "a."] {
            assert_eq!(error(empty), BadSubject::EmptyToken);
        }
        for bad in ["a b", "a\tb", "a\nb", "\x1b[2J", "a\0", "\u{85}", "\u{2003}"] {
            assert_eq!(error(bad), BadSubject::BadCharacter, "{bad:?}");
        }
        assert_eq!(Subject::parse(b"\xff").unwrap_err(), BadSubject::BadCharacter);
        for wild in ["*", ">", "a.*", "a.>"] {
            assert_eq!(error(wild), BadSubject::Wildcard);
        }
    }

    #[test]
    fn matches_as_nats_does() {
        let check = |filter: &str, subject: &str| {
            let filter = Filter::parse(filter.as_bytes()).unwrap();
            filter.matches(Subject::parse(subject.as_bytes()).unwrap())
        };
        for (filter, subject) in [
            ("a", "a"),
            ("a.*", "a.b"),
            ("*", "a"),
            (">", "a.b"),
            ("a.>", "a.b.c"),
            ("*.b.>", "a.b.c"),
        ] {
            assert!(check(filter, subject), "{filter} {subject}");
        }
        for (filter, subject) in
            [("a", "b"), ("a", "a.b"), ("a.b", "a"), ("a.*", "a"), ("a.>", "a"), ("*", "a.b")]
        {
            assert!(!check(filter, subject), "{filter} {subject}");
        }
        assert_eq!(Filter::parse(b"a.>.b").unwrap_err(), BadSubject::TailNotLast);
        assert!(Filter::parse(b"a.>").unwrap().has_tail());
        assert!(!Filter::parse(b"a.x>").unwrap().has_tail());
    }
}
