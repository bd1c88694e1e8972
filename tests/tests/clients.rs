//! Clients of several languages pass the same scenarios: `tests/clients/README.md` lists them, and
//! describes the agents through which this obeys them.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Stdio};
use std::time::Instant;

use ipcd_client::{Client, Event, Headers, Message, Publication, SubscribeOptions};
use ipcd_tests::{
    Daemon, DaemonSetup, PATIENCE, RunningProcess, eventually, from_hex, python, to_hex,
};

/// An agent, at work with its client.
struct Agent {
    process: RunningProcess,
    input: ChildStdin,
    answers: usize,
}

/// A client under test.
#[derive(Clone, Copy, Debug)]
enum Language {
    Rust,
    Python,
    PythonAsyncio,
}

impl Language {
    /// The program that is its agent; `None`, with a line, where it cannot run.
    fn command(self) -> Option<Command> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/agent.py");
        let run = |python: PathBuf, args: &[&str]| {
            let mut command = Command::new(python);
            command.arg(script).args(args);
            command
        };
        match self {
            Self::Rust => Some(Command::new(env!("CARGO_BIN_EXE_client_agent"))),
            Self::Python => python().map(|python| run(python, &[])),
            Self::PythonAsyncio => python().map(|python| run(python, &["aio"])),
        }
    }
}

impl Agent {
    fn start(language: Language, daemon: &Daemon) -> Self {
        let mut command = language.command().expect("it was there before");
        command.env("IPCD_RUNTIME_DIR", daemon.runtime_dir()).env_remove("IPCD_VIA");
        let mut process = RunningProcess::start(command.stdin(Stdio::piped()));
        let input = process.stdin();
        Self { process, input, answers: 0 }
    }

    fn connected(language: Language, daemon: &Daemon, via: &str) -> Self {
        let mut agent = Self::start(language, daemon);
        agent.ok(&format!("connect {via}"));
        agent
    }

    /// Gives a command, and does not wait for its answer.
    fn begin(&mut self, command: &str) {
        writeln!(self.input, "{command}").expect("the agent reads");
    }

    /// The next answer.
    fn answer(&mut self) -> String {
        let number = self.answers;
        self.answers += 1;
        self.process.stdout().wait_until("an answer of the agent", |said| {
            let (whole, _) = said.rsplit_once('\n')?;
            whole.split('\n').nth(number).map(str::to_owned)
        })
    }

    fn ask(&mut self, command: &str) -> String {
        self.begin(command);
        self.answer()
    }

    /// The answer to a command that must succeed, without `ok`.
    #[track_caller]
    fn ok(&mut self, command: &str) -> String {
        self.begin(command);
        self.end(command)
    }

    #[track_caller]
    fn end(&mut self, command: &str) -> String {
        let answer = self.answer();
        let fields = answer.strip_prefix("ok").unwrap_or_else(|| {
            let shown: String = command.chars().take(60).collect();
            panic!("{shown}: {answer}\n{}", self.process.stderr.text())
        });
        fields.trim_start().to_owned()
    }

    #[track_caller]
    fn fails(&mut self, command: &str, kind: &str) {
        let answer = self.ask(command);
        let said = answer.strip_prefix("error ").and_then(|rest| rest.split(' ').next());
        assert_eq!(said, Some(kind), "{answer}");
    }

    /// The payload of the next message, as text.
    #[track_caller]
    fn text(&mut self, key: &str) -> String {
        let answer = self.ok(&format!("receive {key}"));
        let payload = answer.split(' ').nth(1).expect("a message has a payload");
        String::from_utf8(from_hex(payload)).expect("it is text")
    }
}

fn hex(text: &str) -> String {
    to_hex(text.as_bytes())
}

fn next_message(client: &mut Client) -> Message {
    loop {
        let event = client.next_event(Some(Instant::now() + PATIENCE)).expect("it is connected");
        if let Event::Message(message) = event.expect("a message comes in time") {
            return message;
        }
    }
}

fn subscribe(client: &mut Client, filter: &str) {
    client.subscribe(filter, SubscribeOptions::default()).expect("it is allowed");
}

fn publish_and_subscribe(language: Language) {
    let daemon = DaemonSetup::new().listen(&["unix"]).start();
    let mut agent = Agent::connected(language, &daemon, "unix");
    let mut other = daemon.client("unix");
    agent.ok("subscribe s a.b");
    subscribe(&mut other, "c.d");
    for number in 0..1000 {
        other.publish("a.b", number.to_string().as_bytes()).expect("it is valid");
        agent.begin(&format!("publish c.d {}", hex(&number.to_string())));
    }
    other.flush().expect("all were accepted");
    for number in 0..1000 {
        agent.end("publish");
        assert_eq!(next_message(&mut other).payload(), number.to_string().as_bytes());
    }
    for number in 0..1000 {
        assert_eq!(agent.text("s"), number.to_string());
    }
    let all: Vec<u8> = (0..=255).collect();
    for payload in [&[][..], &all] {
        let mut headers = Vec::new();
        Headers::append(&mut headers, "key", &all).expect("it fits");
        let message = Publication { subject: "a.b", payload, headers: &headers, reply: "" };
        other.publish_message(&message).expect("it is valid");
        other.flush().expect("it is accepted");
        let expected = format!("a.b {} key={}", to_hex(payload), to_hex(&all));
        assert_eq!(agent.ok("receive s"), expected);
        agent.ok(&format!("publish c.d {} key={}", to_hex(payload), to_hex(&all)));
        let message = next_message(&mut other);
        assert_eq!(message.payload(), payload);
        assert_eq!(message.headers().collect::<Vec<_>>(), [("key", &*all)]);
    }
}

