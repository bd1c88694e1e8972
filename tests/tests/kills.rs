//! Processes that are killed lose only their own state, and nothing needs cleaning up.

use ipcd_tests::{Daemon, SCHEMES, children, descriptors, eventually, is_alive, state};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

fn kill_nine(pid: i32) {
    // The daemon has just reported it, and its parent has not reaped it.
    kill(Pid::from_raw(pid), Signal::SIGKILL).expect("the process runs");
}

/// Waits for a worker with another process, and returns its entry in `status -j`.
fn successor(daemon: &Daemon, of: i32) -> Value {
    eventually("a new worker", || {
        // The peer that asks may be disconnected with the old worker.
        let ended = daemon.ctl("unix", &["status", "-j"]).run();
        let status: Value = serde_json::from_slice(&ended.stdout).ok()?;
        let worker = status["workers"][0].clone();
        (worker["pid"].as_i64() != Some(of.into())).then_some(worker)
    })
}

#[test]
fn a_killed_worker_is_replaced_and_its_peers_come_back() {
    let daemon = Daemon::start();
    let supervisor = daemon.process.pid();
    let mut receivers = SCHEMES.map(|scheme| daemon.recv(scheme, &["-C", "2", "news"]));
    daemon.send("news", "before");
    for receiver in &mut receivers {
        receiver.stdout().wait_for("before\n");
    }
    let worker = daemon.worker();
    daemon.wait_for_peers(5);
    let held = descriptors(supervisor);
    kill_nine(worker);
    let new = successor(&daemon, worker);
    assert_eq!(new["generation"], 2);
    assert_eq!(new["slot"], 0);
    assert_eq!(state(worker), None, "the dead worker was not reaped");
    assert_eq!(children(supervisor), [new["pid"].as_i64().expect("a number") as i32]);
    for receiver in &receivers {
        receiver.stderr.wait_for("connected again");
    }
    daemon.ctl("unix", &["send", "news", "after", "--wait-subs", "5"]).run().expect(0);
    for (receiver, scheme) in receivers.iter_mut().zip(SCHEMES) {
        assert_eq!(receiver.wait().expect(0).text(), "before\nafter\n", "{scheme}");
    }
    daemon.wait_for_peers(0);
    eventually("the descriptors as before", || {
        (descriptors(supervisor).len() == held.len()).then_some(())
    });
    let ids = daemon.clients();
    let old_ids = 1_u64 << 29..2 << 29;
    assert!(ids.iter().all(|peer| !old_ids.contains(&peer["id"].as_u64().expect("a number"))));
}

#[test]
fn workers_killed_again_and_again_leave_nothing_behind() {
    let daemon = Daemon::start();
    let supervisor = daemon.process.pid();
    let mut worker = daemon.worker();
    let held = descriptors(supervisor).len();
    for generation in 2..=5 {
        kill_nine(worker);
        let new = successor(&daemon, worker);
        assert_eq!(new["generation"], generation);
        worker = new["pid"].as_i64().expect("a number") as i32;
    }
    assert_eq!(children(supervisor), [worker]);
    eventually("the descriptors as before", || {
        (descriptors(supervisor).len() == held).then_some(())
    });
}

#[test]
fn without_reconnection_a_receiver_ends_with_7() {
    let daemon = Daemon::start();
    let mut receivers = SCHEMES.map(|scheme| daemon.recv(scheme, &["--no-reconnect", "news"]));
    kill_nine(daemon.worker());
    for receiver in &mut receivers {
        let ended = receiver.wait().expect(7);
        assert!(ended.stderr.contains("lost"), "{}", ended.stderr);
    }
}

#[test]
fn a_sender_whose_worker_dies_does_not_claim_success() {
    let daemon = Daemon::start();
    for scheme in SCHEMES {
        let mut sender = daemon.ctl(scheme, &["send", "news", "-l"]).spawn_fed();
        let mut stdin = sender.stdin();
        std::io::Write::write_all(&mut stdin, b"one\n").expect("the peer reads the bytes");
        daemon.wait_for_peers(1);
        kill_nine(daemon.worker());
        let ended = sender.wait().expect(7);
        assert!(ended.stderr.starts_with("ipcctl: send news: "), "{}", ended.stderr);
        drop(stdin);
        daemon.wait_for_peers(0);
    }
}

#[test]
fn a_killed_supervisor_takes_its_worker_along_and_needs_no_cleaning_up() {
    let mut daemon = Daemon::start();
    let worker = daemon.worker();
    let local = ["unix", "pipe", "fifo"];
    let mut receivers = local.map(|scheme| daemon.recv(scheme, &["-C", "1", "news"]));
    let token = std::fs::read(daemon.runtime_dir().join("token")).expect("the file can be read");
    daemon.process.signal(Signal::SIGKILL);
    daemon.process.wait();
    eventually("the worker's end", || (!is_alive(worker)).then_some(()));
    let daemon = daemon.start_again();
    assert_eq!(
        std::fs::read(daemon.runtime_dir().join("token")).expect("the file can be read"),
        token
    );
    for scheme in SCHEMES {
        daemon.ctl(scheme, &["ping"]).run().expect(0);
    }
    for receiver in &receivers {
        receiver.stderr.wait_for("connected again");
    }
    daemon.ctl("tcp", &["send", "news", "again", "--wait-subs", "3"]).run().expect(0);
    for receiver in &mut receivers {
        assert_eq!(receiver.wait().expect(0).text(), "again\n");
    }
}

#[test]
fn a_killed_peer_is_forgotten_on_every_transport() {
    let daemon = Daemon::start();
    let worker = daemon.worker();
    daemon.wait_for_peers(0);
    let held = descriptors(worker).len();
    for scheme in ["unix", "pipe", "fifo", "tcp"] {
        let mut receiver = daemon.recv(scheme, &["news"]);
        receiver.signal(Signal::SIGKILL);
        receiver.wait();
        daemon.wait_for_peers(0);
    }
    eventually("the descriptors as before", || (descriptors(worker).len() <= held).then_some(()));
}
