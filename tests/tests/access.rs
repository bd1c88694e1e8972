//! Access rules for publishing, subscribing and administering, over every transport and between
//! workers; and the verdicts of `ipcctl acl check`.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};

use ipcd_tests::{Daemon, DaemonSetup, PATIENCE, SCHEMES, classes, eventually, refusal};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, getegid, geteuid};
use serde_json::Value;

/// Rules for the peers of this test, known by its user or by the daemon's own token.
fn rules_for_all(what: &str) -> String {
    let uid = geteuid().as_raw();
    format!("[[acl]]\nuid = {uid}\n{what}\n[[acl]]\ntoken = \"\"\n{what}\n")
}

/// A daemon with these rules, and two sockets: the listeners `root` and `guest`.
fn two_classes(dir: &tempfile::TempDir, args: &[&str], guest: &str) -> (Daemon, [String; 2]) {
    let (sockets, text) = classes(dir, guest);
    (DaemonSetup::new().listen(&[]).config(&text).args(args).start(), sockets)
}

fn dir() -> tempfile::TempDir {
    ipcd_tests::private_dir()
}

fn counter(daemon: &Daemon, via: &str, name: &str) -> u64 {
    let status = daemon.ctl(via, &["status", "-j"]).run().expect(0).text();
    let status: Value = serde_json::from_str(&status).expect("the text is JSON");
    status["counters"][name].as_u64().expect("the counter exists")
}

#[test]
fn what_is_denied_is_refused_over_every_transport() {
    let rules = rules_for_all("publish = [\"in.>\"]\nsubscribe = [\"out.>\", \"in.open\"]");
    let daemon = DaemonSetup::new().config(&rules).start();
    for scheme in SCHEMES {
        let refused = |args: &[&str], what: &str| {
            let said = daemon.ctl(scheme, args).run().expect(6).stderr;
            assert!(said.contains(what), "{scheme} {args:?}: {said}");
        };
        refused(&["send", "out.x", "no"], "may not publish to out.x");
        refused(&["send", "out.x", "no", "--ack", "delivered"], "may not publish to out.x");
        refused(&["req", "other", "no"], "may not publish to other");
        refused(&["send", "@1", "no"], "one peer");
        refused(&["recv", "in.x"], "may not subscribe to in.x");
        refused(&["serve", "in.x", "--echo"], "may not subscribe to in.x");
        refused(&["clients"], "may not see other peers");
        refused(&["subs"], "may not see other peers");
        refused(&["kick", "1"], "may not disconnect peers");
        let mut receiver = daemon.recv(scheme, &["-C", "1", "in.open"]);
        daemon.ctl(scheme, &["send", "in.open", "yes"]).run().expect(0);
        assert_eq!(receiver.wait().expect(0).text(), "yes\n", "{scheme}");
        daemon.ctl(scheme, &["ping"]).run().expect(0);
    }
    let json = daemon.ctl("unix", &["-j", "send", "out.x", "no"]).run().expect(6).stderr;
    let error: Value = serde_json::from_str(&json).expect("the text is JSON");
    assert_eq!((&error["error"]["code"], &error["error"]["exit"]), (&"denied".into(), &6.into()));
    assert!(daemon.counter("frames_denied") >= 9 * SCHEMES.len() as u64);
    assert!(daemon.log().contains("WARN denied"), "{}", daemon.log());
}

#[test]
fn a_group_of_the_system_and_a_denial_for_everybody() {
    let gid = getegid().as_raw();
    let rules = format!(
        "[[acl]]\ngid = {gid}\npublish = [\">\"]\nsubscribe = [\">\"]\nadmin = true\n\
         [[acl]]\npublish = [\"*.secret\"]\naction = \"deny\"\n"
    );
    let daemon = DaemonSetup::new().listen(&["unix", "tcp"]).config(&rules).start();
    daemon.ctl("unix", &["send", "a.b", "yes"]).run().expect(0);
    daemon.ctl("unix", &["send", "a.secret", "no"]).run().expect(6);
    daemon.ctl("unix", &["clients"]).run().expect(0);
    // A peer on the network has no known group.
    daemon.ctl("tcp", &["send", "a.b", "no"]).run().expect(6);
}

