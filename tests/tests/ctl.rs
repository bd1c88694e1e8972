//! `ipcctl send` and `ipcctl recv`, flag by flag, as users type them.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use ipcd_tests::{Daemon, DaemonSetup, RunningProcess, eventually, ipcctl};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

/// Sends with these arguments and this standard input, and returns the output of one receiver.
fn sent(args: &[&str], input: &[u8], count: usize) -> String {
    let daemon = Daemon::start();
    let mut receiver = daemon.recv("unix", &["-C", &count.to_string(), "s"]);
    daemon.ctl("unix", &["send", "s"]).args(args).run_fed(input).expect(0);
    receiver.wait().expect(0).text()
}

/// The messages of `recv -o jsonl`.
fn objects(receiver: &mut RunningProcess) -> Vec<Value> {
    let text = receiver.wait().expect(0).text();
    text.lines().map(|line| serde_json::from_str(line).expect("a line is an object")).collect()
}

/// The keys of an object, sorted.
fn keys(object: &Value) -> Vec<String> {
    let mut keys: Vec<_> = object.as_object().expect("an object").keys().cloned().collect();
    keys.sort();
    keys
}

#[test]
fn a_body_by_argument() {
    assert_eq!(sent(&["the body"], b"", 1), "the body\n");
}

#[test]
fn a_body_by_flag() {
    assert_eq!(sent(&["-m", "-starts with a dash"], b"", 1), "-starts with a dash\n");
}

#[test]
fn a_body_that_begins_with_a_hyphen() {
    assert_eq!(sent(&["-5"], b"", 1), "-5\n");
    assert_eq!(sent(&["-- a line of a shell's loop"], b"", 1), "-- a line of a shell's loop\n");
    assert_eq!(sent(&["--", "-l"], b"", 1), "-l\n");
}

#[test]
fn a_body_of_any_bytes() {
    let daemon = Daemon::start();
    let mut receiver = daemon.recv("unix", &["-C", "2", "s"]);
    for args in [&["send", "s"][..], &["send", "s", "-m"]] {
        daemon.ctl("unix", args).args([OsStr::from_bytes(b"\xff\x80")]).run().expect(0);
    }
    assert_eq!(receiver.wait().expect(0).stdout, b"\xff\x80\n\xff\x80\n");
}

#[test]
fn an_empty_body() {
    assert_eq!(sent(&["-n"], b"not read", 1), "\n");
}

#[test]
fn all_of_standard_input_is_one_message() {
    assert_eq!(sent(&[], b"two\nlines\n", 1), "two\nlines\n\n");
    assert_eq!(sent(&["-s"], b"no end", 1), "no end\n");
    assert_eq!(sent(&["-f", "-"], b"a hyphen", 1), "a hyphen\n");
    assert_eq!(sent(&[], b"", 1), "\n");
}

#[test]
fn a_message_a_line() {
    assert_eq!(sent(&["-l"], b"a\n\nlast without end", 3), "a\n\nlast without end\n");
}

#[test]
fn a_message_a_nul() {
    assert_eq!(sent(&["-0"], b"a\nb\0\0c", 3), "a\nb\n\nc\n");
}

#[test]
fn a_line_is_sent_as_soon_as_it_is_typed() {
    let daemon = Daemon::start();
    let mut receiver = daemon.recv("unix", &["s"]);
    let mut sender = daemon.ctl("tcp", &["send", "s", "-l"]).spawn_fed();
    let mut stdin = sender.stdin();
    for line in ["one\n", "two\n"] {
        stdin.write_all(line.as_bytes()).expect("the peer reads the bytes");
        receiver.stdout().wait_for(line);
    }
    drop(stdin);
    sender.wait().expect(0);
}

#[test]
fn a_file_as_it_is() {
    let daemon = Daemon::start();
    let (file, body) = (daemon.dir().join("body"), b"\0\xff binary\r\n");
    std::fs::write(&file, body).expect("the directory is writable");
    let mut receiver = daemon.recv("unix", &["-N", "-C", "1", "s"]);
    let file = file.to_str().expect("the path is text");
    daemon.ctl("unix", &["send", "s", "--file", file]).run().expect(0);
    assert_eq!(receiver.wait().expect(0).stdout, body);
}

