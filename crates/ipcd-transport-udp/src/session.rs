//! The state of a channel's connection, and its form on the way to another process.

use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6};

use crate::credit::{HeldDatagrams, ReceiveCredit, SendCredit};
use crate::datagram::{Datagram, FieldReader, FieldWriter};

/// Version of the encoding; both processes run the same program, so there is only one.
const VERSION: u8 = 1;

const FINISHED: u8 = 1;
const ENDED: u8 = 2;
const HAS_LOCAL: u8 = 4;
/// In the place of a scope: the socket is one of IPv4.
const V4: u32 = u32::MAX;

/// One connection, the same on both sides of it.
#[derive(Debug)]
pub(crate) struct UdpSession {
    pub(crate) id: u64,
    /// The client's, so that a repeated CONNECT can be told from a new one.
    pub(crate) nonce: u64,
    pub(crate) sending: SendCredit,
    pub(crate) receiving: ReceiveCredit,
    /// Our address, where the listener has several: what answers for us after our death needs it.
    pub(crate) local: Option<SocketAddr>,
    /// We said BYE.
    pub(crate) finished: bool,
    /// The peer said BYE.
    pub(crate) ended: bool,
}

impl UdpSession {
    /// A new connection: `window` is ours, and `peer_window` what the other side told us.
    pub(crate) fn new(id: u64, nonce: u64, window: u32, peer_window: u32) -> Self {
        let (sending, receiving) = (SendCredit::new(peer_window), ReceiveCredit::new(window));
        Self { id, nonce, sending, receiving, local: None, finished: false, ended: false }
    }

    /// The answer to the client's CONNECT.
    pub(crate) fn acceptance(&self) -> Datagram<'static> {
        Datagram::Accept { nonce: self.nonce, id: self.id, window: self.receiving.window }
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let (sending, receiving) = (&self.sending, &self.receiving);
        let flags = (FINISHED * u8::from(self.finished))
            | (ENDED * u8::from(self.ended))
            | (HAS_LOCAL * u8::from(self.local.is_some()));
        let mut bytes = FieldWriter::new(VERSION)
            .u8(flags)
            .u64(self.id)
            .u64(self.nonce)
            .u32(sending.window)
            .u32(sending.sequence)
            .u64(sending.sent)
            .u64(sending.credited)
            .u32(receiving.window)
            .u32(receiving.expected)
            .u64(receiving.received)
            .u64(receiving.lost)
            .u64(receiving.consumed)
            .u64(receiving.reported);
        if let Some(local) = self.local {
            bytes = put_address(bytes, local);
        }
        for HeldDatagrams { position, record } in receiving.held() {
            bytes = bytes.u64(*position).u32(record.len() as u32).bytes(record);
        }
        bytes.0
    }

    /// The session that was encoded, or `None` when these bytes hold none.
    pub(crate) fn decode(state: &[u8]) -> Option<Self> {
        let mut fields = FieldReader(state);
        if fields.u8()? != VERSION {
            return None;
        }
        let flags = fields.u8()?;
        let (id, nonce) = (fields.u64()?, fields.u64()?);
        let sending = sending(&mut fields)?;
        let mut receiving = receiving(&mut fields)?;
        let has_local = flags & HAS_LOCAL != 0;
        let local = if has_local { Some(address(&mut fields)?) } else { None };
        while !fields.0.is_empty() {
            receiving.hold(held(&mut fields)?);
        }
        let (finished, ended) = (flags & FINISHED != 0, flags & ENDED != 0);
        Some(Self { id, nonce, sending, receiving, local, finished, ended })
    }
}

fn sending(fields: &mut FieldReader<'_>) -> Option<SendCredit> {
    let mut sending = SendCredit::new(fields.u32()?);
    sending.sequence = fields.u32()?;
    sending.sent = fields.u64()?;
    sending.credited = fields.u64()?;
    (sending.credited <= sending.sent).then_some(sending)
}

fn receiving(fields: &mut FieldReader<'_>) -> Option<ReceiveCredit> {
    let mut receiving = ReceiveCredit::new(fields.u32()?);
    receiving.expected = fields.u32()?;
    receiving.received = fields.u64()?;
    receiving.lost = fields.u64()?;
    receiving.consumed = fields.u64()?;
    receiving.reported = fields.u64()?;
    Some(receiving)
}

/// An address as IPv6 has it, with its scope; IPv4's is mapped.
fn put_address(bytes: FieldWriter, address: SocketAddr) -> FieldWriter {
    let (ip, scope) = match address {
        SocketAddr::V4(v4) => (v4.ip().to_ipv6_mapped(), V4),
        SocketAddr::V6(v6) => (*v6.ip(), v6.scope_id()),
    };
    bytes.bytes(&ip.octets()).u32(scope).u32(address.port().into())
}

fn address(fields: &mut FieldReader<'_>) -> Option<SocketAddr> {
    let (ip, scope, port) = (Ipv6Addr::from(fields.take::<16>()?), fields.u32()?, fields.u32()?);
    let port = u16::try_from(port).ok()?;
    match (ip.to_ipv4_mapped(), scope) {
        (Some(v4), V4) => Some((v4, port).into()),
        _ => Some(SocketAddrV6::new(ip, port, 0, scope).into()),
    }
}

fn held(fields: &mut FieldReader<'_>) -> Option<HeldDatagrams> {
    let (position, len) = (fields.u64()?, fields.u32()?);
    Some(HeldDatagrams { position, record: fields.bytes(len as usize)?.to_vec() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datagram::tests::junk;

    fn session() -> UdpSession {
        let mut session = UdpSession::new(1, 2, 50_000, 60_000);
        let place = session.sending.next(1_000).unwrap();
        session.sending.sent(place);
        assert!(session.receiving.admit(3));
        session.receiving.hold(HeldDatagrams { position: 7, record: b"abc".to_vec() });
        session.receiving.hold(HeldDatagrams { position: 9, record: b"d".to_vec() });
        session.ended = true;
        session.local = Some("[fe80::1%3]:9".parse().unwrap());
        session
    }

    #[test]
    fn travels() {
        let before = session();
        for local in ["127.0.0.5:7", "[::ffff:127.0.0.5]:7", "[2001:db8::1]:65535"] {
            let before = UdpSession { local: Some(local.parse().unwrap()), ..session() };
            let after = UdpSession::decode(&before.encode()).unwrap();
            assert_eq!(before.local, after.local);
        }
        let after = UdpSession::decode(&before.encode()).unwrap();
        assert_eq!(format!("{before:?}"), format!("{after:?}"));
    }

    #[test]
    fn garbage_does_no_harm() {
        let state = session().encode();
        for end in 0..state.len() {
            let before_a_record = [106, 121].contains(&end);
            assert_eq!(
                UdpSession::decode(&state[..end]).is_some(),
                before_a_record,
                "cut at {end}"
            );
        }
        for seed in 0..5_000 {
            let mut bytes = junk(seed, seed as usize % 300);
            if let Some(first) = bytes.first_mut() {
                *first = VERSION;
            }
            let _ = UdpSession::decode(&bytes);
        }
    }
}