#[test]
fn a_wildcard_brings_what_may_be_heard_from_any_worker() {
    let (dir, guest) = (
        dir(),
        "subscribe = [\"a.>\"]\n[[acl]]\nlistener = \"guest\"\nsubscribe = [\"a.secret\"]\naction = \"deny\"",
    );
    let (daemon, [root, guest]) = two_classes(&dir, &["--workers", "2"], guest);
    // The same number on each worker.
    let mut heard: Vec<_> = (0..4).map(|_| daemon.recv(&guest, &["-v", "-C", "2", ">"])).collect();
    let mut all: Vec<_> = (0..2).map(|_| daemon.recv(&root, &["-v", "-C", "5", ">"])).collect();
    let send = |args: &[&str]| daemon.ctl(&root, &[&["send"], args].concat()).run();
    for (subject, body) in [("a.secret", "1"), ("b", "2"), ("a.x", "3"), ("b.x", "4")] {
        send(&[subject, body]).expect(0);
    }
    // A peer that may not receive the message is not one of its receivers.
    let subs = daemon.ctl(&root, &["subs", "-j"]).run().expect(0).text();
    let subs: Vec<Value> = serde_json::from_str(&subs).expect("the text is JSON");
    let mut matched: Vec<_> = subs.iter().map(|sub| sub["matched"].as_u64()).collect();
    matched.sort_unstable();
    assert_eq!(matched, [Some(1), Some(1), Some(1), Some(1), Some(4), Some(4)]);
    send(&["a.y", "5", "--wait-subs", "6"]).expect(0);
    for receiver in &mut heard {
        assert_eq!(receiver.wait().expect(0).text(), "a.x 3\na.y 5\n");
    }
    for receiver in &mut all {
        receiver.wait().expect(0);
    }
    daemon
        .ctl(&root, &["send", "a.secret", "x", "--wait-subs", "1", "--timeout", "50ms"])
        .run()
        .expect(4);
    assert_eq!(counter(&daemon, &root, "frames_denied"), 0);
}

#[test]
fn members_of_groups_share_what_each_of_them_may_hear() {
    let (dir, guest) = (
        dir(),
        "subscribe = [\"work.>\"]\n[[acl]]\nlistener = \"guest\"\nsubscribe = [\"work.secret\"]\naction = \"deny\"",
    );
    let (daemon, [root, guest]) = two_classes(&dir, &["--workers", "2"], guest);
    let said = daemon.ctl(&guest, &["recv", "-g", "g", "work.*"]).run().expect(6).stderr;
    assert!(said.contains("in a group"), "{said}");
    let mut members = [&root, &root, &guest, &guest].map(|via| {
        let filter = if *via == root { "work.*" } else { "work.a" };
        daemon.recv(via, &["-v", "-g", "g", filter])
    });
    for subject in ["work.a", "work.secret"].iter().cycle().take(40) {
        daemon.ctl(&root, &["send", subject, "x", "--ack", "delivered"]).run().expect(0);
    }
    for member in &mut members {
        member.stdout();
    }
    let count = |members: &mut [ipcd_tests::RunningProcess], subject: &str| {
        let lines = members.iter_mut().map(|m| m.stdout().text().matches(subject).count());
        lines.sum::<usize>()
    };
    eventually("all of it", || (count(&mut members[..2], "work.secret") == 20).then_some(()));
    eventually("all of it", || (count(&mut members[..2], "work.a") == 20).then_some(()));
    eventually("all of it", || (count(&mut members[2..], "work.a") == 20).then_some(()));
    assert_eq!(count(&mut members[2..], "work.secret"), 0);
}

#[test]
fn whoever_is_asked_may_answer_without_a_right_to_publish() {
    let dir = dir();
    let (daemon, [root, guest]) = two_classes(&dir, &["--workers", "2"], "subscribe = [\"q.*\"]");
    let servers: Vec<_> = (0..2)
        .map(|_| daemon.ctl(&guest, &["serve", "-E", "q.x", "--echo"]).spawn_subscribed())
        .collect();
    // From both workers, so that both servers have turns.
    for number in 0..4 {
        let body = format!("question {number}");
        let reply = daemon.ctl(&root, &["req", "q.x", &body, "--replies", "2"]).run().expect(0);
        assert_eq!(reply.text(), format!("{body}\n{body}\n"));
    }
    let mut other = daemon.ctl(&root, &["recv", "-E", "q.y", "--name", "ann"]).spawn_subscribed();
    daemon.ctl(&guest, &["send", "@ann", "psst"]).run().expect(6);
    let id = daemon.ctl(&root, &["clients", "-j"]).run().expect(0).text();
    let clients: Vec<Value> = serde_json::from_str(&id).expect("the text is JSON");
    let ann = clients.iter().find(|client| client["name"] == "ann").expect("ann is there");
    // An unrequested reply is treated as a late one: accepted and dropped.
    let forged = format!("@{}.1", ann["id"]);
    daemon.ctl(&guest, &["send", &forged, "forged"]).run().expect(0);
    assert_eq!(counter(&daemon, &root, "replies_late"), 1);
    daemon.ctl(&root, &["send", "q.y", "last"]).run().expect(0);
    other.stdout().wait_for("last\n");
    assert_eq!(other.stdout().text(), "last\n");
    drop(servers);
}

