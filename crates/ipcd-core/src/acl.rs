//! Access rules: who may publish, subscribe and administer. They are read once for each peer, when
//! its session opens, into its [`PeerRights`]; nobody else decides what is allowed.
//!
//! A rule that denies wins, wherever it stands. Else a rule that allows decides. What no rule speaks
//! of is allowed as long as all rules deny, and denied as soon as one allows something to anybody.

pub(crate) mod names;
pub(crate) mod pattern;
pub(crate) mod rights;

use std::collections::BTreeMap;

use crate::acl::names::{NamePattern, NamePermit};
use crate::acl::pattern::SubjectPattern;
use crate::acl::rights::{FilterShare, PeerRights, SubjectPermit, Target};
use ipcd_proto::control::{Access, Query, Verdict, Who};
use ipcd_proto::{BadSubject, Filter};
use serde::{Deserialize, Serialize};

/// The access rules of a daemon, and what its listeners are called in them.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Acl {
    /// In the order of the configuration. Without any, everything is allowed.
    pub rules: Vec<AclRule>,
    /// The names of each listener, by its number: the one that it was given, and its endpoints.
    pub listeners: BTreeMap<usize, Vec<String>>,
}

/// A rule: whom it concerns, and what it allows or denies them.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct AclRule {
    /// Whom it concerns: those who meet all of these conditions; all peers, without any.
    pub whom: RuleScope,
    /// Where they publish.
    pub publish: Vec<SubjectPattern>,
    /// What they hear.
    pub subscribe: Vec<SubjectPattern>,
    /// Names that they may have. Without a word of them, a rule for all that is published and heard
    /// is for all names, and any other for none.
    pub name: Option<Vec<NamePattern>>,
    /// Whether they see and cut off other peers.
    pub admin: bool,
    /// What of it.
    pub action: RuleAction,
    /// Its line in the configuration, for people; 0 if unknown.
    pub line: u32,
}

/// Conditions for a rule to concern a peer.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct RuleScope {
    /// It is this user's.
    pub uid: Option<u32>,
    /// It is in this group.
    pub group: Option<GroupMembers>,
    /// It came in by a listener of this name.
    pub listener: Option<String>,
    /// It has proved the token of this name; of no name for the daemon's own.
    pub token: Option<String>,
    /// It is known by a certificate of this name.
    pub certificate: Option<String>,
}

/// Who is in a group of the system: whoever has it as its own, and these users.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct GroupMembers {
    /// The group.
    pub gid: u32,
    /// The users that the group database lists.
    pub uids: Vec<u32>,
}

/// What a rule does.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum RuleAction {
    /// It allows what it names.
    #[default]
    Allow,
    /// It denies it, whatever another allows.
    Deny,
}

impl Acl {
    /// The rules that concern somebody, by their places.
    pub(crate) fn concerning(&self, who: &Who) -> Box<[usize]> {
        let names = self.names_of(who.listener.as_deref());
        let concerns = |rule: &AclRule| rule.whom.fits(who, &names);
        let places = self.rules.iter().enumerate().filter(|(_, rule)| concerns(rule));
        places.map(|(place, _)| place).collect()
    }

