//! Access rules in the router: refusals, deliveries that leave peers out, and the effect of a
//! reload on attached peers.

mod script;

use std::collections::{BTreeMap, HashSet};
use std::time::Instant;

use ipcd_core::{AclRule, Config, DaemonInfo, Output, PeerInfo, PeerKey, Router, RuleAction};
use ipcd_proto::control::{Hello, Origin, Subscribe, encode};
use ipcd_proto::{DecodedFrame, Filter, Frame, FrameKind, FrameWriter, Header, Subject, decode};
use proptest::collection::vec;
use proptest::prelude::*;
use script::check;

#[test]
fn who_may_not_is_told_and_the_session_goes_on() {
    check(
        "
        acl allow uid=1 pub=>,@ sub=> admin | allow uid=2 pub=in.* sub=out.>
        + a@1 b@2 c
        b: sub 1 in.x
        b: sub 2 out.x
        b: pub out.x no | pub in.x yes | flush
        c: pub in.x no | sub 1 out.x | ping
        a: pub out.x hello
        count frames_denied
        ",
        "
        b: is told of in the log
        b: refused Denied
        b: ack
        b: refused Denied
        b: ack
        c: is told of in the log
        c: refused Denied
        c: refused Denied
        c: pong
        b: message 2 out.x hello
        frames_denied: 4
        ",
    );
}

#[test]
fn a_wildcard_brings_only_what_may_be_heard_and_the_rest_does_not_match() {
    check(
        "
        acl allow uid=1 pub=> sub=> | allow uid=2 sub=a.> | deny uid=2 sub=a.secret
        + a@1 b@2
        b: sub 1 >
        b: sub 2 a.* | sub 3 *.*
        a: pub a.secret no | pub b.x no | pub a.x 1 | pub a.x 2
        a: matching a.secret | matching a.x
        ",
        "
        b: ack
        b: ack
        b: ack
        b: message 1 a.x 1
        b: message 1 a.x 2
        b: message 2 a.x 1
        b: message 2 a.x 2
        b: message 3 a.x 1
        b: message 3 a.x 2
        a: Matching(0)
        a: Matching(3)
        ",
    );
}

#[test]
fn a_member_of_a_group_is_allowed_all_of_it_or_nothing() {
    check(
        "
        acl deny uid=2 sub=work.secret
        + a b@2 c@3
        b: sub 1 work.* group=g
        b: sub 2 work.plain group=g
        c: sub 1 work.* group=g
        a: pub work.secret 1 | pub work.secret 2 | pub work.secret 3
        ",
        "
        b: is told of in the log
        b: refused Denied
        b: ack
        c: ack
        c: message 1 work.secret 1
        c: message 1 work.secret 2
        c: message 1 work.secret 3
        ",
    );
}

/// Peers: a (1) asks, b (2) answers, c (3) tries to.
#[test]
fn whoever_was_asked_may_answer_and_nobody_else() {
    check(
        "
        acl allow uid=1 pub=q sub=x | allow uid=2 sub=q | allow uid=3 pub=y sub=y
        + a@1 b@2 c@3
        b: sub 1 q
        a: req 7 q ask
        c: pub @1.7 forged
        b: pub @1.7 answer
        b: pub @1.7 again
        b: pub @1 unasked
        a: find 2
        count replies_late frames_denied
        ",
        "
        b: ack
        b: message 1 q ask
        a: message 0 @1.7 answer
        b: is told of in the log
        b: refused Denied
        a: is told of in the log
        a: refused Denied
        replies_late: 2
        frames_denied: 2
        ",
    );
}