#[test]
fn a_reload_ends_who_may_hear_nothing_any_more_and_narrows_the_others() {
    let dir = dir();
    let (_, open) = classes(&dir, "publish = [\">\"]\nsubscribe = [\">\"]");
    let setup = DaemonSetup::new().listen(&[]).config(&open).args(&["--workers", "2"]);
    let daemon = setup.start();
    let ([root, guest], narrow) = classes(&dir, "subscribe = [\"a.>\"]");
    let mut ends: Vec<_> = (0..2).map(|_| daemon.recv(&guest, &["b"])).collect();
    let mut stays: Vec<_> = (0..2).map(|_| daemon.recv(&guest, &["-v", ">"])).collect();
    let mut other = daemon.recv(&root, &["-v", ">"]);
    let send = |via: &str, subject: &str, status| {
        daemon.ctl(via, &["send", subject, "x"]).run().expect(status);
    };
    send(&guest, "b", 0);
    daemon.reload(&narrow);
    for receiver in &mut ends {
        let ended = receiver.wait().expect(6);
        assert!(ended.stderr.contains("may not subscribe to b any more"), "{}", ended.stderr);
        assert_eq!(ended.text(), "x\n");
    }
    send(&guest, "a.x", 6);
    send(&root, "b", 0);
    send(&root, "a.x", 0);
    for receiver in &mut stays {
        receiver.stdout().wait_for("a.x x\n");
        assert_eq!(receiver.stdout().text(), "b x\na.x x\n");
    }
    other.stdout().wait_for("b x\nb x\na.x x\n");
    daemon.reload(&open);
    send(&guest, "b", 0);
    for receiver in &mut stays {
        receiver.stdout().wait_for("a.x x\nb x\n");
    }
}

#[test]
fn bare_peers_are_known_by_their_listener() {
    let rules = format!(
        "[[listen]]\nname = \"lines\"\nendpoint = \"tcp://127.0.0.1:0?codec=line&subject=$1&reply=>\"\n\
         [[listen]]\nendpoint = \"unix://RUN/ipcd.sock\"\n\
         [[acl]]\nuid = {}\npublish = [\">\"]\nsubscribe = [\">\"]\nadmin = true\n\
         [[acl]]\nlistener = \"lines\"\npublish = [\"in\"]\nsubscribe = [\"out.*\"]\n",
        geteuid().as_raw()
    );
    let dir = ipcd_tests::private_dir();
    let run = dir.path().join("run").display().to_string();
    let daemon = DaemonSetup::new().listen(&[]).config(&rules.replace("RUN", &run)).start_in(dir);
    let mut tap = daemon.recv("unix", &["-v", ">"]);
    let stream =
        TcpStream::connect(daemon.address("tcp")).expect("the listener accepts a connection");
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket has a timeout");
    (&stream)
        .write_all(b"other no\nin yes\nother no\nin again\n")
        .expect("the peer reads the bytes");
    tap.stdout().wait_for("in yes\nin again\n");
    assert_eq!(tap.stdout().text(), "in yes\nin again\n");
    for subject in ["in", "out.x", "out"] {
        daemon.send(subject, subject);
    }
    let mut heard = BufReader::new(&stream).lines();
    assert_eq!(heard.next().expect("the stream goes on").expect("the bytes are UTF-8"), "out.x");
    daemon.send("out.last", "last");
    assert_eq!(heard.next().expect("the stream goes on").expect("the bytes are UTF-8"), "last");
    let log = daemon.log();
    assert_eq!(log.matches("may not publish to other").count(), 1, "{log}");
    assert_eq!(daemon.counter("frames_denied"), 2);
    drop(heard);
    drop(stream);
    eventually("the counter", || daemon.log().contains("refused=2").then_some(()));
}

