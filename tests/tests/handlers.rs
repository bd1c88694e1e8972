//! `serve` and `recv --exec`: a program for each request or message, over any transport, and the
//! error that the requester gets when it fails.

use std::fs;

use ipcd_tests::{Daemon, ProcessResult, RunningProcess, SCHEMES, eventually, is_alive};
use nix::sys::signal::Signal;
use serde_json::Value;

fn serve(daemon: &Daemon, scheme: &str, args: &[&str]) -> RunningProcess {
    daemon.ctl(scheme, &["serve", "-E"]).args(args).spawn_subscribed()
}

fn req(daemon: &Daemon, args: &[&str]) -> ProcessResult {
    daemon.ctl("unix", &["req"]).args(args).run()
}

/// A request, and the header `exit-status` of its reply.
#[track_caller]
fn status_of(daemon: &Daemon, args: &[&str]) -> (String, String) {
    let ended = req(daemon, &[args, &["-o", "jsonl"]].concat());
    let line: Value = serde_json::from_slice(&ended.stdout).expect("a reply comes all the same");
    let header = |name: &str| line["headers"][name].as_str().unwrap_or_default().to_owned();
    assert_eq!(ended.status.code() == Some(0), header("exit-status") == "0", "{line}");
    (header("exit-status"), header("error"))
}

#[test]
fn a_command_answers_over_every_pair_of_transports() {
    let daemon = Daemon::start();
    for server in SCHEMES {
        let _server = serve(&daemon, server, &["text.count", "--jobs", "4", "--", "wc", "-w"]);
        for client in SCHEMES {
            let ask = daemon.ctl(client, &["req", "text.count"]);
            let ended = ask.run_fed(b"three small words").expect(0);
            assert_eq!(ended.text(), "3\n", "{client} to {server}");
        }
    }
}

#[test]
fn echo_and_a_fixed_body_answer_without_a_command() {
    let daemon = Daemon::start();
    let _echo = serve(&daemon, "tcp", &["echo", "--echo"]);
    let _fixed = serve(&daemon, "unix", &["fixed", "always this"]);
    let binary: Vec<u8> = (0..=255).cycle().take(1 << 20).collect();
    let ended = daemon.ctl("unix", &["req", "echo", "-N"]).run_fed(&binary).expect(0);
    assert!(ended.stdout == binary, "a megabyte comes back unaltered");
    assert_eq!(req(&daemon, &["fixed", "whatever"]).expect(0).text(), "always this\n");
}

/// Both pipes of a command fill up: it is fed and read at once. A command that reads nothing is
/// fine.
#[test]
fn a_large_body_goes_through_a_command_or_past_it() {
    let daemon = Daemon::start();
    let _cat = serve(&daemon, "unix", &["cat", "--", "cat"]);
    let _deaf = serve(&daemon, "unix", &["deaf", "--", "sh", "-c", "exec <&-; echo done"]);
    let body: Vec<u8> = (0..1 << 20).map(|number: u32| (number % 251) as u8).collect();
    let ask = |subject| daemon.ctl("fifo", &["req", subject, "-N"]).run_fed(&body).expect(0);
    assert!(ask("cat").stdout == body);
    assert_eq!(ask("deaf").text(), "done\n");
}

#[test]
fn so_many_jobs_run_at_once_and_no_more() {
    let daemon = Daemon::start();
    let file = daemon.dir().join("running");
    // Each reports that it runs, and ends when four do: so four must run at once.
    let script = format!(
        "f={}; echo x >> $f; until [ $(wc -l < $f) -ge 4 ]; do :; done; echo done",
        file.display()
    );
    let _server = serve(&daemon, "unix", &["work", "--jobs", "4", "--", "sh", "-c", &script]);
    let asking: Vec<_> = (0..4).map(|_| daemon.ctl("unix", &["req", "work", ""]).spawn()).collect();
    for mut one in asking {
        assert_eq!(one.wait().expect(0).text(), "done\n");
    }
    let alone = daemon.dir().join("alone");
    let script = format!("mkdir {0} && rmdir {0} && echo alone", alone.display());
    let _single = serve(&daemon, "unix", &["single", "--", "sh", "-c", &script]);
    let asking: Vec<_> =
        (0..8).map(|_| daemon.ctl("unix", &["req", "single", ""]).spawn()).collect();
    for mut one in asking {
        assert_eq!(one.wait().expect(0).text(), "alone\n");
    }
}

#[test]
fn a_command_that_takes_too_long_is_killed_with_all_that_it_started() {
    let daemon = Daemon::start();
    let file = daemon.dir().join("grandchild");
    let script = format!("sleep 1000 & echo $! > {}; echo partly; wait", file.display());
    let late = ["late", "--job-timeout", "0.5", "--", "sh", "-c", &script];
    let _server = serve(&daemon, "unix", &late);
    let (status, error) = status_of(&daemon, &["late", ""]);
    assert_eq!(status, "124");
    assert!(error.contains("timed out"), "{error}");
    let text = fs::read_to_string(&file).expect("the command has begun");
    let grandchild = text.trim().parse().expect("a process");
    eventually("the grandchild's end", || (!is_alive(grandchild)).then_some(()));
    let ended = req(&daemon, &["late", ""]).expect(9);
    assert!(ended.stdout.is_empty() && ended.stderr.contains("timed out"), "{}", ended.stderr);
}

