//! A child for each peer, with many peers that come and go: a child takes only its peer with it,
//! and leaves nothing behind.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};

use ipcd_proto::FrameKind;
use ipcd_tests::{
    Daemon, DaemonSetup, RawConnection, SCHEMES, children, descriptors, eventually, is_alive,
    memory, raise_limit, state, whole_memory,
};
use nix::sys::signal::Signal;

fn per_connection(most: usize) -> DaemonSetup {
    DaemonSetup::new().args(&["--fork", "connection", "--max-children", &most.to_string()])
}

/// Waits until the supervisor has no more children than these.
fn wait_for_children(supervisor: i32, wanted: usize) {
    eventually(&format!("{wanted} children"), || {
        (children(supervisor).len() == wanted).then_some(())
    });
}

#[test]
fn a_killed_child_takes_its_peer_along_and_nobody_else() {
    let daemon = per_connection(20).start();
    let supervisor = daemon.process.pid();
    let mut receivers =
        SCHEMES.map(|scheme| daemon.recv(scheme, &["--no-reconnect", "--name", scheme, "news"]));
    wait_for_children(supervisor, SCHEMES.len());
    for (at, scheme) in SCHEMES.into_iter().enumerate() {
        let workers = daemon.workers();
        assert!(workers.iter().all(|worker| worker.peers == 1), "{workers:?}");
        // The peers that are left, and the one that asks.
        assert_eq!(workers.len(), SCHEMES.len() - at + 1);
        let worker = daemon.worker_in(daemon.slot_of(scheme));
        wait_for_children(supervisor, SCHEMES.len() - at);
        daemon.signal_worker(worker.pid, Signal::SIGKILL);
        let ended = receivers[at].wait().expect(7);
        assert!(ended.stderr.contains("lost"), "{scheme}: {}", ended.stderr);
        eventually("the process is reaped", || state(worker.pid).is_none().then_some(()));
        let text = format!("without {scheme}");
        daemon.send("news", &text);
        for receiver in &mut receivers[at + 1..] {
            receiver.stdout().wait_for(&format!("{text}\n"));
        }
    }
    wait_for_children(supervisor, 0);
}

#[test]
fn what_a_child_has_counted_outlives_it() {
    let daemon = per_connection(8).listen(&["unix"]).start();
    for _ in 0..3 {
        daemon.send("nobody", "listens");
    }
    eventually("the counts of three children that have ended", || {
        (daemon.counter("messages_accepted") == 3).then_some(())
    });
}

#[test]
fn at_the_limit_of_children_a_peer_is_refused_until_one_leaves() {
    let daemon = per_connection(3).start();
    let supervisor = daemon.process.pid();
    let mut receivers: Vec<_> = (0..3).map(|_| daemon.recv("unix", &["news"])).collect();
    for scheme in SCHEMES.into_iter().cycle().take(50) {
        let ended = daemon.ctl(scheme, &["ping"]).run().expect(6);
        assert_eq!(ended.stderr.lines().count(), 1, "{scheme}: {}", ended.stderr);
        assert!(ended.stderr.contains("3 children"), "{scheme}: {}", ended.stderr);
    }
    assert_eq!(children(supervisor).len(), 3);
    for scheme in SCHEMES {
        drop(receivers.remove(0));
        wait_for_children(supervisor, 2);
        receivers.push(daemon.recv(scheme, &["news"]));
        // Over unix it would be root or the daemon's own user, which evict others.
        daemon.ctl("tcp", &["ping"]).run().expect(6);
    }
}

#[test]
fn a_senders_child_ends_when_everything_was_handed_on() {
    const SENDERS: u64 = 500;
    let daemon = per_connection(40).start();
    let supervisor = daemon.process.pid();
    let mut receiver = daemon.recv("unix", &["-C", "500", "news"]);
    receiver.stdout();
    let next = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= SENDERS {
                        return;
                    }
                    let scheme = SCHEMES[number as usize % SCHEMES.len()];
                    let body = format!("message {number}");
                    daemon.ctl(scheme, &["send", "news", &body]).run().expect(0);
                }
            });
        }
    });
    let text = receiver.wait().expect(0).text();
    let got: BTreeSet<&str> = text.lines().collect();
    assert_eq!(text.lines().count(), got.len(), "something came twice");
    let missing: Vec<_> =
        (0..SENDERS).filter(|n| !got.contains(format!("message {n}").as_str())).collect();
    assert!(missing.is_empty(), "{missing:?} are missing");
    wait_for_children(supervisor, 0);
}

/// A child forwards its last accepted messages although its peer has gone.
#[test]
fn what_does_not_fit_the_inbox_at_once_is_handed_on_before_the_child_ends() {
    let daemon = per_connection(20).start();
    let supervisor = daemon.process.pid();
    let mut receiver = daemon.recv("unix", &["-N", "-C", "24", "news"]);
    receiver.stdout();
    std::thread::scope(|scope| {
        for letter in ["a", "b", "c"] {
            let daemon = &daemon;
            scope.spawn(move || {
                let body = letter.repeat(1024 * 1024).into_bytes();
                for _ in 0..8 {
                    daemon.ctl("unix", &["send", "news"]).run_fed(&body).expect(0);
                }
            });
        }
    });
    let ended = receiver.wait().expect(0);
    assert_eq!(ended.stdout.len(), 24 << 20);
    assert!(ended.stdout.chunks(1 << 20).all(|body| body.iter().all(|byte| *byte == body[0])));
    wait_for_children(supervisor, 0);
}

