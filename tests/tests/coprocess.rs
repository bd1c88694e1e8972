//! Programs that the daemon runs, with their standard input and output on the bus.

use std::fs;
use std::path::Path;

use ipcd_tests::{
    Daemon, DaemonSetup, children, descriptors, eventually, is_alive, refusal, state,
};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Both ways of spreading peers over processes.
const MODES: [&str; 2] = ["pool", "connection"];

/// Replies to each line with the line in brackets.
const ANSWERS: &str = "while read -r line; do echo \\\"<$line>\\\"; done";

/// An entry that runs this script in a shell, with these further keys.
fn exec(script: &str, keys: &str) -> String {
    format!("[[exec]]\ncommand = [\"sh\", \"-c\", \"{script}\"]\n{keys}\n")
}

fn daemon_with(config: &str, mode: &str) -> Daemon {
    DaemonSetup::new().listen(&["unix"]).config(config).args(&["--fork", mode]).start()
}

/// The entry of the program in `clients -j`, once `filter` is its first filter.
fn program(daemon: &Daemon, filter: &str) -> serde_json::Value {
    eventually("the program", || {
        let peers = daemon.clients();
        peers
            .into_iter()
            .find(|peer| peer["transport"] == "pipe" && peer["subscriptions"][0] == filter)
    })
}

fn pid_of(peer: &serde_json::Value) -> i32 {
    peer["pid"].as_u64().expect("a program has a process") as i32
}

/// Sends a request to a program, and returns its reply.
fn ask(daemon: &Daemon, subject: &str, answers: &str, body: &str) -> String {
    program(daemon, subject);
    let mut receiver = daemon.recv("unix", &["-C", "1", answers]);
    daemon.send(subject, body);
    receiver.wait().expect(0).text()
}

#[test]
fn a_program_answers_what_it_hears() {
    for mode in MODES {
        let keys = "subscribe = [\"words\"]\npublish = \"answers\"";
        let mut daemon = daemon_with(&exec(ANSWERS, keys), mode);
        let peer = program(&daemon, "words");
        let mut receiver = daemon.recv("unix", &["-C", "3", "-o", "jsonl", "answers"]);
        for word in ["one", "two", "three"] {
            daemon.send("words", word);
        }
        let text = receiver.wait().expect(0).text();
        let answers: Vec<serde_json::Value> = text
            .lines()
            .map(|line| serde_json::from_str(line).expect("the text is JSON"))
            .collect();
        let said: Vec<_> = answers.iter().map(|answer| answer["data"].clone()).collect();
        assert_eq!(said, ["<one>", "<two>", "<three>"]);
        // For the subscriber the sender is the program.
        assert!(answers.iter().all(|answer| answer["from"]["pid"] == peer["pid"]));
        let pid = pid_of(&peer);
        assert!(children(daemon.process.pid()).contains(&pid), "a child of the supervisor");
        daemon.terminate().expect(0);
        assert!(!is_alive(pid));
    }
}

#[test]
fn a_program_hears_several_filters_and_its_words_can_be_subjects() {
    let keys = "subscribe = [\"a.*\", \"b\", \"a.both\"]\npublish = \"said.$1\"";
    let script = "while read -r line; do echo \\\"$line again\\\"; done";
    let daemon = daemon_with(&exec(script, keys), "pool");
    program(&daemon, "a.*");
    let mut receiver = daemon.recv("unix", &["-C", "4", "-v", "said.>"]);
    for (subject, word) in [("a.x", "one"), ("b", "two"), ("c", "none"), ("a.both", "three")] {
        daemon.send(subject, word);
    }
    let expected = "said.one again\nsaid.two again\nsaid.three again\nsaid.three again\n";
    assert_eq!(receiver.wait().expect(0).text(), expected);
}

