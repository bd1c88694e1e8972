//! Features for adapters of other protocols: an ERROR without subscribers, subscriptions that end after
//! some messages, and reply subjects that a receiver may use.

use std::time::Instant;

use ipcd_core::{
    Acl, AclRule, Config, DaemonInfo, PeerInfo, PeerKey, Router, RuleAction, RuleScope,
};
use ipcd_proto::control::{
    Hello, Origin, Refusal, RefusalCode, Subscribe, Unsubscribe, decode as body, encode,
};
use ipcd_proto::{DecodedFrame, Frame, FrameKind, FrameWriter, Header, VERSION, decode};

struct World {
    core: Router,
    now: Instant,
}

/// A frame that a peer has received.
#[derive(Debug)]
struct Heard {
    header: Header,
    subject: String,
    reply: String,
    payload: Vec<u8>,
}

impl World {
    fn new(rules: Vec<AclRule>) -> Self {
        let now = Instant::now();
        let mut config = Config::new(DaemonInfo::unknown(now));
        config.acl = Acl { rules, ..Acl::default() };
        Self { core: Router::new(config, None), now }
    }

    fn peer(&mut self, uid: u32) -> PeerKey {
        let (name, transport, pid, gid, addr) = (None, "test".into(), None, None, None);
        let origin = Origin { peer: 0, name, transport, pid, uid: Some(uid), gid, addr };
        let info = PeerInfo { listener: 0, origin, challenge: None, raw: None };
        let key = self.core.attach(self.now, info);
        let hello = Hello {
            magic: Hello::MAGIC,
            oldest: VERSION,
            newest: VERSION,
            features: 0,
            nonce: [0; 32],
            name: None,
            token: None,
            no_echo: true,
        };
        self.say(key, Header::new(FrameKind::Hello, 0), &encode(&hello));
        assert_eq!(self.hear(key).len(), 1);
        key
    }

    fn say(&mut self, key: PeerKey, header: Header, payload: &[u8]) {
        self.send(key, header, ["", ""], payload);
    }

    fn send(&mut self, key: PeerKey, header: Header, [subject, reply]: [&str; 2], payload: &[u8]) {
        let (subject, reply, headers) = (subject.as_bytes(), reply.as_bytes(), &[][..]);
        let mut bytes = Vec::new();
        FrameWriter(&mut bytes).write(&Frame { header, subject, reply, headers, payload });
        let progress = self.core.receive(self.now, key, &mut bytes);
        assert_eq!(progress.consumed, bytes.len());
    }

    fn publish(&mut self, key: PeerKey, subject: &str) {
        self.send(key, Header::new(FrameKind::Message, 9), [subject, ""], b"x");
    }

    fn subscribe(&mut self, key: PeerKey, subscription: u32, filter: &str, group: Option<&str>) {
        let (filter, group) = (filter.to_owned(), group.map(str::to_owned));
        let wish = Subscribe { subscription, filter, group, overflow: None, origin: false };
        self.say(key, Header::new(FrameKind::Subscribe, 1), &encode(&wish));
        assert_eq!(self.hear(key).len(), 1);
    }

    fn end_after(&mut self, key: PeerKey, subscription: u32, max: u32) {
        let header = Header { subscription: max, ..Header::new(FrameKind::Unsubscribe, 77) };
        self.say(key, header, &encode(&Unsubscribe { subscription }));
    }

    fn hear(&mut self, key: PeerKey) -> Vec<Heard> {
        let bytes: Vec<u8> = self.core.queue_pieces(key).flatten().copied().collect();
        self.core.wrote(self.now, key, bytes.len());
        let (mut rest, mut found) = (&bytes[..], Vec::new());
        while let Ok(DecodedFrame::Frame(frame, length)) = decode(rest, usize::MAX) {
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            let (subject, reply) = (text(frame.subject), text(frame.reply));
            let (header, payload) = (frame.header, frame.payload.to_vec());
            found.push(Heard { header, subject, reply, payload });
            rest = &rest[length..];
        }
        found
    }

    /// The kinds and numbers of the frames that came.
    fn kinds(&mut self, key: PeerKey) -> Vec<(FrameKind, u64)> {
        let heard = self.hear(key);
        heard.iter().map(|frame| (frame.header.kind, frame.header.correlation)).collect()
    }
}

