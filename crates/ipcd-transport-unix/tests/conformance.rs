//! The contract of every transport, for each kind of Unix-domain socket.

use std::path::Path;

use ipcd_transport::Endpoint;
use ipcd_transport_unix::Unix;

mod stream {
    ipcd_conformance::conformance!(super::Unix, super::path);
}

mod seqpacket {
    ipcd_conformance::conformance!(super::Unix, |dir| super::seqpacket(super::path(dir)));
}

mod abstract_stream {
    ipcd_conformance::conformance!(super::Unix, super::abstract_name);
}

mod abstract_seqpacket {
    ipcd_conformance::conformance!(super::Unix, |dir| super::seqpacket(super::abstract_name(dir)));
}

fn path(dir: &Path) -> Endpoint {
    Endpoint::from_path("unix", &dir.join("s"))
}

/// The directory's name is unique.
fn abstract_name(dir: &Path) -> Endpoint {
    format!("unix:@{}", dir.display()).parse().expect("an abstract name")
}

fn seqpacket(mut endpoint: Endpoint) -> Endpoint {
    endpoint.set_option("type", "seqpacket");
    endpoint
}
