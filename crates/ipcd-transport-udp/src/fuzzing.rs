//! Access for the fuzz targets: only `cargo fuzz` compiles it.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Instant;

use crate::cookie::CookieJar;
use crate::datagram::Datagram;
use crate::session::UdpSession;

/// Reads a datagram: what decodes is written as it was, but for INIT's padding, and no cookie is
/// guessed. The same bytes are no session that anybody has but those who wrote it.
pub fn datagram(bytes: &[u8]) {
    if let Some(datagram) = Datagram::decode(bytes) {
        let encoded = datagram.encode();
        assert_eq!(Datagram::decode(&encoded), Some(datagram));
        assert!(matches!(datagram, Datagram::Init { .. }) || encoded == bytes);
        if let Datagram::Connect(request) = datagram {
            let now = Instant::now();
            let from = SocketAddr::from((Ipv4Addr::LOCALHOST, 7117));
            let jar = CookieJar::new(now).expect("the system has randomness");
            assert!(!jar.verify(&request.cookie, request.nonce, from, now));
        }
    }
    if let Some(session) = UdpSession::decode(bytes) {
        let encoded = session.encode();
        assert_eq!(UdpSession::decode(&encoded).map(|again| again.encode()), Some(encoded));
    }
}
