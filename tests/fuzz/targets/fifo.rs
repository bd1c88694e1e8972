//! The rendezvous FIFO: records are found behind any junk, however it is cut.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| ipcd_transport_fifo::fuzzing::records(bytes));
