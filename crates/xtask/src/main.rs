//! `cargo xtask`: makes what is handed out, and checks it. Nothing of it is in the products.
//!
//! A part that this machine cannot make is skipped, with a line that has the reason. `--strict` turns
//! a skip into a failure.

mod check;
mod debian;
mod dist;
mod stage;
mod steps;
mod target;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::steps::Workshop;

/// Make and check what is handed out.
#[derive(Parser)]
#[command(name = "cargo xtask")]
struct Arguments {
    /// Fail where something would be skipped.
    #[arg(long, global = true)]
    strict: bool,
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Make the Debian package, the static binaries, their tarballs and the container's context, in
    /// target/dist.
    Dist {
        /// Make only these parts. The default is all.
        parts: Vec<dist::Part>,
    },
    /// Run the demo with the static binaries of target/dist, emulated for another architecture.
    Demo,
    /// Check the code for other targets.
    Check {
        /// Check only these. The default is all.
        targets: Vec<String>,
    },
    /// Install, use and purge the Debian package of target/dist in a fresh Debian; needs root.
    TryDeb,
}

fn main() -> ExitCode {
    let Arguments { strict, task } = Arguments::parse();
    let done = Workshop::new(strict).and_then(|mut shop| {
        match task {
            Task::Dist { parts } => dist::run(&mut shop, &parts)?,
            Task::Demo => dist::demo(&mut shop)?,
            Task::Check { targets } => check::run(&mut shop, &targets)?,
            Task::TryDeb => debian::try_package(&mut shop)?,
        }
        shop.end()
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error}");
            ExitCode::FAILURE
        }
    }
}
