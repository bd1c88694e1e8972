//! Completion in the shells themselves, from a running daemon.

use std::process::Command;

use ipcd_tests::{Daemon, ProcessResult, RunningProcess, ipcctl, is_without};

/// A daemon with a named peer and its subscriptions.
fn daemon_with_a_peer() -> (Daemon, RunningProcess) {
    let daemon = Daemon::start();
    let args = ["--name", "till", "recv", "-E", "-g", "workers", "logs.>", "logs.web", "orders.*"];
    let peer = daemon.ctl("unix", &args).spawn_subscribed();
    (daemon, peer)
}

/// Runs a shell with the completion script, which is also what `$1` names; `ipcctl` is in its `PATH`.
fn in_shell(daemon: &Daemon, shell: &str, args: &[&str], script: &str) -> ProcessResult {
    let program = ipcctl();
    let folder = program.parent().expect("a program lies in a folder");
    let path = std::env::var("PATH").expect("a test has a PATH");
    let mut command = Command::new(shell);
    command.args(args).args(["-c", script]).stdin(std::process::Stdio::null());
    command.env("PATH", format!("{}:{path}", folder.display()));
    command.env("IPCD_VIA", daemon.via("unix")).env("IPCD_RUNTIME_DIR", daemon.runtime_dir());
    RunningProcess::start(&mut command).wait()
}

/// Lines, the words to complete and what a shell must offer for them.
const LINES: [(&str, &str, &[&str]); 9] = [
    ("ipcctl send lo", "lo", &["logs.", "logs.web"]),
    ("ipcctl recv ", "", &["logs.>", "logs.web", "orders.*"]),
    ("ipcctl recv --group ", "", &["workers"]),
    ("ipcctl kick ", "", &["till"]),
    ("ipcctl send @t", "@t", &["@till"]),
    ("ipcctl --via t", "t", &["tcp", "tls"]),
    ("ipcctl se", "se", &["send", "serve"]),
    ("ipcctl recv --gr", "--gr", &["--group"]),
    ("ipcctl --runtime-dir /nonexistent --via unix send lo", "lo", &[]),
];

/// The first words of lines: fish prints descriptions as well.
fn words(text: &str) -> Vec<&str> {
    text.lines().filter_map(|line| line.split('\t').next()).collect()
}

#[test]
fn bash_completes_subjects_peers_and_transports() {
    if is_without(&["bash"]) {
        return;
    }
    let (daemon, _peer) = daemon_with_a_peer();
    for (line, part, expected) in LINES {
        let script = format!(
            "source <(ipcctl completion bash)
            COMP_LINE='{line}' COMP_POINT={} COMP_WORDS=()
            _ipcctl ipcctl '{part}' ''
            printf '%s\\n' \"${{COMPREPLY[@]}}\"",
            line.len()
        );
        let found = in_shell(&daemon, "bash", &["--norc"], &script).expect(0).text();
        // A shell would take wildcards for its own.
        let expected: Vec<_> =
            expected.iter().map(|it| it.replace('>', "\\>").replace('*', "\\*")).collect();
        let found: Vec<_> = words(&found).into_iter().filter(|word| !word.is_empty()).collect();
        assert_eq!(found, expected, "{line}");
    }
}

#[test]
fn bash_replaces_only_the_part_of_a_word_that_follows_a_break() {
    if is_without(&["bash"]) {
        return;
    }
    let (daemon, _peer) = daemon_with_a_peer();
    let endpoint = daemon.via("unix");
    let rest = endpoint.strip_prefix("unix:").expect("it is an endpoint of unix");
    let line = "ipcctl --via unix:";
    let script = format!(
        "source <(ipcctl completion bash)
        COMP_LINE='{line}' COMP_POINT={} COMP_WORDS=()
        _ipcctl ipcctl '' ''
        printf '%s\\n' \"${{COMPREPLY[@]}}\"",
        line.len()
    );
    let found = in_shell(&daemon, "bash", &["--norc"], &script).expect(0).text();
    assert!(words(&found).contains(&rest), "{rest} is not among {found}");
}

#[test]
fn fish_completes_subjects_peers_and_transports() {
    if is_without(&["fish"]) {
        return;
    }
    let (daemon, _peer) = daemon_with_a_peer();
    for (line, _, expected) in LINES {
        let script = format!("ipcctl completion fish | source; complete -C '{line}'");
        let found = in_shell(&daemon, "fish", &["--no-config"], &script).expect(0).text();
        assert_eq!(words(&found), expected, "{line}");
    }
}

#[test]
fn zsh_completes_subjects_peers_and_transports() {
    if is_without(&["zsh"]) {
        return;
    }
    let (daemon, _peer) = daemon_with_a_peer();
    for (line, part, expected) in LINES {
        // The completion system hands over the words, and takes the candidates from an array.
        let count = line.split(' ').count();
        let quoted = line.replace(part, &format!("'{part}'"));
        let line_words = if part.is_empty() { format!("{line}''") } else { quoted };
        let script = format!(
            "compdef() {{ : }}; _files() {{ : }}
            compadd() {{ print -rl -- ${{(P)@[-1]}} }}
            source <(ipcctl completion zsh)
            words=({line_words}) CURRENT={count}; _ipcctl; true"
        );
        let found = in_shell(&daemon, "zsh", &["-f"], &script).expect(0).text();
        assert_eq!(words(&found), expected, "{line}");
    }
}
