//! The peers to admit where they prove nothing: listeners for programs that know nothing of tokens.

use std::net::SocketAddr;

use ipcd_transport::{Endpoint, IdentityKind, PeerAddress, Result, Transport};
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

/// Whether a peer from there about access to paths: from everywhere, if no network is named.
pub fn admits(allow: &[IpNet], from: Option<PeerAddress>) -> bool {
    // On a socket for both families an IPv4 address comes mapped into IPv6 (RFC 4291 §2.5.5.2).
    let is_inside = |addr: SocketAddr| {
        let (ip, canonical) = (addr.ip(), addr.ip().to_canonical());
        allow.iter().any(|net| net.contains(&ip) || net.contains(&canonical))
    };
    allow.is_empty() || from.is_none_or(|from| from.ip().is_some_and(is_inside))
}

/// Refuses an endpoint where peers prove nothing and that others than this machine can reach, unless
/// that is meant; and what says so where it has no effect.
///
/// # Errors
/// If it is refused, or its address cannot be found out.
pub fn check(
    at: &Endpoint,
    transport: &dyn Transport,
    allow: &[IpNet],
    insecure: bool,
) -> Result<()> {
    check_allow(at, transport, allow)?;
    if has_addresses(transport) {
        let is_near = |addr: &SocketAddr| addr.ip().to_canonical().is_loopback();
        if insecure || !allow.is_empty() || at.without_path().resolve()?.iter().all(is_near) {
            return Ok(());
        }
        return Err(at.error(
            "peers there prove nothing: outside the loopback this needs allow=NETWORK, or \
             insecure=true",
        ));
    }
    match insecure {
        true => Err(at.error("insecure= has no effect: no peer connects there over a network")),
        false => Ok(()),
    }
}

/// The same where peers prove a token.
///
/// # Errors
/// If one of the two has no effect.
pub fn check_frames(
    at: &Endpoint,
    transport: &dyn Transport,
    allow: &[IpNet],
    insecure: bool,
) -> Result<()> {
    check_allow(at, transport, allow)?;
    match insecure {
        true => Err(at.error(
            "insecure= has no effect: it is for raw peers, and peers that speak frames prove a token",
        )),
        false => Ok(()),
    }
}

fn check_allow(at: &Endpoint, transport: &dyn Transport, allow: &[IpNet]) -> Result<()> {
    match allow.is_empty() || has_addresses(transport) {
        true => Ok(()),
        false => Err(at.error(
            "allow= has no effect: peers there have no IP addresses; mode=, owner= and group= decide \
             about access to paths",
        )),
    }
}

fn has_addresses(transport: &dyn Transport) -> bool {
    transport.capabilities().identity == IdentityKind::Address
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_of_the_other_family_is_told_by_what_it_stands_for() {
        let admits =
            |list: &str, from: &str| admits(&networks(list).unwrap(), Some(from.parse().unwrap()));
        assert!(admits("10.0.0.0/8", "[::ffff:10.1.2.3]:4") && admits("10.0.0.0/8", "10.1.2.3:4"));
        assert!(!admits("10.0.0.0/8", "[::ffff:11.1.2.3]:4"));
        assert!(
            admits("::/0", "[::ffff:10.1.2.3]:4") && admits("::ffff:0:0/96", "[::ffff:1.2.3.4]:5")
        );
        assert!(!admits("::1/128", "[::ffff:127.0.0.1]:4") && admits("::1/128", "[::1]:4"));
    }
}