/// The state in which a program starts: it inherits only the environment from the daemon.
#[test]
fn a_program_starts_clean() {
    let script = "read -r go; echo \\\"$IPC_SUBJECT $IPC_TRANSPORT ${NOTIFY_SOCKET-unset} \
                  ${LISTEN_FDS-unset} ${IPC_ID-unset} $KEPT\\\"; \
                  ls /proc/$$/fd | tr '\\\\n' ' '; echo; \
                  while read -r key set; do case $key in SigBlk:|SigIgn:) \
                  printf %s $key$set;; esac; done < /proc/$$/status; echo; \
                  cut -d ' ' -f 5,6 /proc/$$/stat; echo $$; ulimit -n; sleep 1000";
    let config = exec(script, "subscribe = [\"go\"]\npublish = \"about\"");
    let wrapper =
        "ulimit -Sn 200; NOTIFY_SOCKET=/nowhere LISTEN_FDS=1 IPC_ID=1 KEPT=yes exec \"$@\"";
    let daemon = DaemonSetup::new().listen(&["unix"]).config(&config).wrapper(wrapper).start();
    let pid = pid_of(&program(&daemon, "go"));
    let mut receiver = daemon.recv("unix", &["-C", "6", "about"]);
    daemon.send("go", "");
    let text = receiver.wait().expect(0).text();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], "about pipe unset unset unset yes");
    assert_eq!(lines[1], "0 1 2 ", "no other descriptors");
    // The C library's own signals, 32 and 33, are unchanged.
    let (blocked, ignored) = lines[2].split_at("SigBlk:0123456789abcdef".len());
    for (set, key) in [(blocked, "SigBlk:"), (ignored, "SigIgn:")] {
        let set = set.strip_prefix(key).expect("the prefix is there");
        let set = u64::from_str_radix(set, 16).expect("the text is a number");
        assert_eq!(set & 0x7fff_ffff, 0, "{}", lines[2]);
    }
    assert_eq!(lines[3], format!("{pid} {pid}"), "a group and a session of its own");
    assert_eq!((lines[4], lines[5]), (&*pid.to_string(), "200"));
}

#[test]
fn one_that_fails_is_started_again_later_each_time_and_one_that_does_not_is_not() {
    let dir = ipcd_tests::private_dir();
    let path = |name: &str| dir.path().join(name).display().to_string();
    let count = |name: &str| fs::read_to_string(path(name)).unwrap_or_default().lines().count();
    let note = |name: &str, rest: &str, keys: &str| {
        let script = format!("date +%s.%N >> {}; {rest}", path(name));
        exec(&script, &format!("publish = \\\"x\\\"\n{keys}").replace('\\', ""))
    };
    let config = [
        note("fails", "exit 3", ""),
        note("succeeds", "exit 0", ""),
        note("always", "exit 0", "restart = \"always\""),
        note("never", "kill -9 $$", "restart = \"never\""),
    ];
    let daemon = daemon_with(&config.concat(), "pool");
    eventually("a few starts", || (count("fails") >= 3 && count("always") >= 3).then_some(()));
    assert_eq!((count("succeeds"), count("never")), (1, 1));
    for name in ["fails", "always"] {
        let text = fs::read_to_string(path(name)).expect("the file can be read");
        let at: Vec<f64> = text.lines().map(|line| line.parse().expect("a time")).collect();
        let pauses = (at[1] - at[0], at[2] - at[1]);
        assert!(pauses.0 >= 0.7 && pauses.1 >= 1.4, "{name}: {pauses:?}");
    }
    let log = daemon.log();
    assert!(log.contains("program failed program=\"sh\"") && log.contains(" status=3"), "{log}");
    assert!(log.contains("signal=\"SIGKILL\"") && log.contains("INFO program ended"), "{log}");
}

#[test]
fn what_cannot_be_started_is_said_once_and_tried_again() {
    let dir = ipcd_tests::private_dir();
    let later = dir.path().join("later");
    let plain = dir.path().join("plain");
    fs::write(&plain, "text").expect("the directory is writable");
    let entry = |path: &Path, filter: &str| {
        let command = path.display();
        format!("[[exec]]\ncommand = [\"{command}\"]\nsubscribe = [\"{filter}\"]\n")
    };
    let daemon = daemon_with(&(entry(&later, "later") + &entry(&plain, "plain")), "pool");
    daemon.process.stderr.wait_for("why=\"not found\"");
    daemon.process.stderr.wait_for("why=\"not executable: ");
    std::os::unix::fs::symlink("/bin/cat", &later).expect("the directory is writable");
    program(&daemon, "later");
    assert_eq!(daemon.log().matches("program not started").count(), 2, "{}", daemon.log());
}