#[test]
fn five_hundred_children_that_are_subscribed_cost_little() {
    const PEERS: usize = 500;
    const MOST_BYTES_EACH: u64 = 3 << 19;
    raise_limit();
    let daemon = per_connection(PEERS + 20).listen(&["unix"]).start();
    let supervisor = daemon.process.pid();
    // Several at a time, as in practice; each subscription is announced to all children.
    let connect = |number: usize| {
        let mut peer = daemon.raw("unix").open();
        peer.subscribe(1, &format!("own.{number}"));
        peer.subscribe(2, "common");
        peer
    };
    let some = |part: usize| (part * PEERS / 10..(part + 1) * PEERS / 10).map(connect).collect();
    let mut peers: Vec<RawConnection> = std::thread::scope(|scope| {
        let parts: Vec<_> =
            (0..10).map(|part| scope.spawn(move || -> Vec<RawConnection> { some(part) })).collect();
        parts.into_iter().flat_map(|part| part.join().expect("the thread does not panic")).collect()
    });
    let born = children(supervisor);
    assert_eq!(born.len(), PEERS);
    let (own, whole) = (memory(&born), whole_memory(&born));
    let (own_kib, whole_kib) = (own / 1024 / PEERS as u64, whole / 1024 / PEERS as u64);
    eprintln!("{whole_kib} KiB for each of {PEERS} children, {own_kib} KiB of them anonymous");
    assert!(whole / (PEERS as u64) < MOST_BYTES_EACH, "{whole_kib} KiB for each child");
    assert_eq!(daemon.workers().len(), PEERS + 1);
    daemon.send("common", "to all");
    for (number, peer) in peers.iter_mut().enumerate() {
        assert_eq!(peer.expect(FrameKind::Message).payload, b"to all");
        if number % 50 == 0 {
            daemon.send(&format!("own.{number}"), "to one");
            assert_eq!(peer.expect(FrameKind::Message).payload, b"to one");
        }
    }
    drop(peers);
    wait_for_children(supervisor, 0);
}

/// Connects, and leaves in every possible way.
fn come_and_go(daemon: &Daemon, number: usize) {
    let scheme = if number.is_multiple_of(10) { "tcp" } else { "unix" };
    match number % 5 {
        0 => drop(daemon.raw(scheme)),
        1 => drop(daemon.raw("unix").open()),
        2 => {
            let mut peer = daemon.raw("unix").open();
            peer.subscribe(1, &format!("short.{number}"));
        }
        3 => daemon.raw("unix").send(b"no frame at all"),
        _ => {
            let mut client = daemon.client(["unix", "pipe", "fifo", "udp"][number / 5 % 4]);
            client.send("short", b"hello").expect("the message is accepted");
        }
    }
}

fn come_and_go_often(daemon: &Daemon, count: usize) {
    std::thread::scope(|scope| {
        for thread in 0..4 {
            scope.spawn(move || {
                (thread..count).step_by(4).for_each(|number| come_and_go(daemon, number));
            });
        }
    });
}

#[test]
fn thousands_of_short_connections_leave_nothing_behind_in_a_pool() {
    let daemon = DaemonSetup::new().args(&["--workers", "3"]).start();
    let supervisor = daemon.process.pid();
    let mut receiver = daemon.recv("unix", &["-o", "jsonl", "short"]);
    // It is read, because a slow machine would make its peer stall.
    receiver.stdout();
    come_and_go_often(&daemon, 600);
    daemon.wait_for_peers(1);
    let mut all = children(supervisor);
    all.push(supervisor);
    let counts = || all.iter().map(|pid| descriptors(*pid).len()).collect::<Vec<_>>();
    let settled = || {
        daemon.wait_for_peers(1);
        eventually("quiet descriptors", || {
            let before = counts();
            daemon.wait_for_peers(1);
            (counts() == before).then_some(before)
        })
    };
    let (held, used) = (settled(), memory(&all));
    come_and_go_often(&daemon, 5000);
    let (held_after, used_after) = (settled(), memory(&all));
    // The worker of the last `status` may not have closed it yet.
    let (before, after): (usize, usize) = (held.iter().sum(), held_after.iter().sum());
    assert!(after <= before + 1, "{held:?} descriptors before, {held_after:?} after");
    eprintln!("{} KiB before, {} KiB after", used / 1024, used_after / 1024);
    assert!(used_after < used + (2 << 20), "{used} bytes before, {used_after} after");
    assert!(all.iter().all(|pid| is_alive(*pid)));
    assert_eq!(children(supervisor).len(), 3);
    assert_eq!(daemon.clients().len(), 2);
}

#[test]
fn a_thousand_short_connections_leave_nothing_behind_with_a_child_each() {
    let daemon = per_connection(60).start();
    let supervisor = daemon.process.pid();
    let mut receiver = daemon.recv("unix", &["-o", "jsonl", "short"]);
    // It is read, because a slow machine would make its peer stall.
    receiver.stdout();
    let child = children(supervisor)[0];
    let look = || {
        wait_for_children(supervisor, 1);
        let held = [supervisor, child].map(|pid| descriptors(pid).len());
        (held, memory(&[supervisor, child]))
    };
    come_and_go_often(&daemon, 200);
    let (held, used) = look();
    come_and_go_often(&daemon, 1000);
    let (held_after, used_after) = look();
    assert_eq!(held, held_after, "descriptors of the supervisor and the receiver's child");
    eprintln!("{} KiB before, {} KiB after", used / 1024, used_after / 1024);
    assert!(used_after < used + (2 << 20), "{used} bytes before, {used_after} after");
    assert_eq!(children(supervisor), [child]);
}
