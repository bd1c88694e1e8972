//! Access rules as they are configured: `[[acl]]`. Names of users and groups become numbers here.

use std::collections::BTreeMap;

use ipcd_core::{
    Acl, AclRule, BadName, GroupMembers, NamePattern, RuleAction, RuleScope, SubjectPattern,
};
use nix::unistd::{Gid, Group, Uid, User};
use serde::{Deserialize, Serialize};
use toml::Spanned;

/// Bytes of all rules together: they travel to a worker in one message.
pub(crate) const MAX_BYTES: usize = 64 * 1024;

/// A rule.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(try_from = "RuleText", into = "RuleText")]
pub struct AccessRule {
    written: RuleText,
    rule: AclRule,
}

/// A rule as it is written.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
struct RuleText {
    #[serde(skip_serializing_if = "Option::is_none")]
    uid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<UserName>,
    #[serde(skip_serializing_if = "Option::is_none")]
    gid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    group: Option<GroupName>,
    #[serde(skip_serializing_if = "Option::is_none")]
    listener: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    certificate: Option<String>,
    publish: Vec<SubjectPattern>,
    subscribe: Vec<HearPattern>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<NameList>,
    admin: bool,
    action: RuleAction,
}

/// A user of this machine.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
struct UserName(String, u32);

/// A group of this machine.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
struct GroupName(String, GroupMembers);

/// A pattern of what is heard: whatever is sent to a peer alone, it hears.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(try_from = "String", into = "SubjectPattern")]
struct HearPattern(SubjectPattern);

/// Names that peers may have: a list, or only one.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(try_from = "OneOrMany", into = "Vec<NamePattern>")]
struct NameList(Vec<NamePattern>);

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

/// The rules, for listeners of these names. Those that no rule names are left out: there may be
/// hundreds, and all of it travels to a worker in one message.
pub(crate) fn acl(rules: &[AccessRule], mut listeners: BTreeMap<usize, Vec<String>>) -> Acl {
    let rules: Vec<AclRule> = rules.iter().map(|rule| rule.rule.clone()).collect();
    let is_named =
        |name: &String| rules.iter().any(|rule| rule.whom.listener.as_ref() == Some(name));
    listeners.retain(|_, names| names.iter().any(is_named));
    Acl { rules, listeners }
}

/// The oddities of the rules: names that nothing has, so that the rule concerns no peer.
pub(crate) fn unknown_names(acl: &Acl, tokens: impl Fn(&str) -> bool) -> Vec<String> {
    let is_listener =
        |name: &String| acl.listeners.values().any(|names| names.iter().any(|known| known == name));
    let mut found = Vec::new();
    for (number, rule) in (1..).zip(&acl.rules) {
        let nothing = |kind, name| format!("[[acl]] {number}: there is no {kind} {name}");
        let listener = rule.whom.listener.as_ref().filter(|name| !is_listener(name));
        let token = rule.whom.token.as_ref().filter(|name| !tokens(name));
        found.extend(listener.map(|name| nothing("listener", name)));
        found.extend(token.map(|name| nothing("token", name)));
    }
    found
}

/// Tells the rules on which line of the file they begin; refuses more than can be handed to workers.
pub(crate) fn finish(rules: &mut [AccessRule], text: &str) -> Result<(), String> {
    #[derive(Deserialize)]
    struct RuleLines {
        #[serde(default)]
        acl: Vec<Spanned<toml::Table>>,
    }
    // Parsed once more, because `try_from` loses the positions.
    let lines = toml::from_str(text).map_or(Vec::new(), |RuleLines { acl }| acl);
    for (rule, at) in rules.iter_mut().zip(lines) {
        let before = text.get(..at.span().start).unwrap_or_default();
        rule.rule.line = before.matches('\n').count() as u32 + 1;
    }
    let whole: Vec<&AclRule> = rules.iter().map(|rule| &rule.rule).collect();
    let size = bincode::serde::encode_to_vec(&whole, bincode::config::standard());
    match size.is_ok_and(|bytes| bytes.len() <= MAX_BYTES) {
        true => Ok(()),
        false => {
            Err(format!("the rules of [[acl]] take more than {} KiB together", MAX_BYTES >> 10))
        }
    }
}

impl TryFrom<RuleText> for AccessRule {
    type Error = String;

    fn try_from(written: RuleText) -> Result<Self, String> {
        let w = written.clone();
        let (uid, group) = match (w.uid, w.user, w.gid, w.group) {
            (Some(_), Some(_), ..) => return Err("give uid or user, not both".into()),
            (.., Some(_), Some(_)) => return Err("give gid or group, not both".into()),
            (uid, user, gid, group) => {
                let uid = uid.or(user.map(|UserName(_, uid)| uid));
                (uid, gid.map(members_of).or(group.map(|GroupName(_, members)| members)))
            }
        };
        let name = w.name.map(|NameList(patterns)| patterns);
        let speaks_of_subjects = !w.publish.is_empty() || !w.subscribe.is_empty();
        let speaks_of_names = name.as_ref().is_some_and(|patterns| !patterns.is_empty());
        if w.action == RuleAction::Deny && !speaks_of_subjects && !speaks_of_names && !w.admin {
            let why = "a rule that denies needs publish = [\"…\"], subscribe = [\"…\"], \
                       name = [\"…\"] or admin = true";
            return Err(why.into());
        }
        let (listener, token, certificate) = (w.listener, w.token, w.certificate);
        let whom = RuleScope { uid, group, listener, token, certificate };
        let subscribe = w.subscribe.into_iter().map(|HearPattern(pattern)| pattern).collect();
        let (admin, action) = (w.admin, w.action);
        let rule = AclRule { whom, publish: w.publish, subscribe, name, admin, action, line: 0 };
        Ok(Self { written, rule })
    }
}