fn wildcards(language: Language) {
    let daemon = DaemonSetup::new().listen(&["unix"]).start();
    let mut agent = Agent::connected(language, &daemon, "unix");
    for (key, filter) in [("exact", "a.b"), ("star", "a.*"), ("rest", "a.>"), ("all", ">")] {
        agent.ok(&format!("subscribe {key} {filter}"));
    }
    for subject in ["a", "a.b", "a.c", "a.b.c", "x", "end.a.b"] {
        daemon.send(subject, subject);
    }
    for (key, expected) in [
        ("exact", &["a.b"][..]),
        ("star", &["a.b", "a.c"]),
        ("rest", &["a.b", "a.c", "a.b.c"]),
        ("all", &["a", "a.b", "a.c", "a.b.c", "x", "end.a.b"]),
    ] {
        for subject in expected {
            assert_eq!(agent.text(key), *subject, "{key}");
        }
    }
    // Each has received nothing else: the next message is the next that matches.
    daemon.send("a.b", "last");
    for key in ["exact", "star", "rest", "all"] {
        assert_eq!(agent.text(key), "last", "{key}");
    }
}

fn unsubscribe(language: Language) {
    let daemon = DaemonSetup::new().listen(&["unix"]).start();
    let mut agent = Agent::connected(language, &daemon, "unix");
    agent.ok("subscribe gone x");
    agent.ok("subscribe kept x");
    agent.ok("unsubscribe gone");
    let mut other = daemon.client("unix");
    eventually("one subscription is left", || {
        let found = other.query(&ipcd_client::Query::Matching("x".into())).expect("it answers");
        (found == [ipcd_client::Answer::Matching(1)]).then_some(())
    });
    daemon.send("x", "still");
    assert_eq!(agent.text("kept"), "still");
}

fn groups(language: Language) {
    let daemon = DaemonSetup::new().listen(&["unix"]).start();
    let mut agents = [(); 2].map(|()| Agent::connected(language, &daemon, "unix"));
    agents.iter_mut().for_each(|agent| drop(agent.ok("subscribe g work members")));
    let mut other = daemon.client("unix");
    for number in 0..100 {
        other.publish("work", format!("{number:03}").as_bytes()).expect("it is valid");
    }
    other.flush().expect("all were accepted");
    // Members that can take more take turns, so each has half of them.
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    for agent in &mut agents {
        for _ in 0..50 {
            *seen.entry(agent.text("g")).or_default() += 1;
        }
    }
    assert!(seen.len() == 100 && seen.values().all(|count| *count == 1), "{seen:?}");
}

fn requests(language: Language) {
    let daemon = DaemonSetup::new().listen(&["unix"]).start();
    let mut agent = Agent::connected(language, &daemon, "unix");
    let mut other = daemon.client("unix");
    subscribe(&mut other, "double");
    for number in 0..100_u64 {
        agent.begin(&format!("request double {} 10000", hex(&number.to_string())));
        let request = next_message(&mut other);
        other.reply(&request, (2 * number).to_string().as_bytes()).expect("it is valid");
        other.flush().expect("it is accepted");
        assert_eq!(agent.end("request"), hex(&(2 * number).to_string()));
    }
    agent.ok("subscribe r echo");
    let message = Publication { subject: "echo", payload: b"out", ..Publication::default() };
    let id = other.start_request(&message, PATIENCE).expect("it is valid");
    other.push().expect("it is connected");
    assert_eq!(agent.text("r"), "out");
    agent.ok(&format!("reply r {}", hex("back")));
    match other.next_event(Some(Instant::now() + PATIENCE)).expect("it is connected") {
        Some(Event::Reply { request, reply: Ok(reply) }) if request == id => {
            assert_eq!(reply.payload(), b"back");
        }
        event => panic!("{event:?}"),
    }
    agent.fails("request nowhere - 10000", "refused:NoResponder");
    agent.fails("request double - 1", "timeout");
    let _ = next_message(&mut other);
    agent.begin("request double - 10000");
    let _ = next_message(&mut other);
    drop(other);
    let answer = agent.answer();
    assert!(answer.starts_with("error refused:Unanswered "), "{answer}");
}

