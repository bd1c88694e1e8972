//! The rendezvous FIFO: records are found after any junk, with any cut of the bytes.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| ipcd_transport_fifo::fuzzing::records(bytes));
