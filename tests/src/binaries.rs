//! Paths of the binaries under test.

use std::path::PathBuf;

/// The daemon.
pub fn ipcd() -> PathBuf {
    binary("ipcd")
}

/// The tool.
pub fn ipcctl() -> PathBuf {
    binary("ipcctl")
}

/// An example of the client library.
pub fn example(name: &str) -> PathBuf {
    binary(&format!("examples/{name}"))
}

/// A binary of this workspace, of the same profile as the calling test.
///
/// # Panics
/// If it was not built: Cargo builds the binaries of another package only when that has tests.
fn binary(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("a test knows its own path");
    // target/PROFILE/deps/TEST-HASH, or target/PROFILE/soak
    let folder = test.parent().expect("a test lies in its target directory");
    let profile = if folder.ends_with("deps") { folder.parent().unwrap_or(folder) } else { folder };
    let path = profile.join(name);
    let shown = path.display();
    assert!(path.is_file(), "{shown} is missing: run `cargo build --workspace`, which builds it");
    path
}
