//! Calls that the kernel refuses a worker, or does only in part: for lack of memory, interrupted,
//! or the rest of a write.

use std::fs;
use std::time::{Duration, Instant};

use ipcd_client::RefusalCode;
use ipcd_conformance::authority::Authority;
use ipcd_tests::{Daemon, DaemonSetup, FaultScene, HealthyLoad, children, eventually, private_dir};
use nix::errno::Errno;

use crate::refused::{ALWAYS, Refusals, build_library};

/// Calls that a worker makes for its peers, other workers and the supervisor.
const CALLS: &str = "read,write,writev,recvfrom,sendto,recvmsg";

/// Two workers; the healthy peers are on the first, and receivers that come back on both.
fn two_workers(refusals: &Refusals) -> (FaultScene, Vec<ipcd_tests::RunningProcess>) {
    let daemon = refusals.over(DaemonSetup::new().args(&["--workers", "2"])).start();
    let load = HealthyLoad::start_on(&daemon, &["unix", "tcp", "pipe", "fifo"], 0);
    let scene = FaultScene::set(daemon, load);
    let schemes = ["unix", "unix", "tcp", "tcp", "pipe", "fifo"];
    let receive = |scheme| {
        let mut receiver = scene.daemon.recv(scheme, &["-q", "-N", "victims.>"]);
        // A receiver that cannot print its messages does not come back.
        receiver.stdout();
        receiver
    };
    let receivers = schemes.map(receive).into();
    (scene, receivers)
}

/// Peers on both workers talk to peers on both; the exit of each of them.
fn talk(daemon: &Daemon) -> Vec<Option<i32>> {
    let body = "x".repeat(100_000);
    let schemes = ["unix", "tcp", "pipe", "fifo"].into_iter().cycle().take(16);
    let args = ["--timeout", "5s", "send", "victims.all", &body];
    schemes.map(|scheme| daemon.ctl(scheme, &args).run().status.code()).collect()
}

/// Calls that move bytes fail for a while. No peer is disconnected for that.
#[test]
fn a_worker_that_the_kernel_has_no_memory_for_tries_again() {
    let Some(refusals) = Refusals::prepare() else { return };
    let (scene, receivers) = two_workers(&refusals);
    let workers = children(scene.daemon.process.pid());
    // The second is of sockets only.
    let sockets = "writev,recvfrom,sendto,recvmsg";
    for (error, calls) in [(Errno::ENOMEM, CALLS), (Errno::ENOBUFS, sockets)] {
        let refused = refusals.refuse(&workers, calls, error, [3, 7]);
        let ends = talk(&scene.daemon);
        assert!(ends.iter().all(|status| *status == Some(0)), "{error}: {ends:?}");
        scene.load().goes_on();
        drop(refused);
    }
    assert_eq!(children(scene.daemon.process.pid()), workers, "a worker was replaced");
    drop(receivers);
    scene.check("workers without memory");
}

/// A worker that cannot wait for some peers disconnects those, and lives.
#[test]
fn a_worker_that_cannot_wait_for_its_peers_harms_nobody_on_another() {
    let Some(refusals) = Refusals::prepare() else { return };
    let (scene, mut receivers) = two_workers(&refusals);
    let victim = scene.daemon.worker_in(1);
    let calls = format!("{CALLS},epoll_ctl");
    let refused = refusals.refuse(&[victim.pid], &calls, Errno::ENOMEM, [3, 7]);
    let ends = talk(&scene.daemon);
    scene.load().goes_on();
    drop(refused);
    assert_eq!(scene.daemon.worker_in(1).pid, victim.pid, "it was replaced; {ends:?}");
    // A disconnected peer reconnects, to any worker.
    let count = receivers.len();
    eventually("the peers are back", || {
        let subs = scene.daemon.ctl("unix", &["subs", "-j"]).run().expect(0).text();
        (subs.matches("victims.>").count() == count).then_some(())
    });
    scene.daemon.send("victims.all", "again\n");
    for receiver in &mut receivers {
        receiver.stdout().wait_for("again\n");
    }
    drop(receivers);
    scene.check("a worker that cannot wait");
}

/// The worker can wait for no further peer: a newcomer is told, and the others continue.
#[test]
fn a_peer_that_cannot_be_waited_for_is_told_so_and_nobody_else_notices() {
    let Some(refusals) = Refusals::prepare() else { return };
    for error in [Errno::ENOMEM, Errno::ENOSPC] {
        let setup = refusals.over(DaemonSetup::new().args(&["--workers", "1"]));
        let scene = FaultScene::start(setup, &["unix", "tcp"]);
        let worker = scene.daemon.worker();
        let refused = refusals.refuse(&[worker], "epoll_ctl", error, ALWAYS);
        for scheme in ["unix", "tcp", "pipe", "fifo"] {
            let (code, why) =
                scene.daemon.raw(scheme).end().expect("the session ends with a reason");
            assert_eq!(code, RefusalCode::Limit, "{scheme}: {why}");
            assert!(why.contains(&format!("{error:?}")), "{scheme}: {why}");
        }
        scene.load().goes_on();
        drop(refused);
        assert_eq!(scene.daemon.worker(), worker, "the worker was replaced");
        assert_eq!(scene.daemon.counter("peers_unwatched"), 4);
        scene.check(&format!("peers that cannot be waited for, {error}"));
    }
}