    /// What a peer may do whom these rules concern; `None` if that is everything.
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
        (!rights.is_everything()).then_some(rights)
    }

    /// Whether somebody may ask this. The supervisor looks at it once more: it knows who peers are,
    /// whatever a worker says.
    pub fn may_ask(&self, who: &Who, query: &Query) -> bool {
        let rights = self.rights(&self.concerning(who));
        rights.is_none_or(|rights| rights.may_ask(query).is_ok())
    }

    /// Whether somebody may have this name, likewise.
    pub fn may_be_named(&self, who: &Who, name: &str) -> bool {
        self.rights(&self.concerning(who)).is_none_or(|rights| rights.may_be_named(name))
    }

    /// What is decided about somebody, and by which rule.
    ///
    /// # Errors
    /// If the subject or filter is none.
    pub fn verdict(&self, who: &Who, access: &Access) -> Result<Verdict, BadSubject> {
        let concerning = self.concerning(who);
        let rights = self.rights(&concerning);
        let mut rules = concerning.iter().map(|&place| (place, &self.rules[place]));
        let share = match access {
            Access::Publish(subject) => {
                let target = Target::parse(subject)?;
                FilterShare::of(rights.is_none_or(|rights| rights.publish.permits(target)))
            }
            Access::Subscribe { filter, group } => {
                let filter = Filter::parse(filter.as_bytes())?;
                let share =
                    rights.map_or(FilterShare::All, |rights| rights.subscribe.share(&filter));
                if *group { share.of_member() } else { share }
            }
            Access::Admin => FilterShare::of(rights.is_none_or(|rights| rights.may_administer())),
            Access::Name(name) => {
                FilterShare::of(rights.is_none_or(|rights| rights.may_be_named(name)))
            }
        };
        let allowed = share != FilterShare::Nothing;
        let is_narrowed = concerning.iter().any(|&place| {
            let rule = &self.rules[place];
            rule.action == RuleAction::Allow && rule.speaks_of(access)
        });
        let rule = rules.find(|(_, rule)| match rule.action {
            RuleAction::Allow => allowed && rule.speaks_of(access),
            RuleAction::Deny => !allowed && rule.is_reason(access, is_narrowed),
        });
        Ok(Verdict {
            allowed,
            partly: share == FilterShare::Some,
            rule: rule.map(|(place, _)| place as u32 + 1),
            line: rule.map(|(_, rule)| rule.line).filter(|line| *line > 0),
        })
    }

    /// Whether what no rule speaks of is allowed.
    fn is_open(&self) -> bool {
        self.rules.iter().all(|rule| rule.action == RuleAction::Deny)
    }

    /// All names of the listener that has this one.
    fn names_of<'a>(&'a self, name: Option<&'a str>) -> Vec<&'a str> {
        let Some(name) = name else { return Vec::new() };
        let has_name = |names: &&Vec<String>| names.iter().any(|known| known == name);
        let names = self.listeners.values().find(has_name);
        names.map_or_else(|| vec![name], |names| names.iter().map(String::as_str).collect())
    }
}

impl RuleScope {
    fn fits(&self, who: &Who, listener: &[&str]) -> bool {
        let is_named = |name: &String| listener.contains(&name.as_str());
        self.uid.is_none_or(|uid| who.uid == Some(uid))
            && self.group.as_ref().is_none_or(|group| group.has(who))
            && self.listener.as_ref().is_none_or(is_named)
            && is_none_or_same(&self.token, &who.token)
            && is_none_or_same(&self.certificate, &who.certificate)
    }
}

/// Whether there is no condition, or it is met.
fn is_none_or_same(wanted: &Option<String>, known: &Option<String>) -> bool {
    wanted.is_none() || wanted == known
}

impl GroupMembers {
    fn has(&self, who: &Who) -> bool {
        who.gid == Some(self.gid) || who.uid.is_some_and(|uid| self.uids.contains(&uid))
    }
}

impl AclRule {
    /// Whether it names some of what is asked for.
    fn speaks_of(&self, access: &Access) -> bool {
        match access {
            Access::Publish(subject) => {
                Target::parse(subject).is_ok_and(|target| target.is_in(&self.publish))
            }
            Access::Subscribe { filter, .. } => Filter::parse(filter.as_bytes())
                .is_ok_and(|filter| self.subscribe.iter().any(|own| own.meets(&filter).is_some())),
            Access::Admin => self.admin,
            Access::Name(name) => self.names().iter().any(|pattern| pattern.matches(name)),
        }
    }

    /// The names that it speaks of.
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

    /// Whether it is why something is denied. Where others allow only a part of a filter's
    /// subjects, it may have taken the rest; a member of a group needs all of them.
    fn is_reason(&self, access: &Access, is_narrowed: bool) -> bool {
        let covers_all = match access {
            Access::Subscribe { filter, group: false } if !is_narrowed => {
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
