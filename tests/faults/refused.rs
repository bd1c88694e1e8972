//! The kernel's refusals: a preloaded library makes system calls of a running daemon fail.
//!
//! A tracer would leave the call number -1 behind when it detaches inside a call that it refuses,
//! and the sandbox then answers that with EPERM: a fault that no kernel has.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use ipcd_tests::{DaemonSetup, is_without, private_dir};
use nix::errno::Errno;
use tempfile::TempDir;

/// Every call of a kind.
pub(crate) const ALWAYS: [u32; 2] = [1, 1];

/// The layout of `struct control` in refuse.c: the offsets of its fields, and its size.
const TURN: u64 = 0;
const REFUSED: u64 = 4;
const ORDER: u64 = 8;
const PIDS: usize = 8;
const CALLS: usize = 220;
const LENGTH: u64 = ORDER + 12 + 4 * PIDS as u64 + CALLS as u64;

/// A control of the failing calls of one daemon.
pub(crate) struct Refusals {
    dir: TempDir,
    library: PathBuf,
    control: File,
    turn: AtomicU32,
}

impl Refusals {
    /// Builds the library; skips the test if there is no compiler.
    pub(crate) fn prepare() -> Option<Self> {
        let dir = private_dir();
        let library = build_library(dir.path(), "refuse")?;
        let path = dir.path().join("control");
        let control = File::options().read(true).write(true).create_new(true).open(path);
        let control = control.expect("the directory is writable");
        control.set_len(LENGTH).expect("the file is writable");
        Some(Self { dir, library, control, turn: AtomicU32::new(1) })
    }

    /// A daemon whose calls can be refused.
    pub(crate) fn over(&self, setup: DaemonSetup) -> DaemonSetup {
        let control = self.dir.path().join("control");
        setup.wrapper(&format!(
            "exec env LD_PRELOAD={} IPCD_REFUSALS={} \"$@\"",
            self.library.display(),
            control.display()
        ))
    }

    /// Makes these calls of these processes fail until the returned value is dropped. Of each call
    /// and process, the `first` fails, and then every call after `step` more.
    pub(crate) fn refuse(
        &self,
        pids: &[i32],
        calls: &str,
        error: Errno,
        [first, step]: [u32; 2],
    ) -> Refused<'_> {
        assert!(pids.len() <= PIDS && calls.len() + 2 < CALLS, "the library has no room for it");
        let mut order = Vec::new();
        for number in [error as u32, first, step] {
            order.extend(number.to_ne_bytes());
        }
        let pids = pids.iter().copied().chain(std::iter::repeat(0)).take(PIDS);
        pids.for_each(|pid| order.extend(pid.to_ne_bytes()));
        order.extend(format!(",{calls},\0").bytes());
        self.write(REFUSED, &[0; 4]);
        self.write(ORDER, &order);
        self.write(TURN, &self.turn.fetch_add(1, Ordering::Relaxed).to_ne_bytes());
        Refused(self)
    }

    fn write(&self, at: u64, bytes: &[u8]) {
        self.control.write_all_at(bytes, at).expect("the file is ours");
    }
}

/// While this lives, calls fail.
#[must_use]
pub(crate) struct Refused<'a>(&'a Refusals);

impl Refused<'_> {
    /// The number of calls that have failed.
    pub(crate) fn count(&self) -> usize {
        let mut count = [0; 4];
        self.0.control.read_exact_at(&mut count, REFUSED).expect("the file is ours");
        u32::from_ne_bytes(count) as usize
    }
}

impl Drop for Refused<'_> {
    fn drop(&mut self) {
        self.0.write(TURN, &[0; 4]);
    }
}

/// A library of this folder, built for LD_PRELOAD; skips the test if there is no compiler.
///
/// # Panics
/// If the compiler fails.
pub(crate) fn build_library(dir: &Path, name: &str) -> Option<PathBuf> {
    if is_without(&["cc"]) {
        return None;
    }
    let source = format!("{}/faults/{name}.c", env!("CARGO_MANIFEST_DIR"));
    let made = dir.join(name).with_extension("so");
    let mut cc = Command::new("cc");
    cc.args(["-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o"])
        .arg(&made)
        .args([&source, "-ldl"]);
    assert!(cc.status().expect("the program is installed").success(), "{source} cannot be built");
    Some(made)
}
