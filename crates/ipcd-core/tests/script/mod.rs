//! The language of the scripts, a line a step:
//!
//! ```text
//! + a b=name c@5  peers (of user 5) attach and open a session      ++ a    attach only       - a   detach
//! a: WHAT | WHAT  one batch of bytes from a: sub N FILTER [overflow] [origin] [group=G] [limit=N], unsub N,
//!                 pub SUBJECT TEXT, pubsize SUBJECT BYTES, flush, ping, hello OLDEST NEWEST, half, garbage,
//!                 req N SUBJECT TEXT [reply=SUBJECT] (a request with correlation N, for 5 seconds, with
//!                 its own address or another reply subject), more SUBJECT TEXT
//!                 (a reply that is not the last), ask N SUBJECT TEXT (wants a receipt), subs (asks
//!                 for all subscriptions), kick ID, find NAME, matching SUBJECT
//! a: stall        no bytes are written to a until      a: read BYTES
//! wait SECONDS    time passes                          drain   the daemon ends
//! count NAME …    counters of the router
//! limits BYTES SUBS  the quota of one user; 0 for any number
//! set KEY=N …     another configuration: payload, queue (bytes), pending (messages), handshake, frame, idle, stall (seconds)
//! acl RULE | RULE other access rules: allow|deny [uid=N] [pub=S,S] [sub=F,F] [name=N,N] [admin]
//! ```
//!
//! Peers have the ids 1, 2, 3 … in the order in which they attach.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use ipcd_core::{
    AclRule, CloseReason, Config, DaemonInfo, NamePattern, Output, PeerInfo, PeerKey, Router,
    RuleAction, RuleScope, SubjectPattern,
};
use ipcd_proto::control::{
    Answer, Hello, Notice, Origin, OverflowPolicy, Query, Receipt, Refusal, Subscribe,
    SubscriptionStatus, Unsubscribe, decode as body, encode,
};
use ipcd_proto::{DecodedFrame, Frame, FrameKind, FrameWriter, Header, decode};

/// Runs a script, and compares the frames that peers received with the expected ones, in order.
pub(crate) fn check(script: &str, expected: &str) {
    let expected: Vec<_> =
        expected.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    assert_eq!(run(script), expected, "script:{script}");
}

/// Runs a script, and returns the frames that peers received.
pub(crate) fn run(script: &str) -> Vec<String> {
    let mut stage = Stage::new();
    for line in script.lines().map(str::trim).filter(|line| !line.is_empty()) {
        stage.step(line);
    }
    stage.seen
}

struct Stage {
    core: Router,
    now: Instant,
    actors: BTreeMap<String, Actor>,
    seen: Vec<String>,
}

struct Actor {
    key: PeerKey,
    stalled: bool,
    /// Bytes that were sent and not taken by the router.
    rest: Vec<u8>,
    /// Bytes that were written to the peer and are not whole frames yet.
    inbox: Vec<u8>,
}

fn set(config: &mut Config, pair: &str) {
    let (key, value) = pair.split_once('=').expect("KEY=N");
    let number: usize = value.parse().expect("a number");
    let seconds = Duration::from_secs(number as u64);
    match key {
        "payload" => config.max_payload = number,
        "queue" => config.queue_limit = number,
        "pending" => config.max_pending_per_principal = number as u64,
        "handshake" => config.handshake_timeout = seconds,
        "frame" => config.frame_timeout = seconds,
        "idle" => config.idle_timeout = Some(seconds).filter(|timeout| !timeout.is_zero()),
        "stall" => config.stall_timeout = seconds,
        _ => panic!("no such key: {key}"),
    }
}

impl Stage {
    fn new() -> Self {
        let now = Instant::now();
        let config = Config {
            max_payload: 2000,
            queue_limit: 4000,
            ..Config::new(DaemonInfo::unknown(now))
        };
        Self { core: Router::new(config, None), now, actors: BTreeMap::new(), seen: Vec::new() }
    }

