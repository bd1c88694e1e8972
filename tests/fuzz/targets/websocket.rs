//! WebSockets: requests and answers of any bytes, and frames after an upgrade, with any cut.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| ipcd_websocket::fuzzing::peer(bytes));
