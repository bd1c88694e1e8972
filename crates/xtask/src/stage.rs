//! The files of a package beside its binaries: manual pages, completions, units.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::steps::{Outcome, Workshop, copy, fresh, on, output, run, write};

/// The pages that are written by hand, with their sections.
const PAGES: [(&str, u8); 3] = [("ipcd.8", 8), ("ipcd.toml.5", 5), ("ipcd-protocol.7", 7)];

/// Completion scripts: shell, and name of the file in that shell's folder.
const COMPLETIONS: [(&str, &str); 3] =
    [("bash", "ipcctl"), ("zsh", "_ipcctl"), ("fish", "ipcctl.fish")];

/// The folder of a package's files, which the table of assets names.
pub(crate) fn fill(shop: &Workshop) -> Outcome {
    let stage = shop.dist.join("stage");
    fresh(&stage)?;
    run(shop.cargo().args(["build", "--release", "--locked", "-p", "ipcd", "-p", "ipcctl"]))?;
    let built = shop.target.join("release");
    for name in ["ipcd", "ipcctl"] {
        let to = stage.join("bin").join(name);
        copy(&built.join(name), &to)?;
        strip(&to)?;
    }
    // cargo-deb would give it the name that Debian's own packages have.
    let changelog = output(Command::new("gzip").args(["-9nc"]).arg(shop.own("deb/changelog")))?;
    write(&stage.join("changelog.gz"), &changelog)?;
    texts(shop, &stage, "/usr/bin", &built.join("ipcctl"))
}

/// Removes the symbols, which are more than a fourth of a binary.
fn strip(binary: &Path) -> Outcome {
    run(Command::new("strip")
        .args(["--strip-unneeded", "-R", ".comment", "-R", ".note"])
        .arg(binary))
}

/// Pages, completions and units, for programs in this folder of the system. The tool, of this machine,
/// prints its own.
pub(crate) fn texts(shop: &Workshop, stage: &Path, bin: &str, tool: &Path) -> Outcome {
    output(Command::new(tool).args(["man", "--into"]).arg(stage.join("man/man1")))?;
    for (page, section) in PAGES {
        let to = stage.join(format!("man/man{section}")).join(page);
        copy(&shop.root.join("docs/man").join(page), &to)?;
    }
    for (shell, name) in COMPLETIONS {
        let script = output(Command::new(tool).args(["completion", shell]))?;
        write(&stage.join("completions").join(name), &script)?;
    }
    let units = shop.root.join("docs/systemd");
    for name in ["ipcd.service", "ipcd.socket", "ipcd.sysusers"] {
        unit(&units.join(name), &stage.join("systemd").join(name), bin)?;
    }
    // As cargo-deb names it.
    unit(&units.join("ipcd.tmpfiles"), &stage.join("systemd/ipcd.tmpfile"), bin)?;
    for name in ["ipcd.service", "ipcd.socket"] {
        unit(&units.join("user").join(name), &stage.join("user").join(name), bin)?;
    }
    Ok(())
}

/// A unit whose programs are in another folder.
fn unit(from: &Path, to: &Path, bin: &str) -> Outcome {
    let text = fs::read_to_string(from).map_err(|error| on(from, &error))?;
    write(to, text.replace("/usr/local/bin", bin).as_bytes())
}
