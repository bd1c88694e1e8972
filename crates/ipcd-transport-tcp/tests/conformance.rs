//! The contract of every transport, for TCP.

use ipcd_transport::Endpoint;
use ipcd_transport_tcp::Tcp;

ipcd_conformance::conformance!(Tcp, |dir| Endpoint::new("tcp", ipcd_conformance::loopback(dir)));
