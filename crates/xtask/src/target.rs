//! Targets other than this machine's: their standard library, C compiler and linker.
//!
//! zig is the C compiler and the linker. The standard library is the one that rustup has installed;
//! else it is built from its source, which must be that of this very compiler.

use std::path::PathBuf;
use std::process::Command;

use crate::steps::{Outcome, Workshop, output};

/// A target for which the workspace is checked or built.
pub(crate) struct Target {
    pub(crate) triple: &'static str,
    /// Packages of it that are meant for it.
    pub(crate) packages: &'static [&'static str],
}

/// The static binaries are built for these.
pub(crate) const STATIC: [Target; 2] =
    [whole("x86_64-unknown-linux-musl"), whole("aarch64-unknown-linux-musl")];

/// The code is also checked for these.
pub(crate) const OTHERS: [Target; 2] = [
    whole("aarch64-unknown-linux-gnu"),
    // These crates ask no system: the client needs calls of Linux below it, such as openat2 and SO_PEERCRED.
    Target { triple: "aarch64-apple-darwin", packages: &["ipcd-proto", "ipcd-core"] },
];

const fn whole(triple: &'static str) -> Target {
    Target { triple, packages: &["ipcd", "ipcctl", "ipcd-client"] }
}

impl Target {
    /// The processor, as `uname -m` and Debian's emulators name it.
    pub(crate) fn processor(&self) -> &'static str {
        self.triple.split('-').next().unwrap_or(self.triple)
    }

    /// A call of Cargo for this target; the error says what this machine lacks.
    pub(crate) fn cargo(&self, shop: &Workshop, verb: &str) -> Outcome<Command> {
        shop.need(&["zig"])?;
        let tools = shop.tools().join("zig/bin");
        let mut command = Command::new(tools.join("cargo-zigbuild"));
        command.current_dir(&shop.root).args([verb, "--locked", "--target", self.triple]);
        let path = std::env::var("PATH").unwrap_or_default();
        // cargo-zigbuild looks for zig there.
        command.env("PATH", format!("{}:{path}", tools.display()));
        if !self.has_library()? {
            let source = library_source(shop)?;
            // Building the standard library is a feature of nightly compilers only. Ours knows it as
            // well, and the source is its own: the same version.
            command.arg("-Zbuild-std=std,panic_unwind").env("RUSTC_BOOTSTRAP", "1");
            // The objects that begin a program are zig's: rustup has brought none for this target.
            let flags =
                format!("CARGO_TARGET_{}_RUSTFLAGS", self.triple.to_uppercase().replace('-', "_"));
            if self.triple.ends_with("musl") {
                command.env(flags, "-Clink-self-contained=no");
            }
            // Cargo looks only among the files of rustup otherwise.
            command.env("__CARGO_TESTS_ONLY_SRC_ROOT", source);
        }
        Ok(command)
    }

    fn has_library(&self) -> Outcome<bool> {
        let mut rustc = Command::new("rustc");
        let found = output(rustc.args(["--print", "target-libdir", "--target", self.triple]))?;
        Ok(PathBuf::from(String::from_utf8_lossy(&found).trim()).is_dir())
    }
}

/// The source of the standard library: of rustup, of the system, or fetched.
fn library_source(shop: &Workshop) -> Outcome<PathBuf> {
    let version = output(Command::new("rustc").arg("--version"))?;
    let version = String::from_utf8_lossy(&version).into_owned();
    let version = version.split(' ').nth(1).ok_or("rustc does not tell its version")?;
    shop.need(&["std"]).map_err(|why| {
        format!("its standard library is not installed (rustup target add), {why}")
    })?;
    let sysroot = output(Command::new("rustc").args(["--print", "sysroot"]))?;
    let sysroot = PathBuf::from(String::from_utf8_lossy(&sysroot).trim());
    let debian = format!("usr/src/rustc-{version}/library");
    let places = [
        sysroot.join("lib/rustlib/src/rust/library"),
        PathBuf::from("/").join(&debian),
        shop.tools().join("std").join(&debian),
    ];
    let found = places.into_iter().find(|place| place.join("std").is_dir());
    found.ok_or_else(|| format!("there is no source of the standard library of {version}"))
}