#[test]
fn a_program_that_ignores_its_end_is_killed() {
    for (keys, input) in [("publish = \"x\"", "at once"), ("subscribe = [\"x\"]", "after a while")]
    {
        let script = "trap '' TERM; sleep 1000 & echo ready >&2; while :; do wait; done";
        let config = format!("[daemon]\ndrain_timeout = \"6s\"\n{}", exec(script, keys));
        let mut daemon = daemon_with(&config, "pool");
        daemon.process.stderr.wait_for("line=\"ready\"");
        let supervisor = daemon.process.pid();
        let is_shell = |pid: &i32| {
            fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm == "sh\n")
        };
        let shell = children(supervisor).into_iter().find(is_shell).expect("the entry exists");
        let left_behind = children(shell);
        let ended = daemon.terminate().expect(0);
        assert!(ended.stderr.contains("killing it"), "{input}: {}", ended.stderr);
        assert!(!is_alive(shell) && left_behind.len() == 1, "{input}");
        eventually("the end of its group", || (!is_alive(left_behind[0])).then_some(()));
    }
}

#[test]
fn a_filter_hears_all_that_was_accepted_and_finishes() {
    for mode in MODES {
        let dir = ipcd_tests::private_dir();
        let file = dir.path().join("heard");
        let script =
            format!("while read -r l; do echo $l; done > {0}; echo end >> {0}", file.display());
        let mut daemon = daemon_with(&exec(&script, "subscribe = [\"words\"]"), mode);
        program(&daemon, "words");
        let words: String = (0..20_000).map(|number| format!("{number}\n")).collect();
        daemon.ctl("unix", &["send", "words", "-l"]).run_fed(words.as_bytes()).expect(0);
        let ended = daemon.terminate().expect(0);
        assert_eq!(fs::read_to_string(&file).expect("the file can be read"), words + "end\n");
        assert!(!ended.stderr.contains("killing"), "{}", ended.stderr);
    }
}

#[test]
fn programs_do_not_outlive_a_supervisor_that_is_killed() {
    let dir = ipcd_tests::private_dir();
    let file = dir.path().join("grandchild");
    let script = format!("sleep 1000 & echo $! > {}; wait", file.display());
    let daemon = daemon_with(&exec(&script, "publish = \"x\""), "pool");
    let grandchild = eventually("a grandchild", || {
        fs::read_to_string(&file).ok()?.strip_suffix('\n')?.parse().ok()
    });
    let mut family = children(daemon.process.pid());
    assert_eq!(family.len(), 3, "a worker, the program and who ends it");
    family.push(grandchild);
    kill(Pid::from_raw(daemon.process.pid()), Signal::SIGKILL).expect("the process runs");
    eventually("the end of all processes", || {
        family.iter().all(|pid| !is_alive(*pid)).then_some(())
    });
}

#[test]
fn one_that_loses_its_worker_or_is_kicked_is_started_again() {
    for mode in MODES {
        let keys = "subscribe = [\"words\"]\npublish = \"answers\"";
        let daemon = daemon_with(&exec(ANSWERS, keys), mode);
        let first = program(&daemon, "words");
        let slot = first["worker"].as_u64().expect("the field is a number");
        daemon.signal_worker(daemon.worker_in(slot).pid, Signal::SIGKILL);
        let another = |before: &serde_json::Value| {
            eventually("another process", || {
                let now = program(&daemon, "words");
                (now["pid"] != before["pid"]).then_some(now)
            })
        };
        let second = another(&first);
        assert_eq!(ask(&daemon, "words", "answers", "hello"), "<hello>\n");
        daemon.ctl("unix", &["kick", &second["id"].to_string()]).run().expect(0);
        another(&second);
        assert_eq!(ask(&daemon, "words", "answers", "again"), "<again>\n");
        assert!(!is_alive(pid_of(&first)) && !is_alive(pid_of(&second)));
    }
}

#[test]
fn a_reload_starts_and_ends_programs_and_leaves_nothing_behind() {
    let entry =
        |name: &str| exec(ANSWERS, &format!("subscribe = [\"{name}\"]\npublish = \"x.{name}\""));
    let daemon = daemon_with(&(entry("stays") + &entry("goes")), "pool");
    let (stays, goes) = (program(&daemon, "stays"), program(&daemon, "goes"));
    let (supervisor, worker) = (daemon.process.pid(), daemon.worker());
    let count = || (descriptors(supervisor).len(), descriptors(worker).len());
    let before = count();
    for round in 0..6 {
        let name = ["comes", "goes"][round % 2];
        daemon.reload(&(entry(name) + &entry("stays")));
        assert_eq!(ask(&daemon, name, &format!("x.{name}"), "hello"), "<hello>\n");
    }
    assert_eq!(program(&daemon, "stays")["pid"], stays["pid"], "it is left alone");
    eventually("as many descriptors and children as before", || {
        let now = count();
        let children = children(supervisor);
        let is_clean = children.len() == 4 && children.iter().all(|pid| state(*pid) != Some('Z'));
        (is_clean && now.0 <= before.0 && now.1 <= before.1).then_some(())
    });
    assert!(!is_alive(pid_of(&goes)));
    daemon.reload("");
    eventually("the end of all processes", || (children(supervisor) == [worker]).then_some(()));
}

