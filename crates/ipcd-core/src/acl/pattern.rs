//! Subject patterns of access rules, and the comparison of their subjects with those of a filter.

use ipcd_proto::{BadSubject, Filter, Subject};
use serde::{Deserialize, Serialize};

/// Stands for the addresses of all peers.
const ADDRESSES: &str = "@";

/// The subjects of a rule: a filter, or `@` for messages to a single peer. Of all filters only `>`
/// includes those messages.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(try_from = "String", into = "String")]
pub enum SubjectPattern {
    /// The addresses of peers.
    Addresses,
    /// The subjects that a filter matches.
    Subjects(Filter),
}

impl SubjectPattern {
    /// Whether the pattern includes messages to a single peer.
    pub(super) fn has_addresses(&self) -> bool {
        matches!(self, Self::Addresses) || self.is_everything()
    }

    /// Whether the pattern includes every subject.
    pub(super) fn is_everything(&self) -> bool {
        matches!(self, Self::Subjects(filter) if filter.as_str() == ">")
    }

    pub(super) fn matches(&self, subject: Subject<'_>) -> bool {
        matches!(self, Self::Subjects(filter) if filter.matches(subject))
    }

    pub(super) fn covers(&self, narrow: &Filter) -> bool {
        matches!(self, Self::Subjects(filter) if covers(filter, narrow))
    }

    pub(super) fn meets(&self, other: &Filter) -> Option<Filter> {
        match self {
            Self::Addresses => None,
            Self::Subjects(filter) => meet(filter, other),
        }
    }
}

impl TryFrom<String> for SubjectPattern {
    type Error = BadSubject;

    fn try_from(text: String) -> Result<Self, BadSubject> {
        match text.as_str() {
            ADDRESSES => Ok(Self::Addresses),
            text => Filter::parse(text.as_bytes()).map(Self::Subjects),
        }
    }
}

impl From<SubjectPattern> for String {
    fn from(pattern: SubjectPattern) -> Self {
        match pattern {
            SubjectPattern::Addresses => ADDRESSES.into(),
            SubjectPattern::Subjects(filter) => filter.as_str().into(),
        }
    }
}

/// Whether the wide filter matches every subject that the narrow one matches.
fn covers(wide: &Filter, narrow: &Filter) -> bool {
    let mut narrow = narrow.tokens();
    for wanted in wide.tokens() {
        match (wanted, narrow.next()) {
            (">", Some(_)) => return true,
            // `*` is one token, and `>` may be several.
            ("*", Some(token)) if token != ">" => {}
            (wanted, Some(token)) if wanted == token => {}
            _ => return false,
        }
    }
    narrow.next().is_none()
}

/// Returns the filter of the subjects that both filters match; `None` if there are none.
fn meet(a: &Filter, b: &Filter) -> Option<Filter> {
    let (mut a, mut b) = (a.tokens(), b.tokens());
    let mut both = Vec::new();
    loop {
        match (a.next(), b.next()) {
            (None, None) => break,
            // `>` matches this token and all that follow, so that the rest of the other filter
            // decides.
            (Some(">"), Some(token)) => {
                both.push(token);
                both.extend(b);
                break;
            }
            (Some(token), Some(">")) => {
                both.push(token);
                both.extend(a);
                break;
            }
            (Some("*"), Some(token)) | (Some(token), Some("*")) => both.push(token),
            (Some(token), Some(same)) if token == same => both.push(token),
            _ => return None,
        }
    }
    // Parsing fails if the result is longer than a subject may be: then no subject matches both.
    Filter::parse(both.join(".").as_bytes()).ok()
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn filter() -> impl Strategy<Value = Filter> {
        let token = prop_oneof![3 => "[ab]", 2 => Just("*".to_owned())];
        let tail = prop_oneof![2 => Just(""), 1 => Just(".>")];
        (vec(token, 1..4), tail)
            .prop_map(|(tokens, tail)| Filter::parse((tokens.join(".") + tail).as_bytes()).unwrap())
    }

    proptest! {
        #[test]
        fn what_meets_and_covers_is_what_matches(
            a in filter(), b in filter(), subject in "[abc](\\.[abc]){0,3}",
        ) {
            let subject = Subject::parse(subject.as_bytes()).unwrap();
            let (by_a, by_b) = (a.matches(subject), b.matches(subject));
            prop_assert_eq!(meet(&a, &b).is_some_and(|both| both.matches(subject)), by_a && by_b);
            prop_assert_eq!(meet(&a, &b), meet(&b, &a));
            if covers(&a, &b) {
                prop_assert!(by_a || !by_b);
                prop_assert_eq!(meet(&a, &b), Some(b));
            }
        }
    }

    #[test]
    fn the_pattern_of_everything_includes_addresses() {
        let pattern = |text: &str| SubjectPattern::try_from(text.to_owned()).unwrap();
        assert!(pattern("@").has_addresses() && pattern(">").has_addresses());
        assert!(!pattern("*").has_addresses() && !pattern("*.>").has_addresses());
        assert!(SubjectPattern::try_from("@7".to_owned()).is_err());
        assert!(covers(&Filter::parse(b">").unwrap(), &Filter::parse(b"*.>").unwrap()));
        let long = format!("{}.*", "x".repeat(200));
        let other = format!("*.{}", "y".repeat(200));
        let parse = |text: &str| Filter::parse(text.as_bytes()).unwrap();
        assert_eq!(meet(&parse(&long), &parse(&other)), None);
    }
}