    fn step(&mut self, line: &str) {
        let (first, rest) = line.split_once(' ').unwrap_or((line, ""));
        match first {
            "+" => rest.split(' ').for_each(|who| self.attach(who, true)),
            "++" => rest.split(' ').for_each(|who| self.attach(who, false)),
            "-" => self.core.detach(self.now, self.actors.remove(rest).expect("an actor").key),
            "wait" => {
                self.now += Duration::from_secs(rest.parse().expect("seconds"));
                self.core.tick(self.now);
            }
            "pace" => {
                let pace = rest.parse().expect("bytes");
                self.core.configure(self.now, |config| config.pace = pace);
            }
            "drain" => self.core.drain(self.now),
            "set" => self.core.configure(self.now, |config| {
                rest.split_whitespace().for_each(|pair| set(config, pair));
            }),
            "limits" => {
                let (bytes, subs) = rest.split_once(' ').expect("two numbers");
                self.core.configure(self.now, |config| {
                    config.max_bytes_per_principal = bytes.parse().expect("bytes");
                    config.max_subscriptions_per_principal = subs.parse().expect("subscriptions");
                });
            }
            "acl" => {
                let rules = rest.split(" | ").filter(|text| !text.is_empty()).map(rule).collect();
                self.core.configure(self.now, |config| config.acl.rules = rules);
            }
            "count" => {
                let counters = self.core.counters();
                let said = counters.iter().filter(|(name, _)| rest.split(' ').any(|n| n == name));
                self.seen.extend(said.map(|(name, value)| format!("{name}: {value}")));
            }
            who => self.act(who.trim_end_matches(':'), rest),
        }
        self.settle();
    }

    fn attach(&mut self, who: &str, opens: bool) {
        let (who, uid) =
            who.split_once('@').map_or((who, None), |(who, uid)| (who, uid.parse().ok()));
        let (who, name) = who.split_once('=').map_or((who, None), |(who, name)| (who, Some(name)));
        let origin = Origin {
            peer: 0,
            name: None,
            transport: "test".into(),
            pid: None,
            uid,
            gid: None,
            addr: None,
        };
        let key = self
            .core
            .attach(self.now, PeerInfo { listener: 0, origin, challenge: None, raw: None });
        let actor = Actor { key, stalled: false, rest: Vec::new(), inbox: Vec::new() };
        self.actors.insert(who.into(), actor);
        if opens {
            let hello = hello(1, 1, name);
            self.send(who, &hello);
            self.settle();
        }
    }

    fn act(&mut self, who: &str, what: &str) {
        match what.split_once(' ').unwrap_or((what, "")) {
            ("stall", _) => self.actor(who).stalled = true,
            ("read", bytes) => self.write(who, bytes.parse().expect("bytes")),
            _ => {
                let key = self.actor(who).key;
                let id = self.core.origin(key).peer;
                let frames = what.split(" | ").flat_map(|what| frame_of(what, id));
                let batch: Vec<u8> = frames.collect();
                self.send(who, &batch);
            }
        }
    }

    fn actor(&mut self, who: &str) -> &mut Actor {
        self.actors.get_mut(who).expect("an actor of that name")
    }

    fn send(&mut self, who: &str, bytes: &[u8]) {
        self.actor(who).rest.extend_from_slice(bytes);
        self.offer(who);
    }

    fn offer(&mut self, who: &str) {
        let (key, mut rest) = (self.actor(who).key, std::mem::take(&mut self.actor(who).rest));
        let progress = self.core.receive(self.now, key, &mut rest);
        rest.drain(..progress.consumed);
        self.actor(who).rest = rest;
        if progress.waiting {
            self.seen.push(format!("{who}: waits"));
        }
    }

    /// Carries out the router's outputs.
    fn settle(&mut self) {
        loop {
            let Some(output) = self.core.poll_output() else {
                if !self.core.has_deferred() {
                    return;
                }
                self.core.run_deferred(self.now);
                continue;
            };
            match output {
                Output::Write(key) => {
                    let who = self.name(key);
                    if !self.actor(&who).stalled {
                        self.write(&who, usize::MAX);
                    }
                }
                Output::Resume(key) => {
                    let who = self.name(key);
                    self.seen.push(format!("{who}: resumes"));
                    self.offer(&who);
                }
                Output::Close(key, CloseReason { why, has_stalled }) => {
                    let who = self.name(key);
                    let blame = if has_stalled { " (others waited)" } else { "" };
                    self.seen.push(format!("{who}: closes: {why}{blame}"));
                }
                Output::Opened(_) => {}
                Output::Denied(key, _) => {
                    let who = self.name(key);
                    self.seen.push(format!("{who}: is told of in the log"));
                }
                Output::Drop(key, _) => {
                    let who = self.name(key);
                    self.core.detach(self.now, key);
                    self.actors.remove(&who);
                    self.seen.push(format!("{who}: dropped"));
                }
                other => panic!("a router alone asks for {other:?}"),
            }
        }
    }

