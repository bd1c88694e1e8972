//! The guide's commands do what the guide says: each page is run as a user would type it, against
//! a daemon of its own, and what is printed is compared with the page.
//!
//! A fenced block `sh` is typed into one shell, block after block. A block `text` behind it is all
//! that it prints, on standard output or error; `…` in it stands for anything within a line.

use std::env;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use ipcd_tests::{Running, Setup, ipcctl};

/// Told apart from anything that a page prints.
const MARK: &str = "=== end of block";

struct Block {
    commands: String,
    expected: Option<String>,
}

fn guide() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/guide")
}

/// The blocks of a page, in their order.
fn blocks(page: &str) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        let Some(kind) = line.strip_prefix("```") else { continue };
        let body: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
        let body = body.join("\n");
        match (kind, blocks.last_mut()) {
            ("sh", _) => blocks.push(Block { commands: body, expected: None }),
            ("text", Some(block)) => block.expected = Some(body),
            _ => {}
        }
    }
    blocks
}

fn script(blocks: &[Block]) -> String {
    // What still runs at the end was started by the page.
    let mut script = "set -u\ntrap 'kill $(jobs -p) 2>/dev/null' EXIT\n".to_owned();
    for block in blocks {
        script += &format!("{}\necho '{MARK}'\n", block.commands);
    }
    script
}

fn run(page: &str) {
    let text = fs::read_to_string(guide().join(page)).expect("the page is there");
    let blocks = blocks(&text);
    assert!(!blocks.is_empty(), "{page} has no commands");
    let daemon = Setup::new().listen(&["unix", "pipe", "fifo"]).start();
    let programs = ipcctl().parent().expect("a program is in a directory").to_owned();
    let path = env::var_os("PATH").expect("there is a PATH");
    let path = env::join_paths([programs].into_iter().chain(env::split_paths(&path)));
    // Pages that use a file of the project do so from its top directory.
    symlink(guide().join(".."), daemon.dir().join("docs")).expect("the directory is ours");
    let mut command = Command::new("bash");
    command.args(["-c", &format!("exec 2>&1\n{}", script(&blocks))]);
    command.env("PATH", path.expect("no directory has a colon in its name"));
    command.env("IPCD_RUNTIME_DIR", daemon.runtime_dir()).env_remove("IPCD_VIA");
    command.current_dir(daemon.dir()).stdin(Stdio::null());
    let printed = Running::start(&mut command).wait().expect(0).text();
    let parts: Vec<&str> = printed.split(&format!("{MARK}\n")).collect();
    assert_eq!(parts.len(), blocks.len() + 1, "{page} prints:\n{printed}");
    for (block, printed) in blocks.iter().zip(parts) {
        let expected = block.expected.as_deref().unwrap_or_default();
        let is_alike = printed.lines().count() == expected.lines().count()
            && printed.lines().zip(expected.lines()).all(|(line, pattern)| is_like(line, pattern));
        assert!(
            is_alike,
            "{page}:\n{}\nprints:\n{printed}\nand should print:\n{expected}\n",
            block.commands
        );
    }
}

/// Whether a line is the pattern, in which `…` stands for anything.
fn is_like(line: &str, pattern: &str) -> bool {
    let mut pieces = pattern.split('…');
    let first = pieces.next().unwrap_or_default();
    let Some(mut rest) = line.strip_prefix(first) else { return false };
    let pieces: Vec<&str> = pieces.collect();
    let Some((last, middle)) = pieces.split_last() else { return rest.is_empty() };
    for piece in middle {
        let Some(at) = rest.find(piece) else { return false };
        rest = &rest[at + piece.len()..];
    }
    rest.ends_with(last)
}

#[test]
fn every_page_is_run_and_listed() {
    let summary = fs::read_to_string(guide().join("../SUMMARY.md")).expect("it is there");
    let source = include_str!("guide.rs");
    for entry in fs::read_dir(guide()).expect("the guide is there") {
        let name = entry.expect("it can be read").file_name();
        let name = name.to_str().expect("names are plain");
        assert!(summary.contains(&format!("(guide/{name})")), "{name} is not in SUMMARY.md");
        assert!(source.contains(&format!("run(\"{name}\")")), "{name} is not run");
    }
}

#[test]
fn patterns_match_what_they_say() {
    assert!(is_like("a 12 b", "a … b") && is_like("a", "a") && is_like("abc", "…"));
    assert!(is_like("a1b2c", "a…b…c") && !is_like("a1c", "a…b…c"));
    assert!(!is_like("ab", "a") && !is_like("b", "a…"));
}

#[test]
fn subjects() {
    run("subjects.md");
}

#[test]
fn groups() {
    run("groups.md");
}

#[test]
fn requests() {
    run("requests.md");
}

#[test]
fn flow_control() {
    run("flow-control.md");
}

#[test]
fn delivery() {
    run("delivery.md");
}

#[test]
fn access() {
    run("access.md");
}

#[test]
fn tls() {
    run("tls.md");
}

#[test]
fn bring_your_own_program() {
    run("bring-your-own-program.md");
}

#[test]
fn relay() {
    run("relay.md");
}

#[test]
fn service() {
    run("service.md");
}
