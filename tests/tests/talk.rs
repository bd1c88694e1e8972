//! Interactive use besides `serve`: chat, formats, loops of the shell, names.

use std::io::Write;
use std::process::{Command, Stdio};

use ipcd_tests::{Daemon, DaemonSetup, RunningProcess, SCHEMES, eventually, ipcctl};
use nix::sys::signal::Signal;
use serde_json::Value;

fn chat(daemon: &Daemon, scheme: &str, name: &str) -> RunningProcess {
    let mut running = daemon.ctl(scheme, &["chat", "room", "--name", name]).spawn_fed();
    running.stdout();
    eventually("the peer has joined", || {
        let peer = daemon.peer_named(name);
        (peer["subscriptions"][0] == "room").then_some(())
    });
    running
}

#[test]
fn chat_shows_what_others_say_and_who_says_it() {
    let daemon = DaemonSetup::new().args(&["--workers", "2"]).start();
    let names = SCHEMES.map(|scheme| format!("by-{scheme}"));
    let mut people: Vec<RunningProcess> =
        SCHEMES.iter().zip(&names).map(|(scheme, name)| chat(&daemon, scheme, name)).collect();
    let mut inputs: Vec<_> = people.iter_mut().map(RunningProcess::stdin).collect();
    for (input, name) in inputs.iter_mut().zip(&names) {
        writeln!(input, "I am {name}").expect("it reads");
    }
    for (one, own) in people.iter_mut().zip(&names) {
        for name in names.iter().filter(|name| *name != own) {
            one.stdout().wait_for(&format!("{name}: I am {name}\n"));
        }
        assert!(!one.stdout().text().contains(&format!("I am {own}")), "it hears itself");
    }
    // One leaves with a command, the others at the end of their input.
    writeln!(inputs[0], "exit").expect("it reads");
    people[0].wait().expect(0);
    drop(inputs);
    people.iter_mut().skip(1).for_each(|one| drop(one.wait().expect(0)));
}

/// Both send as fast as they can, and read all the time.
#[test]
fn chats_that_flood_each_other_do_not_deadlock() {
    const LINES: usize = 20_000;
    let config = "[limits]\noutbox = \"64KiB\"\nstall_timeout = \"20s\"\n";
    let daemon = DaemonSetup::new().config(config).start();
    let (mut one, mut other) = (chat(&daemon, "unix", "one"), chat(&daemon, "tcp", "other"));
    let talk = |running: &mut RunningProcess| {
        let mut input = running.stdin();
        std::thread::spawn(move || {
            let line = "x".repeat(200);
            (0..LINES).for_each(|_| writeln!(input, "{line}").expect("it reads"));
            input
        })
    };
    let (first, second) = (talk(&mut one), talk(&mut other));
    let _inputs = [first, second].map(|talking| talking.join().expect("the thread does not panic"));
    for running in [&mut one, &mut other] {
        let lines = |text: &str| text.lines().filter(|line| line.ends_with('x')).count();
        running.stdout().wait_until("all lines", |text| (lines(text) >= LINES).then_some(()));
    }
    assert_eq!(daemon.counter("peers_cut_off"), 0);
}

#[test]
fn a_loop_of_the_shell_sends_every_line() {
    let daemon = DaemonSetup::new().listen(&["unix"]).start();
    let mut receiver = daemon.recv("unix", &["-C", "5", "lines"]);
    let script = format!(
        "seq 5 | while read l; do {} --via {} send lines \"$l\"; done",
        ipcctl().display(),
        daemon.via("unix")
    );
    RunningProcess::start(Command::new("sh").args(["-c", &script]).stdin(Stdio::null()))
        .wait()
        .expect(0);
    assert_eq!(receiver.wait().expect(0).text(), "1\n2\n3\n4\n5\n");
}

