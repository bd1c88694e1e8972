//! The contract of every transport, for WebSockets over TLS: without and with certificates of clients.

use std::path::Path;

use ipcd_conformance::authority::Authority;
use ipcd_transport::Endpoint;
use ipcd_transport_wss::Wss;

/// An endpoint for both sides: the same certificate serves the listener and who connects.
fn endpoint(dir: &Path, client_auth: &str) -> Endpoint {
    let authority = Authority::new();
    authority.issue(&["localhost"]).write(dir);
    let mut at = Endpoint::new("wss", ipcd_conformance::loopback(dir));
    for (option, file) in [("cert", "cert.pem"), ("key", "key.pem"), ("ca", "ca.pem")] {
        at.set_option(option, dir.join(file).to_str().expect("a plain path"));
    }
    at.set_option("name", "localhost");
    at.set_option("client_auth", client_auth);
    at
}

mod plain {
    use super::*;
    ipcd_conformance::conformance!(Wss, |dir| endpoint(dir, "none"));
}

mod mutual {
    use super::*;
    ipcd_conformance::conformance!(Wss, |dir| endpoint(dir, "required"));
}