/// A peer with a name receives the messages to that name.
#[test]
fn a_name_is_for_those_who_may_have_it() {
    check(
        "
        acl allow uid=1 pub=> sub=> | allow uid=2 sub=news name=b-*,c | allow uid=3 pub=> sub=> name=d
        + a=any@1 b=b-1@2
        + c=any2@2
        + d=d@3
        + e=e@3
        + f=f@4
        a: pub @2 private
        acl allow uid=1 pub=> sub=> | deny name=b-*
        ",
        "
        c: is told of in the log
        c: error Denied
        c: bye
        c: closes: this peer may not use the name any2 (see [[acl]] in ipcd's configuration)
        e: is told of in the log
        e: error Denied
        e: bye
        e: closes: this peer may not use the name e (see [[acl]] in ipcd's configuration)
        f: is told of in the log
        f: error Denied
        f: bye
        f: closes: this peer may not use the name f (see [[acl]] in ipcd's configuration)
        b: message 0 @2 private
        b: is told of in the log
        b: error Denied
        b: bye
        b: closes: this peer may not use the name b-1 any more (see [[acl]] in ipcd's configuration)
        d: is told of in the log
        d: error Denied
        d: bye
        d: closes: this peer may not use the name d any more (see [[acl]] in ipcd's configuration)
        ",
    );
}

#[test]
fn only_an_administrator_sees_and_cuts_off_others() {
    check(
        "
        acl deny uid=2 admin
        + a@1 b@2
        b: subs
        b: kick 1
        a: kick 2
        ",
        "
        b: is told of in the log
        b: refused Denied
        b: refused Denied
        b: error Kicked
        b: bye
        b: closes: the peer was kicked by an administrator
        a: Kicked(true)
        ",
    );
}

#[test]
fn a_reload_ends_who_would_be_refused_and_narrows_the_others() {
    check(
        "
        + a@1 b@2 c@3
        b: sub 1 x.*
        c: sub 1 x.y block | sub 2 x.* block
        a: pub x.y 1
        acl deny uid=2 sub=x.>,z | deny uid=3 sub=x.z
        a: pub x.y 2 | pub x.z 3
        c: subs
        acl
        c: sub 3 x.*
        a: pub x.z 4
        ",
        "
        b: ack
        c: ack
        c: ack
        b: message 1 x.y 1
        c: message 1 x.y 1
        c: message 2 x.y 1
        b: is told of in the log
        b: error Denied
        b: bye
        b: closes: this peer may not subscribe to x.* any more (see [[acl]] in ipcd's configuration)
        c: message 1 x.y 2
        c: message 2 x.y 2
        c: x.y 2 = 2 + 0 + 0, x.* 2 = 2 + 0 + 0
        c: ack
        c: message 2 x.z 4
        c: message 3 x.z 4
        ",
    );
}

/// With `block` it would stop publishers of subjects that it may not receive.
#[test]
fn who_hears_only_some_of_a_filter_makes_nobody_wait() {
    check(
        "
        acl deny uid=2 sub=x.secret
        + a b@2
        b: sub 1 x.* block
        b: stall
        a: pubsize x.y 1900 | pubsize x.y 1900 | pubsize x.y 1900 | flush
        count messages_dropped_oldest
        ",
        "
        b: ack
        a: ack
        messages_dropped_oldest: 2
        ",
    );
}

/// Peers of different users in a router with these rules.
struct Hall {
    core: Router,
    now: Instant,
    peers: Vec<PeerKey>,
}

impl Hall {
    fn new(rules: Vec<AclRule>, peers: usize) -> Self {
        let now = Instant::now();
        let mut config = Config::new(DaemonInfo::unknown(now));
        config.acl.rules = rules;
        let mut hall = Self { core: Router::new(config, None), now, peers: Vec::new() };
        for uid in 0..peers {
            let (transport, uid) = ("test".into(), Some(uid as u32));
            let origin =
                Origin { peer: 0, name: None, transport, pid: None, uid, gid: None, addr: None };
            let info = PeerInfo { listener: 0, origin, challenge: None, raw: None };
            let key = hall.core.attach(now, info);
            hall.peers.push(key);
            let (magic, nonce) = (Hello::MAGIC, [0; 32]);
            let hello = Hello {
                magic,
                oldest: 1,
                newest: 1,
                features: 0,
                nonce,
                name: None,
                token: None,
                no_echo: false,
            };
            hall.say(uid.map_or(0, |uid| uid as usize), FrameKind::Hello, "", &encode(&hello));
        }
        hall
    }

    fn say(&mut self, peer: usize, kind: FrameKind, subject: &str, payload: &[u8]) {
        let mut bytes = Vec::new();
        let (subject, reply, headers) = (subject.as_bytes(), &[][..], &[][..]);
        let header = Header::new(kind, 1);
        FrameWriter(&mut bytes).write(&Frame { header, subject, reply, headers, payload });
        let progress = self.core.receive(self.now, self.peers[peer], &mut bytes);
        assert_eq!((progress.consumed, progress.waiting), (bytes.len(), false));
        while let Some(output) = self.core.poll_output() {
            assert!(!matches!(output, Output::Close(..)), "{output:?}");
        }
    }

    /// Returns the frames of a peer: their kinds and subjects, and the subscriptions that they are
    /// for.
    fn hear(&mut self, peer: usize) -> Vec<(FrameKind, u32, String)> {
        let mut heard = Vec::new();
        let bytes = self.core.send_queue(self.peers[peer]).to_vec();
        let mut rest = &bytes[..];
        while let Ok(DecodedFrame::Frame(frame, length)) = decode(rest, usize::MAX) {
            let subject = String::from_utf8_lossy(frame.subject).into_owned();
            heard.push((frame.header.kind, frame.header.subscription, subject));
            rest = &rest[length..];
        }
        self.core.wrote(self.now, self.peers[peer], bytes.len());
        heard
    }
}

/// Decides as the rules are explained. The filter's matching is the one that subscriptions use.
fn is_allowed(rules: &[AclRule], uid: usize, subject: &str, hears: bool) -> bool {
    let subject = Subject::parse(subject.as_bytes()).unwrap();
    let speaks = |rule: &&AclRule| {
        let patterns = if hears { &rule.subscribe } else { &rule.publish };
        let mut filters = patterns.iter().map(|pattern| String::from(pattern.clone()));
        let is_there = |text: String| Filter::parse(text.as_bytes()).unwrap().matches(subject);
        rule.whom.uid.is_none_or(|of| of as usize == uid) && filters.any(is_there)
    };
    let of = |action| rules.iter().filter(move |rule| rule.action == action);
    let is_closed = of(RuleAction::Allow).next().is_some();
    !of(RuleAction::Deny).any(|rule| speaks(&rule))
        && (!is_closed || of(RuleAction::Allow).any(|r| speaks(&r)))
}

const PEERS: usize = 3;

fn filter_text() -> impl Strategy<Value = String> {
    let token = prop_oneof![3 => "[ab]", 2 => Just("*".to_owned())];
    let tail = prop_oneof![2 => Just(""), 1 => Just(".>")];
    let plain = (vec(token, 1..3), tail).prop_map(|(tokens, tail)| tokens.join(".") + tail);
    prop_oneof![5 => plain, 1 => Just(">".to_owned())]
}

fn any_rule() -> impl Strategy<Value = AclRule> {
    let filters = || vec(filter_text(), 0..3);
    let uid = proptest::option::weighted(0.7, 0..PEERS);
    (any::<bool>(), uid, filters(), filters()).prop_map(|(deny, uid, publish, subscribe)| {
        let mut text = if deny { "deny" } else { "allow" }.to_owned();
        text.extend(uid.map(|uid| format!(" uid={uid}")));
        for (key, list) in [("pub", publish), ("sub", subscribe)] {
            if !list.is_empty() {
                text += &format!(" {key}={}", list.join(","));
            }
        }
        script::rule(&text)
    })
}

proptest! {
    /// No message is accepted or delivered that the rules deny, and every other message is.
    #[test]
    fn nothing_denied_is_delivered_and_all_else_is(
        rules in vec(any_rule(), 0..5),
        later in vec(any_rule(), 0..5),
        subscriptions in vec((0..PEERS, filter_text(), prop_oneof![3 => Just(false), 1 => Just(true)]), 0..8),
        messages in vec((0..PEERS, "[abc](\\.[abc]){0,2}"), 1..20),
        change in 0..20_usize,
    ) {
        let mut hall = Hall::new(rules.clone(), PEERS);
        let mut rules = rules;
        let mut live: BTreeMap<(usize, u32), (String, bool)> = BTreeMap::new();
        for (number, (peer, filter, in_group)) in (1..).zip(subscriptions) {
            hall.hear(peer);
            let group = in_group.then(|| "g".to_owned());
            let (subscription, overflow, origin) = (number, None, false);
            let body =
                Subscribe { subscription, filter: filter.clone(), group, overflow, origin };
            hall.say(peer, FrameKind::Subscribe, "", &encode(&body));
            if hall.hear(peer)[0].0 == FrameKind::Ack {
                live.insert((peer, number), (filter, in_group));
            }
        }
        (0..PEERS).for_each(|peer| drop(hall.hear(peer)));
        let mut gone = HashSet::new();
        for (at, (from, subject)) in messages.into_iter().enumerate() {
            if at == change {
                rules = later.clone();
                hall.core.configure(hall.now, |config| config.acl.rules = later.clone());
                for peer in 0..PEERS {
                    if hall.hear(peer).iter().any(|(kind, ..)| *kind == FrameKind::Bye) {
                        gone.insert(peer);
                    }
                }
                while hall.core.poll_output().is_some() {}
                live.retain(|(peer, _), _| !gone.contains(peer));
            }
            if gone.contains(&from) {
                continue;
            }
            hall.say(from, FrameKind::Message, &subject, b"x");
            let publishes = is_allowed(&rules, from, &subject, false);
            let mut members = 0;
            for peer in (0..PEERS).filter(|peer| !gone.contains(peer)) {
                let heard = hall.hear(peer);
                let hears = publishes && is_allowed(&rules, peer, &subject, true);
                let is_told = heard.iter().any(|(kind, ..)| *kind == FrameKind::Error);
                prop_assert_eq!(is_told, peer == from && !publishes);
                let got: Vec<u32> =
                    heard.into_iter().filter(|h| h.0 == FrameKind::Message).map(|h| h.1).collect();
                prop_assert!(got.is_empty() || hears, "{} hears {}", peer, subject);
                let matches = |filter: &str| {
                    let subject = Subject::parse(subject.as_bytes()).unwrap();
                    Filter::parse(filter.as_bytes()).unwrap().matches(subject)
                };
                let of_peer = |group: bool| {
                    let own = live.iter().filter(move |((of, _), _)| *of == peer);
                    let own = own.filter(move |(_, (filter, in_group))| {
                        *in_group == group && matches(filter)
                    });
                    own.map(|((_, number), _)| *number).collect::<Vec<u32>>()
                };
                let plain: Vec<u32> =
                    got.iter().copied().filter(|n| !live[&(peer, *n)].1).collect();
                let wanted = if hears { of_peer(false) } else { Vec::new() };
                prop_assert_eq!(&plain, &wanted);
                members += got.len() - plain.len();
            }
            let groups: HashSet<&String> = live.iter()
                .filter(|(_, (filter, in_group))| *in_group && {
                    let subject = Subject::parse(subject.as_bytes()).unwrap();
                    Filter::parse(filter.as_bytes()).unwrap().matches(subject)
                })
                .map(|(_, (filter, _))| filter)
                .collect();
            prop_assert_eq!(members, if publishes { groups.len() } else { 0 });
        }
    }
}
