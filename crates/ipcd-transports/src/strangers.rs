//! Who may come in where peers prove nothing: listeners for programs that know nothing of tokens.

use std::net::SocketAddr;

use ipcd_transport::{Endpoint, IdentityKind, Result, Transport};
use ipnet::IpNet;

/// The networks of an option `allow=10.0.0.0/8,::1/128`.
///
/// # Errors
/// If one of them is none.
pub fn networks(list: &str) -> std::result::Result<Vec<IpNet>, String> {
    let network = |text: &str| {
        let bad = |_| format!("allow={text}: a network is needed, as in 10.0.0.0/8");
        text.parse().map_err(bad)
    };
    list.split(',').map(network).collect()
}

/// Whether a peer from there may come in: from everywhere, if no network is named.
pub fn admits(allow: &[IpNet], from: Option<SocketAddr>) -> bool {
    let is_inside = |addr: SocketAddr| allow.iter().any(|net| net.contains(&addr.ip()));
    allow.is_empty() || from.is_none_or(is_inside)
}

/// Refuses an endpoint that others than this machine can reach, unless that `is_meant`.
///
/// # Errors
/// If it is refused, or its address cannot be found out.
pub fn check(at: &Endpoint, transport: &dyn Transport, is_meant: bool) -> Result<()> {
    let is_known = transport.capabilities().identity != IdentityKind::Address;
    if is_known || is_meant || at.resolve()?.iter().all(|addr| addr.ip().is_loopback()) {
        return Ok(());
    }
    Err(at.error(
        "whoever connects there proves nothing: off the loopback this needs allow=NETWORK, or \
         insecure=true",
    ))
}
