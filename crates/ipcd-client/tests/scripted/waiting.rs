//! Waiting for the connection and for another descriptor at once.

use std::io::{PipeWriter, Read, Write};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use ipcd_client::{Backoff, Error, Event, Options, Publication, RefusalCode, WakeReason};
use ipcd_proto::{FrameKind, Header};

use crate::fake::{Fake, PATIENCE, Session, during, event, patient};

fn message(session: &mut Session, payload: &[u8]) {
    session.message(Header::new(FrameKind::Message, 1), "a", "", payload);
}

/// Writes until nothing more fits.
fn fill(pipe: &mut PipeWriter) {
    use ipcd_transport::poll_until;
    use nix::poll::PollFlags;
    while poll_until(&*pipe, PollFlags::POLLOUT, Instant::now()).expect("polling works") {
        pipe.write_all(&[0; 4096]).expect("it fits");
    }
}

#[test]
fn an_event_and_a_readable_descriptor_are_told_apart() {
    let (mut client, mut session) = Fake::new().meet(9, patient());
    let (mut reader, mut writer) = std::io::pipe().expect("a pipe");
    let late = client.wait_event_or(reader.as_fd(), Some(Instant::now()));
    assert_eq!(late.expect("the connection lives"), WakeReason::Deadline);
    let soon = || Some(Instant::now() + PATIENCE);
    message(&mut session, b"one");
    let woken = client.wait_event_or(reader.as_fd(), soon());
    assert_eq!(woken.expect("the connection lives"), WakeReason::Event);
    assert!(matches!(event(&mut client), Event::Message(_)));
    writer.write_all(b"x").expect("it fits");
    let woken = client.wait_event_or(reader.as_fd(), soon());
    assert_eq!(woken.expect("the connection lives"), WakeReason::Readable);
    reader.read_exact(&mut [0]).expect("it is there");
    message(&mut session, b"last");
    session.refuse(0, RefusalCode::Kicked);
    drop(session);
    let woken = client.wait_event_or(reader.as_fd(), soon());
    assert_eq!(woken.expect("what came before is told first"), WakeReason::Event);
    assert!(matches!(event(&mut client), Event::Message(_)));
    let end = client.wait_event_or(reader.as_fd(), soon());
    assert!(matches!(end, Err(Error::Refused(_))), "{end:?}");
}

#[test]
fn a_request_that_is_too_late_wakes_up() {
    let (mut client, _session) = Fake::new().meet(9, patient());
    let (reader, _writer) = std::io::pipe().expect("a pipe");
    let work = Publication { subject: "work", ..Default::default() };
    client.start_request(&work, Duration::from_millis(20)).expect("a request");
    let woken = client.wait_event_or(reader.as_fd(), None);
    assert_eq!(woken.expect("the connection lives"), WakeReason::Event);
}

#[test]
fn a_client_that_waits_to_write_reads_no_messages() {
    let (mut client, mut session) = Fake::new().meet(9, patient());
    let (mut reader, mut writer) = std::io::pipe().expect("a pipe");
    fill(&mut writer);
    message(&mut session, b"waits in the socket");
    let soon = Instant::now() + Duration::from_millis(20);
    assert!(!client.wait_writable(writer.as_fd(), Some(soon)).expect("the connection lives"));
    assert!(!client.has_event());
    reader.read_exact(&mut [0; 65_536]).expect("it is there");
    assert!(client.wait_writable(writer.as_fd(), None).expect("the connection lives"));
    assert!(matches!(event(&mut client), Event::Message(_)));
}

#[test]
fn a_client_that_waits_to_write_notices_the_end_and_its_reason() {
    let (mut client, mut session) = Fake::new().meet(9, patient());
    let (_reader, mut writer) = std::io::pipe().expect("a pipe");
    fill(&mut writer);
    message(&mut session, b"came before");
    session.refuse(0, RefusalCode::TooSlow);
    drop(session);
    let end = client.wait_writable(writer.as_fd(), Some(Instant::now() + PATIENCE));
    let error = end.expect_err("it has ended");
    assert_eq!(error.to_string(), "disconnected by the daemon: TooSlow");
    assert!(matches!(event(&mut client), Event::Message(_)));
}

/// `Instant + Duration::MAX` panics: a wait without end has to saturate wherever one is given.
#[test]
fn a_timeout_without_end_is_a_long_one() {
    let reconnect = Some(Backoff { first: Duration::MAX, longest: Duration::MAX });
    let options = Options { timeout: Duration::MAX, reconnect, ..Options::default() };
    let (mut client, mut session) = Fake::new().meet(9, options);
    let work = Publication { subject: "work", ..Publication::default() };
    client.start_request(&work, Duration::MAX).expect("a request");
    client.publish_tracked(&work).expect("a message");
    during(
        move || {
            session.expect(FrameKind::Message);
            session.expect(FrameKind::Message);
            session.acknowledge(FrameKind::Flush);
            let id = session.expect(FrameKind::Message).header.correlation;
            session.receipt(id, &Default::default());
            session.expect(FrameKind::Bye);
        },
        || {
            client.flush().expect("it is confirmed");
            client.publish_acked(&work).expect("a receipt");
            drop(client);
        },
    );
}
