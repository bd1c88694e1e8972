//! Skips tests that this machine cannot run.

use std::env;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Debian's packages of programs that have another name.
const PACKAGES: [(&str, &str); 13] = [
    ("awk", "mawk"),
    ("cc", "gcc"),
    ("ip", "iproute2"),
    ("logger", "bsdutils"),
    ("nc", "netcat-openbsd"),
    ("nft", "nftables"),
    ("prlimit", "util-linux"),
    ("setsid", "util-linux"),
    ("ssh", "openssh-client"),
    ("ssh-keygen", "openssh-client"),
    ("/usr/sbin/sshd", "openssh-server"),
    ("/usr/bin/systemd-socket-activate", "systemd"),
    ("xargs", "findutils"),
];

/// Prints in one line that a test is skipped, also if the test runner captures the output of
/// tests.
pub fn skip(why: &str) {
    let name = std::thread::current().name().unwrap_or("a test").to_owned();
    // The line is one write, so that lines of other tests do not mix with it.
    let _ = std::io::stderr().write_all(format!("skipped: {name}: {why}\n").as_bytes());
}

/// The interpreter of Python that has the package `ipcd`, which `IPCD_PYTHON` names. Without one the
/// skip is printed, and the test must return.
pub fn python() -> Option<PathBuf> {
    let named = env::var_os("IPCD_PYTHON").filter(|named| !named.is_empty());
    if named.is_none() {
        skip(
            "IPCD_PYTHON names no interpreter with the package ipcd: run crates/ipcd-python/check",
        );
    }
    named.map(PathBuf::from)
}

/// Whether one of these programs is not installed. If so, the skip is printed, and the test must
/// return.
pub fn is_without(programs: &[&str]) -> bool {
    let missing: Vec<String> =
        programs.iter().filter(|program| find(program).is_none()).map(named).collect();
    if !missing.is_empty() {
        let verb = if missing.len() == 1 { "is" } else { "are" };
        skip(&format!("{} {verb} not installed", missing.join(", ")));
    }
    !missing.is_empty()
}

fn named(program: &&str) -> String {
    let package = PACKAGES.iter().find(|(name, _)| name == program);
    match package {
        Some((_, package)) => format!("{program} (Debian: {package})"),
        None => (*program).to_owned(),
    }
}

/// The file of a program: at its path, or in `PATH`.
fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    // `join` takes an absolute path as it is.
    env::split_paths(&path).map(|dir| dir.join(program)).find(|file| is_executable(file))
}

fn is_executable(file: &Path) -> bool {
    file.metadata().is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}
