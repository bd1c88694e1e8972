//! Datagrams: what decodes is written as it was; cookies and sessions of strangers are refused.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| ipcd_transport_udp::fuzzing::datagram(bytes));
