//! Workers that die, stop, or are many: the others continue, and names and places become free.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ipcd_client::{Client, Error, Event, SubscribeOptions};
use ipcd_tests::{
    Daemon, DaemonSetup, PATIENCE, children, descriptors, eventually, is_alive, state,
};
use nix::sys::signal::Signal;

fn subscribe(client: &mut Client, filter: &str) -> u32 {
    client.subscribe(filter, SubscribeOptions::default()).expect("the peer may subscribe")
}

fn next_number(client: &mut Client) -> u64 {
    match client.next_event(Some(Instant::now() + PATIENCE)) {
        Ok(Some(Event::Message(message))) => {
            std::str::from_utf8(message.payload()).expect("text").parse().expect("a number")
        }
        other => panic!("{other:?}, instead of a message"),
    }
}

/// The worker in a slot, asked by a peer on another worker, so that no turns are used up.
fn pid_of(client: &mut Client, slot: u32) -> Option<i32> {
    let answers = client.query(&ipcd_client::Query::Status).expect("its worker lives");
    let Some(ipcd_client::Answer::Status(status)) = answers.into_iter().next() else {
        panic!("another answer than asked for");
    };
    let worker = status.workers.iter().find(|worker| worker.slot == slot)?;
    Some(worker.pid as i32)
}

#[test]
fn a_flow_on_one_worker_has_no_gap_while_another_is_killed_all_the_time() {
    // The duration, and the worker's life span, are the subject of the test.
    const SPAN: Duration = Duration::from_secs(10);
    const LIFE: Duration = Duration::from_millis(200);
    let daemon = DaemonSetup::new().args(&["--workers", "2"]).start();
    let supervisor = daemon.process.pid();
    let (mut sender, slot) = daemon.client_on("unix", |_| true);
    let other = 1 - slot;
    let (mut receiver, _) = daemon.client_on("unix", |at| at == slot);
    let (mut watcher, _) = daemon.client_on("unix", |at| at == slot);
    subscribe(&mut receiver, "flow");
    // A peer there, which must reconnect each time.
    let (mut victim, _) =
        daemon.on_slot(|at| at == other, |name| daemon.recv("unix", &["--name", name, "flow"]));
    victim.stdout();
    let held = descriptors(supervisor).len();
    let first = daemon.worker_in(other).generation;
    let (over, sent) = (AtomicBool::new(false), AtomicU64::new(0));
    let kills = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                for _ in 0..20 {
                    let number = sent.fetch_add(1, Ordering::Relaxed).to_string();
                    sender.publish("flow", number.as_bytes()).expect("its worker lives");
                }
                sender.flush().expect("its worker lives");
            }
            sender.publish("flow", u64::MAX.to_string().as_bytes()).expect("its worker lives");
            sender.flush().expect("its worker lives");
        });
        let receiving = scope.spawn(|| {
            for expected in 0.. {
                match next_number(&mut receiver) {
                    u64::MAX => return expected,
                    number => assert_eq!(number, expected),
                }
            }
            unreachable!("the last number comes")
        });
        let (start, mut kills) = (Instant::now(), 0);
        while start.elapsed() < SPAN {
            if let Some(pid) = pid_of(&mut watcher, other as u32) {
                daemon.signal_worker(pid, Signal::SIGKILL);
                kills += 1;
                eventually("the process is reaped", || state(pid).is_none().then_some(()));
            }
            std::thread::sleep(LIFE);
        }
        over.store(true, Ordering::Relaxed);
        let received = receiving.join().expect("nothing is missing");
        assert_eq!(received, sent.load(Ordering::Relaxed));
        kills
    });
    let worker = daemon.worker_in(other);
    eprintln!("{} messages, {kills} kills", sent.load(Ordering::Relaxed));
    assert!(kills > 2 && worker.generation == first + kills, "{worker:?} after {kills}");
    let pids: Vec<i32> = daemon.workers().iter().map(|worker| worker.pid).collect();
    assert_eq!(children(supervisor).len(), 2);
    assert!(pids.iter().all(|pid| is_alive(*pid)));
    // The victim reconnects by itself, to any worker.
    daemon.ctl("unix", &["send", "flow", "again", "--wait-subs", "2"]).run().expect(0);
    victim.stdout().wait_for("again\n");
    eventually("the descriptors as before", || {
        (descriptors(supervisor).len() == held).then_some(())
    });
}