#[test]
fn a_message_so_many_times() {
    assert_eq!(sent(&["again", "--count", "3"], b"", 3), "again\n".repeat(3));
    assert_eq!(sent(&["-l", "--count", "2"], b"a\nb\n", 4), "a\na\nb\nb\n");
}

#[test]
fn an_interval_between_messages() {
    let start = Instant::now();
    sent(&["slow", "--count", "3", "--interval", "100ms"], b"", 3);
    assert!(start.elapsed() >= Duration::from_millis(200));
    let start = Instant::now();
    sent(&["-l", "--interval", "0.1"], b"a\nb\nc\n", 3);
    assert!(start.elapsed() >= Duration::from_millis(200));
}

#[test]
fn headers_reply_and_every_key_of_a_json_line() {
    let daemon = Daemon::start();
    let mut receiver = daemon.recv("tcp", &["-o", "jsonl", "-C", "2", "j.*"]);
    let mut sender = daemon.ctl("unix", &["--name", "sender", "send", "j.one", "text ä"]).args([
        "-H",
        "Content-Type: text/plain",
        "-H",
        "a:b:c",
        "--reply",
        "j.reply",
    ]);
    sender = sender.args(["--ack", "accepted"]);
    let mut process = sender.spawn();
    let pid = process.pid();
    process.wait().expect(0);
    daemon.ctl("udp", &["send", "j.two"]).run_fed(b"\xff\x00").expect(0);
    let [first, second] = &objects(&mut receiver)[..] else { panic!("two messages") };
    assert_eq!(
        keys(first),
        ["data", "from", "headers", "id", "len", "reply", "subject", "ts", "v"]
    );
    assert_eq!(keys(&first["from"]), ["addr", "gid", "name", "peer", "pid", "transport", "uid"]);
    assert_eq!((&first["v"], &first["len"]), (&json!(1), &json!(7)));
    assert_eq!((&first["subject"], &first["reply"]), (&json!("j.one"), &json!("j.reply")));
    assert_eq!(first["data"], "text ä");
    assert_eq!(first["headers"], json!({"Content-Type": "text/plain", "a": "b:c"}));
    let ts = first["ts"].as_str().expect("a string");
    assert!(ts.len() > 20 && ts.ends_with('Z') && &ts[10..11] == "T", "{ts}");
    assert!(first["id"].is_u64() && first["from"]["peer"].is_u64());
    let uid = nix::unistd::Uid::current().as_raw();
    let from = &first["from"];
    assert_eq!((&from["name"], &from["transport"]), (&json!("sender"), &json!("unix")));
    assert_eq!((&from["pid"], &from["uid"]), (&json!(pid), &json!(uid)));
    assert_eq!(from["addr"], Value::Null);
    assert_eq!(
        keys(second),
        ["data_b64", "from", "headers", "id", "len", "reply", "subject", "ts", "v"]
    );
    assert_eq!((&second["data_b64"], &second["len"]), (&json!("/wA="), &json!(2)));
    assert_eq!((&second["reply"], &second["headers"]), (&Value::Null, &json!({})));
    let from = &second["from"];
    assert_eq!(
        (&from["transport"], &from["name"], &from["pid"], &from["uid"], &from["gid"]),
        (&json!("udp"), &Value::Null, &Value::Null, &Value::Null, &Value::Null)
    );
    assert!(from["addr"].as_str().expect("a string").starts_with("127.0.0.1:"));
}

