//! The places of a task, its steps, and what it has skipped.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// A result whose error is a line for people.
pub(crate) type Outcome<T = ()> = Result<T, String>;

/// The places of the workspace, and the skips so far.
pub(crate) struct Workshop {
    /// The top of the workspace.
    pub(crate) root: PathBuf,
    /// Cargo's target directory.
    pub(crate) target: PathBuf,
    /// The things that are handed out.
    pub(crate) dist: PathBuf,
    strict: bool,
    skipped: Vec<String>,
}

impl Workshop {
    pub(crate) fn new(strict: bool) -> Outcome<Self> {
        let package = Path::new(env!("CARGO_MANIFEST_DIR"));
        let root = package.ancestors().nth(2).ok_or("xtask lies in no workspace")?.to_owned();
        let given = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
        let target = given.map_or_else(|| root.join("target"), |dir| root.join(dir));
        // The table of assets in Cargo.toml names it.
        let dist = root.join("target/dist");
        Ok(Self { root, target, dist, strict, skipped: Vec::new() })
    }

    /// A file of this package.
    pub(crate) fn own(&self, name: &str) -> PathBuf {
        self.root.join("crates/xtask").join(name)
    }

    /// The folder of programs that neither Rust nor Debian has.
    pub(crate) fn tools(&self) -> PathBuf {
        self.target.join("tools")
    }

    /// Installs such programs; the error has the reason why one cannot be had.
    pub(crate) fn need(&self, tools: &[&str]) -> Outcome {
        let mut command = Command::new(self.own("tools"));
        let output = text_of(command.arg(self.tools()).args(tools))?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        Err(said.lines().next_back().unwrap_or("it ended without a reason").to_owned())
    }

    /// Notes that a part is not made or not checked, and why.
    pub(crate) fn skip(&mut self, part: &str, why: &str) {
        let line = format!("skipped: {part}: {why}");
        println!("{line}");
        self.skipped.push(line);
    }

    /// The end of a task: with `--strict` a skip is an error.
    pub(crate) fn end(self) -> Outcome {
        if self.strict && !self.skipped.is_empty() {
            return Err(self.skipped.join("\n"));
        }
        Ok(())
    }

    /// Cargo, at the top of the workspace, as it was called.
    pub(crate) fn cargo(&self) -> Command {
        let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        command.current_dir(&self.root);
        command
    }
}

/// Runs a step whose output is shown.
pub(crate) fn run(command: &mut Command) -> Outcome {
    println!("== {}", shown(command));
    let status = command.status().map_err(|error| failed(command, &error.to_string()))?;
    if status.success() { Ok(()) } else { Err(failed(command, &status.to_string())) }
}

/// Runs a step whose standard output is wanted.
pub(crate) fn output(command: &mut Command) -> Outcome<Vec<u8>> {
    let output = text_of(command)?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(failed(command, &format!("{}: {}", output.status, said.trim_end())));
    }
    Ok(output.stdout)
}

fn text_of(command: &mut Command) -> Outcome<Output> {
    let output = command.stdin(Stdio::null()).output();
    output.map_err(|error| failed(command, &error.to_string()))
}

fn shown(command: &Command) -> String {
    let words = [command.get_program()].into_iter().chain(command.get_args());
    words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}

fn failed(command: &Command, why: &str) -> String {
    format!("{}: {why}", shown(command))
}

/// Whether a program is in `PATH` or at its path.
pub(crate) fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let known = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(known).any(|dir| dir.join(program).is_file())
}

/// Makes a folder that is empty.
pub(crate) fn fresh(folder: &Path) -> Outcome {
    if folder.exists() {
        fs::remove_dir_all(folder).map_err(|error| on(folder, &error))?;
    }
    fs::create_dir_all(folder).map_err(|error| on(folder, &error))
}

/// Copies a file, and makes the folder that it goes to.
pub(crate) fn copy(from: &Path, to: &Path) -> Outcome {
    if let Some(folder) = to.parent() {
        fs::create_dir_all(folder).map_err(|error| on(folder, &error))?;
    }
    fs::copy(from, to).map(drop).map_err(|error| on(from, &error))
}

/// Writes a file, and makes the folder that it goes to.
pub(crate) fn write(to: &Path, bytes: &[u8]) -> Outcome {
    if let Some(folder) = to.parent() {
        fs::create_dir_all(folder).map_err(|error| on(folder, &error))?;
    }
    fs::write(to, bytes).map_err(|error| on(to, &error))
}

/// An error on a path.
pub(crate) fn on(path: &Path, error: &std::io::Error) -> String {
    format!("{}: {error}", path.display())
}
