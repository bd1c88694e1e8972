//! Admission: each limit on peers and connections is named to the peer that reaches it, and
//! disturbs no other peer.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use ipcd_proto::FrameKind;
use ipcd_proto::control::RefusalCode;
use ipcd_tests::{
    Daemon, DaemonSetup, NeighbourPair, RawConnection, RunningProcess, eventually, raise_limit,
    refusal,
};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

fn with_limits(limits: &str, schemes: &[&str]) -> Daemon {
    DaemonSetup::new().config(&format!("[limits]\n{limits}\n")).listen(schemes).start()
}

#[test]
fn the_silent_make_room_for_those_who_log_in() {
    raise_limit();
    let daemon = DaemonSetup::new().listen(&["unix", "tcp"]).args(&["--workers", "2"]).start();
    let silent: Vec<RawConnection> = (0..500).map(|_| daemon.raw("tcp")).collect();
    let begin = Instant::now();
    thread::scope(|scope| {
        for _ in 0..10 {
            scope.spawn(|| (0..10).for_each(|_| drop(daemon.client("tcp").flush())));
        }
    });
    println!("100 peers have logged in within {:?}", begin.elapsed());
    // Some were told to leave, and the time of the others is over.
    let ends: Vec<_> = silent.into_iter().map(|mut peer| peer.end()).collect();
    let count = |wanted| ends.iter().flatten().filter(|(code, _)| *code == wanted).count();
    let (displaced, late) = (count(RefusalCode::Limit), count(RefusalCode::TimedOut));
    println!("{displaced} were displaced, {late} too late");
    assert!(displaced > 50 && displaced + late == 500, "{displaced} + {late}");
    let told = ends.iter().flatten().find(|(code, _)| *code == RefusalCode::Limit);
    assert!(told.is_some_and(|(_, why)| why.contains("max_startups")), "{told:?}");
}

#[test]
fn never_more_than_the_most_are_without_proof() {
    let limits = "max_startups = \"2:100:2\"\nhandshake_timeout = \"60s\"";
    let daemon = with_limits(limits, &["unix", "tcp"]);
    let mut all: Vec<RawConnection> = (0..12).map(|_| daemon.raw("tcp")).collect();
    // Peers of the same second are refused; a peer that has waited longer is evicted.
    let told: Vec<_> = all.drain(2..).map(|mut peer| peer.end()).collect();
    let is_told = |end: &Option<(RefusalCode, String)>| {
        end.as_ref()
            .is_some_and(|(code, why)| *code == RefusalCode::Limit && why.contains("max_startups"))
    };
    assert!(told.iter().filter(|end| is_told(end)).count() >= 9, "{told:?}");
    // A peer for which the kernel vouches has nothing to prove, and is not affected.
    let local: Vec<RawConnection> = (0..5).map(|_| daemon.raw("unix")).collect();
    local.into_iter().for_each(|peer| drop(peer.open()));
    // At last a peer with a token logs in.
    eventually("a peer that logs in", || {
        let status = daemon.ctl("tcp", &["ping"]).run().status;
        status.success().then_some(())
    });
}

#[test]
fn who_has_most_places_makes_room_and_some_are_reserved() {
    let daemon = with_limits("max_peers = 32", &["unix", "tcp"]);
    let mut far: Vec<RawConnection> = (0..30).map(|_| daemon.session("tcp")).collect();
    // The last two places are for root and the daemon's own user.
    let said = daemon.ctl("tcp", &["ping"]).run().expect(6).stderr;
    assert!(said.contains("32 peers") && said.contains("max_peers"), "{said}");
    let near: Vec<RawConnection> = (0..5).map(|_| daemon.session("unix")).collect();
    // If these are taken too, the newest of the other peers is evicted, and receives the reason.
    for peer in &mut far[27..] {
        let (code, why) = peer.end().expect("the session ends with a reason");
        assert!(
            code == RefusalCode::Limit && why.contains("127.0.0.1") && why.contains("max_peers")
        );
    }
    for mut peer in far.drain(..27).chain(near) {
        peer.control(FrameKind::Ping, 9, &[]);
        peer.expect(FrameKind::Pong);
    }
}