#[test]
fn a_bad_header_or_subject_ends_with_8() {
    let daemon = Daemon::start();
    for subject in ["a..b", "", "a b", "a.*", "a\nb", "a.>"] {
        let ended = daemon.ctl("unix", &["send", subject, "x"]).run().expect(8);
        assert_eq!(ended.stderr.lines().count(), 1, "{}", ended.stderr);
    }
    for filter in ["a..b", "a.>.b", ""] {
        daemon.ctl("unix", &["recv", filter]).run().expect(8);
    }
    let long = format!("k:{}", "v".repeat(70_000));
    daemon.ctl("unix", &["send", "a", "x", "-H", &long]).run().expect(8);
    daemon.ctl("unix", &["send", "a", "x", "--reply", "a..b"]).run().expect(8);
    let error = daemon.ctl("unix", &["-j", "send", "a..b", "x"]).run().expect(8).stderr;
    let error: Value = serde_json::from_str(&error).expect("one JSON line");
    assert_eq!(
        (&error["error"]["code"], &error["error"]["exit"]),
        (&json!("bad-message"), &json!(8))
    );
}

#[test]
fn nobody_has_to_listen_for_a_message_to_be_accepted() {
    let daemon = Daemon::start();
    for ack in ["accepted", "none"] {
        daemon.ctl("unix", &["send", "a", "x", "--ack", ack]).run().expect(0);
    }
    eventually("both messages", || (daemon.counter("messages_accepted") == 2).then_some(()));
}

/// Without an acknowledgement too, all is sent before the sender ends.
#[test]
fn ack_none_still_sends_everything() {
    for scheme in ["unix", "pipe", "fifo", "tcp", "udp"] {
        let daemon = Daemon::start();
        let mut receiver = daemon.recv("unix", &["-C", "1000", "s"]);
        receiver.stdout();
        daemon
            .ctl(scheme, &["send", "s", &"x".repeat(1000), "--count", "1000", "--ack", "none"])
            .run()
            .expect(0);
        assert_eq!(receiver.wait().expect(0).stdout.len(), 1001 * 1000, "{scheme}");
    }
}

#[test]
fn wait_subs_waits_for_receivers() {
    let daemon = Daemon::start();
    let mut sender = daemon.ctl("unix", &["send", "w.x", "found", "--wait-subs", "2"]).spawn();
    let mut receivers = [daemon.recv("tcp", &["-C", "1", "w.*"])];
    assert_eq!(sender.has_ended(), None);
    let mut second = daemon.recv("udp", &["-C", "1", "w.x"]);
    sender.wait().expect(0);
    assert_eq!(second.wait().expect(0).text(), "found\n");
    assert_eq!(receivers[0].wait().expect(0).text(), "found\n");
    let ended =
        daemon.ctl("unix", &["--timeout", "200ms", "send", "w", "x", "--wait-subs", "1"]).run();
    assert!(ended.expect(4).stderr.contains("0 of 1"));
}

#[test]
fn a_request_waits_for_responders_that_are_about_to_start() {
    let daemon = Daemon::start();
    let req = ["req", "w.echo", "found", "--wait-subs", "1"];
    let mut caller = daemon.ctl("tcp", &req).spawn();
    let _server = daemon.ctl("unix", &["serve", "w.echo", "--echo"]).spawn();
    assert_eq!(caller.wait().expect(0).text(), "found\n");
    let ended = daemon
        .ctl("unix", &["--timeout", "200ms", "req", "w.none", "x", "--wait-subs", "2"])
        .run()
        .expect(4);
    assert!(ended.stderr.contains("0 of 2"), "{}", ended.stderr);
    let ended = daemon.ctl("unix", &["req", "@bob", "x", "--wait-subs", "1"]).run().expect(2);
    assert!(ended.stderr.contains("--wait-subs"), "{}", ended.stderr);
}

#[test]
fn a_peer_is_kicked_by_its_name() {
    let daemon = Daemon::start();
    let mut bob = daemon.recv("unix", &["--name", "bob", "--no-reconnect", "x"]);
    daemon.ctl("tcp", &["kick", "bob"]).run().expect(0);
    bob.wait().expect(7);
    let ended = daemon.ctl("unix", &["kick", "nobody"]).run().expect(5);
    assert!(ended.stderr.contains("no such peer"), "{}", ended.stderr);
}

