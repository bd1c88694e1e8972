//! Connections that are lost: what was outstanding ends once, and is not sent again.

use std::time::{Duration, Instant};

use ipcd_client::{
    Backoff, Client, Error, Event, Options, Publication, RefusalCode, SubscribeOptions,
};
use ipcd_proto::control::{Subscribe, decode};
use ipcd_proto::{FrameKind, Header};

use crate::fake::{Fake, PATIENCE, Session, during, event, patient};

fn lasting() -> Options {
    let backoff = Backoff { first: Duration::from_millis(1), longest: Duration::from_millis(10) };
    Options { reconnect: Some(backoff), ..patient() }
}

fn to(subject: &str) -> Publication<'_> {
    Publication { subject, payload: b"?", ..Publication::default() }
}

/// The next events, which are the ends of these, by number, and nothing else.
fn expect_ends(client: &mut Client, ids: &[u64]) {
    for expected in ids {
        let id = match event(client) {
            Event::Reply { request, reply: Err(Error::Disconnected(_)) } => request,
            Event::Outcome { id, outcome: Err(Error::Disconnected(_)) } => id,
            other => panic!("no end, but {other:?}"),
        };
        assert_eq!(id, *expected);
    }
}

/// Lets the client connect again, by the next event.
fn connect_again(fake: &Fake, client: &mut Client, peer: u64) -> Session {
    assert!(matches!(event(client), Event::Disconnected { .. }));
    let (again, session) = fake.accept_during(peer, || event(client));
    assert!(matches!(again, Event::Reconnected { .. }), "{again:?}");
    session
}

#[test]
fn all_that_is_outstanding_ends_once_and_is_not_sent_again() {
    let fake = Fake::new();
    let (mut client, mut session) = fake.meet(9, lasting());
    let written = client.start_request(&to("written"), PATIENCE).expect("a request");
    let tracked = client.publish_tracked(&to("written")).expect("it is sent");
    let finished = client.start_request(&to("written"), PATIENCE).expect("a request");
    client.push().expect("the connection lives");
    client.finish_request(finished);
    (0..3).for_each(|_| drop(session.expect(FrameKind::Message)));
    drop(session);
    // The client has not noticed, and writes none of these.
    let request = client.start_request(&to("unwritten"), PATIENCE).expect("a request");
    client.publish("plain", b"to all").expect("it is kept");
    client.publish("@7", b"to one").expect("it is kept");
    let unwritten = client.publish_tracked(&to("unwritten")).expect("it is kept");

    expect_ends(&mut client, &[written, tracked, request, unwritten]);
    let mut session = connect_again(&fake, &mut client, 10);
    let again = client.start_request(&to("again"), PATIENCE).expect("a request");
    client.push().expect("the connection lives");
    assert_eq!(session.expect(FrameKind::Message).subject, "plain");
    let came = session.expect(FrameKind::Message);
    assert_eq!((came.subject.as_str(), came.reply), ("again", format!("@10.{again}")));
    session.reply(again, "yes");
    assert!(matches!(event(&mut client), Event::Reply { reply: Ok(_), .. }));
    let quiet = client.next_event(Some(Instant::now()));
    assert!(matches!(quiet, Ok(None)), "{quiet:?}");
}

#[test]
fn without_reconnecting_the_ends_come_before_the_error() {
    let (mut client, mut session) = Fake::new().meet(9, patient());
    let request = client.start_request(&to("work"), PATIENCE).expect("a request");
    let tracked = client.publish_tracked(&to("work")).expect("it is sent");
    client.push().expect("the connection lives");
    session.refuse(0, RefusalCode::Kicked);
    drop(session);
    expect_ends(&mut client, &[request, tracked]);
    for _ in 0..2 {
        let end = client.next_event(None);
        assert!(
            matches!(&end, Err(Error::Refused(why)) if why.code == RefusalCode::Kicked),
            "{end:?}"
        );
    }
    let refused = client.start_request(&to("work"), PATIENCE);
    assert!(matches!(refused, Err(Error::Refused(_))), "{refused:?}");
    assert!(matches!(client.publish_tracked(&to("work")), Err(Error::Refused(_))));
}

