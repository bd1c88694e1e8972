//! The link: no message of a worker harms the supervisor, which may be root.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| ipcd_server::fuzzing::link(bytes));