impl From<AccessRule> for RuleText {
    fn from(rule: AccessRule) -> Self {
        rule.written
    }
}

impl TryFrom<String> for UserName {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        let user = User::from_name(&name).ok().flatten();
        let user = user.ok_or_else(|| format!("{name}: there is no such user"))?;
        Ok(Self(name, user.uid.as_raw()))
    }
}

impl From<UserName> for String {
    fn from(name: UserName) -> Self {
        name.0
    }
}

impl TryFrom<String> for GroupName {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        let group = Group::from_name(&name).ok().flatten();
        let group = group.ok_or_else(|| format!("{name}: there is no such group"))?;
        Ok(Self(name, members(group)))
    }
}

impl From<GroupName> for String {
    fn from(name: GroupName) -> Self {
        name.0
    }
}

impl TryFrom<String> for HearPattern {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match SubjectPattern::try_from(text).map_err(|error| error.to_string())? {
            SubjectPattern::Addresses => {
                Err("@ is for publish only: a peer always receives messages to its own address"
                    .into())
            }
            pattern => Ok(Self(pattern)),
        }
    }
}

impl TryFrom<OneOrMany> for NameList {
    type Error = String;

    fn try_from(written: OneOrMany) -> Result<Self, String> {
        let texts = match written {
            OneOrMany::One(text) => vec![text],
            OneOrMany::Many(texts) => texts,
        };
        let named = |text: String| {
            let why = |error: BadName| format!("name {text:?}: {error}");
            NamePattern::try_from(text.clone()).map_err(why)
        };
        texts.into_iter().map(named).collect::<Result<_, _>>().map(Self)
    }
}

impl From<NameList> for Vec<NamePattern> {
    fn from(NameList(patterns): NameList) -> Self {
        patterns
    }
}

impl From<HearPattern> for SubjectPattern {
    fn from(HearPattern(pattern): HearPattern) -> Self {
        pattern
    }
}

/// The members of a group of this number, which need not be in the group database.
fn members_of(gid: u32) -> GroupMembers {
    let group = Group::from_gid(Gid::from_raw(gid)).ok().flatten();
    group.map_or(GroupMembers { gid, uids: Vec::new() }, members)
}

fn members(group: Group) -> GroupMembers {
    let uid = |name: &String| Some(User::from_name(name).ok()??.uid);
    let uids = group.mem.iter().filter_map(uid).map(Uid::as_raw).collect();
    GroupMembers { gid: group.gid.as_raw(), uids }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::config::Config;

    #[test]
    fn names_are_one_or_a_list_and_say_what_is_wrong() {
        let rule =
            |name: &str| Config::parse(&format!("[[acl]]\nuid = 1\n{name}\n"), Path::new("f.toml"));
        let names = |name: &str| rule(name).unwrap().acl().rules[0].name.clone();
        assert_eq!(names("").map(|names| names.len()), None);
        assert_eq!(names("name = \"vault\""), names("name = [\"vault\"]"));
        assert_eq!(names("name = [\"a\", \"w-*\"]").map(|names| names.len()), Some(2));
        let why = |name: &str| rule(name).unwrap_err().to_string();
        assert!(why("name = [\"a*b\"]").contains("at the end"), "{}", why("name = [\"a*b\"]"));
        assert!(why("name = \"7\"").contains("id"), "{}", why("name = \"7\""));
        assert!(rule("action = \"deny\"\nname = \"a\"").is_ok());
        assert!(why("action = \"deny\"\nname = []").contains("needs"));
    }

    #[test]
    fn what_a_rule_names_is_known_by_all_its_names_and_the_rest_stays() {
        let text = "[[listen]]\nname = \"own\"\nendpoint = \"unix:///own\"\n\
            [[listen]]\nname = \"other\"\nendpoint = \"unix:///other\"\n\
            [[connect]]\nname = \"feed\"\nendpoint = \"tcp://h:1?codec=line&subject=a\"\n\
            [[exec]]\nname = \"job\"\ncommand = [\"true\"]\npublish = \"a\"\n\
            [[acl]]\nlistener = \"unix:///own\"\n[[acl]]\nlistener = \"feed\"\n\
            [[acl]]\nlistener = \"job\"\n";
        let acl = Config::parse(text, Path::new("f.toml")).unwrap().acl();
        let known: Vec<_> = acl.listeners.values().map(|names| names.join(" ")).collect();
        assert_eq!(known, ["unix:///own own", "tcp://h:1 feed", "job"]);
        assert!(super::unknown_names(&acl, |_| true).is_empty());
    }
}
