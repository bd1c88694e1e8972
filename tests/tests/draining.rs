//! The end of a daemon with many workers: a message accepted on one is delivered on another.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use ipcd_tests::{Daemon, DaemonSetup, children, eventually, is_alive};
use nix::sys::signal::Signal;

/// Senders that count their confirmed messages.
const SENDERS: usize = 4;
const BATCH: u64 = 25;

fn what_was_accepted_arrives(mut daemon: Daemon, different: bool) {
    let (mut receivers, mut slots) = (Vec::new(), Vec::new());
    for scheme in ["unix", "tcp"] {
        let start = |name: &str| daemon.recv(scheme, &["--no-reconnect", "--name", name, "news"]);
        let (mut receiver, slot) = daemon.on_slot(|_| true, start);
        receiver.stdout();
        receivers.push(receiver);
        slots.push(slot);
    }
    let fits = |slot| !different || !slots.contains(&slot);
    let senders: Vec<_> = (0..SENDERS)
        .map(|who| daemon.client_on(["unix", "tcp", "pipe", "fifo"][who % 4], fits).0)
        .collect();
    let workers = children(daemon.process.pid());
    let confirmed = Mutex::new([0; SENDERS]);
    let sent = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for (who, mut client) in senders.into_iter().enumerate() {
            let (confirmed, sent) = (&confirmed, &sent);
            scope.spawn(move || {
                for number in 0.. {
                    let text = format!("{who} {number} {}", "x".repeat(1500));
                    let is_last = number % BATCH == BATCH - 1;
                    let accepted = client
                        .publish("news", text.as_bytes())
                        .and_then(|()| if is_last { client.flush() } else { Ok(()) });
                    if accepted.is_err() {
                        return;
                    }
                    if is_last {
                        confirmed.lock().expect("no thread panics")[who] = number + 1;
                        sent.fetch_add(BATCH, Ordering::Relaxed);
                    }
                }
            });
        }
        eventually("some messages", || (sent.load(Ordering::Relaxed) > 2000).then_some(()));
        daemon.process.signal(Signal::SIGTERM);
        daemon.process.wait().expect(0);
    });
    assert!(workers.into_iter().all(|pid| !is_alive(pid)), "a worker has outlived the daemon");
    let confirmed = confirmed.into_inner().expect("no thread panics");
    for mut receiver in receivers {
        let ended = receiver.wait().expect(7);
        let mut next = [0; SENDERS];
        for line in ended.text().lines() {
            let mut fields = line.split(' ').map(str::parse::<u64>);
            let (Some(Ok(who)), Some(Ok(number))) = (fields.next(), fields.next()) else {
                panic!("{line:.40} is no message");
            };
            assert_eq!(number, next[who as usize], "sender {who}");
            next[who as usize] += 1;
        }
        for who in 0..SENDERS {
            let (got, wanted) = (next[who], confirmed[who]);
            assert!(got >= wanted, "sender {who}: {got} came, {wanted} were confirmed");
        }
    }
}

#[test]
fn what_one_worker_has_accepted_another_delivers_before_the_end() {
    for _ in 0..5 {
        what_was_accepted_arrives(DaemonSetup::new().args(&["--workers", "3"]).start(), true);
    }
}

#[test]
fn what_one_child_has_accepted_another_delivers_before_the_end() {
    for _ in 0..5 {
        what_was_accepted_arrives(DaemonSetup::new().args(&["--fork", "connection"]).start(), true);
    }
}