#[test]
fn peers_of_every_transport_come_back_when_one_of_three_workers_is_killed() {
    let daemon = DaemonSetup::new().args(&["--workers", "3"]).start();
    let mut receivers = Vec::new();
    for slot in 0..3 {
        for scheme in ["unix", "pipe", "fifo", "tcp", "udp"] {
            let start = |name: &str| daemon.recv(scheme, &["--name", name, "news"]);
            receivers.push((daemon.on_slot(|at| at == slot, start).0, slot));
        }
    }
    daemon.signal_worker(daemon.worker_in(1).pid, Signal::SIGKILL);
    for (receiver, slot) in &receivers {
        if *slot == 1 {
            receiver.stderr.wait_for("connected again");
        }
    }
    daemon.ctl("tcp", &["send", "news", "after", "--wait-subs", "15"]).run().expect(0);
    for (receiver, slot) in &mut receivers {
        receiver.stdout().wait_for("after\n");
        assert_eq!(receiver.stderr.text().contains("connected again"), *slot == 1);
    }
}

#[test]
fn subscribing_goes_on_at_eight_workers_and_while_one_of_them_is_stopped() {
    const EACH: u32 = 400;
    let config = "[daemon]\nwatchdog = \"1s\"\n";
    let daemon = DaemonSetup::new().config(config).args(&["--workers", "8"]).start();
    let mut clients: Vec<_> =
        (0..8).map(|slot| daemon.client_on("unix", |at| at == slot).0).collect();
    let churn = |clients: &mut [Client], round: u32| {
        let start = Instant::now();
        std::thread::scope(|scope| {
            for (client, who) in clients.iter_mut().zip(0..) {
                scope.spawn(move || {
                    for number in 0..EACH {
                        let filter = match number % 4 {
                            0 => "common".into(),
                            _ => format!("churn.{round}.{who}.{number}"),
                        };
                        let subscription = subscribe(client, &filter);
                        client.unsubscribe(subscription).expect("the connection is open");
                    }
                });
            }
        });
        let rate = f64::from(EACH) * clients.len() as f64 / start.elapsed().as_secs_f64();
        eprintln!("{rate:.0} SUBSCRIBE and UNSUBSCRIBE a second");
    };
    churn(&mut clients, 0);
    let stopped = daemon.worker_in(7);
    daemon.signal_worker(stopped.pid, Signal::SIGSTOP);
    eventually("the process is stopped", || (state(stopped.pid) == Some('T')).then_some(()));
    churn(&mut clients[..7], 1);
    let successor = eventually("a successor", || {
        daemon.workers().into_iter().find(|worker| worker.slot == 7 && worker.pid != stopped.pid)
    });
    assert_eq!(successor.generation, stopped.generation + 1);
    assert_eq!(state(stopped.pid), None, "it was not reaped");
    churn(&mut clients[..7], 2);
    assert!(daemon.log().contains("worker does not answer"));
    // The other workers are the same as before.
    assert!(daemon.workers().iter().all(|worker| worker.slot == 7 || worker.generation == 1));
}

/// A worker that is stopped for less than the watchdog's time is not ended.
#[test]
fn a_worker_that_stops_for_a_moment_goes_on() {
    let config = "[daemon]\nwatchdog = \"1000s\"\n";
    let daemon = DaemonSetup::new().config(config).args(&["--workers", "2"]).start();
    let (mut sender, slot) = daemon.client_on("unix", |_| true);
    let (mut receiver, _) = daemon.client_on("unix", |at| at != slot);
    subscribe(&mut receiver, "news");
    let pid = daemon.worker_in(1 - slot).pid;
    daemon.signal_worker(pid, Signal::SIGSTOP);
    eventually("the process is stopped", || (state(pid) == Some('T')).then_some(()));
    for number in 0..1000_u64 {
        sender.publish("news", number.to_string().as_bytes()).expect("its worker lives");
    }
    sender.flush().expect("its worker lives");
    daemon.signal_worker(pid, Signal::SIGCONT);
    for number in 0..1000 {
        assert_eq!(next_number(&mut receiver), number);
    }
    assert_eq!(daemon.worker_in(1 - slot).pid, pid);
}

