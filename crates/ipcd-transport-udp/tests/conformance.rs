//! The contract of every transport, for UDP.

use ipcd_transport::Endpoint;
use ipcd_transport_udp::Udp;

ipcd_conformance::conformance!(Udp, |dir| Endpoint::new("udp", ipcd_conformance::loopback(dir)));
