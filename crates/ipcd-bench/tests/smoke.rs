//! Every server relays a small load without loss, and ipcd without an allocation or a system call
//! per message; every request gets its reply. There is no test harness: everything forks, which
//! needs a process with one thread.

use std::process::ExitCode;

use ipcd_sys::alloc_count::Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn main() -> ExitCode {
    match ipcd_bench::data_path::smoke() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("smoke: {error}");
            ExitCode::FAILURE
        }
    }
}
