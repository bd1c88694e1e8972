//! Receivers that do not read: the promises for each kind of overflow, and for all other peers.

use std::io::Write;
use std::sync::Barrier;
use std::thread;
use std::time::Instant;

use ipcd_client::{Error, Event, OverflowPolicy, RefusalCode, SubscribeOptions};
use ipcd_tests::{
    Daemon, DaemonSetup, NeighbourPair, PATIENCE, RunningProcess, SCHEMES, eventually, state,
};
use nix::sys::signal::Signal;
use serde_json::Value;

/// Send queues that fill soon, and a stall time-out beyond the time of a test.
const PATIENT: &str = "[limits]\noutbox = \"64KiB\"\nstall_timeout = \"1000s\"\n";
/// The same with a short stall time-out.
const STRICT: &str = "[limits]\noutbox = \"64KiB\"\nstall_timeout = \"1s\"\n";

/// More than any socket's buffers and a send queue hold.
const MESSAGES: u64 = 20_000;
const BODY: usize = 1000;

fn flood(daemon: &Daemon, scheme: &str) -> RunningProcess {
    let count = MESSAGES.to_string();
    let body = "x".repeat(BODY);
    daemon.ctl(scheme, &["send", "flood", &body, "--count", &count, "--timeout", "90s"]).spawn()
}

fn stopped(daemon: &Daemon, scheme: &str, args: &[&str]) -> RunningProcess {
    let mut receiver = daemon.recv(scheme, args);
    receiver.signal(Signal::SIGSTOP);
    let pid = receiver.pid();
    eventually("the process is stopped", || (state(pid) == Some('T')).then_some(()));
    receiver
}

/// The entry of the receiver in `clients -j`.
fn client(daemon: &Daemon) -> Option<Value> {
    daemon.clients().into_iter().find(|client| client["subscriptions"][0] == "flood")
}

/// Waits until the receiver has reported this number of dropped messages, in one remark or more.
fn wait_for_gaps(receiver: &RunningProcess, dropped: u64) {
    receiver.stderr.wait_until("that messages were dropped", |text| {
        let remarks = text.lines().filter_map(|line| line.strip_prefix("ipcctl: "));
        let counts = remarks.filter_map(|line| line.split_once(" messages of flood were dropped"));
        let sum: u64 = counts.map(|(count, _)| count.parse::<u64>().expect("a number")).sum();
        (sum == dropped).then_some(())
    });
}

#[test]
fn a_stopped_receiver_makes_its_publisher_wait_and_nobody_else() {
    for scheme in SCHEMES {
        let daemon = DaemonSetup::new().config(PATIENT).start();
        let neighbour = NeighbourPair::of(&daemon);
        let count = MESSAGES.to_string();
        let mut receiver = stopped(&daemon, scheme, &["-C", &count, "flood"]);
        receiver.stdout();
        let mut sender = flood(&daemon, "unix");
        // A full send queue stays full until it has fallen to half.
        eventually("a full outbox", || {
            (client(&daemon)?["queued_bytes"].as_u64()? > 32 << 10).then_some(())
        });
        neighbour.goes_on();
        assert_eq!(sender.has_ended(), None, "{scheme}: the publisher did not wait");
        let queued = client(&daemon).expect("the entry exists")["queued_bytes"].as_u64();
        assert!(queued.expect("a number") < 256 << 10, "{scheme}: {queued:?} bytes are queued");
        receiver.signal(Signal::SIGCONT);
        sender.wait().expect(0);
        assert_eq!(receiver.wait().expect(0).stdout.len() as u64, MESSAGES * (BODY as u64 + 1));
        neighbour.goes_on();
        assert_eq!(daemon.counter("peers_cut_off"), 0);
    }
}

#[test]
fn a_receiver_that_stalls_too_long_is_cut_off_and_its_publisher_goes_on() {
    for scheme in SCHEMES {
        let daemon = DaemonSetup::new().config(STRICT).start();
        let neighbour = NeighbourPair::of(&daemon);
        let mut receiver = stopped(&daemon, scheme, &["--no-reconnect", "flood"]);
        receiver.stdout();
        flood(&daemon, "tcp").wait().expect(0);
        assert_eq!(daemon.counter("peers_cut_off"), 1, "{scheme}");
        eventually("the peer is gone", || client(&daemon).is_none().then_some(()));
        neighbour.goes_on();
        receiver.signal(Signal::SIGCONT);
        receiver.wait().expect(7);
    }
}

