//! What became of messages, what was dropped, groups, and who is who.

use ipcd_client::{
    Answer, Client, DropReason, Error, Event, Publication, Query, Receipt, RefusalCode, Result,
    SubscribeOptions,
};
use ipcd_proto::FrameKind;
use ipcd_proto::control::{Notice, Subscribe, decode, encode};

use crate::fake::{Fake, Session, during, event, patient};

const NEWS: Publication<'_> =
    Publication { subject: "news", reply: "", headers: &[], payload: b"hello" };

fn some_dropped() -> Receipt {
    Receipt { delivered: 3, dropped: vec![(DropReason::Newest, 2), (DropReason::Departed, 1)] }
}

fn outcome(client: &mut Client) -> (u64, Result<Receipt>) {
    match event(client) {
        Event::Outcome { id, outcome } => (id, outcome),
        other => panic!("no outcome, but {other:?}"),
    }
}

#[test]
fn each_tracked_message_has_its_outcome() {
    let (mut client, mut session) = Fake::new().meet(9, patient());
    let [first, second, third] = [(); 3].map(|()| client.publish_tracked(&NEWS).unwrap());
    client.push().expect("the connection lives");
    for id in [first, second, third] {
        let header = session.expect(FrameKind::Message).header;
        assert_eq!((header.correlation, header.receipt), (id, true));
        assert_eq!((header.request, header.wait), (false, 0));
    }
    session.receipt(second, &some_dropped());
    session.refuse(first, RefusalCode::Denied);
    session.receipt(third, &Receipt::default());
    let (id, receipt) = outcome(&mut client);
    assert_eq!((id, receipt.expect("a receipt")), (second, some_dropped()));
    let (id, refused) = outcome(&mut client);
    assert!(matches!(refused, Err(Error::Refused(refusal)) if refusal.code == RefusalCode::Denied));
    assert_eq!(id, first);
    assert_eq!(outcome(&mut client).1.expect("a receipt"), Receipt::default());
    during(|| session.acknowledge(FrameKind::Flush), || client.flush())
        .expect("its refusal is told");
}

#[test]
fn a_call_waits_for_its_receipt_only() {
    let (mut client, mut session) = Fake::new().meet(9, patient());
    let other = client.publish_tracked(&NEWS).expect("it is sent");
    let serve = || {
        session.expect(FrameKind::Message);
        let id = session.expect(FrameKind::Message).header.correlation;
        session.receipt(other, &Receipt::default());
        session.receipt(id, &some_dropped());
        let id = session.expect(FrameKind::Message).header.correlation;
        session.refuse(id, RefusalCode::BadSubject);
        session.acknowledge(FrameKind::Flush);
    };
    during(serve, || {
        assert_eq!(client.publish_acked(&NEWS).expect("a receipt"), some_dropped());
        let refused = client.publish_acked(&NEWS);
        assert!(matches!(refused, Err(Error::Refused(_))), "{refused:?}");
        client.flush().expect("its refusal is told");
    });
    assert_eq!(outcome(&mut client).0, other);
}

#[test]
fn a_refused_message_is_told_by_the_next_flush() {
    let (mut client, mut session) = Fake::new().meet(9, patient());
    let serve = || {
        let id = session.expect(FrameKind::Message).header.correlation;
        session.refuse(id, RefusalCode::Denied);
        session.acknowledge(FrameKind::Flush);
        session.acknowledge(FrameKind::Flush);
    };
    during(serve, || {
        assert!(matches!(client.send("news", b"hello"), Err(Error::Refused(_))));
        client.flush().expect("it was told once");
    });
}

#[test]
fn a_gap_says_why() {
    let (mut client, mut session) = Fake::new().meet(9, patient());
    let notice = Notice::Gap { subscription: 4, reason: DropReason::Oldest, dropped: 12 };
    session.control(FrameKind::Notice, 0, &encode(&notice));
    let gap = event(&mut client);
    let Event::Gap { subscription, reason, dropped } = gap else { panic!("no gap, but {gap:?}") };
    assert_eq!((subscription, reason, dropped), (4, DropReason::Oldest, 12));
}

#[test]
fn a_group_is_asked_for() {
    let (mut client, mut session) = Fake::new().meet(9, patient());
    let serve = || {
        let came = session.expect(FrameKind::Subscribe);
        let body: Subscribe = decode(&came.payload).expect("a body");
        assert_eq!(body.group.as_deref(), Some("g"));
        session.control(FrameKind::Ack, came.header.correlation, &[]);
    };
    let options = SubscribeOptions { group: Some("g".into()), ..SubscribeOptions::default() };
    during(serve, || client.subscribe("work", options)).expect("a subscription");
}

#[test]
fn peers_are_found_by_name_or_id() {
    let (mut client, mut session) = Fake::new().meet(9, patient());
    let answer = |session: &mut Session, who: &str, answer: &Answer| {
        let came = session.expect(FrameKind::Query);
        assert_eq!(decode(&came.payload), Ok(Query::Find(who.into())));
        session.control(FrameKind::Answer, came.header.correlation, &encode(answer));
    };
    let serve = || {
        answer(&mut session, "ann", &Answer::Found(Some(5)));
        answer(&mut session, "6", &Answer::Found(None));
        answer(&mut session, "bob", &Answer::Matching(1));
    };
    during(serve, || {
        assert_eq!(client.find("ann").expect("an answer"), Some(5));
        assert_eq!(client.find("6").expect("an answer"), None);
        assert!(matches!(client.find("bob"), Err(Error::Protocol(_))));
    });
}