/// Peers go to workers that can serve them, not in turn to a stopped worker or an empty slot.
fn peers_come_to_the_other_worker(daemon: &Daemon) {
    eventually("new peers go to the other worker", || {
        let pings = (0..6).map(|_| daemon.ctl("unix", &["ping", "--timeout", "1s"]).run());
        // A peer that was handed over before the stop was known waits for the worker.
        pings.map(|ended| ended.status.code()).all(|code| code == Some(0)).then_some(())
    });
}

#[test]
fn peers_come_to_another_worker_while_one_is_stopped() {
    let config = "[daemon]\nwatchdog = \"1000s\"\n";
    let daemon = DaemonSetup::new().config(config).args(&["--workers", "2"]).start();
    let pid = daemon.worker_in(0).pid;
    daemon.signal_worker(pid, Signal::SIGSTOP);
    peers_come_to_the_other_worker(&daemon);
    daemon.signal_worker(pid, Signal::SIGCONT);
    // It has its turns again.
    daemon.client_on("unix", |slot| slot == 0);
    assert_eq!(daemon.worker_in(0).pid, pid);
}

#[test]
fn a_peer_of_another_worker_is_kicked() {
    for mode in [&["--workers", "2"][..], &["--fork", "connection"]] {
        let daemon = DaemonSetup::new().args(mode).start();
        for scheme in ipcd_tests::SCHEMES {
            let (mut victim, slot) = daemon.on_slot(
                |_| true,
                |name| daemon.recv(scheme, &["--no-reconnect", "--name", name, "news"]),
            );
            let id = daemon.clients().into_iter().find(|peer| peer["subscriptions"][0] == "news");
            let id = id.expect("it is there")["id"].as_u64().expect("a number");
            let (mut kicker, _) = daemon.client_on("unix", |at| at != slot);
            let answer =
                kicker.query(&ipcd_client::Query::Kick(id)).expect("the connection is open");
            assert_eq!(answer, [ipcd_client::Answer::Kicked(true)]);
            let ended = victim.wait().expect(7);
            assert_eq!(ended.stderr.lines().count(), 2, "{scheme}: {}", ended.stderr);
            assert!(ended.stderr.contains("kick") || ended.stderr.contains("administrator"));
            let id = id.to_string();
            eventually("the peer is gone", || {
                let ended = daemon.ctl("unix", &["kick", &id]).run();
                (ended.status.code() == Some(5)).then_some(())
            });
        }
        let ended = daemon.ctl("unix", &["kick", "12345678901"]).run().expect(5);
        assert!(ended.stderr.contains("no such peer"), "{}", ended.stderr);
    }
}

#[test]
fn a_peer_is_kicked_by_the_tool_whatever_worker_it_is_on() {
    let daemon = DaemonSetup::new().args(&["--workers", "3"]).start();
    for _ in 0..6 {
        let mut victim = daemon.recv("unix", &["--no-reconnect", "--name", "victim", "news"]);
        let id = daemon.peer_named("victim")["id"].to_string();
        daemon.ctl("unix", &["kick", &id]).run().expect(0);
        victim.wait().expect(7);
        eventually("the peer is gone", || {
            daemon.clients().iter().all(|peer| peer["name"] != "victim").then_some(())
        });
    }
}

fn is_refused(daemon: &Daemon, scheme: &str, name: &str) -> bool {
    let ended = daemon.ctl(scheme, &["ping", "--name", name]).run();
    if ended.status.code() == Some(6) {
        assert!(ended.stderr.contains(name) && ended.stderr.contains("taken"), "{}", ended.stderr);
        return true;
    }
    ended.expect(0);
    false
}

