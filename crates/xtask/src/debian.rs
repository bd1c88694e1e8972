//! The Debian package: made by cargo-deb, checked by lintian, tried in a fresh Debian.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use crate::stage;
use crate::steps::{Outcome, Workshop, is_installed, on, run};

/// Makes the package for this machine's architecture.
pub(crate) fn make(shop: &mut Workshop) -> Outcome {
    if !is_installed("dpkg-shlibdeps") {
        shop.skip("the Debian package", "dpkg-shlibdeps is not installed (Debian: dpkg-dev)");
        return Ok(());
    }
    if let Err(why) = shop.need(&["cargo-deb"]) {
        shop.skip("the Debian package", &why);
        return Ok(());
    }
    stage::fill(shop)?;
    let path = std::env::var("PATH").unwrap_or_default();
    let path = format!("{}:{path}", shop.tools().join("bin").display());
    run(shop
        .cargo()
        .env("PATH", path)
        .args(["deb", "--quiet", "--locked", "--no-build", "--no-strip", "-p", "xtask", "--output"])
        .arg(&shop.dist))?;
    lint(shop)
}

fn lint(shop: &mut Workshop) -> Outcome {
    if !is_installed("lintian") {
        shop.skip("lintian", "it is not installed");
        return Ok(());
    }
    let fatal = "--fail-on=error,warning";
    run(Command::new("lintian").args(["--allow-root", fatal, "--info"]).arg(package(shop)?))
}

/// The package that was made last.
fn package(shop: &Workshop) -> Outcome<PathBuf> {
    let entries = fs::read_dir(&shop.dist).map_err(|error| on(&shop.dist, &error))?;
    let files = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let found = files.filter(|path| path.extension().is_some_and(|it| it == "deb")).max();
    found.ok_or_else(|| "there is no package yet: cargo xtask dist deb".to_owned())
}

/// Installs, uses and purges the package in a fresh Debian.
pub(crate) fn try_package(shop: &mut Workshop) -> Outcome {
    let package = package(shop)?;
    if !is_installed("debootstrap") {
        shop.skip("the trial in a fresh Debian", "debootstrap is not installed");
        return Ok(());
    }
    if !is_root() {
        shop.skip("the trial in a fresh Debian", "only root can make one");
        return Ok(());
    }
    run(Command::new(shop.own("deb/try")).arg(package).arg(shop.target.join("fresh-debian")))
}

/// Whether this process may make a root directory of its own, without a crate for one call.
fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}