/// Writes for peers of every kind fail all the time, though there is room. The worker tries again
/// after a pause (`PAUSE` in `ipcd-server`), and the bytes go out when there is memory.
#[test]
fn what_the_kernel_has_no_memory_for_is_not_tried_all_the_time() {
    const PAUSE: Duration = Duration::from_millis(10);
    let Some(refusals) = Refusals::prepare() else { return };
    let dir = private_dir();
    Authority::new().issue(&["127.0.0.1"]).write(dir.path());
    let path = dir.path().display();
    let listener = format!("tls://127.0.0.1:0?cert={path}/cert.pem&key={path}/key.pem");
    let setup = DaemonSetup::new().args(&["--workers", "2"]).extra(&[&listener]);
    let daemon = refusals.over(setup).start();
    let address = daemon.address("tls");
    let (address, _) = address.split_once('?').expect("a listener has options");
    let tls = format!("tls://{address}?ca={path}/ca.pem");
    let schemes = ["unix", "tcp", "pipe", "fifo", "udp", &tls];
    let mut receivers = schemes.map(|scheme| daemon.recv(scheme, &["-C", "2", "late"]));
    receivers.iter_mut().for_each(|receiver| {
        receiver.stdout();
    });
    let mut publisher = daemon.session("unix");
    let workers = children(daemon.process.pid());
    for error in [Errno::ENOMEM, Errno::ENOBUFS] {
        let calls = "write,writev,sendto,sendmsg";
        let refused = refusals.refuse(&workers, calls, error, ALWAYS);
        let start = Instant::now();
        publisher.message(1, b"late", b"but here");
        eventually("the first refusals", || (refused.count() >= 2).then_some(()));
        std::thread::sleep(50 * PAUSE);
        let (tried, pauses) = (refused.count(), start.elapsed().div_duration_f64(PAUSE) as usize);
        drop(refused);
        eprintln!("{error}: {tried} calls refused in {pauses} pauses");
        // Each receiver, the publisher, and the workers' messages for each other.
        let most = (receivers.len() + 1 + workers.len()) * (pauses + 1);
        assert!(tried <= most, "{error}: {tried} tries in {pauses} pauses: it spins");
    }
    for mut receiver in receivers {
        assert_eq!(receiver.wait().expect(0).text(), "but here\n".repeat(2));
    }
    assert_eq!(children(daemon.process.pid()), workers, "a worker was replaced");
}

#[test]
fn workers_whose_calls_are_interrupted_lose_nothing() {
    let Some(refusals) = Refusals::prepare() else { return };
    let (scene, receivers) = two_workers(&refusals);
    let workers = children(scene.daemon.process.pid());
    let calls = format!("{CALLS},epoll_wait");
    let refused = refusals.refuse(&workers, &calls, Errno::EINTR, [2, 3]);
    for scheme in ipcd_tests::SCHEMES {
        scene.daemon.ctl(scheme, &["send", "victims.all", &"x".repeat(100_000)]).run().expect(0);
    }
    scene.load().goes_on();
    assert!(refused.count() > 100, "{} calls were interrupted", refused.count());
    drop(refused);
    assert_eq!(children(scene.daemon.process.pid()), workers, "a worker was replaced");
    drop(receivers);
    scene.check("interrupted workers");
}

/// Peers whose descriptors the kernel does not take to their worker.
#[test]
fn who_cannot_be_handed_over_is_not_counted_as_there() {
    let Some(refusals) = Refusals::prepare() else { return };
    let setup = refusals.over(DaemonSetup::new().config("[limits]\nmax_peers = 8\n"));
    let scene = FaultScene::start(setup, &["unix", "tcp"]);
    let supervisor = scene.daemon.process.pid();
    let refused = refusals.refuse(&[supervisor], "sendmsg", Errno::EPERM, ALWAYS);
    for _ in 0..8 {
        scene.daemon.ctl("unix", &["ping"]).run().expect(3);
        scene.daemon.ctl("tcp", &["ping"]).run().expect(3);
    }
    drop(refused);
    let said = "cannot hand a peer to its worker";
    assert!(scene.daemon.log().matches(said).count() >= 16, "{}", scene.daemon.log());
    scene.check("peers that cannot be handed over");
}

#[test]
fn reads_and_writes_of_any_length_are_continued() {
    let dir = private_dir();
    let Some(library) = build_library(dir.path(), "short") else { return };
    let wrapper = format!("exec env LD_PRELOAD={} \"$@\"", library.display());
    let setup = DaemonSetup::new().args(&["--workers", "2"]).wrapper(&wrapper);
    let scene = FaultScene::start(setup, &["unix", "tcp", "pipe", "fifo", "udp"]);
    for pid in children(scene.daemon.process.pid()) {
        let maps = fs::read_to_string(format!("/proc/{pid}/maps")).expect("the process runs");
        assert!(maps.contains("short.so"), "the worker has not loaded it");
    }
    let body: String = (0..900_000_u64).map(|at| char::from(b'a' + (at * at % 23) as u8)).collect();
    let file = dir.path().join("body");
    fs::write(&file, &body).expect("the directory is writable");
    let file = file.to_str().expect("the path is text");
    for scheme in ipcd_tests::SCHEMES {
        let mut receiver = scene.daemon.recv(scheme, &["-N", "-C", "2", "large"]);
        receiver.stdout();
        scene.daemon.ctl(scheme, &["send", "large", "-f", file, "--count", "2"]).run().expect(0);
        let heard = receiver.wait().expect(0);
        assert!(heard.stdout == body.repeat(2).as_bytes(), "{scheme}: another text came");
    }
    eventually("more messages", || (scene.load().counts().0 > 3000).then_some(()));
    scene.check("short reads and writes");
}