#[test]
fn what_it_says_on_standard_error_is_logged_within_bounds() {
    let script =
        "printf 'red \\\\033[31m and \\\\302\\\\205\\\\n' >&2; printf 'no end' >&2; exit 0";
    let flood = "yes flood | head -100000 >&2; echo done >&2; exec sleep 1000";
    let config =
        exec(script, "publish = \"x\"") + &exec(flood, "publish = \"y\"\nname = \"chatty\"");
    let daemon = daemon_with(&config, "pool");
    let log = &daemon.process.stderr;
    log.wait_for("line=\"red \\u{1b}[31m and \\u{85}\"");
    log.wait_for("line=\"no end\"");
    log.wait_for("lines of its standard error were dropped program=\"chatty\"");
    // All other lines were dropped: 100 a second are shown.
    eventually("the end of the flood", || {
        let text = log.text();
        let dropped = text.lines().filter(|line| line.contains("error were dropped"));
        let numbers = dropped.filter_map(|line| line.rsplit_once("lines=")?.1.parse::<u64>().ok());
        let shown = text.matches("line=\"flood\"").count() as u64;
        let done = u64::from(text.contains("line=\"done\""));
        (numbers.sum::<u64>() + shown + done == 100_001).then_some(())
    });
    assert!(log.text().matches("line=\"flood\"").count() < 5000);
    assert!(!log.text().contains('\u{1b}'), "control characters are escaped");
}

#[test]
fn a_short_lived_program_is_heard_to_its_last_word() {
    let script = "read -r go; i=0; while [ $i -lt 1000 ]; do i=$((i+1)); echo $i; done";
    let keys = "subscribe = [\"go\"]\npublish = \"numbers\"\nrestart = \"never\"";
    for mode in MODES {
        let daemon = daemon_with(&exec(script, keys), mode);
        program(&daemon, "go");
        let mut receiver = daemon.recv("unix", &["-C", "1000", "numbers"]);
        daemon.send("go", "");
        let expected: String = (1..=1000).map(|number| format!("{number}\n")).collect();
        assert_eq!(receiver.wait().expect(0).text(), expected);
    }
}

/// Without `publish` the output is not published: it goes to the log, or is closed.
#[test]
fn a_program_that_publishes_nothing_does_with_its_output_what_it_likes() {
    let dir = ipcd_tests::private_dir();
    let file = dir.path().join("heard");
    let script = format!("echo begun; exec cat > {}", file.display());
    let daemon = daemon_with(&exec(&script, "subscribe = [\"words\"]"), "pool");
    daemon.process.stderr.wait_for("program says program=\"sh\"");
    daemon.process.stderr.wait_for("line=\"begun\"");
    let pid = pid_of(&program(&daemon, "words"));
    // Longer than a program would live whose output is published and closed.
    let send = ["send", "words", "x", "--count", "4", "--interval", "1s"];
    daemon.ctl("unix", &send).run().expect(0);
    eventually("the received lines", || {
        let text = fs::read_to_string(&file).unwrap_or_default();
        (text == "x\nx\nx\nx\n").then_some(())
    });
    assert_eq!(pid_of(&program(&daemon, "words")), pid);
    kill(Pid::from_raw(pid), Signal::SIGKILL).expect("the process runs");
    daemon.process.stderr.wait_for("program failed");
    eventually("another process", || (pid_of(&program(&daemon, "words")) != pid).then_some(()));
}

#[test]
fn a_bad_entry_is_found_before_anything_is_started() {
    for (entry, what) in [
        ("command = []\npublish = \"a\"", "program and its arguments"),
        ("command = [\"cat\"]", "subscribe"),
        ("command = [\"cat\"]\npublish = \"a..b\"", "publish"),
    ] {
        let said = refusal(&format!("[log]\n\n[[exec]]\n{entry}\n"));
        assert!(said.starts_with("3:1: ") && said.contains(what), "{said}");
    }
}
