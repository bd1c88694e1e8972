//! Requests have exactly one end, and nothing of one gets into another's way.

use std::time::{Duration, Instant};

use crate::fake::{Fake, PATIENCE, during, event, patient};
use ipcd_client::{Client, Error, Event, Message, Publication, RefusalCode, Result};
use ipcd_proto::{FrameKind, Header};

const SECOND: Duration = Duration::from_secs(1);

fn ask(subject: &str) -> Publication<'_> {
    Publication { subject, payload: b"?", ..Publication::default() }
}

/// The next event, which is about a request.
fn reply(client: &mut Client) -> (u64, Result<Message>) {
    match event(client) {
        Event::Reply { request, reply } => (request, reply),
        other => panic!("no reply, but {other:?}"),
    }
}

fn payload(reply: Result<Message>) -> String {
    String::from_utf8(reply.expect("a reply").payload().to_vec()).expect("text")
}

fn assert_refused<T: std::fmt::Debug>(result: Result<T>, code: RefusalCode) {
    match result {
        Err(Error::Refused(refusal)) => assert_eq!(refusal.code, code),
        other => panic!("not refused with {code:?}, but {other:?}"),
    }
}

/// Nothing is there to be taken.
fn assert_quiet(client: &mut Client) {
    let event = client.next_event(Some(Instant::now()));
    assert!(matches!(event, Ok(None)), "{event:?}");
}

#[test]
fn a_request_says_where_replies_go_and_how_long_they_are_awaited() {
    let (mut client, mut session) = Fake::new().meet(9, patient());
    for (timeout, wait) in [
        (Duration::ZERO, 1),
        (Duration::from_millis(300), 1),
        (SECOND, 1),
        (Duration::from_millis(1001), 2),
        (Duration::MAX, u16::MAX),
    ] {
        let message = Publication { reply: "not used", ..ask("work") };
        let id = client.start_request(&message, timeout).expect("a request");
        client.push().expect("the connection lives");
        let came = session.expect(FrameKind::Message);
        assert_eq!((came.header.request, came.header.wait), (true, wait), "{timeout:?}");
        assert_eq!((came.header.correlation, came.header.receipt), (id, false));
        assert_eq!((came.subject.as_str(), &came.payload[..]), ("work", &b"?"[..]));
        assert_eq!(came.reply, format!("@9.{id}"));
    }
}

#[test]
fn a_call_returns_the_first_reply_and_keeps_what_else_comes_for_later() {
    let (mut client, mut session) = Fake::new().meet(9, patient());
    let other = client.start_request(&ask("other"), PATIENCE).expect("a request");
    let serve = || {
        session.expect(FrameKind::Message);
        let request = session.expect(FrameKind::Message).header.correlation;
        let header = Header { subscription: 1, ..Header::new(FrameKind::Message, 5) };
        session.message(header, "news", "", b"meanwhile");
        session.reply(other, "for the other");
        session.reply(request, "first");
        session.reply(request, "second");
    };
    let answer = during(serve, || client.request("work", b"?", PATIENCE));
    assert_eq!(payload(answer), "first");
    assert!(matches!(event(&mut client), Event::Message(message) if message.subject() == "news"));
    let (id, answer) = reply(&mut client);
    assert_eq!((id, payload(answer)), (other, "for the other".into()));
    session.reply(other, "again");
    assert_eq!(payload(reply(&mut client).1), "again");
    assert_eq!(client.late_replies(), 1);
}

#[test]
fn refusals_are_the_end_of_their_requests_and_of_nothing_else() {
    let (mut client, mut session) = Fake::new().meet(9, patient());
    let refused = client.start_request(&ask("unheard"), PATIENCE).expect("a request");
    let finished = client.start_request(&ask("work"), PATIENCE).expect("a request");
    let denied = client.start_request(&ask("work"), PATIENCE).expect("a request");
    let late = client.start_request(&ask("work"), Duration::ZERO).expect("a request");
    client.finish_request(finished);
    client.finish_request(denied);
    let (id, end) = reply(&mut client);
    assert_eq!(id, late);
    assert!(matches!(end, Err(Error::TimedOut("reply"))), "{end:?}");
    session.refuse(refused, RefusalCode::NoResponder);
    session.refuse(refused, RefusalCode::Unanswered);
    session.refuse(finished, RefusalCode::Unanswered);
    session.refuse(denied, RefusalCode::Denied);
    session.refuse(late, RefusalCode::TooLarge);
    let (id, end) = reply(&mut client);
    assert_eq!(id, refused);
    assert_refused(end, RefusalCode::NoResponder);
    let serve = || {
        (0..4).for_each(|_| drop(session.expect(FrameKind::Message)));
        session.acknowledge(FrameKind::Flush);
    };
    during(serve, || client.flush()).expect("no message was refused");
    assert_quiet(&mut client);
}

#[test]
fn a_call_that_is_refused_says_why() {
    let (mut client, mut session) = Fake::new().meet(9, patient());
    let serve = || {
        for code in [RefusalCode::NoResponder, RefusalCode::Unanswered] {
            let id = session.expect(FrameKind::Message).header.correlation;
            session.refuse(id, code);
        }
        session.acknowledge(FrameKind::Flush);
    };
    during(serve, || {
        assert_refused(client.request("work", b"?", PATIENCE), RefusalCode::NoResponder);
        assert_refused(client.request("work", b"?", PATIENCE), RefusalCode::Unanswered);
        client.flush().expect("no message was refused");
    });
}