#[test]
fn a_frame_that_is_none_ends_the_connection() {
    let (mut client, mut session) = Fake::new().meet(9, patient());
    let request = client.start_request(&to("work"), PATIENCE).expect("a request");
    session.control(FrameKind::Error, request, b"no body");
    expect_ends(&mut client, &[request]);
    assert!(matches!(client.next_event(None), Err(Error::Protocol(_))));
    assert!(matches!(client.ping(), Err(Error::Protocol(_))));
}

#[test]
fn a_call_on_a_lost_connection_ends_and_the_next_connects_again() {
    let fake = Fake::new();
    let (mut client, mut session) = fake.meet(9, lasting());
    let started = client.start_request(&to("work"), PATIENCE).expect("a request");
    let hang_up = || {
        (0..2).for_each(|_| drop(session.expect(FrameKind::Message)));
        drop(session);
    };
    let lost = during(hang_up, || client.request("work", b"?", PATIENCE));
    assert!(matches!(lost, Err(Error::Disconnected(_))), "{lost:?}");
    let start = || client.start_request(&to("again"), PATIENCE).expect("a request");
    let (again, mut session) = fake.accept_during(10, start);
    client.push().expect("the connection lives");
    assert_eq!(session.expect(FrameKind::Message).reply, format!("@10.{again}"));
    session.reply(again, "yes");
    expect_ends(&mut client, &[started]);
    assert!(matches!(event(&mut client), Event::Reconnected { .. }));
    assert!(matches!(event(&mut client), Event::Reply { reply: Ok(_), .. }));
}

#[test]
fn a_large_request_that_cannot_be_written_has_one_end() {
    let (mut client, session) = Fake::new().meet(9, patient());
    let payload = vec![0; client.max_payload()];
    drop(session);
    let message = Publication { payload: &payload, ..to("work") };
    let request = client.start_request(&message, PATIENCE).expect("its end is told later");
    expect_ends(&mut client, &[request]);
    assert!(matches!(client.next_event(None), Err(Error::Disconnected(_))));
}

#[test]
fn a_reply_to_a_request_of_an_earlier_connection_is_not_sent() {
    let fake = Fake::new();
    let (mut client, mut session) = fake.meet(9, lasting());
    for reply in ["@5.4", "plain"] {
        let header =
            Header { request: true, subscription: 1, ..Header::new(FrameKind::Message, 4) };
        session.message(header, "work", reply, b"?");
    }
    let requests = [(); 2].map(|()| match event(&mut client) {
        Event::Message(request) => request,
        other => panic!("no message, but {other:?}"),
    });
    drop(session);
    let mut session = connect_again(&fake, &mut client, 10);
    for request in &requests {
        client.reply(request, b"!").expect("it may be too late");
    }
    client.push().expect("the connection lives");
    assert_eq!(session.expect(FrameKind::Message).subject, "plain");
}

#[test]
fn a_group_is_joined_again() {
    let fake = Fake::new();
    let (mut client, mut session) = fake.meet(9, lasting());
    let options = SubscribeOptions { group: Some("g".into()), ..SubscribeOptions::default() };
    let subscribe = || client.subscribe("work", options).map(drop).expect("a subscription");
    during(|| session.acknowledge(FrameKind::Subscribe), subscribe);
    drop(session);
    let mut session = connect_again(&fake, &mut client, 10);
    client.push().expect("the connection lives");
    let came = session.expect(FrameKind::Subscribe);
    let body: Subscribe = decode(&came.payload).expect("a body");
    assert_eq!((body.filter.as_str(), body.group.as_deref()), ("work", Some("g")));
}

/// Without it the client would wait for ever for what never comes.
#[test]
fn a_subscription_that_is_refused_again_ends_what_waits() {
    let fake = Fake::new();
    let (mut client, mut session) = fake.meet(9, lasting());
    let options = SubscribeOptions::default();
    let subscribe = || client.subscribe("work", options).map(drop).expect("a subscription");
    during(|| session.acknowledge(FrameKind::Subscribe), subscribe);
    drop(session);
    let mut session = connect_again(&fake, &mut client, 10);
    client.push().expect("the connection lives");
    let came = session.expect(FrameKind::Subscribe);
    session.refuse(came.header.correlation, RefusalCode::Limit);
    for _ in 0..2 {
        let end = client.next_event(None);
        assert!(
            matches!(&end, Err(Error::Refused(why)) if why.code == RefusalCode::Limit && why.message.contains("work")),
            "{end:?}"
        );
    }
    assert!(matches!(client.ping(), Err(Error::Refused(_))), "nor is it of any other use");
}
