//! The contract of every transport, for WebSockets.

use ipcd_transport::Endpoint;
use ipcd_transport_ws::Ws;

ipcd_conformance::conformance!(Ws, |dir| Endpoint::new("ws", ipcd_conformance::loopback(dir)));
