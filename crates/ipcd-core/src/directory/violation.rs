//! Protocol violations of workers, and the limits that they exceed.
//!
//! A compromised worker can send anything on its link. So the directory believes a worker only
//! about its own peers, within limits; honest routers stay within the same limits.

use std::fmt;

use crate::model::interest::{GroupPart, Interest};
use crate::model::names::is_name;
use ipcd_proto::control::{Answer, Query};
use ipcd_proto::limits::MAX_NAME;
use ipcd_proto::{Filter, Subject};

/// Interests of one worker. Subscriptions with the same filter and group are one interest.
pub(crate) const MAX_INTERESTS: usize = 256 * 1024;
/// Names of one worker's peers.
pub(crate) const MAX_NAMES: usize = 256 * 1024;
/// Open questions of one worker's peers.
pub(crate) const MAX_QUESTIONS: usize = 4096;
/// Parts of one worker's answer to a question.
pub(crate) const MAX_PARTS: usize = 4096;
/// Principals for which one worker reports its use.
pub(crate) const MAX_PRINCIPALS: usize = 64 * 1024;
/// Counters of ended workers, and bytes of a counter's name.
const MAX_COUNTERS: usize = 64;
const MAX_COUNTER_NAME: usize = 64;

/// The reason why a worker is not believed any more. The supervisor ends such a worker.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ProtocolViolation {
    /// It confirmed an epoch that does not exist yet.
    Epoch,
    /// It asked for a worker that cannot exist.
    Slot,
    /// Its interest has a malformed filter or group.
    Interest,
    /// It has more interests than allowed.
    TooManyInterests,
    /// It claimed a name that no peer can have.
    Name,
    /// It sent a malformed question.
    Question,
    /// It has more open questions than allowed.
    TooManyQueries,
    /// Its answer does not fit the question.
    Answer,
    /// Its answer has more parts than allowed.
    Parts,
    /// It reported counters that no worker has.
    Counters,
    /// It reports more principals than it can have peers.
    TooManyPrincipals,
}

impl fmt::Display for ProtocolViolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Epoch => "confirmed an epoch that does not exist",
            Self::Slot => "asked for a worker that cannot exist",
            Self::Interest => "interest with a malformed filter or group",
            Self::TooManyInterests => "more interests than allowed",
            Self::Name => "claimed a malformed name",
            Self::Question => "malformed query",
            Self::TooManyQueries => "more open queries than allowed",
            Self::Answer => "answer that does not fit the query",
            Self::Parts => "more parts of an answer than allowed",
            Self::Counters => "unknown or malformed counters",
            Self::TooManyPrincipals => "more users and networks than allowed",
        })
    }
}

/// Checks an interest. A group needs a part, and no other interest has one.
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
        // Each router answers this one from its own rules, so there is nothing to check.
        Query::Access { .. } => true,
        Query::Status | Query::Peers | Query::Kick(_) | Query::Subscriptions | Query::Sandbox => {
            true
        }
    };
    is_good.then_some(()).ok_or(ProtocolViolation::Question)
}

/// Checks that the answer is of the kind that the query asks for.
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

/// Checks the counters of a worker that ends, before they are added to the known sums.
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
