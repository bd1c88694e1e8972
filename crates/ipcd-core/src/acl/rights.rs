//! The rights of one peer, compiled from the rules that concern it. Decides only; the callers
//! refuse and count.

use crate::acl::names::NamePermit;
use crate::acl::pattern::SubjectPattern;
use ipcd_proto::control::Query;
use ipcd_proto::{BadSubject, Filter, Subject};

/// The rights of a peer. A peer without a `PeerRights` may do everything.
#[derive(Debug, Eq, PartialEq)]
pub(crate) struct PeerRights {
    pub(super) publish: SubjectPermit,
    pub(super) subscribe: SubjectPermit,
    pub(super) name: NamePermit,
    pub(super) admin: bool,
}

/// The permitted subjects. A subject is permitted if no rule denies it, and either `is_open` is set
/// or a rule allows it.
#[derive(Debug, Default, Eq, PartialEq)]
pub(super) struct SubjectPermit {
    pub(super) is_open: bool,
    pub(super) allow: Vec<SubjectPattern>,
    pub(super) deny: Vec<SubjectPattern>,
}

/// The part of a filter's subjects that a subscription may receive.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum FilterShare {
    Nothing,
    Some,
    All,
}

impl PeerRights {
    /// Whether the peer may publish to this subject.
    pub(crate) fn may_publish(&self, subject: Subject<'_>) -> bool {
        self.publish.permits(Target::Subject(subject))
    }

    /// Whether the peer may send messages to a single peer that has not sent it a request.
    pub(crate) fn may_address(&self) -> bool {
        self.publish.permits(Target::Address)
    }

    /// Whether the peer may receive messages on this subject.
    pub(crate) fn may_hear(&self, subject: Subject<'_>) -> bool {
        self.subscribe.permits(Target::Subject(subject))
    }

    /// Whether the peer may receive some subjects of the filter. A group member must be allowed all
    /// of them.
    pub(crate) fn may_subscribe(&self, filter: &Filter, is_member: bool) -> bool {
        let share = self.subscribe.share(filter);
        (if is_member { share.of_member() } else { share }) != FilterShare::Nothing
    }

    /// Whether the peer may list other peers and disconnect them.
    pub(crate) fn may_administer(&self) -> bool {
        self.admin
    }

    /// Whether the peer may bear this name, and so receive the messages that are sent to it.
    pub(crate) fn may_be_named(&self, name: &str) -> bool {
        self.name.permits(name)
    }

    /// Checks a query. The error names the action that is not allowed.
    pub(crate) fn may_ask(&self, query: &Query) -> Result<(), &'static str> {
        let may = match query {
            Query::Status | Query::Sandbox => Ok(()),
            Query::Peers | Query::Subscriptions => Err("see other peers"),
            Query::Access { .. } => Err("query the rights of other peers"),
            Query::Kick(_) => Err("disconnect peers"),
            Query::Find(_) if self.may_address() => Ok(()),
            Query::Find(_) => Err("send messages to one peer"),
            Query::Matching(subject) => {
                let subject = Subject::parse(subject.as_bytes());
                let may = subject.is_ok_and(|subject| self.may_publish(subject));
                if may { Ok(()) } else { Err("count the subscribers of this subject") }
            }
        };
        // An administrator may send every query.
        if self.may_administer() { Ok(()) } else { may }
    }

    pub(super) fn is_everything(&self) -> bool {
        let hears_all = self.publish.is_everything() && self.subscribe.is_everything();
        self.admin && hears_all && self.name.is_everything()
    }
}

impl SubjectPermit {
    pub(super) fn permits(&self, target: Target<'_>) -> bool {
        !target.is_in(&self.deny) && (self.is_open || target.is_in(&self.allow))
    }

    pub(super) fn share(&self, filter: &Filter) -> FilterShare {
        // Only a single denial that covers a part removes it. Several that cover it together leave
        // a subscription that receives nothing, which is harmless.
        let is_left = |part: &Filter| !self.deny.iter().any(|pattern| pattern.covers(part));
        let mut parts = self.allow.iter().filter_map(|pattern| pattern.meets(filter));
        let some = if self.is_open { is_left(filter) } else { parts.any(|part| is_left(&part)) };
        let all = self.is_open || self.allow.iter().any(|pattern| pattern.covers(filter));
        let is_touched = self.deny.iter().any(|pattern| pattern.meets(filter).is_some());
        match (some, all && !is_touched) {
            (false, _) => FilterShare::Nothing,
            (true, false) => FilterShare::Some,
            (true, true) => FilterShare::All,
        }
    }

    fn is_everything(&self) -> bool {
        let allows_all = self.allow.iter().any(SubjectPattern::is_everything);
        self.deny.is_empty() && (self.is_open || allows_all)
    }
}

impl FilterShare {
    pub(super) fn of(allowed: bool) -> Self {
        if allowed { Self::All } else { Self::Nothing }
    }

    /// Returns the part for a group member: all or nothing. The other workers leave a message to
    /// this member alone, so that a message that it may not receive would be lost.
    pub(super) fn of_member(self) -> Self {
        Self::of(self == Self::All)
    }
}

/// The destination of a message.
#[derive(Clone, Copy)]
pub(super) enum Target<'a> {
    /// A single peer.
    Address,
    Subject(Subject<'a>),
}

impl<'a> Target<'a> {
    pub(super) fn parse(text: &'a str) -> Result<Self, BadSubject> {
        match text.starts_with('@') {
            true => Ok(Self::Address),
            false => Subject::parse(text.as_bytes()).map(Self::Subject),
        }
    }

    pub(super) fn is_in(self, patterns: &[SubjectPattern]) -> bool {
        patterns.iter().any(|pattern| match self {
            Self::Address => pattern.has_addresses(),
            Self::Subject(subject) => pattern.matches(subject),
        })
    }
}
