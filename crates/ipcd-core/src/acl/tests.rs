//! Access rules compared with a naive reading of them, as the documentation explains it.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::acl::names::NamePattern;
use crate::acl::pattern::SubjectPattern;
use crate::acl::rights::PeerRights;
use crate::acl::{Acl, AclRule, GroupMembers, RuleAction, RuleScope};

/// All subjects of one to three tokens that the filters of these tests distinguish.
fn subjects() -> Vec<String> {
    let tokens = ["a", "b", "c"];
    let one: Vec<String> = tokens.map(str::to_owned).to_vec();
    let longer = |shorter: &[String]| -> Vec<String> {
        let all = shorter.iter().flat_map(|s| tokens.map(|token| format!("{s}.{token}")));
        all.collect()
    };
    let two = longer(&one);
    let three = longer(&two);
    // Longer than any filter without its tail, so that each tail has a match.
    let four = longer(&three);
    [one, two, three, four].concat()
}

/// Matches a filter as the documentation explains it.
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

/// The documented rule: a deny wins, then an allow. Otherwise everything is allowed while no rule
/// allows something.
fn oracle(rules: &[AclRule], who: &PeerAttributes, speaks: impl Fn(&AclRule) -> bool) -> bool {
    let concerns = |rule: &&AclRule| {
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
    let is_closed = rules.iter().any(|rule| rule.action == RuleAction::Allow);
    !spoken.contains(&RuleAction::Deny) && (spoken.contains(&RuleAction::Allow) || !is_closed)
}

fn names(patterns: &[SubjectPattern], subject: &str) -> bool {
    let text = |pattern: &SubjectPattern| String::from(pattern.clone());
    patterns.iter().any(|pattern| oracle_matches(&text(pattern), subject))
}

fn filter_text() -> impl Strategy<Value = String> {
    let token = prop_oneof![4 => "[abc]", 1 => Just("*".to_owned())];
    let tail = prop_oneof![3 => Just(""), 1 => Just(".>")];
    let plain = (vec(token, 1..4), tail).prop_map(|(tokens, tail)| tokens.join(".") + tail);
    prop_oneof![8 => plain, 1 => Just(">".to_owned())]
}

fn patterns() -> impl Strategy<Value = Vec<SubjectPattern>> {
    let pattern = prop_oneof![9 => filter_text(), 1 => Just("@".to_owned())];
    vec(pattern.prop_map(|text| SubjectPattern::try_from(text).expect("it is well-formed")), 0..3)
}

fn maybe<T: Clone + std::fmt::Debug + 'static>(of: Vec<T>) -> impl Strategy<Value = Option<T>> {
    proptest::option::weighted(0.4, proptest::sample::select(of))
}

fn listeners() -> Vec<String> {
    ["in", "out"].map(str::to_owned).to_vec()
}

fn rule() -> impl Strategy<Value = AclRule> {
    let group = GroupMembers { gid: 7, uids: vec![2] };
    let proved = (maybe(tokens()), maybe(certificates()));
    let whom = (maybe(vec![1, 2]), maybe(vec![group]), maybe(listeners()), proved);
    let whom = whom.prop_map(|(uid, group, listener, (token, certificate))| RuleScope {
        uid,
        group,
        listener,
        token,
        certificate,
    });
    let action = prop_oneof![Just(RuleAction::Allow), Just(RuleAction::Deny)];
    (whom, patterns(), patterns(), any_names(), any::<bool>(), action).prop_map(
        |(whom, publish, subscribe, name, admin, action)| {
            let subscribe = subscribe.into_iter().filter(|p| *p != SubjectPattern::Addresses);
            let subscribe = subscribe.collect();
            AclRule { whom, publish, subscribe, name, admin, action, line: 0 }
        },
    )
}

fn any_names() -> impl Strategy<Value = Option<Vec<NamePattern>>> {
    let pattern = prop_oneof!["ann", "bob", "a\\*", "\\*"];
    let pattern = pattern.prop_map(|text| NamePattern::try_from(text).expect("it is well-formed"));
    proptest::option::weighted(0.4, vec(pattern, 0..3))
}

/// The documented rule: the names in `name`, or all names for a rule about everything.
fn names_it(rule: &AclRule, name: &str) -> bool {
    let says = |patterns: &[SubjectPattern]| {
        patterns.iter().any(|pattern| String::from(pattern.clone()) == ">")
    };
    match &rule.name {
        None => says(&rule.publish) && says(&rule.subscribe),
        Some(patterns) => patterns.iter().any(|pattern| {
            let text = String::from(pattern.clone());
            text == name || text.strip_suffix('*').is_some_and(|start| name.starts_with(start))
        }),
    }
}

fn tokens() -> Vec<String> {
    ["", "ci"].map(str::to_owned).to_vec()
}

fn certificates() -> Vec<String> {
    ["ann.example", "bob.example"].map(str::to_owned).to_vec()
}

fn who() -> impl Strategy<Value = PeerAttributes> {
    let proved = (maybe(tokens()), maybe(certificates()));
    (maybe(vec![1, 2, 3]), maybe(vec![7, 8]), maybe(listeners()), proved).prop_map(
        |(uid, gid, listener, (token, certificate))| PeerAttributes {
            uid,
            gid,
            listener,
            token,
            certificate,
        },
    )
}

fn parsed(text: &str) -> Filter {
    Filter::parse(text.as_bytes()).expect("it is well-formed")
}

