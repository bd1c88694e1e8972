//! `cargo xtask dist`: the parts of a release, in target/dist.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use clap::ValueEnum;

use crate::debian;
use crate::stage;
use crate::steps::{self, Outcome, Workshop, copy, fresh, is_installed, on, output, write};
use crate::target::{STATIC, Target};

/// The most bytes that a program should have.
const LARGEST_PROGRAM: u64 = 8 << 20;

/// The programs.
const PROGRAMS: [&str; 2] = ["ipcd", "ipcctl"];

/// A part of a release.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum Part {
    /// The Debian package.
    Deb,
    /// Static binaries for x86_64 and aarch64, in tarballs with checksums.
    Static,
    /// The context of a container image, from a static binary.
    Container,
}

pub(crate) fn run(shop: &mut Workshop, parts: &[Part]) -> Outcome {
    let wants = |part| parts.is_empty() || parts.contains(&part);
    if wants(Part::Deb) {
        debian::make(shop)?;
    }
    if wants(Part::Static) {
        tarballs(shop)?;
    }
    if wants(Part::Container) {
        container(shop)?;
    }
    println!("see {}", shop.dist.display());
    Ok(())
}

/// Builds and packs the static binaries.
fn tarballs(shop: &mut Workshop) -> Outcome {
    // It prints the pages and the scripts; the static ones may be of another processor.
    steps::run(shop.cargo().args(["build", "--locked", "-p", "ipcctl"]))?;
    let mut packed = Vec::new();
    for target in &STATIC {
        match target.cargo(shop, "zigbuild") {
            Ok(mut command) => {
                // The linker leaves the symbols out: strip(1) knows one processor only.
                command.env("CARGO_PROFILE_RELEASE_STRIP", "symbols");
                steps::run(command.args(["--release", "-p", "ipcd", "-p", "ipcctl"]))?;
                packed.push(pack(shop, target)?);
            }
            Err(why) => shop.skip(&format!("static binaries for {}", target.processor()), &why),
        }
    }
    if packed.is_empty() {
        return Ok(());
    }
    let sums = output(Command::new("sha256sum").current_dir(&shop.dist).args(&packed))?;
    write(&shop.dist.join("SHA256SUMS"), &sums)
}

/// Packs the static binaries of a target with their texts. Returns the name of the tarball.
fn pack(shop: &mut Workshop, target: &Target) -> Outcome<String> {
    let name = format!("ipcd-{}-linux-{}", env!("CARGO_PKG_VERSION"), target.processor());
    let folder = shop.dist.join(&name);
    fresh(&folder)?;
    for program in PROGRAMS {
        let built = shop.target.join(target.triple).join("release").join(program);
        let to = folder.join("bin").join(program);
        copy(&built, &to)?;
        let bytes = fs::metadata(&to).map_err(|error| on(&to, &error))?.len();
        println!("{program} for {}: {bytes} bytes", target.processor());
        if bytes > LARGEST_PROGRAM {
            shop.skip(&format!("{program} in {LARGEST_PROGRAM} bytes"), &format!("it has {bytes}"));
        }
    }
    stage::texts(shop, &folder, "/usr/local/bin", &shop.target.join("debug/ipcctl"))?;
    for file in ["README.md", "CHANGELOG.md", "LICENSE-MIT", "LICENSE-APACHE", "docs/ipcd.toml"] {
        let from = shop.root.join(file);
        let own_name = from.file_name().ok_or_else(|| format!("{file} is no file"))?;
        copy(&from, &folder.join(own_name))?;
    }
    let tarball = format!("{name}.tar.gz");
    // The same files make the same tarball.
    let order = ["--sort=name", "--owner=0", "--group=0", "--numeric-owner", "--mtime=@0"];
    let mut tar = Command::new("tar");
    tar.current_dir(&shop.dist).args(order).args(["-czf", &tarball, &name]);
    steps::run(&mut tar)?;
    Ok(tarball)
}

/// The context of the container image: the recipe and the static programs of this machine.
fn container(shop: &mut Workshop) -> Outcome {
    let folder = shop.dist.join("container");
    fresh(&folder)?;
    for program in PROGRAMS {
        let from = static_program(shop, std::env::consts::ARCH, program);
        if !from.is_file() {
            shop.skip("the container", "there are no static binaries: cargo xtask dist static");
            return Ok(());
        }
        copy(&from, &folder.join(program))?;
    }
    // An empty directory: that of the volume.
    fresh(&folder.join("run"))?;
    copy(&shop.own("container/Dockerfile"), &folder.join("Dockerfile"))?;
    println!("docker build -t ipcd {}", folder.display());
    Ok(())
}

fn static_program(shop: &Workshop, processor: &str, program: &str) -> PathBuf {
    let name = format!("ipcd-{}-linux-{processor}", env!("CARGO_PKG_VERSION"));
    shop.dist.join(name).join("bin").join(program)
}

/// Runs the demo of the static binaries: 25 pairs, each message checked.
pub(crate) fn demo(shop: &mut Workshop) -> Outcome {
    for target in &STATIC {
        let processor = target.processor();
        let part = format!("the demo for {processor}");
        let tool = static_program(shop, processor, "ipcctl");
        if !tool.is_file() {
            shop.skip(&part, "there is no static binary: cargo xtask dist static");
            continue;
        }
        let mut demo = Command::new(&tool);
        if processor != std::env::consts::ARCH {
            if !is_installed(&format!("qemu-{processor}")) {
                shop.skip(&part, &format!("qemu-{processor} is not installed (Debian: qemu-user)"));
                continue;
            }
            demo = Command::new(shop.own("emulated"));
            demo.arg(processor).arg(&tool);
        }
        steps::run(demo.args(["demo", "--messages", "100"]))?;
    }
    Ok(())
}