#[test]
fn a_name_is_one_peers_over_all_workers_and_free_when_that_is_gone() {
    for mode in [&["--workers", "3"][..], &["--fork", "connection"]] {
        let daemon = DaemonSetup::new().args(mode).start();
        let mut owner = daemon.recv("unix", &["--no-reconnect", "--name", "highlander", "news"]);
        // Three in turn reach every worker.
        for scheme in ["unix", "tcp", "pipe", "fifo", "udp", "unix"] {
            assert!(is_refused(&daemon, scheme, "highlander"), "{scheme}");
        }
        owner.signal(Signal::SIGKILL);
        eventually("a free name", || (!is_refused(&daemon, "unix", "highlander")).then_some(()));
        let mut owner = daemon.recv("unix", &["--no-reconnect", "--name", "highlander", "news"]);
        assert!(is_refused(&daemon, "unix", "highlander"));
        let slot = daemon.slot_of("highlander");
        daemon.signal_worker(daemon.worker_in(slot).pid, Signal::SIGKILL);
        owner.wait().expect(7);
        eventually("a free name", || (!is_refused(&daemon, "unix", "highlander")).then_some(()));
        let _owner = daemon.recv("tcp", &["--name", "highlander", "news"]);
        assert!(is_refused(&daemon, "unix", "highlander"));
    }
}

/// A client in the test's own process gets the same reason as the tool.
#[test]
fn who_is_kicked_is_told_why() {
    let daemon = DaemonSetup::new().args(&["--workers", "2"]).start();
    let (mut victim, slot) = daemon.client_on("unix", |_| true);
    let (mut kicker, _) = daemon.client_on("unix", |at| at != slot);
    let answer =
        kicker.query(&ipcd_client::Query::Kick(victim.peer())).expect("the connection is open");
    assert_eq!(answer, [ipcd_client::Answer::Kicked(true)]);
    match victim.next_event(Some(Instant::now() + PATIENCE)) {
        Err(Error::Refused(refusal)) => assert_eq!(refusal.code, ipcd_client::RefusalCode::Kicked),
        other => panic!("{other:?}"),
    }
}

#[test]
fn status_and_clients_and_wait_subs_tell_of_all_workers() {
    let daemon = DaemonSetup::new().args(&["--workers", "3"]).start();
    let supervisor = daemon.process.pid();
    let receivers: Vec<_> = (0..6)
        .map(|number| {
            let start = |name: &str| daemon.recv("unix", &["--name", name, "news", "other.*"]);
            daemon.on_slot(|at| at == number % 3, start)
        })
        .collect();
    daemon.wait_for_peers(6);
    let mut workers = daemon.workers();
    workers.sort_unstable_by_key(|worker| worker.slot);
    assert_eq!(workers.iter().map(|worker| worker.slot).collect::<Vec<_>>(), [0, 1, 2]);
    let mut pids: Vec<i32> = workers.iter().map(|worker| worker.pid).collect();
    pids.sort_unstable();
    let mut forked = children(supervisor);
    forked.sort_unstable();
    assert_eq!(pids, forked);
    let status = daemon.status();
    assert_eq!(status["pid"], supervisor);
    let served: u64 = workers.iter().map(|worker| worker.peers).sum();
    assert_eq!(served, 7);
    let peers = daemon.clients();
    for slot in 0..3 {
        let here = |peer: &&serde_json::Value| {
            peer["worker"] == slot && peer["subscriptions"][0] == "news"
        };
        assert_eq!(peers.iter().filter(here).count(), 2, "worker {slot}");
    }
    daemon.ctl("tcp", &["send", "news", "x", "--wait-subs", "6"]).run().expect(0);
    daemon.ctl("tcp", &["send", "other.one", "x", "--wait-subs", "6"]).run().expect(0);
    let late = ["send", "news", "x", "--wait-subs", "7", "--timeout", "300ms"];
    let ended = daemon.ctl("unix", &late).run().expect(4);
    assert!(ended.stderr.contains("6 of 7"), "{}", ended.stderr);
    assert_eq!(daemon.counter("messages_accepted"), 2);
    assert_eq!(daemon.counter("messages_delivered"), 12);
    drop(receivers);
    daemon.wait_for_peers(0);
}
