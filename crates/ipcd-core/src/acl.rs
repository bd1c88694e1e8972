//! Access rules: who may publish, subscribe and administer. They are read once for each peer, when
//! its session opens, into its [`Rights`]; nobody else decides what is allowed.
//!
//! A rule that denies wins, wherever it stands. Else a rule that allows decides. What no rule speaks
//! of is allowed as long as all rules deny, and denied as soon as one allows something to anybody.

mod pattern;
mod rights;

use std::collections::BTreeMap;

use ipcd_proto::control::{Access, Verdict, Who};
use ipcd_proto::{BadSubject, Filter};
use serde::{Deserialize, Serialize};

pub use self::pattern::Pattern;
pub(crate) use self::rights::Rights;
use self::rights::{Permit, Share, Target};

/// The access rules of a daemon, and what its listeners are called in them.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Acl {
    /// In the order of the configuration. Without any, everything is allowed.
    pub rules: Vec<Rule>,
    /// The names of each listener, by its number: the one that it was given, and its endpoints.
    pub listeners: BTreeMap<usize, Vec<String>>,
}

/// A rule: whom it concerns, and what it allows or denies them.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Rule {
    /// Whom it concerns: those who meet all of these conditions; all peers, without any.
    pub whom: Whom,
    /// Where they publish.
    pub publish: Vec<Pattern>,
    /// What they hear.
    pub subscribe: Vec<Pattern>,
    /// Whether they see and cut off other peers.
    pub admin: bool,
    /// What of it.
    pub action: Action,
    /// Its line in the configuration, for people; 0 if unknown.
    pub line: u32,
}

/// Conditions for a rule to concern a peer.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Whom {
    /// It is this user's.
    pub uid: Option<u32>,
    /// It is in this group.
    pub group: Option<Members>,
    /// It came in by a listener of this name.
    pub listener: Option<String>,
    /// It has proved the token of this name; of no name for the daemon's own.
    pub token: Option<String>,
    /// It is known by a certificate of this name.
    pub certificate: Option<String>,
}

/// Who is in a group of the system: whoever has it as its own, and these users.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Members {
    /// The group.
    pub gid: u32,
    /// The users that the group database lists.
    pub uids: Vec<u32>,
}

/// What a rule does.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
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
        let concerns = |rule: &Rule| rule.whom.fits(who, &names);
        let places = self.rules.iter().enumerate().filter(|(_, rule)| concerns(rule));
        places.map(|(place, _)| place).collect()
    }

    /// What a peer may do whom these rules concern; `None` if that is everything.
    pub(crate) fn rights(&self, places: &[usize]) -> Option<Rights> {
        let rules: Vec<&Rule> = places.iter().map(|place| &self.rules[*place]).collect();
        let is_open = self.is_open();
        let of = |list: fn(&Rule) -> &Vec<Pattern>, action: Action| {
            let those = rules.iter().filter(|rule| rule.action == action);
            those.flat_map(|rule| list(rule).iter().cloned()).collect()
        };
        let permit =
            |list| Permit { is_open, allow: of(list, Action::Allow), deny: of(list, Action::Deny) };
        let grants = |action| rules.iter().any(|rule| rule.admin && rule.action == action);
        let rights = Rights {
            publish: permit(|rule| &rule.publish),
            subscribe: permit(|rule| &rule.subscribe),
            admin: !grants(Action::Deny) && (is_open || grants(Action::Allow)),
        };
        (!rights.is_everything()).then_some(rights)
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
                Share::of(rights.is_none_or(|rights| rights.publish.permits(target)))
            }
            Access::Subscribe { filter, group } => {
                let filter = Filter::parse(filter.as_bytes())?;
                let share = rights.map_or(Share::All, |rights| rights.subscribe.share(&filter));
                if *group { share.of_member() } else { share }
            }
            Access::Admin => Share::of(rights.is_none_or(|rights| rights.may_administer())),
        };
        let allowed = share != Share::Nothing;
        let is_narrowed = concerning.iter().any(|&place| {
            let rule = &self.rules[place];
            rule.action == Action::Allow && rule.speaks_of(access)
        });
        let rule = rules.find(|(_, rule)| match rule.action {
            Action::Allow => allowed && rule.speaks_of(access),
            Action::Deny => !allowed && rule.is_reason(access, is_narrowed),
        });
        Ok(Verdict {
            allowed,
            partly: share == Share::Some,
            rule: rule.map(|(place, _)| place as u32 + 1),
            line: rule.map(|(_, rule)| rule.line).filter(|line| *line > 0),
        })
    }

    /// Whether what no rule speaks of is allowed.
    fn is_open(&self) -> bool {
        self.rules.iter().all(|rule| rule.action == Action::Deny)
    }

    /// All names of the listener that has this one.
    fn names_of<'a>(&'a self, name: Option<&'a str>) -> Vec<&'a str> {
        let Some(name) = name else { return Vec::new() };
        let has_name = |names: &&Vec<String>| names.iter().any(|known| known == name);
        let names = self.listeners.values().find(has_name);
        names.map_or_else(|| vec![name], |names| names.iter().map(String::as_str).collect())
    }
}

