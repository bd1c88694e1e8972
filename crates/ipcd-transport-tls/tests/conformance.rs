//! The contract of every transport, for TLS: without and with certificates of clients.

use std::path::Path;

use ipcd_conformance::authority::Authority;
use ipcd_transport::Endpoint;
use ipcd_transport_tls::Tls;

/// An endpoint for both sides: the same certificate serves the listener and who connects.
fn endpoint(dir: &Path, client_auth: &str) -> Endpoint {
    let authority = Authority::new();
    authority.issue(&["localhost"]).write(dir);
    let mut at = Endpoint::new("tls", ipcd_conformance::loopback(dir));
    for (option, file) in [("cert", "cert.pem"), ("key", "key.pem"), ("ca", "ca.pem")] {
        at.set_option(option, dir.join(file).to_str().expect("a plain path"));
    }
    at.set_option("name", "localhost");
    at.set_option("client_auth", client_auth);
    at
}

mod plain {
    use super::*;
    ipcd_conformance::conformance!(Tls, |dir| endpoint(dir, "none"));
}

mod mutual {
    use super::*;
    ipcd_conformance::conformance!(Tls, |dir| endpoint(dir, "required"));
}