#[test]
fn recv_prints_as_it_is_told() {
    let daemon = DaemonSetup::new().listen(&["unix"]).start();
    let print = |args: &[&str]| {
        let mut receiver = daemon.recv("unix", &[args, &["-C", "2", "a.*"]].concat());
        let send = ["send", "--name", "till", "-H", "k:v", "--reply", "back", "a.b", "one"];
        daemon.ctl("unix", &send).run().expect(0);
        daemon.ctl("unix", &["send", "--name", "till", "a.c", "-f", "/dev/null"]).run().expect(0);
        receiver.wait().expect(0).text()
    };
    assert_eq!(print(&[]), "one\n\n");
    assert_eq!(print(&["-v"]), "a.b one\na.c \n");
    assert_eq!(print(&["-N"]), "one");
    assert_eq!(print(&["-0"]), "one\0\0");
    assert_eq!(
        print(&["-F", "%s|%p|%l|%r|%n|%T|%h|%x%%\\t."]),
        "a.b|one|3|back|till|unix|k:v|6f6e65%\t.\na.c||0||till|unix||%\t.\n"
    );
    let ended = daemon.ctl("unix", &["recv", "-F", "%q", "a"]).run().expect(2);
    assert!(ended.stderr.contains("%q") && ended.stderr.contains("%s"), "{}", ended.stderr);
}

#[test]
fn messages_to_one_peer_reach_it_alone_by_name_and_by_id() {
    let daemon = DaemonSetup::new().args(&["--workers", "2"]).start();
    let mut tap = daemon.recv("unix", &["-v", ">"]);
    tap.stdout();
    for scheme in SCHEMES {
        let mut bob = daemon.recv(scheme, &["-C", "2", "-o", "jsonl", "--name", "bob", "quiet"]);
        let id = daemon.peer_named("bob")["id"].to_string();
        daemon.ctl("tcp", &["send", "@bob", "by name"]).run().expect(0);
        let by_id = format!("@{id}");
        daemon.ctl("unix", &["send", &by_id, "by id", "--ack", "delivered"]).run().expect(0);
        let said = bob.wait().expect(0).text();
        let data = |line: &str| {
            let line: Value = serde_json::from_str(line).expect("the text is JSON");
            line["data"].as_str().expect("the field is a string").to_owned()
        };
        assert_eq!(said.lines().map(data).collect::<Vec<_>>(), ["by name", "by id"], "{scheme}");
        eventually("bob is gone", || {
            daemon.clients().iter().all(|peer| peer["name"] != "bob").then_some(())
        });
    }
    daemon.send("over", "the tap lives");
    tap.stdout().wait_for("over the tap lives\n");
    assert_eq!(tap.stdout().text(), "over the tap lives\n");
}

#[test]
fn subs_shows_what_becomes_of_messages() {
    let daemon = DaemonSetup::new().config("[limits]\noutbox = \"64KiB\"\n").start();
    let mut ann = daemon.recv("unix", &["--name", "ann", "-g", "team", "jobs.*"]);
    let options = ["--name", "bob", "--overflow", "drop-newest", "jobs.>"];
    let mut bob = daemon.recv("fifo", &options);
    ann.stdout();
    bob.signal(Signal::SIGSTOP);
    let body = "x".repeat(1000);
    daemon.ctl("unix", &["send", "jobs.a", &body, "--count", "1000"]).run().expect(0);
    let subs = daemon.ctl("unix", &["subs", "-j"]).run().expect(0);
    let subs: Vec<Value> = serde_json::from_slice(&subs.stdout).expect("an array");
    let of = |name: &str| subs.iter().find(|one| one["name"] == name).expect("the entry exists");
    let (ann, bob) = (of("ann"), of("bob"));
    assert_eq!(
        (&ann["filter"], &ann["group"], &ann["overflow"]),
        (&"jobs.*".into(), &"team".into(), &"block".into())
    );
    assert_eq!(
        (&bob["filter"], &bob["group"], &bob["overflow"]),
        (&"jobs.>".into(), &Value::Null, &"drop-newest".into())
    );
    for one in [ann, bob] {
        let number = |field: &str| one[field].as_u64().expect("a number");
        assert_eq!(number("matched"), 1000);
        assert_eq!(number("delivered") + number("dropped") + number("queued"), 1000, "{one}");
    }
    assert_eq!(bob["dropped"], bob["dropped_by"]["newest"]);
    let table = daemon.ctl("unix", &["subs"]).run().expect(0).text();
    assert!(table.lines().count() == 3 && table.contains("jobs.*"), "{table}");
}