#[test]
fn a_grandchild_that_keeps_the_output_open_holds_nobody_up() {
    let daemon = Daemon::start();
    let file = daemon.dir().join("grandchild");
    let script = format!("sleep 1000 & echo $! > {}; echo done", file.display());
    let _server = serve(&daemon, "unix", &["work", "--", "sh", "-c", &script]);
    assert_eq!(req(&daemon, &["work", ""]).expect(0).text(), "done\n");
    let text = fs::read_to_string(&file).expect("the command has run");
    let grandchild = text.trim().parse().expect("a process");
    eventually("the grandchild's end", || (!is_alive(grandchild)).then_some(()));
}

#[test]
fn no_reply_pretends_success() {
    let daemon = Daemon::start();
    let mut servers = Vec::new();
    let mut expect = |subject: &str, args: &[&str], wanted: &str| {
        servers.push(serve(&daemon, "unix", &[&[subject], args].concat()));
        let (status, error) = status_of(&daemon, &[subject, "body"]);
        assert_eq!(status, wanted, "{subject}: {error}");
    };
    expect("fine", &["--", "true"], "0");
    expect("three", &["--", "sh", "-c", "exit 3"], "3");
    expect("signal", &["--", "sh", "-c", "kill -KILL $$"], "137");
    expect("much", &["--max-output", "1000", "--", "head", "-c", "100000", "/dev/zero"], "125");
    // The program exists when the server starts, and is removed then.
    let program = daemon.dir().join("program");
    fs::copy("/bin/true", &program).expect("the file can be copied");
    let path = program.display().to_string();
    servers.push(serve(&daemon, "unix", &["gone", "--", &path]));
    fs::remove_file(&program).expect("the file is writable");
    assert_eq!(status_of(&daemon, &["gone", ""]).0, "127");
}

#[test]
fn the_environment_tells_what_is_known_and_nothing_else() {
    let daemon = Daemon::start();
    let _server = serve(&daemon, "unix", &["env", "--", "env"]);
    let args =
        ["-H", "content-type:text/plain", "-H", "PATH:/evil", "-H", "a b=c:d", "env", "body"];
    let said = daemon.ctl("tcp", &["req"]).args(args).run().expect(0).text();
    let value = |name: &str| {
        let found = said.lines().find_map(|line| line.strip_prefix(&format!("{name}=")));
        found.unwrap_or_else(|| panic!("no {name} in:\n{said}")).to_owned()
    };
    assert_eq!(value("IPC_SUBJECT"), "env");
    assert_eq!(value("IPC_TRANSPORT"), "tcp");
    assert_eq!(value("IPC_HDR_CONTENT_TYPE"), "text/plain");
    assert_eq!(value("IPC_HDR_PATH"), "/evil");
    assert!(value("IPC_REPLY").starts_with('@') && value("PATH") != "/evil");
    assert!(value("IPC_FROM_ADDR").starts_with("127.0.0.1:"));
    assert!(!said.contains("body") && !said.contains("IPC_FROM_PID="), "{said}");
}

#[test]
fn servers_of_a_group_share_the_requests() {
    let daemon = Daemon::start();
    let _one = serve(&daemon, "unix", &["who", "-g", "g", "one"]);
    let _two = serve(&daemon, "fifo", &["who", "-g", "g", "two"]);
    let mut said: Vec<String> =
        (0..10).map(|_| req(&daemon, &["who", ""]).expect(0).text()).collect();
    said.sort();
    assert_eq!((&*said[0], &*said[9]), ("one\n", "two\n"));
    let both = req(&daemon, &["who", "", "--replies", "2", "--reply-timeout", "0.3"]).expect(4);
    assert!(both.stderr.contains("1 of 2"), "{}", both.stderr);
}

#[test]
fn a_server_told_to_end_finishes_what_it_has_begun() {
    let daemon = Daemon::start();
    let begun = daemon.dir().join("begun");
    let script = format!("touch {0}; while [ -e {0} ]; do :; done; echo done", begun.display());
    let mut server = serve(&daemon, "unix", &["work", "--", "sh", "-c", &script]);
    let mut asking = daemon.ctl("unix", &["req", "work", ""]).spawn();
    eventually("the command has begun", || begun.exists().then_some(()));
    server.signal(Signal::SIGTERM);
    eventually("the command takes no more", || {
        (req(&daemon, &["work", "", "--timeout", "1s"]).status.code() == Some(5)).then_some(())
    });
    fs::remove_file(&begun).expect("the file is writable");
    assert_eq!(asking.wait().expect(0).text(), "done\n");
    server.wait().expect(0);
}

#[test]
fn recv_runs_a_command_for_each_message() {
    let daemon = Daemon::start();
    let script = "cat; echo \" on $IPC_SUBJECT\"; [ $IPC_SUBJECT != bad ]";
    let mut good = daemon.recv("pipe", &["-C", "2", "good.*", "--exec", "--", "sh", "-c", script]);
    daemon.send("good.one", "first");
    daemon.send("good.two", "second");
    assert_eq!(good.wait().expect(0).text(), "first on good.one\nsecond on good.two\n");
    let mut bad = daemon.recv("unix", &["-C", "1", "bad", "--exec", "--", "sh", "-c", script]);
    daemon.send("bad", "third");
    let ended = bad.wait().expect(9);
    assert_eq!(ended.text(), "third on bad\n");
    assert!(ended.stderr.lines().count() >= 2, "it says why: {}", ended.stderr);
}
