//! Raw peers in the router: open from the start, with filters, and sometimes without a reader.

use std::time::Instant;

use ipcd_core::{Config, DaemonInfo, Output, PeerInfo, PeerKey, RawPeer, Router};
use ipcd_proto::control::Origin;
use ipcd_proto::{Filter, Frame, FrameKind, FrameWriter, Header};

/// Returns a router with a raw peer that has these filters.
fn router(now: Instant, filters: &[&str]) -> (Router, PeerKey) {
    let mut core = Router::new(Config::new(DaemonInfo::unknown(now)), None);
    let key = attach(&mut core, now, filters);
    (core, key)
}

fn attach(core: &mut Router, now: Instant, filters: &[&str]) -> PeerKey {
    let origin = Origin {
        peer: 0,
        name: None,
        transport: "test".into(),
        pid: None,
        uid: None,
        gid: None,
        addr: None,
    };
    let filters = filters.iter().map(|filter| Filter::parse(filter.as_bytes()).unwrap()).collect();
    let raw = Some(RawPeer { filters, echo: true, largest: None, speaks: true });
    let key = core.attach(now, PeerInfo { listener: 0, origin, challenge: None, raw });
    while core.poll_output().is_some() {}
    key
}

fn publish(core: &mut Router, now: Instant, from: PeerKey, subject: &str, receipt: bool) {
    let mut bytes = Vec::new();
    FrameWriter(&mut bytes).write(&Frame {
        header: Header { receipt, ..Header::new(FrameKind::Message, 1) },
        subject: subject.as_bytes(),
        reply: &[],
        headers: &[],
        payload: b"payload",
    });
    let progress = core.receive(now, from, &mut bytes);
    assert_eq!(progress.consumed, bytes.len());
}

fn counter(core: &mut Router, name: &str) -> u64 {
    let counters = core.counters();
    counters.into_iter().find(|(known, _)| known == name).unwrap().1
}

#[test]
fn a_message_comes_once_for_each_filter_that_it_matches() {
    let now = Instant::now();
    let (mut core, key) = router(now, &["a.*", "b", "a.x"]);
    for subject in ["a.x", "a.y", "b", "c"] {
        publish(&mut core, now, key, subject, false);
    }
    assert_eq!(counter(&mut core, "messages_matched"), 4);
    assert_eq!(counter(&mut core, "messages_queued"), 4);
}

#[test]
fn what_nobody_takes_is_dropped_and_told() {
    let now = Instant::now();
    let (mut core, fifo) = router(now, &["news"]);
    let publisher = attach(&mut core, now, &[]);
    for receipt in [false, true] {
        publish(&mut core, now, publisher, "news", receipt);
    }
    let first = core.send_queue(fifo).len() / 2;
    core.wrote(now, fifo, first);
    core.drop_unread(now, fifo);
    assert!(core.is_flushed(fifo));
    assert_eq!(counter(&mut core, "messages_delivered"), 1);
    assert_eq!(counter(&mut core, "messages_dropped_no_reader"), 1);
    assert_eq!(counter(&mut core, "outcomes_open"), 0, "who wanted to know is told");
    let outputs: Vec<_> = std::iter::from_fn(|| core.poll_output()).collect();
    assert!(outputs.contains(&Output::Write(publisher)));
    publish(&mut core, now, publisher, "news", false);
    assert_eq!(counter(&mut core, "messages_queued"), 1, "the next one is tried again");
}