#[test]
fn a_message_without_subscribers_is_told_if_its_publisher_asks() {
    let mut world = World::new(Vec::new());
    let (asker, other) = (world.peer(1), world.peer(2));
    world.subscribe(asker, 5, "in.*", None);
    // Its own subscription does not count, for it does not hear itself.
    world.subscribe(asker, 6, "sum", None);
    let header = Header { interest: true, ..Header::new(FrameKind::Message, 3) };
    world.send(asker, header, ["sum", "in.1"], b"1+1");
    let heard = world.hear(asker);
    let [error] = &heard[..] else { panic!("{heard:?}") };
    let refusal: Refusal = body(&error.payload).expect("an ERROR has a body");
    assert_eq!(refusal.code, RefusalCode::NoResponder);
    assert_eq!((error.header.correlation, error.header.subscription), (3, 5));
    assert_eq!((&*error.subject, &*error.reply), ("sum", "in.1"));
    // A message before it with the same subject, in one read, does not hide it.
    world.publish(asker, "sum");
    world.send(asker, header, ["sum", "elsewhere"], b"");
    assert_eq!(
        world.hear(asker).iter().map(|one| one.header.subscription).collect::<Vec<_>>(),
        [0]
    );
    for group in [None, Some("g")] {
        world.subscribe(other, 1, "sum", group);
        world.send(asker, header, ["sum", "in.1"], b"1+1");
        assert_eq!(world.kinds(asker), []);
        assert_eq!(world.hear(other).len(), 1);
        world.end_after(other, 1, 0);
        assert_eq!(world.kinds(other), [(FrameKind::Ack, 77)]);
    }
}

#[test]
fn a_subscription_ends_after_its_number_of_messages() {
    const M: (FrameKind, u64) = (FrameKind::Message, 9);
    const END: (FrameKind, u64) = (FrameKind::Ack, 77);
    let mut world = World::new(Vec::new());
    let (publisher, some) = (world.peer(1), world.peer(2));
    world.subscribe(some, 1, "a", None);
    world.publish(publisher, "a");
    world.end_after(some, 1, 3);
    // One batch, of which a part is too much.
    let mut batch = Vec::new();
    for _ in 0..5 {
        let header = Header::new(FrameKind::Message, 9);
        let (subject, payload) = (&b"a"[..], &b"x"[..]);
        let (reply, headers) = (&[][..], &[][..]);
        FrameWriter(&mut batch).write(&Frame { header, subject, reply, headers, payload });
    }
    let progress = world.core.receive(world.now, publisher, &mut batch);
    assert_eq!(progress.consumed, batch.len());
    assert_eq!(world.kinds(some), [M, M, M, END]);
    // A number that is reached already holds at once, and another one replaces it.
    world.subscribe(some, 1, "a", None);
    world.end_after(some, 1, 5);
    (0..2).for_each(|_| world.publish(publisher, "a"));
    world.end_after(some, 1, 2);
    world.publish(publisher, "a");
    assert_eq!(world.kinds(some), [M, M, END]);
}

#[test]
fn a_group_loses_nothing_to_a_member_that_ends() {
    let mut world = World::new(Vec::new());
    let (publisher, some, rest) = (world.peer(1), world.peer(2), world.peer(3));
    world.subscribe(some, 1, "a", Some("g"));
    world.subscribe(rest, 1, "a", Some("g"));
    world.end_after(some, 1, 2);
    (0..10).for_each(|_| world.publish(publisher, "a"));
    assert_eq!((world.hear(some).len(), world.hear(rest).len()), (3, 8));
}

#[test]
fn a_reply_subject_is_answerable_if_its_sender_gains_nothing() {
    let rule = |uid, publish: &[&str], subscribe: &[&str]| {
        let patterns = |texts: &[&str]| {
            let patterns = texts.iter().map(|text| text.to_string().try_into());
            patterns.collect::<Result<_, _>>().expect("they are filters")
        };
        AclRule {
            whom: RuleScope { uid: Some(uid), ..RuleScope::default() },
            publish: patterns(publish),
            subscribe: patterns(subscribe),
            action: RuleAction::Allow,
            ..AclRule::default()
        }
    };
    let rules = vec![rule(1, &["sum", "open"], &["_INBOX.>", "secret"]), rule(2, &[">"], &[">"])];
    let mut world = World::new(rules);
    let (guest, service) = (world.peer(1), world.peer(2));
    world.subscribe(service, 1, "sum", None);
    let expected = [("", false), ("open", true), ("_INBOX.x.1", true), ("secret", false)];
    let others = [("_inbox.x", false), ("@7", false), ("@7.1", false), ("a..b", false)];
    for (reply, is_answerable) in expected.into_iter().chain(others) {
        // The flag is the daemon's alone.
        for answerable in [false, true] {
            let header = Header { answerable, ..Header::new(FrameKind::Message, 1) };
            world.send(guest, header, ["sum", reply], b"");
            let heard = world.hear(service);
            assert_eq!(heard[0].header.answerable, is_answerable, "{reply}");
            assert_eq!(heard[0].reply, reply);
        }
    }
}