#[test]
fn a_deadline_is_kept_whatever_the_caller_waits_for() {
    let (mut client, mut session) = Fake::new().meet(9, patient());
    let soon = Duration::from_millis(20);
    let first = client.start_request(&ask("work"), 2 * soon).expect("a request");
    let second = client.start_request(&ask("work"), soon).expect("a request");
    let mut ended = [(); 2].map(|()| match client.next_event(None) {
        Ok(Some(Event::Reply { request, reply: Err(Error::TimedOut("reply")) })) => request,
        other => panic!("no end, but {other:?}"),
    });
    ended.sort_unstable();
    assert_eq!(ended, [first, second]);
    let end = client.request("work", b"?", soon);
    assert!(matches!(end, Err(Error::TimedOut("reply"))), "{end:?}");
    for id in first..=second + 1 {
        session.reply(id, "too late");
    }
    let serve = || {
        (0..3).for_each(|_| drop(session.expect(FrameKind::Message)));
        session.acknowledge(FrameKind::Flush);
    };
    during(serve, || client.flush()).expect("no message was refused");
    assert_quiet(&mut client);
    assert_eq!(client.late_replies(), 3);
}

#[test]
fn a_reply_before_the_deadline_counts_although_it_is_read_later() {
    let (mut client, mut session) = Fake::new().meet(9, patient());
    let id = client.start_request(&ask("work"), Duration::ZERO).expect("a request");
    session.reply(id, "in time");
    assert_eq!(payload(reply(&mut client).1), "in time");
    assert!(matches!(reply(&mut client).1, Err(Error::TimedOut("reply"))));
    assert_quiet(&mut client);
}

#[test]
fn a_request_that_is_finished_is_not_heard_of_again() {
    let (mut client, mut session) = Fake::new().meet(9, patient());
    let [first, second] = [(); 2].map(|()| client.start_request(&ask("work"), PATIENCE).unwrap());
    session.reply(first, "one");
    session.reply(first, "two");
    session.refuse(second, RefusalCode::Unanswered);
    assert_eq!(payload(reply(&mut client).1), "one");
    assert!(client.has_event());
    client.finish_request(first);
    client.finish_request(second);
    client.finish_request(second);
    client.finish_request(1000);
    assert!(!client.has_event());
    assert_quiet(&mut client);
    assert_eq!(client.late_replies(), 1);
}

#[test]
fn replies_tell_that_more_come() {
    let (mut client, mut session) = Fake::new().meet(9, patient());
    let id = client.start_request(&ask("work"), PATIENCE).expect("a request");
    for more in [true, false] {
        let header = Header { more, sender: 77, ..Header::new(FrameKind::Message, 3) };
        session.message(header, &format!("@9.{id}"), "", b"part");
        let (_, reply) = reply(&mut client);
        assert_eq!(reply.expect("a reply").more, more);
    }
}

#[test]
fn a_hundred_thousand_requests_are_in_flight() {
    const MANY: u64 = 100_000;
    let (mut client, mut session) = Fake::new().meet(9, patient());
    let serve = || {
        let ids: Vec<_> = (0..MANY).map(|_| session.expect(FrameKind::Message)).collect();
        for came in ids.iter().rev() {
            session.reply(came.header.correlation, &came.reply);
        }
    };
    during(serve, || {
        for n in 0..MANY {
            let timeout = PATIENCE + Duration::from_micros(n * 7919 % MANY);
            client.start_request(&ask("work"), timeout).expect("a request");
        }
        for _ in 0..MANY {
            let (request, reply) = reply(&mut client);
            assert_eq!(payload(reply), format!("@9.{request}"));
            client.finish_request(request);
        }
    });
    assert_quiet(&mut client);
    assert_eq!(client.late_replies(), 0);
}

#[test]
fn a_responder_replies_to_the_address_in_the_request() {
    let (mut client, mut session) = Fake::new().meet(9, patient());
    let header = Header { request: true, subscription: 1, ..Header::new(FrameKind::Message, 4) };
    session.message(header, "work", "@5.4", b"?");
    let Event::Message(request) = event(&mut client) else { panic!("no message") };
    assert!(request.is_request && !request.more);
    client.reply_message(&request, &[], b"part", true).expect("a reply");
    client.reply(&request, b"rest").expect("a reply");
    client.push().expect("the connection lives");
    for (payload, more) in [("part", true), ("rest", false)] {
        let came = session.expect(FrameKind::Message);
        assert_eq!((came.subject.as_str(), came.header.more), ("@5.4", more));
        assert_eq!(came.payload, payload.as_bytes());
        assert!(!came.header.request && came.reply.is_empty());
    }
    session.message(Header::new(FrameKind::Message, 5), "@9", "", b"for you alone");
    let Event::Message(message) = event(&mut client) else { panic!("no message") };
    assert_eq!((message.subject(), message.subscription), ("@9", 0));
    assert!(matches!(client.reply(&message, b""), Err(Error::BadSubject(_))));
}
