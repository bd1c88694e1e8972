//! Slow peers that tests/slow.rs lacks: crowds of silent connections, and readers that trickle.

use std::time::{Duration, Instant};

use ipcd_client::RefusalCode;
use ipcd_proto::FrameKind;
use ipcd_tests::{DaemonSetup, FaultScene, RawConnection};

/// Connections that never send HELLO, as many as a quiet daemon has peers.
#[test]
fn a_hundred_log_in_beside_five_hundred_strangers() {
    const STRANGERS: usize = 500;
    const GUESTS: usize = 100;
    ipcd_tests::raise_limit();
    let scene = FaultScene::start(DaemonSetup::new(), &["unix", "tcp"]);
    let scheme = |number: usize| ["unix", "tcp"][number % 2];
    let strangers: Vec<_> = (0..STRANGERS).map(|n| scene.daemon.raw(scheme(n))).collect();
    let start = Instant::now();
    let mut guests: Vec<_> = (0..GUESTS).map(|n| scene.daemon.session(scheme(n))).collect();
    eprintln!("{GUESTS} sessions beside {STRANGERS} strangers took {:?}", start.elapsed());
    for guest in &mut guests {
        guest.subscribe(1, "guests");
    }
    drop((strangers, guests));
    scene.check("strangers in a crowd");
}

#[test]
fn each_of_many_silent_connections_is_told_at_its_deadline() {
    let config = "[limits]\nhandshake_timeout = \"700ms\"\n";
    let scene = FaultScene::start(DaemonSetup::new().config(config), &["unix"]);
    let silent = |scheme| (0..25).map(move |_| scheme);
    let connections: Vec<RawConnection> = ["unix", "tcp", "pipe", "fifo"]
        .into_iter()
        .flat_map(silent)
        .map(|scheme| scene.daemon.raw(scheme))
        .collect();
    for mut raw in connections {
        assert_eq!(raw.end().map(|(code, _)| code), Some(RefusalCode::TimedOut));
    }
    scene.check("silent connections");
}

/// A reader that takes a little now and then is too slow when its oldest byte is too old.
#[test]
fn a_reader_that_trickles_is_cut_off_and_nobody_else_waits() {
    let config = "[limits]\noutbox = \"64KiB\"\nstall_timeout = \"1s\"\n";
    let scene = FaultScene::start(DaemonSetup::new().config(config), &["unix", "tcp"]);
    for scheme in ["unix", "pipe", "fifo", "tcp"] {
        let mut trickling = scene.daemon.session(scheme);
        trickling.shrink();
        trickling.subscribe(1, "trickle");
        let mut publisher = scene.daemon.client("unix");
        // More than the kernel holds for it: megabytes, in TCP's buffers.
        let count = if scheme == "tcp" { 16_000 } else { 2000 };
        let flood = std::thread::spawn(move || {
            (0..count).for_each(|_| {
                publisher.publish("trickle", &[b'x'; 1000]).expect("the connection lives");
            });
            publisher.flush().expect("all messages are accepted");
        });
        let mut taken = 0;
        let refusal = loop {
            // It reads slowly until it is disconnected, which lets the publisher continue.
            if !flood.is_finished() {
                std::thread::sleep(Duration::from_millis(200));
            }
            match trickling.frame() {
                Some(frame) if frame.header.kind == FrameKind::Message => taken += 1,
                Some(frame) => break frame.refusal().0,
                None => panic!("{scheme}: the peer did not get the reason"),
            }
        };
        assert_eq!(refusal, RefusalCode::TooSlow, "{scheme} after {taken} messages");
        flood.join().expect("the publisher goes on");
    }
    scene.check("readers that trickle");
}
