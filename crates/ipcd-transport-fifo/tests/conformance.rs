//! The contract of every transport, for FIFOs.

use ipcd_transport::Endpoint;
use ipcd_transport_fifo::Fifo;

ipcd_conformance::conformance!(Fifo, |dir| Endpoint::from_path("fifo", &dir.join("ipcd.fifo")));