#[test]
fn a_source_that_stalls_again_and_again_is_refused_for_a_while() {
    let config = "[limits]\noutbox = \"64KiB\"\nstall_timeout = \"2s\"\n";
    let setup = DaemonSetup::new().config(config).listen(&["unix", "tcp"]);
    let daemon = setup.args(&["--workers", "1"]).start();
    let neighbour = NeighbourPair::of(&daemon);
    let ping = |scheme| daemon.ctl(scheme, &["ping"]).run();
    let refusal = loop {
        let answer = ping("tcp");
        if !answer.status.success() {
            break answer.expect(6).stderr;
        }
        let mut slow = daemon.session("tcp");
        slow.shrink();
        slow.subscribe(1, "flood");
        flood(&daemon, "unix").wait().expect(0);
        drop(slow);
        eventually("the peer is gone", || client(&daemon).is_none().then_some(()));
    };
    assert!(refusal.contains("127.0.0.1") && refusal.contains("slowness"), "{refusal}");
    assert!(daemon.counter("peers_cut_off") >= 3, "fewer may be chance");
    let log = daemon.log();
    let mut lines = log.lines().filter(|line| line.contains("stall again and again"));
    assert!(lines.any(|line| line.contains("refused=address 127.0.0.1")), "{log}");
    // The daemon's own user is not refused, and its sessions go on. The others can come back.
    ping("unix").expect(0);
    neighbour.goes_on();
    eventually("the source is admitted again", || ping("tcp").status.success().then_some(()));
}

/// `clients` and the log show each state of a receiver.
#[test]
fn what_a_receiver_has_lost_is_told_of_it() {
    for overflow in ["drop-newest", "drop-oldest"] {
        let daemon = DaemonSetup::new().config(PATIENT).start();
        let receiver = stopped(&daemon, "unix", &["--overflow", overflow, "flood"]);
        flood(&daemon, "unix").wait().expect(0);
        let of = |client: &Value, key: &str| client[key].as_u64().expect("a number");
        let listed = client(&daemon).expect("the entry exists");
        let subs = daemon.ctl("unix", &["subs", "-j"]).run().expect(0).text();
        let subs: Value = serde_json::from_str(&subs).expect("the text is JSON");
        let sub = subs.as_array().expect("an array").iter().find(|sub| sub["filter"] == "flood");
        let sub = sub.expect("the entry exists");
        assert!(of(&listed, "dropped") > 0, "{listed}");
        assert_eq!(of(&listed, "dropped"), of(sub, "dropped"), "{overflow}");
        assert_eq!(of(&listed, "msgs_out"), of(sub, "delivered"), "{overflow}");
        drop(receiver);
        let dropped = format!("dropped={}", of(&listed, "dropped"));
        daemon.process.stderr.wait_until("a warning that it has lost some", |log| {
            let mut lines = log.lines().filter(|line| line.contains("peer gone"));
            lines.any(|line| line.contains(" WARN ") && line.contains(&dropped)).then_some(())
        });
    }
    let daemon = DaemonSetup::new().config(STRICT).start();
    let _receiver = stopped(&daemon, "unix", &["--no-reconnect", "flood"]);
    flood(&daemon, "tcp").wait().expect(0);
    daemon.process.stderr.wait_until("a warning that it was cut off", |log| {
        let mut lines = log.lines().filter(|line| line.contains("peer gone"));
        lines.any(|line| line.contains(" WARN ") && line.contains("dropped=")).then_some(())
    });
}

#[test]
fn drop_newest_keeps_the_oldest_and_reports_the_gap() {
    let daemon = DaemonSetup::new().config(PATIENT).start();
    let mut receiver = stopped(&daemon, "unix", &["--overflow", "drop-newest", "flood"]);
    receiver.stdout();
    flood(&daemon, "unix").wait().expect(0);
    let dropped = daemon.counter("messages_dropped_newest");
    assert!(dropped > 0 && dropped < MESSAGES);
    assert_eq!(client(&daemon).expect("the entry exists")["dropped"], dropped);
    receiver.signal(Signal::SIGCONT);
    wait_for_gaps(&receiver, dropped);
    daemon.send("flood", "the last");
    let got = receiver.stdout().wait_until("the last message", |text| {
        text.ends_with("the last\n").then(|| text.lines().count() as u64)
    });
    assert_eq!(got, MESSAGES - dropped + 1);
}

