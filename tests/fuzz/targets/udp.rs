//! Datagrams: a decoded datagram encodes to the same bytes; foreign cookies and sessions are
//! refused.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| ipcd_transport_udp::fuzzing::datagram(bytes));
