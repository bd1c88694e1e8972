//! Access rules: they decide which peer may publish, subscribe, bear a name and administer.
//!
//! The router reads the rules once for each peer, when its session opens, into its [`PeerRights`].
//! No other part decides what is allowed.
//!
//! A denying rule always wins, wherever it stands. Otherwise an allowing rule decides. A subject
//! that no rule mentions is allowed while all rules deny, and denied as soon as one rule allows
//! something to any peer.

pub(crate) mod names;
pub(crate) mod pattern;
pub(crate) mod rights;

use std::collections::BTreeMap;

use crate::acl::names::{NamePattern, NamePermit};
use crate::acl::pattern::SubjectPattern;
use crate::acl::rights::{FilterShare, PeerRights, SubjectPermit, Target};
use ipcd_proto::control::{AccessRequest, AccessVerdict, PeerAttributes, Query};
use ipcd_proto::{BadSubject, Filter};
use serde::{Deserialize, Serialize};

/// The access rules of a daemon, and the names of its listeners in them.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Acl {
    /// The rules in the order of the configuration. Without rules, everything is allowed.
    pub rules: Vec<AclRule>,
    /// The names of each listener, by its number: the configured name, and the endpoints.
    pub listeners: BTreeMap<usize, Vec<String>>,
}

/// A rule: the peers that it concerns, and the actions that it allows or denies them.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct AclRule {
    /// The conditions for the rule to concern a peer. Without conditions it concerns all peers.
    pub whom: RuleScope,
    /// The subjects for publishing.
    pub publish: Vec<SubjectPattern>,
    /// The subjects for subscribing.
    pub subscribe: Vec<SubjectPattern>,
    /// The names. Without this key, a rule for all subjects of both kinds is for all names, and any
    /// other rule for none.
    pub name: Option<Vec<NamePattern>>,
    /// Whether the rule is for administration: to list other peers and to disconnect them.
    pub admin: bool,
    /// Whether the rule allows or denies.
    pub action: RuleAction,
    /// The line of the rule in the configuration, for messages; 0 if unknown.
    pub line: u32,
}

/// Conditions for a rule to concern a peer. A peer must meet all that are present.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct RuleScope {
    /// The user id of the peer.
    pub uid: Option<u32>,
    /// The system group of the peer.
    pub group: Option<GroupMembers>,
    /// The name of the listener that accepted the peer.
    pub listener: Option<String>,
    /// The name of the token that the peer has proved; empty for the daemon's own token.
    pub token: Option<String>,
    /// The name in the certificate of the peer.
    pub certificate: Option<String>,
}

/// The members of a system group: processes that have it as their primary group, and the listed
/// users.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct GroupMembers {
    /// The group id.
    pub gid: u32,
    /// The user ids that the group database lists.
    pub uids: Vec<u32>,
}

/// The effect of a rule.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum RuleAction {
    /// The rule allows what it lists.
    #[default]
    Allow,
    /// The rule denies what it lists, even if another rule allows it.
    Deny,
}

impl Acl {
    /// Returns the indices of the rules that concern an identity.
    pub(crate) fn concerning(&self, who: &PeerAttributes) -> Box<[usize]> {
        let names = self.names_of(who.listener.as_deref());
        let concerns = |rule: &AclRule| rule.whom.fits(who, &names);
        let places = self.rules.iter().enumerate().filter(|(_, rule)| concerns(rule));
        places.map(|(place, _)| place).collect()
    }

    /// Returns the rights that these rules give; `None` if everything is allowed.
    pub(crate) fn rights(&self, places: &[usize]) -> Option<PeerRights> {
        let rules: Vec<&AclRule> = places.iter().map(|place| &self.rules[*place]).collect();
        let is_open = self.is_open();
        let of = |list: fn(&AclRule) -> &Vec<SubjectPattern>, action: RuleAction| {
            let those = rules.iter().filter(|rule| rule.action == action);
            those.flat_map(|rule| list(rule).iter().cloned()).collect()
        };
        let permit = |list| SubjectPermit {
            is_open,
            allow: of(list, RuleAction::Allow),
            deny: of(list, RuleAction::Deny),
        };
        let names = |action: RuleAction| {
            let those = rules.iter().filter(|rule| rule.action == action);
            those.flat_map(|rule| rule.names()).collect()
        };
        let name =
            NamePermit { is_open, allow: names(RuleAction::Allow), deny: names(RuleAction::Deny) };
        let grants = |action| rules.iter().any(|rule| rule.admin && rule.action == action);
        let rights = PeerRights {
            publish: permit(|rule| &rule.publish),
            subscribe: permit(|rule| &rule.subscribe),
            name,
            admin: !grants(RuleAction::Deny) && (is_open || grants(RuleAction::Allow)),
        };
        // A peer with all rights stores none, and its checks cost nothing.
        (!rights.is_everything()).then_some(rights)
    }

    /// Whether an identity may send this query. The supervisor checks it again by its own knowledge
    /// of the peer, because a worker that was taken over may claim any identity.
    pub fn may_ask(&self, who: &PeerAttributes, query: &Query) -> bool {
        let rights = self.rights(&self.concerning(who));
        rights.is_none_or(|rights| rights.may_ask(query).is_ok())
    }

    /// Whether an identity may bear this name. The supervisor checks it again for the same reason.
    pub fn may_be_named(&self, who: &PeerAttributes, name: &str) -> bool {
        self.rights(&self.concerning(who)).is_none_or(|rights| rights.may_be_named(name))
    }