/// Servers that the daemon dials are no listeners, but rules name them in the same way.
#[test]
fn servers_are_known_by_their_names() {
    let servers = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").expect("a port is free"));
    let entry = |name: &str, server: &TcpListener| {
        let at = server.local_addr().expect("the socket is bound");
        let dialect = "codec=line&subject=$1&reply=>";
        format!("[[connect]]\nname = \"{name}\"\nendpoint = \"tcp://{at}?{dialect}\"\n")
    };
    let rules = format!(
        "{}[[acl]]\nuid = {}\npublish = [\">\"]\nsubscribe = [\">\"]\nadmin = true\n\
         [[acl]]\nlistener = \"feed\"\npublish = [\"in\"]\nsubscribe = [\"out\"]\n",
        entry("feed", &servers[0]) + &entry("stranger", &servers[1]),
        geteuid().as_raw()
    );
    for fork in ["pool", "connection"] {
        let setup = DaemonSetup::new().listen(&["unix"]).config(&rules).args(&["--fork", fork]);
        let daemon = setup.start();
        assert!(!daemon.log().contains("there is no listener"), "{}", daemon.log());
        let mut tap = daemon.recv("unix", &["-v", "in"]);
        let [feed, stranger] =
            servers.each_ref().map(|server| server.accept().expect("the daemon connects").0);
        feed.set_read_timeout(Some(PATIENCE)).expect("a socket has a timeout");
        (&stranger).write_all(b"in no\n").expect("the peer reads the bytes");
        eventually("the peer is refused", || (daemon.counter("frames_denied") == 1).then_some(()));
        (&feed).write_all(b"in yes\nother no\nin again\n").expect("the peer reads the bytes");
        tap.stdout().wait_for("in yes\nin again\n");
        assert_eq!(tap.stdout().text(), "in yes\nin again\n");
        daemon.send("other", "no");
        daemon.send("out", "yes");
        let heard = BufReader::new(&feed)
            .lines()
            .next()
            .expect("the stream goes on")
            .expect("the bytes are UTF-8");
        assert_eq!(heard, "yes");
        let file = daemon.config_file().display().to_string();
        let check = ["acl", "check", "-c", &file, "--listener", "feed", "--pub", "in"];
        daemon.ctl("unix", &check).run().expect(0);
        daemon.ctl("unix", &[&check[..2], &check[4..]].concat()).run().expect(0);
    }
}

#[test]
fn who_may_hear_only_some_of_a_filter_stops_nobody() {
    let (dir, guest) = (dir(), "subscribe = [\"a.x\"]");
    let (daemon, [root, guest]) = two_classes(&dir, &["--workers", "2"], guest);
    let args = ["--overflow", "block", "a.*"];
    let stuck: Vec<_> = (0..2).map(|_| daemon.recv(&guest, &args)).collect();
    stuck.iter().for_each(|receiver| {
        kill(Pid::from_raw(receiver.pid()), Signal::SIGSTOP).expect("the process runs");
    });
    // More bytes than their sockets and send queues hold.
    let body = "x".repeat(100_000);
    for subject in ["a.x", "a.y"] {
        let count = ["--count", "300"];
        daemon.ctl(&root, &[&["send", subject, "-m", &body][..], &count].concat()).run().expect(0);
    }
    let subs = daemon.ctl(&root, &["subs", "-j"]).run().expect(0).text();
    let subs: Vec<Value> = serde_json::from_str(&subs).expect("the text is JSON");
    let overflow: Vec<_> = subs.iter().map(|sub| sub["overflow"].as_str()).collect();
    assert_eq!(overflow, [Some("drop-oldest"); 2]);
    stuck.iter().for_each(|receiver| {
        kill(Pid::from_raw(receiver.pid()), Signal::SIGCONT).expect("the process is stopped");
    });
}

