//! The link: whatever a worker says, the supervisor, which may be root, is not harmed by it.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| ipcd_server::fuzzing::link(bytes));