    fn name(&self, key: PeerKey) -> String {
        let found = self.actors.iter().find(|(_, actor)| actor.key == key);
        found.expect("outputs are about peers that are attached").0.clone()
    }

    fn write(&mut self, who: &str, most: usize) {
        let key = self.actor(who).key;
        let mut bytes = self.core.queue_pieces(key).collect::<Vec<_>>().concat();
        bytes.truncate(most);
        self.core.wrote(self.now, key, bytes.len());
        self.actor(who).inbox.extend_from_slice(&bytes);
        let inbox = std::mem::take(&mut self.actor(who).inbox);
        let mut rest = &inbox[..];
        while let Ok(DecodedFrame::Frame(frame, length)) = decode(rest, usize::MAX) {
            self.seen.extend(shown(&frame).map(|text| format!("{who}: {text}")));
            rest = &rest[length..];
        }
        let rest = rest.to_vec();
        self.actor(who).inbox = rest;
        self.core.tick(self.now);
    }
}

/// Returns a frame as its receiver sees it. The WELCOME at the start of a session is left out.
fn shown(frame: &Frame<'_>) -> Option<String> {
    let subject = String::from_utf8_lossy(frame.subject);
    let header = frame.header;
    Some(match header.kind {
        FrameKind::Welcome => return None,
        FrameKind::Message if frame.payload.len() > 50 => {
            format!("message {} {subject} ({} bytes)", header.subscription, frame.payload.len())
        }
        FrameKind::Message => {
            let text = String::from_utf8_lossy(frame.payload);
            format!("message {} {subject} {text}", header.subscription)
        }
        FrameKind::Error => {
            let refusal: Refusal = body(frame.payload).expect("a refusal");
            let what = if header.correlation == 0 { "error" } else { "refused" };
            format!("{what} {:?}", refusal.code)
        }
        FrameKind::Notice => match body(frame.payload).expect("a notice") {
            Notice::Gap { subscription, dropped, reason } => {
                format!("gap {subscription} {dropped} {}", reason.name())
            }
            Notice::Origin(origin) => format!("origin {}", origin.name.unwrap_or_default()),
        },
        FrameKind::Receipt => {
            let receipt: Receipt = body(frame.payload).expect("a receipt");
            let dropped = receipt.dropped.iter();
            let dropped: String =
                dropped.map(|(reason, count)| format!(", {count} {}", reason.name())).collect();
            format!("receipt {}: {} delivered{dropped}", header.correlation, receipt.delivered)
        }
        FrameKind::Answer => match body(frame.payload).expect("an answer") {
            Answer::Subscriptions(all) if all.is_empty() => return None,
            Answer::Subscriptions(all) => {
                let shown = |one: &SubscriptionStatus| {
                    let dropped: u64 = one.dropped.iter().map(|(_, count)| count).sum();
                    let SubscriptionStatus { filter, matched, delivered, queued, .. } = one;
                    format!("{filter} {matched} = {delivered} + {dropped} + {queued}")
                };
                all.iter().map(shown).collect::<Vec<_>>().join(", ")
            }
            answer => format!("{answer:?}"),
        },
        kind => format!("{kind:?}").to_lowercase(),
    })
}

/// Parses an access rule of a script.
pub(crate) fn rule(text: &str) -> AclRule {
    let words: Vec<&str> = text.split(' ').collect();
    let value = |key: &str| words.iter().find_map(|word| word.strip_prefix(key));
    let patterns = |key| {
        let list = value(key).into_iter().flat_map(|list| list.split(','));
        list.map(|text| SubjectPattern::try_from(text.to_owned()).expect("a pattern")).collect()
    };
    let uid = value("uid=").map(|uid| uid.parse().expect("a number"));
    AclRule {
        whom: RuleScope { uid, ..RuleScope::default() },
        publish: patterns("pub="),
        subscribe: patterns("sub="),
        name: value("name=").map(|list| {
            let names = list.split(',').filter(|text| !text.is_empty());
            names.map(|text| NamePattern::try_from(text.to_owned()).expect("a name")).collect()
        }),
        admin: words.contains(&"admin"),
        action: if words[0] == "deny" { RuleAction::Deny } else { RuleAction::Allow },
        line: 0,
    }
}

