//! What no honest worker says. Whoever has taken a worker over can say anything on its link, so the
//! table believes a worker what concerns its own peers, within limits, and nothing else; the
//! routers keep within the same limits.

use std::fmt;

use crate::directory::state::{GroupPart, Interest};
use crate::model::names::is_name;
use ipcd_proto::control::{Answer, Query};
use ipcd_proto::limits::MAX_NAME;
use ipcd_proto::{Filter, Subject};

/// Interests of one worker. Subscriptions of one filter and group are one interest.
pub(crate) const MAX_INTERESTS: usize = 256 * 1024;
/// Names of one worker's peers.
pub(crate) const MAX_NAMES: usize = 256 * 1024;
/// Questions of one worker's peers that others are answering.
pub(crate) const MAX_QUESTIONS: usize = 4096;
/// Parts of one worker's answer to a question.
pub(crate) const MAX_PARTS: usize = 4096;
/// Sources of which one worker says what they take up.
pub(crate) const MAX_SOURCES: usize = 64 * 1024;
/// Counters, and bytes of their names.
const MAX_COUNTERS: usize = 64;
const MAX_COUNTER_NAME: usize = 64;

/// Why a worker must not be believed any more.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ProtocolViolation {
    /// It confirms changes that it was not told.
    Epoch,
    /// It wants what is no filter or group.
    Interest,
    /// It has more interests than it may.
    TooManyInterests,
    /// It claims what is no name.
    Name,
    /// It asks what cannot be asked.
    Question,
    /// It asks more at once than it may.
    TooManyQueries,
    /// It answers something else than was asked.
    Answer,
    /// Its answer does not end.
    Parts,
    /// It has counted what nobody counts.
    Counters,
    /// It has peers of more sources than it may have peers.
    Sources,
}

impl fmt::Display for ProtocolViolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Epoch => "it confirms changes that it was not told",
            Self::Interest => "it wants what is no filter or group",
            Self::TooManyInterests => "it has too many interests",
            Self::Name => "it claims what is no name",
            Self::Question => "it asks what cannot be asked",
            Self::TooManyQueries => "it asks too much at once",
            Self::Answer => "it answers something else than was asked",
            Self::Parts => "its answer does not end",
            Self::Counters => "it has counted what nobody counts",
            Self::Sources => "it has peers of too many sources",
        })
    }
}

/// A filter, of a group if there is a part in it.
pub(crate) fn check_interest(
    interest: &Interest,
    share: Option<&GroupPart>,
) -> Result<(), ProtocolViolation> {
    let is_good = is_interest(interest) && interest.group.is_some() == share.is_some();
    is_good.then_some(()).ok_or(ProtocolViolation::Interest)
}

pub(crate) fn is_interest(interest: &Interest) -> bool {
    Filter::parse(interest.filter.as_bytes()).is_ok()
        && interest.group.as_deref().is_none_or(is_name)
}

pub(crate) fn check_query(query: &Query) -> Result<(), ProtocolViolation> {
    let is_good = match query {
        Query::Matching(subject) => Subject::parse(subject.as_bytes()).is_ok(),
        Query::Find(who) => who.len() <= MAX_NAME,
        // The rules are asked where the question came in.
        Query::Access { .. } => true,
        Query::Status | Query::Peers | Query::Kick(_) | Query::Subscriptions | Query::Sandbox => {
            true
        }
    };
    is_good.then_some(()).ok_or(ProtocolViolation::Question)
}

/// Whether this is an answer to that.
pub(crate) fn check_answer(query: &Query, answer: &Answer) -> Result<(), ProtocolViolation> {
    let fits = matches!(
        (query, answer),
        (Query::Status, Answer::Status(_))
            | (Query::Peers, Answer::Peers(_))
            | (Query::Matching(_), Answer::Matching(_))
            | (Query::Kick(_), Answer::Kicked(_))
            | (Query::Find(_), Answer::Found(_))
            | (Query::Subscriptions, Answer::Subscriptions(_))
            | (Query::Sandbox, Answer::Sandbox(_))
            | (Query::Access { .. }, Answer::Verdict(_))
    );
    fits.then_some(()).ok_or(ProtocolViolation::Answer)
}

/// Whether these may be added to those that are known.
pub(crate) fn check_counters(
    known: &[(String, u64)],
    counters: &[(String, u64)],
) -> Result<(), ProtocolViolation> {
    let is_plain = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'_';
    let is_good =
        |(name, _): &(String, u64)| name.len() <= MAX_COUNTER_NAME && name.bytes().all(is_plain);
    let is_new = |(name, _): &&(String, u64)| known.iter().all(|(known, _)| known != name);
    let is_few = known.len() + counters.iter().filter(is_new).count() <= MAX_COUNTERS;
    (is_few && counters.iter().all(is_good)).then_some(()).ok_or(ProtocolViolation::Counters)
}