impl Whom {
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

impl Members {
    fn has(&self, who: &Who) -> bool {
        who.gid == Some(self.gid) || who.uid.is_some_and(|uid| self.uids.contains(&uid))
    }
}

impl Rule {
    /// Whether it names some of what is asked for.
    fn speaks_of(&self, access: &Access) -> bool {
        match access {
            Access::Publish(subject) => {
                Target::parse(subject).is_ok_and(|target| target.is_in(&self.publish))
            }
            Access::Subscribe { filter, .. } => Filter::parse(filter.as_bytes())
                .is_ok_and(|filter| self.subscribe.iter().any(|own| own.meets(&filter).is_some())),
            Access::Admin => self.admin,
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
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    /// Every subject of one to three tokens that filters of these tests can tell apart.
    fn subjects() -> Vec<String> {
        let tokens = ["a", "b", "c"];
        let one: Vec<String> = tokens.map(str::to_owned).to_vec();
        let longer = |shorter: &[String]| -> Vec<String> {
            let all = shorter.iter().flat_map(|s| tokens.map(|token| format!("{s}.{token}")));
            all.collect()
        };
        let two = longer(&one);
        let three = longer(&two);
        // A token longer than any filter without its tail, so that each tail has something.
        let four = longer(&three);
        [one, two, three, four].concat()
    }

    /// Matching, as it is explained to people.
    fn oracle_matches(filter: &str, subject: &str) -> bool {
        let (filter, subject): (Vec<_>, Vec<_>) =
            (filter.split('.').collect(), subject.split('.').collect());
        let has_tail = filter.last() == Some(&">");
        let fixed = if has_tail { &filter[..filter.len() - 1] } else { &filter[..] };
        let fits = match has_tail {
            true => subject.len() > fixed.len(),
            false => subject.len() == fixed.len(),
        };
        fits && fixed.iter().zip(&subject).all(|(wanted, token)| wanted == &"*" || wanted == token)
    }

    /// What is documented: a deny wins; else an allow; else all is open unless something is allowed.
    fn oracle(rules: &[Rule], who: &Who, speaks: impl Fn(&Rule) -> bool) -> bool {
        let concerns = |rule: &&Rule| {
            let whom = &rule.whom;
            let group = whom.group.as_ref();
            (whom.uid.is_none() || whom.uid == who.uid)
                && (whom.listener.is_none() || whom.listener == who.listener)
                && (whom.token.is_none() || whom.token == who.token)
                && (whom.certificate.is_none() || whom.certificate == who.certificate)
                && group.is_none_or(|group| {
                    who.gid == Some(group.gid) || group.uids.iter().any(|uid| who.uid == Some(*uid))
                })
        };
        let spoken: Vec<_> =
            rules.iter().filter(concerns).filter(|rule| speaks(rule)).map(|r| r.action).collect();
        let is_closed = rules.iter().any(|rule| rule.action == Action::Allow);
        !spoken.contains(&Action::Deny) && (spoken.contains(&Action::Allow) || !is_closed)
    }

    fn names(patterns: &[Pattern], subject: &str) -> bool {
        let text = |pattern: &Pattern| String::from(pattern.clone());
        patterns.iter().any(|pattern| oracle_matches(&text(pattern), subject))
    }

    fn filter_text() -> impl Strategy<Value = String> {
        let token = prop_oneof![4 => "[abc]", 1 => Just("*".to_owned())];
        let tail = prop_oneof![3 => Just(""), 1 => Just(".>")];
        let plain = (vec(token, 1..4), tail).prop_map(|(tokens, tail)| tokens.join(".") + tail);
        prop_oneof![8 => plain, 1 => Just(">".to_owned())]
    }

    fn patterns() -> impl Strategy<Value = Vec<Pattern>> {
        let pattern = prop_oneof![9 => filter_text(), 1 => Just("@".to_owned())];
        vec(pattern.prop_map(|text| Pattern::try_from(text).unwrap()), 0..3)
    }

    fn maybe<T: Clone + std::fmt::Debug + 'static>(of: Vec<T>) -> impl Strategy<Value = Option<T>> {
        proptest::option::weighted(0.4, proptest::sample::select(of))
    }

    fn listeners() -> Vec<String> {
        ["in", "out"].map(str::to_owned).to_vec()
    }

    fn rule() -> impl Strategy<Value = Rule> {
        let group = Members { gid: 7, uids: vec![2] };
        let proved = (maybe(tokens()), maybe(certificates()));
        let whom = (maybe(vec![1, 2]), maybe(vec![group]), maybe(listeners()), proved);
        let whom = whom.prop_map(|(uid, group, listener, (token, certificate))| Whom {
            uid,
            group,
            listener,
            token,
            certificate,
        });
        let action = prop_oneof![Just(Action::Allow), Just(Action::Deny)];
        (whom, patterns(), patterns(), any::<bool>(), action).prop_map(
            |(whom, publish, subscribe, admin, action)| {
                let subscribe = subscribe.into_iter().filter(|p| *p != Pattern::Addresses);
                let subscribe = subscribe.collect();
                Rule { whom, publish, subscribe, admin, action, line: 0 }
            },
        )
    }

    fn tokens() -> Vec<String> {
        ["", "ci"].map(str::to_owned).to_vec()
    }

    fn certificates() -> Vec<String> {
        ["ann.example", "bob.example"].map(str::to_owned).to_vec()
    }

    fn who() -> impl Strategy<Value = Who> {
        let proved = (maybe(tokens()), maybe(certificates()));
        (maybe(vec![1, 2, 3]), maybe(vec![7, 8]), maybe(listeners()), proved).prop_map(
            |(uid, gid, listener, (token, certificate))| Who {
                uid,
                gid,
                listener,
                token,
                certificate,
            },
        )
    }

    fn parsed(text: &str) -> Filter {
        Filter::parse(text.as_bytes()).unwrap()
    }

    proptest! {
        #[test]
        fn decides_as_a_naive_oracle_does(rules in vec(rule(), 0..6), who in who()) {
            let acl = Acl { rules, ..Acl::default() };
            let rights = acl.rights(&acl.concerning(&who));
            for text in subjects() {
                let subject = ipcd_proto::Subject::parse(text.as_bytes()).unwrap();
                let publishes = oracle(&acl.rules, &who, |rule| names(&rule.publish, &text));
                let hears = oracle(&acl.rules, &who, |rule| names(&rule.subscribe, &text));
                let may = |ask: fn(&Rights, ipcd_proto::Subject<'_>) -> bool| {
                    rights.as_ref().is_none_or(|rights| ask(rights, subject))
                };
                prop_assert_eq!(may(Rights::may_publish), publishes, "publish {}", &text);
                prop_assert_eq!(may(Rights::may_hear), hears, "hear {}", &text);
                let told = acl.verdict(&who, &Access::Publish(text)).unwrap();
                prop_assert_eq!(told.allowed, publishes);
            }
            let addresses = |rule: &Rule| rule.publish.iter().any(|pattern| {
                ["@", ">"].contains(&String::from(pattern.clone()).as_str())
            });
            let may_address = rights.as_ref().is_none_or(Rights::may_address);
            prop_assert_eq!(may_address, oracle(&acl.rules, &who, addresses));
            let may_administer = rights.as_ref().is_none_or(Rights::may_administer);
            prop_assert_eq!(may_administer, oracle(&acl.rules, &who, |rule| rule.admin));
        }

        /// Nobody is refused a filter of which something could be heard, where no two denials have
        /// taken all of it together; and a member of a group hears all of it.
        #[test]
        fn a_filter_is_refused_when_it_is_useless(
            rules in vec(rule(), 0..5), who in who(), filter in filter_text(),
        ) {
            let acl = Acl { rules, ..Acl::default() };
            let rights = acl.rights(&acl.concerning(&who));
            let may = |group| rights.as_ref().is_none_or(|r| r.may_subscribe(&parsed(&filter), group));
            let matched: Vec<_> =
                subjects().into_iter().filter(|text| oracle_matches(&filter, text)).collect();
            let hears = |text: &String| oracle(&acl.rules, &who, |r| names(&r.subscribe, text));
            prop_assert!(may(false) || !matched.iter().any(hears));
            prop_assert!(!may(true) || matched.iter().all(hears));
            prop_assert!(may(false) || !may(true));
            let denials = acl.rules.iter().filter(|rule| rule.action == Action::Deny);
            let denials: usize = denials.map(|rule| rule.subscribe.len()).sum();
            if denials == 0 && !matched.is_empty() {
                prop_assert_eq!(may(false), matched.iter().any(hears));
            }
            for group in [false, true] {
                let access = Access::Subscribe { filter: filter.clone(), group };
                let told = acl.verdict(&who, &access).unwrap();
                prop_assert_eq!(told.allowed, may(group));
                prop_assert_eq!(told.allowed && !told.partly, may(true));
            }
        }
    }

    fn rule_of(text: &str) -> Rule {
        let (action, rest) = text.split_once(' ').unwrap();
        let patterns = |key: &str| {
            let list = rest.split(' ').find_map(|word| word.strip_prefix(key)).unwrap_or_default();
            let list = list.split(',').filter(|text| !text.is_empty());
            list.map(|text| Pattern::try_from(text.to_owned()).unwrap()).collect()
        };
        Rule {
            action: if action == "allow" { Action::Allow } else { Action::Deny },
            publish: patterns("pub="),
            subscribe: patterns("sub="),
            admin: rest.contains("admin"),
            ..Rule::default()
        }
    }

    fn verdict(rules: &[&str], access: Access) -> (bool, Option<u32>) {
        let rules = rules.iter().map(|text| rule_of(text)).collect();
        let told = Acl { rules, ..Acl::default() }.verdict(&Who::default(), &access).unwrap();
        (told.allowed, told.rule)
    }

    #[test]
    fn names_the_rule_that_decides() {
        let publish = |subject: &str| Access::Publish(subject.into());
        let subscribe = |filter: &str, group| Access::Subscribe { filter: filter.into(), group };
        let some = ["allow pub=a.>,@ sub=a.*", "deny pub=a.secret sub=a.secret", "allow admin"];
        for (access, told) in [
            (publish("a.b"), (true, Some(1))),
            (publish("a.secret"), (false, Some(2))),
            (publish("b"), (false, None)),
            (publish("@7"), (true, Some(1))),
            (subscribe(">", false), (true, Some(1))),
            (subscribe("a.secret", false), (false, Some(2))),
            (subscribe("b.>", false), (false, None)),
            (subscribe("a.*", true), (false, Some(2))),
            (subscribe("a.b", true), (true, Some(1))),
            (Access::Admin, (true, Some(3))),
        ] {
            assert_eq!(verdict(&some, access.clone()), told, "{access:?}");
        }
        let denials = ["deny pub=a.>", "deny sub=b.c"];
        assert_eq!(verdict(&denials, publish("b")), (true, None));
        assert_eq!(verdict(&denials, subscribe(">", false)), (true, None));
        assert_eq!(verdict(&denials, subscribe(">", true)), (false, Some(2)));
        assert_eq!(verdict(&denials, Access::Admin), (true, None));
        assert_eq!(verdict(&[], publish("a")), (true, None));
        let bad = Acl::default().verdict(&Who::default(), &publish("a..b"));
        assert!(bad.is_err());
    }

    #[test]
    fn a_listener_has_several_names() {
        let whom = Whom { listener: Some("net".into()), ..Whom::default() };
        let rule = Rule { whom, ..rule_of("deny pub=>") };
        let names = ["tcp://127.0.0.1:9", "net"].map(str::to_owned).to_vec();
        let acl = Acl { rules: vec![rule], listeners: [(0, names)].into() };
        let publish = |listener: &str| {
            let who = Who { listener: Some(listener.into()), ..Who::default() };
            acl.verdict(&who, &Access::Publish("a".into())).unwrap().allowed
        };
        assert!(!publish("net") && !publish("tcp://127.0.0.1:9") && publish("other"));
    }
}