fn hello(oldest: u16, newest: u16, name: Option<&str>) -> Vec<u8> {
    let hello = Hello {
        magic: Hello::MAGIC,
        oldest,
        newest,
        features: 0,
        nonce: [0; 32],
        name: name.map(str::to_owned),
        token: None,
        no_echo: false,
    };
    control(FrameKind::Hello, &encode(&hello))
}

/// Returns the bytes of a frame that a script describes, from the peer with this id.
fn frame_of(what: &str, id: u64) -> Vec<u8> {
    let words: Vec<&str> = what.split(' ').collect();
    let number = |at: usize| words[at].parse().expect("a number");
    match words[0] {
        "sub" => {
            let limit = words.iter().find_map(|word| word.strip_prefix("limit="));
            let limit = limit.map_or(0, |limit| limit.parse().expect("a number"));
            let mut frame = control(FrameKind::Subscribe, &subscribe(&words));
            Frame::stamp_subscription(&mut frame, limit);
            frame
        }
        "unsub" => {
            control(FrameKind::Unsubscribe, &encode(&Unsubscribe { subscription: number(1) }))
        }
        "pub" => message(words[1], words[2].as_bytes()),
        "pubsize" => message(words[1], &vec![b'x'; number(2) as usize]),
        "req" => {
            let header = Header { request: true, wait: 5, ..numbered(&words) };
            let own = format!("@{id}.{}", header.correlation);
            let reply =
                words.get(4).map_or(own.as_str(), |reply| reply.trim_start_matches("reply="));
            message_to(header, words[2], reply, words[3].as_bytes())
        }
        "ask" => {
            let header = Header { receipt: true, ..numbered(&words) };
            message_with(header, words[2], words[3].as_bytes())
        }
        "more" => {
            let header = Header { more: true, ..Header::new(FrameKind::Message, 1) };
            message_with(header, words[1], words[2].as_bytes())
        }
        "kick" => control(FrameKind::Query, &encode(&Query::Kick(number(1).into()))),
        "find" => control(FrameKind::Query, &encode(&Query::Find(words[1].into()))),
        "matching" => control(FrameKind::Query, &encode(&Query::Matching(words[1].into()))),
        "subs" => control(FrameKind::Query, &encode(&Query::Subscriptions)),
        "ping" => control(FrameKind::Ping, &[]),
        "flush" => control(FrameKind::Flush, &[]),
        "hello" => hello(number(1) as u16, number(2) as u16, None),
        "half" => control(FrameKind::Ping, &[])[..20].to_vec(),
        "garbage" => b" GET / HTTP/1.1\r\n"[..].to_vec(),
        verb => panic!("no such verb: {verb}"),
    }
}

fn subscribe(words: &[&str]) -> Vec<u8> {
    let overflow = words[3..].iter().find_map(|word| match *word {
        "block" => Some(OverflowPolicy::Block),
        "drop-oldest" => Some(OverflowPolicy::DropOldest),
        "drop-newest" => Some(OverflowPolicy::DropNewest),
        "disconnect" => Some(OverflowPolicy::Disconnect),
        _ => None,
    });
    encode(&Subscribe {
        subscription: words[1].parse().expect("a number"),
        filter: words[2].into(),
        group: words[3..].iter().find_map(|word| word.strip_prefix("group=")).map(str::to_owned),
        overflow,
        origin: words[3..].contains(&"origin"),
    })
}

fn control(kind: FrameKind, body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    FrameWriter(&mut bytes).control(Header::new(kind, 1), body);
    bytes
}

fn numbered(words: &[&str]) -> Header {
    Header::new(FrameKind::Message, words[1].parse().expect("a number"))
}

fn message(subject: &str, payload: &[u8]) -> Vec<u8> {
    message_with(Header::new(FrameKind::Message, 1), subject, payload)
}

fn message_with(header: Header, subject: &str, payload: &[u8]) -> Vec<u8> {
    message_to(header, subject, "", payload)
}

fn message_to(header: Header, subject: &str, reply: &str, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    FrameWriter(&mut bytes).write(&Frame {
        header,
        subject: subject.as_bytes(),
        reply: reply.as_bytes(),
        headers: &[],
        payload,
    });
    bytes
}
