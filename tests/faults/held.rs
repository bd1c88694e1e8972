//! Ten thousand connections at once, in a pool.

use std::time::Instant;

use ipcd_proto::FrameKind;
use ipcd_tests::{DaemonSetup, FaultScene, RawConnection, children, memory, raise_limit};

/// The daemon keeps the memory of one crowd for the next: the second time adds nothing.
fn hold_twice(count: usize) {
    let limit = raise_limit();
    assert!(limit as usize > count + 500, "the system allows only {limit} descriptors a process");
    let config = "[limits]\nmax_peers = 20000\nmax_peers_per_uid = 20000\n";
    let setup = DaemonSetup::new().config(config).args(&["--workers", "2"]);
    let mut scene = FaultScene::start(setup, &["unix", "tcp"]);
    hold(&scene, count);
    scene.rehearsed();
    hold(&scene, count);
    scene.check("connections held");
}

fn hold(scene: &FaultScene, count: usize) {
    let pids = [children(scene.daemon.process.pid()), vec![scene.daemon.process.pid()]].concat();
    let (before, start) = (memory(&pids), Instant::now());
    let connect = |number: usize| -> RawConnection {
        let mut raw = scene.daemon.session(["unix", "tcp"][number % 2]);
        raw.subscribe(1, "held");
        raw
    };
    let mut peers: Vec<RawConnection> = (0..count).map(connect).collect();
    let took = start.elapsed();
    scene.load().goes_on();
    let each = memory(&pids).saturating_sub(before) / count as u64;
    scene.daemon.send("held", "to all");
    for raw in &mut peers {
        assert_eq!(raw.expect(FrameKind::Message).payload, b"to all");
    }
    scene.load().goes_on();
    eprintln!("{count} connections in {took:?}, {each} bytes of the daemon for each");
}

#[test]
fn a_thousand_connections_are_held() {
    hold_twice(1000);
}

#[test]
#[ignore = "long: ten thousand connections"]
fn ten_thousand_connections_are_held() {
    hold_twice(10_000);
}
