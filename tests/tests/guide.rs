//! The guide's commands work as printed: each page is typed into a shell, twice in one directory,
//! against a daemon of its own, and the output is compared with the page.
//!
//! A fenced block `sh` is typed into one shell, block after block. A block `text` after it is its
//! whole output, on standard output or error; `…` in it stands for any text within a line.

use std::env;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use ipcd_tests::{Daemon, DaemonSetup, RunningProcess, ipcctl, is_without, private_dir};

/// A line that no page prints.
const MARK: &str = "=== end of block";

#[derive(Clone)]
struct CodeBlock {
    commands: String,
    expected: Option<String>,
}

fn guide() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/guide")
}

/// The blocks of a page, in their order.
fn blocks(page: &str) -> Vec<CodeBlock> {
    let mut blocks: Vec<CodeBlock> = Vec::new();
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        let Some(kind) = line.strip_prefix("```") else { continue };
        let body: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
        let body = body.join("\n");
        match (kind, blocks.last_mut()) {
            ("sh", _) => blocks.push(CodeBlock { commands: body, expected: None }),
            ("text", Some(block)) => block.expected = Some(body),
            _ => {}
        }
    }
    blocks
}

/// Programs that pages use beyond a shell's own words and coreutils.
const PROGRAMS: [&str; 12] = [
    "bash", "awk", "cc", "grep", "logger", "nc", "openssl", "python3", "rev", "sed", "socat",
    "xargs",
];

/// The programs that a page needs.
fn programs(blocks: &[CodeBlock]) -> Vec<&'static str> {
    let is_word_in = |text: &str, program: &str| {
        text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').any(|word| word == program)
    };
    let is_used = |program: &&str| {
        *program == "bash" || blocks.iter().any(|block| is_word_in(&block.commands, program))
    };
    PROGRAMS.into_iter().filter(is_used).collect()
}

/// Lists the processes that a page leaves running: none.
const LEFT: &str = "jobs -r";

fn script(blocks: &[CodeBlock]) -> String {
    // Processes that still run at the end were started by the page.
    let mut script = "exec 2>&1\nset -u\ntrap 'kill $(jobs -p) 2>/dev/null' EXIT\n".to_owned();
    for block in blocks {
        script += &format!("{}\necho '{MARK}'\n", block.commands);
    }
    script
}

/// The commands of a page of the guide, and a check of the processes that it leaves.
fn commands(page: &str) -> Vec<CodeBlock> {
    let text = fs::read_to_string(guide().join(page)).expect("the page is there");
    let mut blocks = blocks(&text);
    assert!(!blocks.is_empty(), "{page} has no commands");
    blocks.push(CodeBlock { commands: LEFT.to_owned(), expected: None });
    blocks
}

/// Types a page twice.
fn run(page: &str) {
    type_in(page, &[commands(page), commands(page)].concat());
}

fn pages() -> Vec<String> {
    let entries = fs::read_dir(guide()).expect("the guide is there");
    let name = |entry: fs::DirEntry| entry.file_name().into_string().expect("names are plain");
    let mut names: Vec<_> = entries.map(|entry| name(entry.expect("it can be read"))).collect();
    names.sort();
    names
}

/// Types blocks into a shell, one after the other, in a directory of its own, where a daemon runs.
fn type_in(page: &str, blocks: &[CodeBlock]) {
    if is_without(&programs(blocks)) {
        return;
    }
    let daemon = DaemonSetup::new().listen(&["unix", "pipe", "fifo"]).start();
    type_beside(&daemon, page, blocks, |_, block, said| check(page, block, said));
}

fn type_beside(
    daemon: &Daemon,
    page: &str,
    blocks: &[CodeBlock],
    check: impl Fn(usize, &CodeBlock, &str),
) {
    let mut programs = vec![ipcctl()];
    // The interpreter that has the package of this project.
    programs.extend(env::var_os("IPCD_PYTHON").map(PathBuf::from));
    let directory = |program: &PathBuf| program.parent().map(Path::to_owned);
    let path = env::var_os("PATH").expect("PATH is set");
    let path =
        env::join_paths(programs.iter().filter_map(directory).chain(env::split_paths(&path)));
    // Pages that use a file of the project do so from its top directory.
    symlink(guide().join(".."), daemon.dir().join("docs")).expect("the directory is writable");
    // From a file, so that an error names the command.
    let file = private_dir();
    let file = file.path().join("typed");
    fs::write(&file, script(blocks)).expect("the directory is writable");
    let mut command = Command::new("bash");
    command.arg(&file).env("PATH", path.expect("no directory has a colon in its name"));
    command.env("IPCD_RUNTIME_DIR", daemon.runtime_dir()).env_remove("IPCD_VIA");
    command.current_dir(daemon.dir()).stdin(Stdio::null());
    let mut shell = RunningProcess::start(&mut command);
    let mark = format!("{MARK}\n");
    for (number, block) in blocks.iter().enumerate() {
        let what = format!("the end of a block of {page}:\n{}\n", block.commands);
        let printed = shell.stdout().wait_until(&what, |printed| {
            let mut parts = printed.split(&mark).skip(number);
            let part = parts.next()?.to_owned();
            parts.next().map(|_| part)
        });
        check(number, block, &printed);
    }
    shell.wait().expect(0);
}

