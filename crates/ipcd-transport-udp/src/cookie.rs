//! Cookies: proof that a client receives what is sent to its address, without a state per client.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use hmac::{Hmac, KeyInit, Mac};
use ipcd_transport::Result;
use sha2::Sha256;

/// Bytes of a cookie.
pub(crate) const COOKIE_BYTES: usize = 32;

/// `HMAC-SHA256(secret, period || nonce || address || port)`.
pub(crate) type Cookie = [u8; COOKIE_BYTES];

/// A cookie is good until the end of the period after the one in which it was made.
const PERIOD: Duration = Duration::from_secs(10);

/// Makes cookies and recognises its own. The secret lives as long as the listener.
pub(crate) struct CookieJar {
    secret: [u8; 32],
    start: Instant,
}

impl CookieJar {
    pub(crate) fn new(start: Instant) -> Result<Self> {
        let mut secret = [0; 32];
        getrandom::fill(&mut secret).map_err(crate::no_randomness)?;
        Ok(Self { secret, start })
    }

    /// The cookie for a client at this address that sent this nonce.
    pub(crate) fn bake(&self, nonce: u64, client: SocketAddr, now: Instant) -> Cookie {
        self.mac(self.period(now), nonce, client).finalize().into_bytes().into()
    }

    /// Whether the cookie was made for this client, not long ago. The time that this takes does not
    /// tell where a forgery differs.
    pub(crate) fn verify(
        &self,
        cookie: &Cookie,
        nonce: u64,
        client: SocketAddr,
        now: Instant,
    ) -> bool {
        let period = self.period(now);
        let mut periods = [Some(period), period.checked_sub(1)].into_iter().flatten();
        periods.any(|period| self.mac(period, nonce, client).verify_slice(cookie).is_ok())
    }

    fn period(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.start).as_secs() / PERIOD.as_secs()
    }

    fn mac(&self, period: u64, nonce: u64, client: SocketAddr) -> Hmac<Sha256> {
        let address = match client.ip() {
            IpAddr::V4(address) => address.to_ipv6_mapped(),
            IpAddr::V6(address) => address,
        };
        Hmac::<Sha256>::new_from_slice(&self.secret)
            .expect("HMAC takes keys of any length")
            .chain_update(period.to_le_bytes())
            .chain_update(nonce.to_le_bytes())
            .chain_update(address.octets())
            .chain_update(client.port().to_le_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds_for_its_client_only() {
        let now = Instant::now();
        let jar = CookieJar::new(now).unwrap();
        let at = |text: &str| text.parse::<SocketAddr>().unwrap();
        let cookie = jar.bake(1, at("192.0.2.1:5"), now);
        assert!(jar.verify(&cookie, 1, at("192.0.2.1:5"), now));
        assert!(!jar.verify(&cookie, 2, at("192.0.2.1:5"), now));
        for other in ["192.0.2.2:5", "192.0.2.1:6", "[2001:db8::1]:5"] {
            assert!(!jar.verify(&cookie, 1, at(other), now), "{other}");
        }
        let elsewhere = CookieJar::new(now).unwrap();
        assert!(!elsewhere.verify(&cookie, 1, at("192.0.2.1:5"), now));
        for bit in 0..8 * COOKIE_BYTES {
            let mut forged = cookie;
            forged[bit / 8] ^= 1 << (bit % 8);
            assert!(!jar.verify(&forged, 1, at("192.0.2.1:5"), now));
        }
    }

    #[test]
    fn is_good_for_ten_to_twenty_seconds() {
        let start = Instant::now();
        let jar = CookieJar::new(start).unwrap();
        let client = "[::1]:9".parse().unwrap();
        for made_at in [0, 3, 9, 10, 19] {
            let made = start + Duration::from_secs(made_at);
            let cookie = jar.bake(1, client, made);
            let good_after =
                |secs| jar.verify(&cookie, 1, client, made + Duration::from_secs(secs));
            assert!(good_after(0) && good_after(10), "made at {made_at}");
            assert!(!good_after(20), "made at {made_at}");
        }
    }
}
