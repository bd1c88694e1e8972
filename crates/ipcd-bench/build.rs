//! Notes which commit is built, for the reports of `ipcctl bench`.

use std::path::Path;
use std::process::Command;

const LOG: &str = "../../.git/logs/HEAD";

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if !Path::new(LOG).exists() {
        return;
    }
    println!("cargo::rerun-if-changed={LOG}");
    let commit = Command::new("git").args(["rev-parse", "--short=12", "HEAD"]).output();
    // Without git, or outside a repository, the report says that it does not know.
    if let Ok(commit) = commit
        && commit.status.success()
    {
        println!("cargo::rustc-env=IPCD_COMMIT={}", String::from_utf8_lossy(&commit.stdout).trim());
    }
}