/// The blocks of README that are typed while a daemon runs, and end by themselves.
fn tour(daemon: &Daemon) -> Vec<CodeBlock> {
    let text = fs::read_to_string(guide().join("../../README.md")).expect("the file can be read");
    let (_, tour) = text.split_once("## Five minutes").expect("it has a tour");
    let own = |scheme| (format!("--via {scheme} "), format!("--via {} ", daemon.via(scheme)));
    let tour = ["tcp", "udp"].map(own).iter().fold(tour.to_owned(), |tour, (default, own)| {
        assert!(tour.contains(default), "README has no {default}");
        tour.replace(default, own)
    });
    let starts = ["cargo ", "export ", "ipcd ", "ipcctl recv -v ", "ipcctl relay "];
    let is_typed = |line: &&str| !starts.iter().any(|start| line.starts_with(start));
    let mut blocks = blocks(&tour);
    for block in &mut blocks {
        let lines: Vec<&str> = block.commands.lines().filter(is_typed).collect();
        block.commands = lines.join("\n");
    }
    blocks.retain(|block| !block.commands.is_empty());
    blocks
}

#[test]
fn the_tour_of_readme() {
    const SAID: [&[&str]; 5] = [
        &[],
        &[],
        &["pong from", "messages_accepted", "TRANSPORT"],
        &["\"name\":\"till\"", "\"transport\":\"tcp\""],
        &["3\n", "ipcctl: req nobody.there: "],
    ];
    let daemon = DaemonSetup::new().start();
    let blocks = tour(&daemon);
    assert_eq!(blocks.len(), SAID.len(), "README has other blocks");
    if is_without(&programs(&blocks)) {
        return;
    }
    type_beside(&daemon, "README.md", &[&blocks[..], &blocks].concat(), |number, block, said| {
        let wanted = SAID[number % SAID.len()];
        let is_said = wanted.iter().all(|part| said.contains(part));
        let is_as_wanted =
            is_said && said.matches("ipcctl: ").count() == usize::from(number % 5 == 4);
        assert!(is_as_wanted, "README.md:\n{}\nprints:\n{said}", block.commands);
    });
}

fn check(page: &str, block: &CodeBlock, printed: &str) {
    let (commands, expected) = (&block.commands, block.expected.as_deref().unwrap_or_default());
    let is_alike = printed.lines().count() == expected.lines().count()
        && printed.lines().zip(expected.lines()).all(|(line, pattern)| is_like(line, pattern));
    let text = format!("{commands}\nprints:\n{printed}\nand should print:\n{expected}\n");
    assert!(is_alike, "{page}:\n{text}");
}

/// Whether a line matches the pattern, in which `…` stands for any text.
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
    let summary = fs::read_to_string(guide().join("../SUMMARY.md")).expect("the file can be read");
    let source = include_str!("guide.rs");
    for name in pages() {
        assert!(summary.contains(&format!("(guide/{name})")), "{name} is not in SUMMARY.md");
        assert!(source.contains(&format!("run(\"{name}\")")), "{name} is not run");
    }
}

/// Forwards and backwards, so that each page comes after each other one, in one shell.
#[test]
fn any_page_can_be_typed_after_any_other() {
    let mut pages = pages();
    // That test says why it is left out.
    pages.retain(|page| page != "python.md" || env::var_os("IPCD_PYTHON").is_some());
    let order = pages.iter().chain(pages.iter().rev());
    let blocks: Vec<CodeBlock> = order.flat_map(|page| commands(page)).collect();
    type_in("all pages", &blocks);
}

#[test]
fn patterns_match_what_they_say() {
    assert!(is_like("a 12 b", "a … b") && is_like("a", "a") && is_like("abc", "…"));
    assert!(is_like("a1b2c", "a…b…c") && !is_like("a1c", "a…b…c"));
    assert!(!is_like("ab", "a") && !is_like("b", "a…"));
}

#[test]
fn python() {
    if ipcd_tests::python().is_some() {
        run("python.md");
    }
}

#[test]
fn install() {
    run("install.md");
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
fn from_a_browser() {
    run("browser.md");
}

#[test]
fn bring_your_own_program() {
    run("bring-your-own-program.md");
}

#[test]
fn nats() {
    run("nats.md");
}

#[test]
fn relay() {
    run("relay.md");
}

#[test]
fn service() {
    run("service.md");
}