    /// Explains the decision about an identity, and the rule that decided.
    ///
    /// # Errors
    ///
    /// If the subject or filter is malformed.
    pub fn verdict(
        &self,
        who: &PeerAttributes,
        access: &AccessRequest,
    ) -> Result<AccessVerdict, BadSubject> {
        let concerning = self.concerning(who);
        let rights = self.rights(&concerning);
        let mut rules = concerning.iter().map(|&place| (place, &self.rules[place]));
        let share = match access {
            AccessRequest::Publish(subject) => {
                let target = Target::parse(subject)?;
                FilterShare::of(rights.is_none_or(|rights| rights.publish.permits(target)))
            }
            AccessRequest::Subscribe { filter, group } => {
                let filter = Filter::parse(filter.as_bytes())?;
                let share =
                    rights.map_or(FilterShare::All, |rights| rights.subscribe.share(&filter));
                if *group { share.of_member() } else { share }
            }
            AccessRequest::Admin => {
                FilterShare::of(rights.is_none_or(|rights| rights.may_administer()))
            }
            AccessRequest::Name(name) => {
                FilterShare::of(rights.is_none_or(|rights| rights.may_be_named(name)))
            }
        };
        let allowed = share != FilterShare::Nothing;
        let is_narrowed = concerning.iter().any(|&place| {
            let rule = &self.rules[place];
            rule.action == RuleAction::Allow && rule.speaks_of(access)
        });
        // The first rule that decided is the one to look at.
        let rule = rules.find(|(_, rule)| match rule.action {
            RuleAction::Allow => allowed && rule.speaks_of(access),
            RuleAction::Deny => !allowed && rule.is_reason(access, is_narrowed),
        });
        Ok(AccessVerdict {
            allowed,
            partly: share == FilterShare::Some,
            rule: rule.map(|(place, _)| place as u32 + 1),
            line: rule.map(|(_, rule)| rule.line).filter(|line| *line > 0),
        })
    }

    /// Whether subjects that no rule mentions are allowed.
    fn is_open(&self) -> bool {
        self.rules.iter().all(|rule| rule.action == RuleAction::Deny)
    }

    /// Returns all names of the listener that has this name.
    fn names_of<'a>(&'a self, name: Option<&'a str>) -> Vec<&'a str> {
        let Some(name) = name else { return Vec::new() };
        // A rule may use any name of a listener.
        let has_name = |names: &&Vec<String>| names.iter().any(|known| known == name);
        let names = self.listeners.values().find(has_name);
        names.map_or_else(|| vec![name], |names| names.iter().map(String::as_str).collect())
    }
}

impl RuleScope {
    fn fits(&self, who: &PeerAttributes, listener: &[&str]) -> bool {
        let is_named = |name: &String| listener.contains(&name.as_str());
        self.uid.is_none_or(|uid| who.uid == Some(uid))
            && self.group.as_ref().is_none_or(|group| group.has(who))
            && self.listener.as_ref().is_none_or(is_named)
            && is_none_or_same(&self.token, &who.token)
            && is_none_or_same(&self.certificate, &who.certificate)
    }
}

/// Whether the condition is absent or met.
fn is_none_or_same(wanted: &Option<String>, known: &Option<String>) -> bool {
    wanted.is_none() || wanted == known
}

impl GroupMembers {
    fn has(&self, who: &PeerAttributes) -> bool {
        who.gid == Some(self.gid) || who.uid.is_some_and(|uid| self.uids.contains(&uid))
    }
}

impl AclRule {
    /// Whether the rule mentions a part of the requested access.
    fn speaks_of(&self, access: &AccessRequest) -> bool {
        match access {
            AccessRequest::Publish(subject) => {
                Target::parse(subject).is_ok_and(|target| target.is_in(&self.publish))
            }
            AccessRequest::Subscribe { filter, .. } => Filter::parse(filter.as_bytes())
                .is_ok_and(|filter| self.subscribe.iter().any(|own| own.meets(&filter).is_some())),
            AccessRequest::Admin => self.admin,
            AccessRequest::Name(name) => self.names().iter().any(|pattern| pattern.matches(name)),
        }
    }

    /// Returns the names that the rule mentions.
    fn names(&self) -> Vec<NamePattern> {
        let speaks_of_all =
            |patterns: &[SubjectPattern]| patterns.iter().any(SubjectPattern::is_everything);
        match &self.name {
            Some(names) => names.clone(),
            None if speaks_of_all(&self.publish) && speaks_of_all(&self.subscribe) => {
                vec![NamePattern::any()]
            }
            None => Vec::new(),
        }
    }

    /// Whether this denying rule is the reason for a refusal. If other rules allow only a part of
    /// the filter's subjects, this rule may have denied the rest. A group member needs all
    /// subjects, so that any denied part is a reason.
    fn is_reason(&self, access: &AccessRequest, is_narrowed: bool) -> bool {
        let covers_all = match access {
            AccessRequest::Subscribe { filter, group: false } if !is_narrowed => {
                Filter::parse(filter.as_bytes())
                    .is_ok_and(|filter| self.subscribe.iter().any(|own| own.covers(&filter)))
            }
            _ => true,
        };
        covers_all && self.speaks_of(access)
    }
}

#[cfg(test)]
mod tests;
