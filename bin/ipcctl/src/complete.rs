//! Completion in shells: the scripts, and the candidates for a word, some from the running daemon.
//!
//! clap's engine finds what the command line knows: verbs, options, fixed values, paths. Subjects,
//! groups, peers and transports are added by the verb and the name of an argument's value. A
//! completion prints no error: without a daemon, or without the right to list, there are fewer
//! candidates.

mod bash;
mod daemon;

use std::ffi::{OsStr, OsString};
use std::io;

use clap::{Arg, Command, CommandFactory};
use clap_complete::Shell;
use clap_complete::engine::{ArgValueCandidates, CompletionCandidate};

use self::daemon::DaemonView;
use crate::args::{Arguments, CallingShell, CompleteArgs};
use crate::exit::Outcome;
use crate::output::write_all;

/// Prints the script for a shell.
pub(crate) fn script(shell: Shell) -> Outcome {
    let own: &str = match shell {
        Shell::Bash => include_str!("complete/bash.sh"),
        Shell::Zsh => include_str!("complete/zsh.sh"),
        Shell::Fish => include_str!("complete/fish.sh"),
        _ => "",
    };
    if !own.is_empty() {
        return write_all(own.as_bytes());
    }
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "ipcctl", &mut script);
    write_all(&script)
}

/// Prints the candidates for the last word, each in a line.
pub(crate) fn run(args: &CompleteArgs) -> Outcome {
    let text = match args.shell {
        CallingShell::Bash => bash::candidates(&args.words, &candidates),
        // A candidate, a tab, and its description.
        CallingShell::Zsh | CallingShell::Fish => {
            let lines = candidates(args.words.clone()).into_iter().map(described);
            lines.collect()
        }
    };
    write_all(text.as_bytes())
}

fn described(candidate: CompletionCandidate) -> String {
    let value = candidate.get_value().to_string_lossy();
    let help = candidate.get_help().map(ToString::to_string).unwrap_or_default();
    match help.lines().next() {
        Some(help) => format!("{value}\t{help}\n"),
        None => format!("{value}\n"),
    }
}

/// The candidates for the last of these words.
fn candidates(words: Vec<OsString>) -> Vec<CompletionCandidate> {
    let Some(last) = words.len().checked_sub(1) else { return Vec::new() };
    let word = words[last].clone();
    let dir = std::env::current_dir().ok();
    let mut command = command(&words);
    let found: io::Result<Vec<_>> =
        clap_complete::engine::complete(&mut command, words, last, dir.as_deref());
    let mut found = found.unwrap_or_default();
    found.retain(|candidate| is_printable(candidate.get_value()));
    // Each verb has a dozen options, which would hide the subjects.
    if word.is_empty() && found.iter().any(|candidate| !is_option(candidate)) {
        found.retain(|candidate| !is_option(candidate));
    }
    found
}

fn is_option(candidate: &CompletionCandidate) -> bool {
    candidate.get_value().as_encoded_bytes().starts_with(b"-")
}

/// Names and filters are chosen by other peers. A shell prints candidates unchanged, so those with
/// characters that act on a terminal or divide lines are left out.
fn is_printable(value: &OsStr) -> bool {
    value.to_str().is_some_and(|text| crate::output::visible(text) == text)
}

/// The command line, with candidates of the running daemon.
fn command(words: &[OsString]) -> Command {
    let daemon = DaemonView::new(words);
    let asks = |arg: Arg, find: fn(&DaemonView) -> Vec<CompletionCandidate>| {
        let daemon = daemon.clone();
        arg.add(ArgValueCandidates::new(move || find(&daemon)))
    };
    let is_value = |arg: &Arg, name: &str| {
        arg.get_value_names().is_some_and(|names| names.iter().any(|found| found.as_str() == name))
    };
    let receives = |verb: &str| matches!(verb, "recv" | "serve");
    let of_verb = |verb: &str, arg: Arg| match arg {
        arg if is_value(&arg, "VIA") => asks(arg, DaemonView::endpoints),
        arg if is_value(&arg, "ID|NAME") => asks(arg, DaemonView::peers),
        arg if is_value(&arg, "SUBJECT") && receives(verb) => asks(arg, DaemonView::filters),
        arg if is_value(&arg, "SUBJECT") => asks(arg, DaemonView::subjects),
        arg if is_value(&arg, "GROUP") && receives(verb) => asks(arg, DaemonView::groups),
        arg if is_value(&arg, "A") || is_value(&arg, "B") => asks(arg, DaemonView::sides),
        arg => arg,
    };
    let command = Arguments::command().mut_args(|arg| of_verb("", arg));
    command.mut_subcommands(|command| {
        let verb = command.get_name().to_owned();
        command.mut_args(|arg| of_verb(&verb, arg))
    })
}