#[test]
fn a_filter_of_another_broker_is_remarked_on() {
    let daemon = Daemon::start();
    let receiver = daemon.recv("unix", &["sensors/#", "logs.>"]);
    let said = receiver.stderr.text();
    assert!(said.contains("as in sensors.>\n"), "{said}");
    assert_eq!(said.lines().count(), 2, "{said}");
}

#[test]
fn too_large_a_payload_names_the_limit() {
    let daemon = DaemonSetup::new().config("[limits]\nmax_message = \"4KiB\"\n").start();
    let ended = daemon.ctl("unix", &["send", "x", &"x".repeat(5000)]).run().expect(8);
    assert!(ended.stderr.contains("max_message"), "{}", ended.stderr);
}

/// Another user's daemon may own the port.
#[test]
fn a_token_of_another_daemon_is_named_with_the_endpoint() {
    let [ours, theirs] = [Daemon::start(), Daemon::start()];
    for scheme in ["tcp", "udp"] {
        let via = theirs.via(scheme);
        let ended = ours.ctl(&via, &["ping"]).run().expect(6);
        let token = ours.runtime_dir().join("token").display().to_string();
        assert!(ended.stderr.contains(&via) && ended.stderr.contains(&token), "{}", ended.stderr);
    }
}

#[test]
fn a_shell_loop_sends_every_line() {
    let daemon = Daemon::start();
    let mut receiver = daemon.recv("unix", &["-C", "20", "x"]);
    let script = r#"while read -r line; do "$IPCCTL" send x "$line" || exit 1; done"#;
    let mut shell = Command::new("sh");
    shell.args(["-c", script]).env("IPCCTL", ipcctl()).env("IPCD_VIA", daemon.via("unix"));
    let lines: String = (1..=20).map(|number| format!("line {number}\n")).collect();
    let ended = RunningProcess::start(shell.stdin(Stdio::piped())).feed(lines.as_bytes());
    ended.expect(0);
    assert_eq!(receiver.wait().expect(0).text(), lines);
}

#[test]
fn recv_prints_subjects_before_payloads() {
    let daemon = Daemon::start();
    let mut receiver = daemon.recv("unix", &["-v", "-C", "2", "logs.>", "other"]);
    daemon.send("logs.web.error", "oh");
    daemon.send("other", "hm");
    assert_eq!(receiver.wait().expect(0).text(), "logs.web.error oh\nother hm\n");
}

#[test]
fn recv_prints_each_message_at_once() {
    let daemon = Daemon::start();
    let mut receiver = daemon.recv("pipe", &["s"]);
    for text in ["first", "second"] {
        daemon.send("s", text);
        receiver.stdout().wait_for(&format!("{text}\n"));
    }
}

#[test]
fn recv_ends_after_a_time() {
    let daemon = Daemon::start();
    daemon.ctl("unix", &["recv", "s", "-W", "200ms"]).run().expect(0);
    let ended = daemon.ctl("unix", &["recv", "s", "-W", "200ms", "-C", "1"]).run().expect(4);
    assert!(ended.stderr.contains("0 of 1"), "{}", ended.stderr);
    let mut receiver = daemon.recv("unix", &["-W", "60s", "-C", "2", "s"]);
    daemon.ctl("unix", &["send", "s", "x", "--count", "2"]).run().expect(0);
    assert_eq!(receiver.wait().expect(0).text(), "x\nx\n");
}

#[test]
fn recv_ends_when_nothing_comes() {
    let daemon = Daemon::start();
    let mut receiver = daemon.recv("unix", &["--idle", "1s", "s"]);
    daemon.send("s", "x");
    assert_eq!(receiver.wait().expect(0).text(), "x\n");
}

