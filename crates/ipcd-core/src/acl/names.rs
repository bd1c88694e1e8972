//! Name patterns of access rules, and the names that they permit.

use std::fmt;

use crate::model::names::{is_name, is_peer_name};
use ipcd_proto::limits::MAX_NAME;
use serde::{Deserialize, Serialize};

/// Stands at the end of a pattern for any continuation.
const REST: char = '*';

/// A pattern for names of peers: one name, or a prefix followed by `*`.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct NamePattern {
    start: Box<str>,
    has_rest: bool,
}

/// The reason why text is not a name pattern.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum BadName {
    /// No peer can have such a name.
    NotAName,
    /// The text looks like the id or address of a peer, which cannot be a name.
    AnAddress,
    /// A `*` is not the last character.
    RestNotLast,
}

/// The permitted names. A name is permitted if no rule denies it, and either `is_open` is set or a
/// rule allows it.
#[derive(Debug, Default, Eq, PartialEq)]
pub(crate) struct NamePermit {
    pub(super) is_open: bool,
    pub(super) allow: Vec<NamePattern>,
    pub(super) deny: Vec<NamePattern>,
}

impl NamePattern {
    /// Returns the pattern that matches all names.
    pub fn any() -> Self {
        Self { start: "".into(), has_rest: true }
    }

    pub(super) fn matches(&self, name: &str) -> bool {
        match self.has_rest {
            true => name.starts_with(&*self.start),
            false => name == &*self.start,
        }
    }

    fn is_any(&self) -> bool {
        self.has_rest && self.start.is_empty()
    }
}

impl NamePermit {
    pub(super) fn permits(&self, name: &str) -> bool {
        let is_in = |patterns: &[NamePattern]| patterns.iter().any(|known| known.matches(name));
        !is_in(&self.deny) && (self.is_open || is_in(&self.allow))
    }

    pub(super) fn is_everything(&self) -> bool {
        self.deny.is_empty() && (self.is_open || self.allow.iter().any(NamePattern::is_any))
    }
}

impl TryFrom<String> for NamePattern {
    type Error = BadName;

    fn try_from(text: String) -> Result<Self, BadName> {
        let (start, has_rest) = match text.strip_suffix(REST) {
            Some(start) => (start, true),
            None => (&*text, false),
        };
        match () {
            () if start.contains(REST) => Err(BadName::RestNotLast),
            () if !is_name(&text) => Err(BadName::NotAName),
            () if start.starts_with('@') || !(has_rest || is_peer_name(start)) => {
                Err(BadName::AnAddress)
            }
            () => Ok(Self { start: start.into(), has_rest }),
        }
    }
}

impl fmt::Display for BadName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAName => write!(
                f,
                "not a name: it needs 1 to {MAX_NAME} bytes, without control characters and spaces"
            ),
            Self::AnAddress => f.write_str("not a name: it looks like the id or address of a peer"),
            Self::RestNotLast => f.write_str("a * is only allowed at the end of a name"),
        }
    }
}

impl std::error::Error for BadName {}

impl fmt::Display for NamePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.start, if self.has_rest { "*" } else { "" })
    }
}

impl From<NamePattern> for String {
    fn from(pattern: NamePattern) -> Self {
        pattern.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_is_a_name_or_how_names_begin() {
        let pattern = |text: &str| NamePattern::try_from(text.to_owned());
        let matches = |text: &str, name: &str| pattern(text).unwrap().matches(name);
        assert!(matches("vault", "vault") && !matches("vault", "vault2"));
        assert!(matches("worker-*", "worker-7") && !matches("worker-*", "worke"));
        assert!(matches("*", "anything") && pattern("*") == Ok(NamePattern::any()));
        assert_eq!(pattern("*.a"), Err(BadName::RestNotLast));
        assert_eq!(pattern(""), Err(BadName::NotAName));
        assert_eq!(pattern("two words"), Err(BadName::NotAName));
        assert_eq!(
            (pattern("7"), pattern("@*")),
            (Err(BadName::AnAddress), Err(BadName::AnAddress))
        );
        assert!(matches("7*", "7a"));
        assert_eq!(String::from(pattern("w-*").unwrap()), "w-*");
    }
}
