//! The contract of every transport, for pipes that are handed over on a rendezvous socket.

use ipcd_transport::Endpoint;
use ipcd_transport_pipe::Pipe;

ipcd_conformance::conformance!(Pipe, |dir| Endpoint::from_path("pipe", &dir.join("pipe.sock")));