#[test]
fn silent_strangers_do_not_take_all_children() {
    let args = ["--fork", "connection", "--max-children", "8"];
    let daemon = DaemonSetup::new().listen(&["unix", "tcp"]).args(&args).start();
    let mut silent: Vec<RawConnection> = (0..20).map(|_| daemon.raw("tcp")).collect();
    for stranger in &mut silent {
        // A child that was evicted has its place until it has ended.
        eventually("a place", || {
            daemon.ctl("unix", &["ping"]).run().status.success().then_some(())
        });
        // They connect again, evicted or not.
        *stranger = daemon.raw("tcp");
    }
}

#[test]
fn a_network_has_its_limit_and_users_have_theirs() {
    let limits = "max_peers_per_prefix = 2\nprefix_v4 = 8\nmax_peers_per_uid = 3";
    let daemon = with_limits(limits, &["unix", "tcp"]);
    let here: Vec<_> = (0..2).map(|_| daemon.client("tcp")).collect();
    let said = daemon.ctl("tcp", &["ping"]).run().expect(6).stderr;
    assert!(said.contains("127.0.0.0/8") && said.contains("max_peers_per_prefix"), "{said}");
    let mut local: Vec<_> = (0..3).map(|_| daemon.client("unix")).collect();
    let said = daemon.ctl("unix", &["ping"]).run().expect(6).stderr;
    assert!(said.contains("limit of 3 peers of user") && said.contains("max_peers_per_uid"));
    local.pop();
    eventually("a place", || daemon.ctl("unix", &["ping"]).run().status.success().then_some(()));
    drop(here);
}

#[test]
fn who_connects_too_often_is_told_and_may_come_later() {
    let daemon = with_limits("max_connect_rate = 5", &["unix", "pipe"]);
    let mut told = Vec::new();
    eventually("a refusal", || {
        let mut peers: Vec<RawConnection> = (0..20).map(|_| daemon.raw("unix")).collect();
        for peer in &mut peers {
            peer.finish();
            told.extend(peer.end());
        }
        told.iter()
            .find(|(code, why)| *code == RefusalCode::Limit && why.contains("max_connect_rate"))?;
        Some(())
    });
    eventually("a connection", || {
        daemon.ctl("pipe", &["ping"]).run().status.success().then_some(())
    });
}

#[test]
fn what_comes_before_a_session_is_bounded() {
    let daemon = DaemonSetup::new().listen(&["unix", "tcp"]).start();
    for scheme in ["unix", "tcp"] {
        let mut peer = daemon.raw(scheme);
        // A frame without a body has 32 bytes: 4 KiB are 128 of them.
        (0..128).for_each(|_| peer.control(FrameKind::Ping, 1, &[]));
        (0..128).for_each(|_| drop(peer.expect(FrameKind::Pong)));
        peer.control(FrameKind::Ping, 1, &[]);
        let (code, why) = peer.end().expect("the session ends with a reason");
        assert!(code == RefusalCode::Limit && why.contains("before the session"), "{code:?} {why}");
    }
}

/// A worker crashes while it is busy with one user's bytes, again and again.
#[test]
fn a_source_that_workers_die_of_is_kept_out_and_others_are_not() {
    let daemon = DaemonSetup::new().listen(&["unix", "tcp"]).args(&["--workers", "1"]).start();
    eventually("the peer is refused", || {
        // There is no subscriber: the worker only reads.
        let batch = RawConnection::message_bytes(1, b"nowhere", &[b'x'; 100]).repeat(1000);
        let mut flood = daemon.raw("unix");
        flood.control(FrameKind::Hello, 0, &ipcd_proto::control::encode(&RawConnection::hello()));
        if flood.frame().is_some_and(|frame| {
            frame.header.kind == FrameKind::Error && frame.refusal().1.contains("died while")
        }) {
            return Some(());
        }
        let pid = eventually("a worker", || worker_of(&daemon));
        let sent = AtomicUsize::new(0);
        thread::scope(|scope| {
            scope.spawn(|| {
                while sent.fetch_add(1, Ordering::Relaxed) < 300 {
                    flood.send(&batch);
                }
            });
            // More than the kernel holds, so the worker is reading.
            eventually("the flood", || (sent.load(Ordering::Relaxed) > 20).then_some(()));
            daemon.signal_worker(pid, Signal::SIGABRT);
        });
        None
    });
    assert!(daemon.log().contains("was serving this peer when it died"), "{}", daemon.log());
    // Meanwhile another source is served.
    daemon.ctl("tcp", &["ping"]).run().expect(0);
    // At last this one is served again.
    eventually("the end of the penalty", || {
        daemon.ctl("unix", &["ping"]).run().status.success().then_some(())
    });
}