#[test]
fn recv_dies_of_sigpipe_like_any_filter() {
    let daemon = Daemon::start();
    let mut receiver = daemon.recv("unix", &["s"]);
    let mut stdout = BufReader::new(receiver.take_stdout());
    daemon.send("s", "first");
    let mut line = String::new();
    stdout.read_line(&mut line).expect("the next line comes");
    assert_eq!(line, "first\n");
    drop(stdout);
    daemon.send("s", "second");
    let ended = receiver.wait();
    assert_eq!(ended.status.signal(), Some(Signal::SIGPIPE as i32), "{ended:?}");
    assert_eq!(ended.stderr, "subscribed\n");
    daemon.wait_for_peers(0);
}

#[test]
fn a_pipeline_with_head_gets_its_line() {
    let daemon = Daemon::start();
    let mut shell = Command::new("sh");
    shell.args(["-c", r#""$IPCCTL" recv -E s | head -1"#]).stdin(Stdio::null());
    shell.env("IPCCTL", ipcctl()).env("IPCD_VIA", daemon.via("unix"));
    let mut shell = RunningProcess::start(&mut shell);
    shell.stderr.wait_for("subscribed");
    daemon.send("s", "first");
    eventually("the end of the pipeline", || {
        // The receiver notices the closed pipe by writing to it.
        daemon.send("s", "more");
        shell.has_ended()
    });
    assert_eq!(shell.wait().expect(0).text(), "first\n");
}

#[test]
fn quiet_says_nothing_but_errors() {
    let mut daemon = Daemon::start();
    let mut receiver = daemon.recv("unix", &["-q", "--no-reconnect", "s"]);
    daemon.terminate().expect(0);
    let said = receiver.wait().expect(7).stderr;
    assert_eq!(said.lines().count(), 2, "{said}");
}

#[test]
fn a_publisher_hears_itself_and_each_subscription_gets_its_copy() {
    let daemon = Daemon::start();
    let mut receiver = daemon.recv("unix", &["-v", "-C", "3", "c.a", "c.*", "c.>"]);
    daemon.send("c.a", "copy");
    assert_eq!(receiver.wait().expect(0).text(), "c.a copy\n".repeat(3));
}

#[test]
fn status_and_clients_as_json_have_the_keys_of_the_manual() {
    let daemon = Daemon::start();
    let receiver = daemon.recv("udp", &["--name", "me", "a.>"]);
    daemon.send("a.b", "payload");
    let status = daemon.status();
    assert_eq!(
        keys(&status),
        ["counters", "listeners", "pid", "sandbox", "uptime_ms", "version", "workers"]
    );
    assert_eq!(keys(&status["workers"][0]), ["generation", "peers", "pid", "slot"]);
    assert_eq!(keys(&status["listeners"][0]), ["codec", "endpoint", "peers"]);
    assert_eq!(status["pid"], daemon.process.pid());
    assert!(status["counters"]["messages_accepted"].is_u64());
    let clients = daemon.clients();
    let me = clients.iter().find(|client| client["name"] == "me").expect("the entry exists");
    assert_eq!(
        keys(me),
        [
            "addr",
            "bytes_in",
            "bytes_out",
            "dropped",
            "gid",
            "id",
            "msgs_in",
            "msgs_out",
            "name",
            "pid",
            "queued_bytes",
            "subscriptions",
            "transport",
            "uid",
            "worker",
        ]
    );
    assert_eq!((&me["msgs_out"], &me["msgs_in"]), (&json!(1), &json!(0)));
    assert_eq!((&me["subscriptions"], &me["worker"]), (&json!(["a.>"]), &json!(0)));
    drop(receiver);
}

#[test]
fn text_output_names_what_is_asked_for() {
    let daemon = Daemon::start();
    let _receiver = daemon.recv("tcp", &["--name", "me", "a.>"]);
    let status = daemon.ctl("unix", &["status"]).run().expect(0).text();
    assert!(status.contains(&daemon.via("tcp")) && status.contains("WORKER"), "{status}");
    let clients = daemon.ctl("unix", &["clients"]).run().expect(0).text();
    assert!(clients.contains("me") && clients.contains("a.>"), "{clients}");
    assert!(!status.contains('\x1b') && !clients.contains('\x1b'));
}