proptest! {
    #[test]
    fn decides_as_a_naive_oracle_does(rules in vec(rule(), 0..6), who in who()) {
        let acl = Acl { rules, ..Acl::default() };
        let rights = acl.rights(&acl.concerning(&who));
        for text in subjects() {
            let subject = ipcd_proto::Subject::parse(text.as_bytes()).expect("it is well-formed");
            let publishes = oracle(&acl.rules, &who, |rule| names(&rule.publish, &text));
            let hears = oracle(&acl.rules, &who, |rule| names(&rule.subscribe, &text));
            let may = |ask: fn(&PeerRights, ipcd_proto::Subject<'_>) -> bool| {
                rights.as_ref().is_none_or(|rights| ask(rights, subject))
            };
            prop_assert_eq!(may(PeerRights::may_publish), publishes, "publish {}", &text);
            prop_assert_eq!(may(PeerRights::may_hear), hears, "hear {}", &text);
            let told = acl.verdict(&who, &AccessRequest::Publish(text)).expect("it is well-formed");
            prop_assert_eq!(told.allowed, publishes);
        }
        let addresses = |rule: &AclRule| rule.publish.iter().any(|pattern| {
            ["@", ">"].contains(&String::from(pattern.clone()).as_str())
        });
        let may_address = rights.as_ref().is_none_or(PeerRights::may_address);
        prop_assert_eq!(may_address, oracle(&acl.rules, &who, addresses));
        let may_administer = rights.as_ref().is_none_or(PeerRights::may_administer);
        prop_assert_eq!(may_administer, oracle(&acl.rules, &who, |rule| rule.admin));
        for name in ["ann", "bob", "cyd"] {
            let may = rights.as_ref().is_none_or(|rights| rights.may_be_named(name));
            prop_assert_eq!(may, oracle(&acl.rules, &who, |rule| names_it(rule, name)));
            let told = acl.verdict(&who, &AccessRequest::Name(name.into())).expect("it is well-formed");
            prop_assert_eq!((told.allowed, acl.may_be_named(&who, name)), (may, may));
        }
    }

    /// A peer is refused a filter only if it may receive nothing of it, provided that no two
    /// denials take all of it together. A group member may receive all of it.
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
        let denials = acl.rules.iter().filter(|rule| rule.action == RuleAction::Deny);
        let denials: usize = denials.map(|rule| rule.subscribe.len()).sum();
        if denials == 0 && !matched.is_empty() {
            prop_assert_eq!(may(false), matched.iter().any(hears));
        }
        for group in [false, true] {
            let access = AccessRequest::Subscribe { filter: filter.clone(), group };
            let told = acl.verdict(&who, &access).expect("it is well-formed");
            prop_assert_eq!(told.allowed, may(group));
            prop_assert_eq!(told.allowed && !told.partly, may(true));
        }
    }
}

fn rule_of(text: &str) -> AclRule {
    let (action, rest) = text.split_once(' ').expect("it is well-formed");
    let patterns = |key: &str| {
        let list = rest.split(' ').find_map(|word| word.strip_prefix(key)).unwrap_or_default();
        let list = list.split(',').filter(|text| !text.is_empty());
        list.map(|text| SubjectPattern::try_from(text.to_owned()).expect("it is well-formed"))
            .collect()
    };
    AclRule {
        action: if action == "allow" { RuleAction::Allow } else { RuleAction::Deny },
        publish: patterns("pub="),
        subscribe: patterns("sub="),
        admin: rest.contains("admin"),
        ..AclRule::default()
    }
}

fn verdict(rules: &[&str], access: AccessRequest) -> (bool, Option<u32>) {
    let rules = rules.iter().map(|text| rule_of(text)).collect();
    let told = Acl { rules, ..Acl::default() }
        .verdict(&PeerAttributes::default(), &access)
        .expect("it is well-formed");
    (told.allowed, told.rule)
}

#[test]
fn names_the_rule_that_decides() {
    let publish = |subject: &str| AccessRequest::Publish(subject.into());
    let subscribe = |filter: &str, group| AccessRequest::Subscribe { filter: filter.into(), group };
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
        (AccessRequest::Admin, (true, Some(3))),
    ] {
        assert_eq!(verdict(&some, access.clone()), told, "{access:?}");
    }
    let denials = ["deny pub=a.>", "deny sub=b.c"];
    assert_eq!(verdict(&denials, publish("b")), (true, None));
    assert_eq!(verdict(&denials, subscribe(">", false)), (true, None));
    assert_eq!(verdict(&denials, subscribe(">", true)), (false, Some(2)));
    assert_eq!(verdict(&denials, AccessRequest::Admin), (true, None));
    assert_eq!(verdict(&[], publish("a")), (true, None));
    let bad = Acl::default().verdict(&PeerAttributes::default(), &publish("a..b"));
    assert!(bad.is_err());
}

#[test]
fn a_listener_has_several_names() {
    let whom = RuleScope { listener: Some("net".into()), ..RuleScope::default() };
    let rule = AclRule { whom, ..rule_of("deny pub=>") };
    let names = ["tcp://127.0.0.1:9", "net"].map(str::to_owned).to_vec();
    let acl = Acl { rules: vec![rule], listeners: [(0, names)].into() };
    let publish = |listener: &str| {
        let who = PeerAttributes { listener: Some(listener.into()), ..PeerAttributes::default() };
        acl.verdict(&who, &AccessRequest::Publish("a".into())).expect("it is well-formed").allowed
    };
    assert!(!publish("net") && !publish("tcp://127.0.0.1:9") && publish("other"));
}
