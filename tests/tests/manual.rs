//! Manual pages: one for each verb, and those that are written by hand are complete.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use ipcd_tests::{ProcessResult, RunningProcess, ipcctl, ipcd, is_without, private_dir};

fn run(program: PathBuf, args: &[&str]) -> ProcessResult {
    let mut command = Command::new(program);
    RunningProcess::start(command.args(args).stdin(Stdio::null())).wait()
}

/// A page that is written by hand.
fn hand_written(name: &str) -> String {
    fs::read_to_string(hand_written_dir().join(name)).expect("the page is there")
}

fn hand_written_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/man")
}

/// The verbs that `--help` lists, with those of `acl`.
fn verbs(args: &[&str]) -> Vec<String> {
    let help = run(ipcctl(), args).expect(0).text();
    let lines = help.lines().skip_while(|line| !line.starts_with("Commands:")).skip(1);
    let lines = lines.take_while(|line| !line.is_empty());
    let names = lines.filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    names.filter_map(|line| line.split_whitespace().next()).map(String::from).collect()
}

#[test]
fn every_verb_has_a_page() {
    let dir = private_dir();
    run(ipcctl(), &["man", "--into", &dir.path().display().to_string()]).expect(0);
    let written = fs::read_dir(dir.path()).expect("pages are written");
    let written: BTreeSet<String> = written
        .map(|page| page.expect("a page is a file").file_name().to_string_lossy().into_owned())
        .collect();
    let mut expected: BTreeSet<String> =
        verbs(&["--help"]).iter().filter(|verb| *verb != "help").map(|verb| page(verb)).collect();
    assert!(expected.len() > 15, "{expected:?}");
    expected.extend(["ipcctl.1".into(), "ipcctl-acl-check.1".into()]);
    assert_eq!(written, expected);
    for verb in verbs(&["--help"]).iter().filter(|verb| *verb != "help") {
        let text = run(ipcctl(), &["man", verb]).expect(0).text();
        assert_eq!(text, fs::read_to_string(dir.path().join(page(verb))).expect("it is there"));
        let name = format!("ipcctl\\-{verb} \\- ");
        assert!(text.contains(&name), "the page of {verb} begins with {text:.100}");
        assert!(!text.contains("\\-\\-token\\-name"), "{verb} repeats the global options");
    }
    let own = run(ipcctl(), &["man"]).expect(0).text();
    assert!(own.contains("\\-\\-token\\-name") && own.contains("EXIT STATUS"), "{own}");
    let failed = run(ipcctl(), &["man", "frobnicate"]).expect(2);
    assert!(failed.stderr.contains("there is no verb frobnicate"), "{}", failed.stderr);
    // A page of a verb that is internal.
    run(ipcctl(), &["man", "demo-sender"]).expect(2);
}

fn page(verb: &str) -> String {
    format!("ipcctl-{verb}.1")
}

/// The pages of the tool, then those written by hand.
#[test]
fn pages_are_free_of_errors() {
    if is_without(&["groff"]) {
        return;
    }
    let dir = private_dir();
    run(ipcctl(), &["man", "--into", &dir.path().display().to_string()]).expect(0);
    for folder in [dir.path().to_owned(), hand_written_dir()] {
        for entry in fs::read_dir(folder).expect("it is a folder") {
            let path = entry.expect("an entry can be read").path().display().to_string();
            let checked =
                run("groff".into(), &["-man", "-ww", "-Tutf8", "-P-c", "-rLL=100n", &path]);
            assert_eq!(checked.expect(0).stderr, "", "{path}");
        }
    }
}

#[test]
fn the_page_of_the_daemon_has_every_option() {
    let page = hand_written("ipcd.8").replace("\\-", "-");
    let help = run(ipcd(), &["--help"]).expect(0).text();
    let lines = help.lines().map(str::trim_start).filter(|line| line.starts_with('-'));
    let words = lines.flat_map(|line| line.split([' ', ',', '=']));
    let options: Vec<&str> = words.filter(|word| word.starts_with("--")).collect();
    assert!(options.len() > 15, "{help}");
    for option in options {
        assert!(page.contains(option), "ipcd(8) has no {option}");
    }
}

/// The keys are those of docs/CLI.md, which another test compares with the program.
#[test]
fn the_page_of_the_configuration_has_every_key() {
    let page = hand_written("ipcd.toml.5").replace("\\-", "-");
    let cli = fs::read_to_string(hand_written_dir().join("../CLI.md")).expect("the page is there");
    let block = cli.split("### Configuration").nth(1).expect("it has the chapter");
    let block = block.split("```toml\n").nth(1).and_then(|it| it.split("```").next());
    let lines = block.expect("it has a block").lines().map(|line| line.trim_start_matches("# "));
    let keys: BTreeSet<&str> = lines
        .filter(|line| !line.starts_with('['))
        .filter_map(|line| line.split([' ', '=']).next())
        .filter(|key| {
            !key.is_empty() && key.chars().all(|c| c.is_ascii_lowercase() || "_46".contains(c))
        })
        .collect();
    assert!(keys.len() > 40, "{keys:?}");
    for key in keys {
        assert!(page.contains(key), "ipcd.toml(5) has no {key}");
    }
}

/// The values of the sample are the defaults, and the examples in its comments are valid.
#[test]
fn the_sample_configuration_is_the_default() {
    let text = fs::read_to_string(hand_written_dir().join("../ipcd.toml")).expect("it is there");
    let dir = private_dir();
    let print = |text: &str| {
        let file = dir.path().join("ipcd.toml");
        fs::write(&file, text).expect("a file can be written");
        let (file, run_dir) = (file.display().to_string(), dir.path().display().to_string());
        let args = ["--config", &file, "--runtime-dir", &run_dir, "--print-config"];
        run(ipcd(), &args).expect(0).text()
    };
    assert_eq!(print(&text), print(""));
    // A comment has a space after its hash. The user and group may be missing on this machine.
    let with_examples: String = text
        .lines()
        .map(|line| line.strip_prefix('#').filter(|it| !it.starts_with([' ', '#'])).unwrap_or(line))
        .map(|line| line.replace("= \"ipcd\"", "= \"root\"").replace("group=ipcd", "group=root"))
        .map(|line| line + "\n")
        .collect();
    let printed = print(&with_examples);
    for section in ["[[listen]]", "[[connect]]", "[[exec]]", "[[token]]", "[[acl]]"] {
        assert!(printed.contains(section), "{printed}");
    }
}
