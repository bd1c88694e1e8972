//! The contract of every transport, for VM sockets of this machine with itself.

use ipcd_transport::{Endpoint, Transport};
use ipcd_transport_vsock::Vsock;

fn here() -> Endpoint {
    Endpoint::new("vsock", "1:0")
}

fn lacks() -> Option<String> {
    let error = Vsock.listen(&here()).err()?;
    Some(format!("{error}: the kernel has no vsock loopback (module vsock_loopback)"))
}

ipcd_conformance::conformance!(Vsock, |_| here(), lacks);