#[test]
fn drop_oldest_keeps_the_newest_and_reports_the_gap() {
    let daemon = DaemonSetup::new().config(PATIENT).start();
    let mut receiver = stopped(&daemon, "unix", &["--overflow", "drop-oldest", "flood"]);
    receiver.stdout();
    let mut sender = daemon.ctl("unix", &["send", "flood", "-l"]).spawn_fed();
    let mut stdin = sender.stdin();
    for number in 0..MESSAGES {
        writeln!(stdin, "{number:01000}").expect("it reads");
    }
    drop(stdin);
    sender.wait().expect(0);
    let dropped = daemon.counter("messages_dropped_oldest");
    assert!(dropped > 0 && dropped < MESSAGES);
    receiver.signal(Signal::SIGCONT);
    wait_for_gaps(&receiver, dropped);
    let last = format!("{:01000}\n", MESSAGES - 1);
    let numbers: Vec<u64> = receiver.stdout().wait_until("the newest message", |text| {
        let numbers = || text.lines().map(|line| line.parse().expect("a number")).collect();
        text.ends_with(&last).then(numbers)
    });
    assert!(numbers.is_sorted() && numbers.len() as u64 == MESSAGES - dropped);
}

#[test]
fn a_stalled_tap_never_stops_the_bus() {
    let daemon = DaemonSetup::new().config(PATIENT).start();
    let _tap = stopped(&daemon, "unix", &[">"]);
    flood(&daemon, "unix").wait().expect(0);
    assert!(daemon.counter("messages_dropped_oldest") > 0);
}

#[test]
fn disconnect_cuts_off_at_once() {
    let daemon = DaemonSetup::new().config(PATIENT).start();
    let options = ["--overflow", "disconnect", "--no-reconnect", "flood"];
    let mut receiver = stopped(&daemon, "unix", &options);
    receiver.stdout();
    flood(&daemon, "unix").wait().expect(0);
    assert_eq!(daemon.counter("peers_cut_off"), 1);
    receiver.signal(Signal::SIGCONT);
    let ended = receiver.wait().expect(7);
    assert!(!ended.stderr.is_empty());
}

/// A client that is disconnected receives the reason when it reads.
#[test]
fn who_is_cut_off_is_told_why() {
    let daemon = DaemonSetup::new().config(STRICT).start();
    let mut client = daemon.client("unix");
    let overflow = Some(OverflowPolicy::Disconnect);
    let options = SubscribeOptions { overflow, ..SubscribeOptions::default() };
    client.subscribe("flood", options).expect("the peer may subscribe");
    let mut sender = flood(&daemon, "unix");
    eventually("the peer is disconnected", || (daemon.counter("peers_cut_off") == 1).then_some(()));
    let error = loop {
        match client.next_event(None) {
            Ok(Some(Event::Message(_))) => {}
            Ok(other) => panic!("{other:?}"),
            Err(error) => break error,
        }
    };
    let is_told = matches!(&error, Error::Refused(why) if why.code == RefusalCode::TooSlow);
    assert!(is_told, "{error}");
    sender.wait().expect(0);
}

/// Two peers that flood each other, and read only while they write, do not deadlock.
#[test]
fn peers_that_flood_each_other_do_not_deadlock() {
    let daemon = DaemonSetup::new().config(PATIENT).start();
    for scheme in SCHEMES {
        let subscribed = Barrier::new(2);
        let side = |own: &str, other: &str| {
            let mut client = daemon.client(scheme);
            client.subscribe(own, SubscribeOptions::default()).expect("the peer may subscribe");
            subscribed.wait();
            for _ in 0..3000 {
                client.publish(other, &[b'x'; BODY]).expect("the connection lives");
            }
            client.flush().expect("all messages are accepted");
            for _ in 0..3000 {
                let event = client.next_event(Some(Instant::now() + PATIENCE));
                assert!(matches!(event, Ok(Some(Event::Message(_)))), "{scheme}: {event:?}");
            }
        };
        thread::scope(|scope| {
            scope.spawn(|| side("left", "right"));
            side("right", "left");
        });
    }
}
