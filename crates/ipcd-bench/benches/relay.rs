//! The benchmark of `ipcd_bench::data_path`. Without `--bench`, as `cargo test --all-targets` runs
//! it, it only checks that nothing is lost.

use std::process::ExitCode;

use clap::Parser;
use ipcd_bench::data_path::{self, DataPathOptions};
use ipcd_sys::alloc_count::Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn main() -> ExitCode {
    let is_bench = std::env::args().any(|argument| argument == "--bench");
    let ended =
        if is_bench { data_path::bench(&DataPathOptions::parse()) } else { data_path::smoke() };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            ipcd_bench::die_if_interrupted(&error);
            eprintln!("relay: {error}");
            ExitCode::FAILURE
        }
    }
}