fn large_payloads(language: Language) {
    // The default is eight times that, and its digits take their time in a debug build.
    let limit = "[limits]\nmax_message = \"128KiB\"\n";
    let daemon = DaemonSetup::new().config(limit).listen(&["unix"]).start();
    let mut agent = Agent::start(language, &daemon);
    let largest: usize = agent.ok("connect unix").parse().expect("it is a number");
    let other = daemon.client("unix");
    assert_eq!(largest, other.max_payload());
    agent.ok("subscribe s x");
    let payload: Vec<u8> = (0..largest).map(|at| (at * at / 7) as u8).collect();
    agent.ok(&format!("publish x {}", to_hex(&payload)));
    agent.ok("flush");
    let answer = agent.ok("receive s");
    assert!(answer == format!("x {}", to_hex(&payload)), "{} characters came", answer.len());
    agent.fails(&format!("publish x {}00", to_hex(&payload)), "invalid");
    daemon.send("x", "after that");
    assert_eq!(agent.text("s"), "after that");
}

fn close(language: Language) {
    let daemon = DaemonSetup::new().listen(&["unix"]).start();
    let mut other = daemon.client("unix");
    subscribe(&mut other, "x");
    let mut agent = Agent::connected(language, &daemon, "unix");
    for number in 0..500 {
        agent.begin(&format!("publish x {}", hex(&number.to_string())));
    }
    for _ in 0..500 {
        agent.end("publish");
    }
    agent.ok("close");
    for number in 0..500 {
        assert_eq!(next_message(&mut other).payload(), number.to_string().as_bytes());
    }
}

fn reconnect(language: Language) {
    let mut daemon = DaemonSetup::new().listen(&["unix"]).start();
    let mut agent = Agent::start(language, &daemon);
    agent.ok("connect unix reconnect");
    agent.ok("subscribe s x");
    for round in 0..2 {
        daemon.send("x", &format!("before {round}"));
        assert_eq!(agent.text("s"), format!("before {round}"));
        agent.begin("receive s");
        daemon.terminate().expect(0);
        daemon = daemon.start_again();
        let mut other = daemon.client("unix");
        eventually("the subscription is there again", || {
            let query = ipcd_client::Query::Matching("x".into());
            let found = other.query(&query).expect("it answers");
            (found == [ipcd_client::Answer::Matching(1)]).then_some(())
        });
        daemon.send("x", "after");
        assert_eq!(agent.end("receive"), format!("x {}", hex("after")));
        agent.ok(&format!("publish x {}", hex("own")));
        assert_eq!(agent.text("s"), "own");
    }
}

fn errors(language: Language) {
    let rules = "[[acl]]\npublish = [\"open\"]\nsubscribe = [\"open\"]\n";
    let mut daemon = DaemonSetup::new().config(rules).listen(&["unix"]).start();
    let mut agent = Agent::start(language, &daemon);
    agent.fails("connect unix:///nowhere/at/all", "connect");
    agent.ok("connect unix");
    agent.fails("publish a..b -", "invalid");
    agent.fails("subscribe s a.>.b", "invalid");
    agent.fails("subscribe s closed", "refused:Denied");
    agent.ok("publish closed -");
    agent.fails("flush", "refused:Denied");
    agent.ok("publish open -");
    agent.ok("flush");
    daemon.terminate().expect(0);
    let answer = agent.ask("flush");
    let is_lost = ["error disconnected ", "error refused:Ending "];
    assert!(is_lost.iter().any(|lost| answer.starts_with(lost)), "{answer}");
}

fn tokens(language: Language) {
    let daemon = DaemonSetup::new().listen(&["unix", "tcp"]).start();
    let mut agent = Agent::connected(language, &daemon, &daemon.via("tcp"));
    agent.ok("subscribe s x");
    agent.ok(&format!("publish x {}", hex("over TCP")));
    assert_eq!(agent.text("s"), "over TCP");
}

#[test]
fn waits_of_python_can_be_cancelled_and_interrupted() {
    let Some(python) = python() else { return };
    let daemon = DaemonSetup::new().listen(&["unix"]).start();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/cancel.py");
    let mut command = Command::new(python);
    command.arg(script).env("IPCD_RUNTIME_DIR", daemon.runtime_dir()).env_remove("IPCD_VIA");
    let ended = RunningProcess::start(&mut command).wait().expect(0);
    assert_eq!(ended.text(), "done\n", "{}", ended.stderr);
}

/// One test for each scenario and language.
macro_rules! scenarios {
    ($($module:ident: $language:expr;)*) => {$(
        mod $module {
            use super::Language;

            fn run(scenario: fn(Language)) {
                if $language.command().is_some() {
                    scenario($language);
                }
            }

            #[test]
            fn publish_and_subscribe() {
                run(super::publish_and_subscribe);
            }

            #[test]
            fn wildcards() {
                run(super::wildcards);
            }

            #[test]
            fn unsubscribe() {
                run(super::unsubscribe);
            }

            #[test]
            fn groups() {
                run(super::groups);
            }

            #[test]
            fn requests() {
                run(super::requests);
            }

            #[test]
            fn large_payloads() {
                run(super::large_payloads);
            }

            #[test]
            fn close() {
                run(super::close);
            }

            #[test]
            fn reconnect() {
                run(super::reconnect);
            }

            #[test]
            fn errors() {
                run(super::errors);
            }

            #[test]
            fn tokens() {
                run(super::tokens);
            }
        }
    )*};
}

scenarios! {
    rust: Language::Rust;
    python: Language::Python;
    python_asyncio: Language::PythonAsyncio;
}
