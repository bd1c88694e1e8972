//! Groups over transports and workers: each message goes to one member.

use std::collections::BTreeSet;
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use ipcd_client::{Event, Publication, SubscribeOptions};
use ipcd_tests::{Daemon, DaemonSetup, RunningProcess, SCHEMES, eventually, state};
use nix::sys::signal::Signal;
use serde_json::Value;

/// Send queues that fill soon, and a stall time-out beyond the time of a test.
const PATIENT: &str = "[limits]\noutbox = \"64KiB\"\nstall_timeout = \"1000s\"\n";
/// Bytes on their way to a member beyond its send queue: a message batch, and another worker's
/// window.
const IN_FLIGHT: u64 = (16 << 10) + (600 << 10);
const MESSAGES: u64 = 30_000;

/// A member on a worker in a slot that fits, and its name.
fn member(daemon: &Daemon, scheme: &str, fits: impl Fn(u64) -> bool) -> (RunningProcess, String) {
    let start = |name: &str| {
        let args = ["-g", "team", "--name", name, "--no-reconnect", "work"];
        (daemon.recv(scheme, &args), name.to_owned())
    };
    let ((mut process, name), _) = daemon.on_slot(fits, start);
    process.stdout();
    (process, name)
}

/// Sends messages, each with its number, over unix.
fn send(daemon: &Daemon, count: u64, padding: usize) {
    let mut sender = daemon.ctl("unix", &["send", "work", "-l", "--timeout", "90s"]).spawn_fed();
    let mut input = Vec::new();
    for number in 0..count {
        writeln!(input, "{number} {}", "x".repeat(padding)).expect("a Vec takes everything");
    }
    sender.feed(&input).expect(0);
}

/// The numbers that a member has received, in their order.
fn numbers(member: &mut RunningProcess) -> Vec<u64> {
    let bytes = member.stdout().bytes();
    let whole = bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
    let text = str::from_utf8(&bytes[..whole]).expect("the bytes are UTF-8");
    let first = |line: &str| line.split(' ').next().and_then(|word| word.parse().ok());
    text.lines().map(|line| first(line).expect("a line begins with its number")).collect()
}

/// The entry of a peer in `subs -j`.
fn subscription(daemon: &Daemon, name: &str) -> Value {
    let subs = daemon.ctl("unix", &["subs", "-j"]).run().expect(0);
    let subs: Value = serde_json::from_slice(&subs.stdout).expect("the text is JSON");
    let found = subs.as_array().and_then(|subs| subs.iter().find(|one| one["name"] == name));
    found.unwrap_or_else(|| panic!("no subscription of {name} in {subs}")).clone()
}

fn field(value: &Value, name: &str) -> u64 {
    value[name].as_u64().unwrap_or_else(|| panic!("no {name} in {value}"))
}

#[test]
fn each_message_goes_to_one_of_three_members_on_three_transports_and_two_workers() {
    let daemon = DaemonSetup::new().args(&["--workers", "2"]).start();
    let mut members = [("tcp", 0), ("fifo", 1), ("udp", 1)]
        .map(|(scheme, slot)| member(&daemon, scheme, |found| found == slot).0);
    send(&daemon, MESSAGES, 0);
    eventually("all messages", || {
        let got: usize = members.iter_mut().map(|member| numbers(member).len()).sum();
        (got as u64 >= MESSAGES).then_some(())
    });
    let got = members.each_mut().map(numbers);
    let all: BTreeSet<u64> = got.iter().flatten().copied().collect();
    assert_eq!(got.iter().map(Vec::len).sum::<usize>() as u64, MESSAGES);
    assert_eq!(all.len() as u64, MESSAGES, "some messages came twice");
    for numbers in &got {
        assert!(numbers.is_sorted(), "a member's messages are in the order of their publisher");
        assert!(numbers.len() as u64 >= MESSAGES / 5, "a member got {} only", numbers.len());
    }
}

#[test]
fn the_others_get_what_a_stopped_member_does_not_take_and_its_death_is_accounted_for() {
    let daemon = DaemonSetup::new().config(PATIENT).args(&["--workers", "2"]).start();
    let (mut one, _) = member(&daemon, "unix", |slot| slot == 0);
    let (mut other, _) = member(&daemon, "pipe", |slot| slot == 1);
    let (mut stopped, name) = member(&daemon, "fifo", |slot| slot == 1);
    stopped.signal(Signal::SIGSTOP);
    let pid = stopped.pid();
    eventually("the process is stopped", || (state(pid) == Some('T')).then_some(()));
    send(&daemon, MESSAGES, 1000);
    let third = subscription(&daemon, &name);
    let (matched, queued) = (field(&third, "matched"), field(&third, "queued"));
    assert_eq!(matched, field(&third, "delivered") + queued);
    assert!(queued > 0 && matched < MESSAGES / 10, "it was given {matched}");
    let bytes = field(&daemon.peer_named(&name), "queued_bytes");
    assert!(bytes <= (64 << 10) + IN_FLIGHT, "{bytes} bytes wait for it");
    let rest = MESSAGES - matched;
    eventually("the rest of the messages", || {
        (numbers(&mut one).len() + numbers(&mut other).len() == rest as usize).then_some(())
    });
    let both = [numbers(&mut one), numbers(&mut other)];
    assert_eq!(both.iter().flatten().collect::<BTreeSet<_>>().len() as u64, rest);
    stopped.signal(Signal::SIGKILL);
    eventually("the peer is gone", || {
        (daemon.counter("messages_dropped_departed") > 0).then_some(())
    });
    assert_eq!(daemon.counter("messages_dropped_departed"), queued);
    assert_eq!(daemon.counter("messages_delivered"), MESSAGES - queued);
}