/// The worker that runs now; another source asks for it.
fn worker_of(daemon: &Daemon) -> Option<i32> {
    let status = daemon.ctl("tcp", &["status", "-j"]).run();
    let status: Value = serde_json::from_slice(&status.stdout).ok()?;
    i32::try_from(status["workers"][0]["pid"].as_i64()?).ok()
}

#[test]
fn a_bystander_is_never_blamed() {
    let daemon = DaemonSetup::new().listen(&["unix"]).args(&["--workers", "1"]).start();
    let mut idle = daemon.raw("unix").open();
    for _ in 0..5 {
        let pid = daemon.worker_in(0).pid;
        daemon.signal_worker(pid, Signal::SIGABRT);
        eventually("another worker", || (daemon.worker_in(0).pid != pid).then_some(()));
    }
    idle.finish();
    NeighbourPair::of(&daemon).goes_on();
}

#[test]
fn limits_that_are_wrong_are_named() {
    for (line, said) in [
        ("max_startups = \"10:20\"", "100:30:500"),
        ("max_startups = \"20:30:10\"", "100:30:500"),
        ("prefix_v4 = 33", "32"),
        ("prefix_v6 = 129", "128"),
    ] {
        let refusal = refusal(&format!("[limits]\n{line}\n"));
        assert!(refusal.starts_with("2:") && refusal.contains(said), "{refusal}");
    }
}

/// A receiver that reads nothing, with the smallest socket buffer.
fn stuck(daemon: &Daemon) -> RunningProcess {
    let receiver = daemon.recv("unix", &["--overflow", "drop-newest", "flood"]);
    kill(Pid::from_raw(receiver.pid()), Signal::SIGSTOP).expect("the process runs");
    receiver
}

#[test]
fn what_waits_for_one_user_is_bounded_over_all_its_peers_and_workers() {
    let config = "[limits]\nmax_bytes_per_uid = \"1MiB\"\noutbox = \"1MiB\"\n";
    let setup =
        DaemonSetup::new().config(config).listen(&["unix", "tcp"]).args(&["--workers", "2"]);
    let daemon = setup.start();
    let stuck: Vec<_> = (0..6).map(|_| stuck(&daemon)).collect();
    // Another source, whose peers need nothing more.
    let mut free = daemon.recv("tcp", &["--overflow", "block", "-C", "400", "flood"]);
    free.stdout();
    let body = "x".repeat(20_000);
    let sent = daemon.ctl("tcp", &["send", "flood", "-m", &body, "--count", "400"]).run();
    sent.expect(0);
    free.wait().expect(0);
    let clients = daemon.ctl("tcp", &["clients", "-j"]).run().expect(0).text();
    let clients: Vec<Value> = serde_json::from_str(&clients).expect("the text is JSON");
    let of_user = clients.iter().filter(|client| client["uid"].is_u64());
    let queued: u64 = of_user.filter_map(|client| client["queued_bytes"].as_u64()).sum();
    // An eighth for each worker, and a message batch for each peer. Alone, each would hold its MiB.
    assert!((700_000..1_600_000).contains(&queued), "{queued} bytes: {clients:?}");
    for receiver in &stuck {
        kill(Pid::from_raw(receiver.pid()), Signal::SIGCONT).expect("the process is stopped");
    }
}

#[test]
fn a_user_has_so_many_subscriptions_on_all_workers() {
    let config = "[limits]\nmax_subscriptions_per_uid = 3\n";
    let setup =
        DaemonSetup::new().config(config).listen(&["unix", "tcp"]).args(&["--workers", "2"]);
    let daemon = setup.start();
    let mut first = daemon.recv("unix", &["a", "b"]);
    let second = daemon.recv("unix", &["c"]);
    let said = daemon.ctl("unix", &["recv", "d"]).run().expect(6).stderr;
    assert!(
        said.contains("3 subscriptions") && said.contains("max_subscriptions_per_uid"),
        "{said}"
    );
    let other = daemon.recv("tcp", &["a", "b", "c"]);
    first.signal(Signal::SIGTERM);
    first.wait();
    eventually("a subscription", || {
        let ended = daemon.ctl("unix", &["recv", "-W", "0.01", "d"]).run();
        ended.status.success().then_some(())
    });
    drop((second, other));
}