#[test]
fn check_says_what_would_be_decided_and_by_which_rule() {
    let guest = "publish = [\"a.>\", \"@\"]\nsubscribe = [\"a.*\"]\n\
                 [[acl]]\nuser = \"root\"\npublish = [\"root.>\"]\n\
                 [[acl]]\npublish = [\"a.secret\"]\nsubscribe = [\"a.secret\"]\naction = \"deny\"\n\
                 [[acl]]\ncertificate = \"ann.example\"\npublish = [\"ann.>\"]";
    let dir = dir();
    let (daemon, [root, _]) = two_classes(&dir, &[], guest);
    let file = daemon.config_file().display().to_string();
    for (args, status, said) in [
        (&["--listener", "guest", "--pub", "a.b"][..], 0, "[[acl]] rule 2 decides"),
        (&["--listener", "guest", "--pub", "b"], 6, "no rule allows it"),
        (&["--listener", "guest", "--pub", "@ann"], 0, "[[acl]] rule 2 decides"),
        (&["--listener", "guest", "--pub", "a.secret"], 6, "[[acl]] rule 4 decides"),
        (&["--listener", "guest", "--sub", ">"], 0, "allowed in part: [[acl]] rule 2"),
        (&["--listener", "guest", "--sub", "a.*", "--member"], 6, "[[acl]] rule 4"),
        (&["--listener", "guest", "--sub", "b.>"], 6, "no rule allows it"),
        (&["--listener", "guest", "--admin"], 6, "no rule allows it"),
        (&["--listener", "root", "--admin"], 0, "[[acl]] rule 1 decides"),
        (&["--uid", "0", "--pub", "root.x"], 0, "[[acl]] rule 3 decides"),
        (&["--user", "root", "--pub", "root.x"], 0, "[[acl]] rule 3 decides"),
        (&["--uid", "12345", "--pub", "root.x"], 6, "no rule allows it"),
        (&["--certificate", "ann.example", "--pub", "ann.x"], 0, "[[acl]] rule 5 decides"),
        (&["--certificate", "Ann.example", "--pub", "ann.x"], 6, "no rule allows it"),
        (&["--certificate", "ann.example", "--uid", "12345", "--pub", "b"], 6, "no rule allows it"),
        (&["--pub", "a..b"], 8, "empty tokens"),
        (&["--user", "no such user", "--admin"], 2, "no such user"),
        (&["--uid", "1"], 2, "--pub"),
        (&["--uid", "1", "--pub", "a", "--admin"], 2, "cannot be used with"),
    ] {
        for from in [&["-c", &file][..], &[]] {
            let ended =
                daemon.ctl(&root, &[&["acl", "check"], args, from].concat()).run().expect(status);
            let all = format!("{}{}", String::from_utf8_lossy(&ended.stdout), ended.stderr);
            assert!(all.contains(said), "{args:?} {from:?}: {all}");
        }
    }
    let json = |args: &[&str], status| -> Value {
        let ended = daemon.ctl(&root, &[&["-j", "acl", "check"], args].concat()).run();
        serde_json::from_slice(&ended.expect(status).stdout).expect("the text is JSON")
    };
    let denied = json(&["--listener", "guest", "--pub", "a.secret", "-c", &file], 6);
    assert_eq!((&denied["allowed"], &denied["rule"]), (&false.into(), &4.into()));
    let text = fs::read_to_string(&file).expect("the file can be read");
    let line = denied["line"].as_u64().expect("the field is a number") as usize;
    assert_eq!(
        text.lines().skip(line - 1).take(2).collect::<Vec<_>>(),
        ["[[acl]]", "publish = [\"a.secret\"]"]
    );
    // Without options the verdict is for the caller.
    let own = json(&["--pub", "root.x"], if geteuid().is_root() { 0 } else { 6 });
    assert_eq!(own["allowed"], geteuid().is_root());
}

#[test]
fn a_rule_that_is_wrong_stops_the_daemon_and_says_where() {
    for (rule, said) in [
        ("uid = \"me\"\npublish = [\"a\"]", "2:7"),
        ("publish = [\"a\", \"b..c\"]", "2:11: a subject has no empty tokens"),
        ("publish = \"a\"", "2:11"),
        ("user = \"no such user\"", "2:8: no such user: there is no such user"),
        ("group = \"no such group\"", "there is no such group"),
        ("subscribe = [\"@\"]", "2:13: @ is for publish"),
        ("action = \"refuse\"", "2:10"),
        ("who = 1", "2:1"),
        ("uid = 1\nuser = \"root\"", "not both"),
        ("uid = 1\naction = \"deny\"", "needs publish"),
    ] {
        let refusal = refusal(&format!("[[acl]]\n{rule}\n"));
        assert!(refusal.contains(said), "{refusal}");
    }
    let rules = "[[acl]]\nlistener = \"nowhere\"\npublish = [\"a\"]\naction = \"deny\"\n";
    let daemon = DaemonSetup::new().listen(&["unix"]).config(rules).start();
    assert!(daemon.log().contains("WARN [[acl]] 1: there is no listener nowhere"));
    daemon.send("a", "without a subscriber");
}