/// Members come and go over all transports while messages flow. Each unsubscribes, and takes the
/// messages that came before. None is lost, and none comes twice.
#[test]
fn members_join_and_leave_under_load() {
    let daemon = DaemonSetup::new().args(&["--workers", "2"]).start();
    let (mut steady, _) = member(&daemon, "unix", |_| true);
    let is_over = AtomicBool::new(false);
    let mut got: Vec<u64> = thread::scope(|scope| {
        let visitors = [0, 2, 3].map(|first| {
            let (daemon, is_over) = (&daemon, &is_over);
            scope.spawn(move || visit(daemon, first, is_over))
        });
        send(&daemon, MESSAGES, 100);
        is_over.store(true, Ordering::Relaxed);
        visitors
            .into_iter()
            .flat_map(|one| one.join().expect("the thread does not panic"))
            .collect()
    });
    assert!(!got.is_empty(), "the visitors got nothing");
    let visited = got.len();
    eventually("all messages", || {
        (numbers(&mut steady).len() + visited >= MESSAGES as usize).then_some(())
    });
    got.extend(numbers(&mut steady));
    assert_eq!(got.len() as u64, MESSAGES, "{} were visitors'", visited);
    assert_eq!(
        got.iter().collect::<BTreeSet<_>>().len() as u64,
        MESSAGES,
        "some messages came twice"
    );
    assert_eq!(daemon.counter("messages_unclaimed"), 0);
}

/// Joins again and again, over one transport after the other, for some messages each time.
fn visit(daemon: &Daemon, first: usize, is_over: &AtomicBool) -> Vec<u64> {
    let mut numbers = Vec::new();
    for scheme in SCHEMES.into_iter().cycle().skip(first) {
        let mut client = daemon.client(scheme);
        let options = SubscribeOptions { group: Some("team".into()), ..Default::default() };
        let subscription = client.subscribe("work", options).expect("the peer may subscribe");
        let mut take = |event: Option<Event>| match event {
            Some(Event::Message(message)) => {
                let text = String::from_utf8_lossy(message.payload()).into_owned();
                let number = text.split(' ').next().and_then(|word| word.parse().ok());
                numbers.push(number.expect("a message begins with its number"));
            }
            Some(other) => panic!("{other:?}"),
            None => {}
        };
        for _ in 0..300 {
            let soon = Instant::now() + Duration::from_millis(20);
            take(client.next_event(Some(soon)).expect("the connection lives"));
        }
        client.unsubscribe(subscription).expect("the connection is open");
        while client.has_event() {
            take(client.next_event(None).expect("the connection is open"));
        }
        if is_over.load(Ordering::Relaxed) {
            break;
        }
    }
    numbers
}

/// Senders of one message each, from both workers, and children that live for one message: no
/// member is favoured because turns restart.
#[test]
fn turns_are_fair_to_members_of_any_worker_and_among_senders_of_one_message() {
    for args in [["--workers", "2"], ["--fork", "connection"]] {
        let daemon = DaemonSetup::new().args(&args).start();
        let mut members: Vec<RunningProcess> =
            (0..4).map(|_| daemon.recv("unix", &["-g", "team", "work"])).collect();
        members.iter_mut().for_each(|member| drop(member.stdout().bytes()));
        for number in 0..100 {
            daemon.send("work", &number.to_string());
        }
        let mut got =
            || -> Vec<usize> { members.iter_mut().map(|member| numbers(member).len()).collect() };
        let got = eventually("all messages", || {
            let got = got();
            (got.iter().sum::<usize>() == 100).then_some(got)
        });
        assert!(got.iter().all(|count| (12..=40).contains(count)), "{args:?}: {got:?}");
    }
}

/// A member that takes one message and leaves throws away none that another member would take.
#[test]
fn who_takes_few_messages_of_a_group_leaves_the_others_theirs() {
    for workers in ["1", "2"] {
        let daemon = DaemonSetup::new().args(&["--workers", workers]).start();
        for scheme in ["unix", "pipe", "fifo", "tcp"] {
            let count = |count: &str| daemon.recv(scheme, &["-g", "team", "-C", count, "jobs"]);
            let mut members = [count("1"), count("2"), count("17")];
            let jobs: String = (1..=20).map(|job| format!("{job}\n")).collect();
            let send = ["send", "-l", "--wait-subs", "3", "jobs"];
            daemon.ctl(scheme, &send).run_fed(jobs.as_bytes()).expect(0);
            let got = members.each_mut().map(|member| member.wait().expect(0).text());
            let counts = got.each_ref().map(|text| text.lines().count());
            assert_eq!(counts, [1, 2, 17], "{scheme}, {workers} workers");
            let mut all: Vec<u32> =
                got.concat().lines().map(|job| job.parse().expect("a number")).collect();
            all.sort_unstable();
            assert_eq!(all, (1..=20).collect::<Vec<_>>(), "{scheme}, {workers} workers");
        }
    }
}

/// Messages that come until the group knows of a leaving member are printed, also after its time.
#[test]
fn a_member_whose_time_is_over_prints_what_it_was_given() {
    let daemon = DaemonSetup::new().listen(&["unix"]).start();
    let mut member = daemon.recv("unix", &["-g", "team", "-W", "500ms", "jobs"]);
    let mut sender = daemon.client("unix");
    let mut given = 0;
    loop {
        let message = Publication { subject: "jobs", payload: b"x", ..Default::default() };
        let receipt = sender.publish_acked(&message).expect("a receipt");
        if receipt.delivered == 0 {
            break;
        }
        given += 1;
    }
    assert_eq!(member.wait().expect(0).text().lines().count() as u64, given);
}
