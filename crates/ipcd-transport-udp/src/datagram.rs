//! The datagrams: what each type looks like on the wire. Nothing here knows a socket.
//!
//! A datagram begins with its type. Integers are little-endian. One that is too short, too long or
//! of an unknown type is ignored, and so is one that carries another connection's id.
//!
//! | type | name    | sent by  | after the type                                             | bytes  |
//! |------|---------|----------|------------------------------------------------------------|--------|
//! | 0    | INIT    | client   | version `u8` = 1, nonce `u64`, zeros up to 64 bytes        | ≥ 64   |
//! | 1    | COOKIE  | daemon   | nonce `u64`, cookie `[u8; 32]`                             | 41     |
//! | 2    | CONNECT | client   | nonce `u64`, window `u32`, cookie `[u8; 32]`               | 45     |
//! | 3    | ACCEPT  | daemon   | nonce `u64`, id `u64`, window `u32`                        | 21     |
//! | 4    | DATA    | both     | id `u64`, sequence `u32`, position `u64`, record           | 21 + n |
//! | 5    | CREDIT  | receiver | id `u64`, position `u64`, received `u64`, lost `u64`       | 33     |
//! | 6    | PROBE   | sender   | id `u64`, position `u64`                                   | 17     |
//! | 7    | PING    | both     | id `u64`                                                   | 9      |
//! | 8    | PONG    | both     | id `u64`                                                   | 9      |
//! | 9    | BYE     | both     | id `u64`, sequence `u32` of the DATA that would come next  | 13     |
//! | 10   | BYE_ACK | both     | id `u64`                                                   | 9      |
//! | 11   | GONE    | listener | id `u64`                                                   | 9      |
//!
//! - **nonce**: chosen by the client at random; the cookie, COOKIE and ACCEPT are bound to it.
//! - **id**: chosen by the daemon at random, so that neither a forger who cannot see the traffic
//!   nor a datagram of an earlier connection between the same ports is taken for the peer's.
//! - **window**: how much may be on its way to the sender of this datagram, in cost. The cost of a
//!   DATA datagram is its length and 768.
//! - **sequence**: of DATA, from 0 in each direction, wrapping around.
//! - **position**: the cost of all DATA sent so far in this direction. In DATA it counts the
//!   datagram itself; in CREDIT it is what the receiver has consumed; in PROBE what was sent.
//! - **received**, **lost**: DATA datagrams, as counted by the receiver.
//! - GONE says that no process serves this connection any more. It answers any datagram with an id that
//!   reaches the listener, and is never longer than that.
//! - **record**: whole frames or a piece of one, as [`ipcd_transport::RecordSplitter`] makes them.

use crate::cookie::{COOKIE_BYTES, Cookie};

/// Version of this protocol. A listener ignores an INIT with another one.
const VERSION: u8 = 1;

/// Bytes of the shortest INIT: more than COOKIE has, so that a listener never sends more than it
/// was sent (RFC 9000 §8 would allow three times as much).
const INIT_BYTES: usize = 64;

/// Bytes before the record in DATA.
pub(crate) const DATA_HEADER: usize = 21;

/// Bytes of the largest datagram on the loopback: with the kernel's bookkeeping it just fits one
/// allocation of 16 KiB, so that little of the receive buffer is wasted.
pub(crate) const LARGEST_LOOPBACK: usize = 15_000;

/// Bytes of the largest datagram to other machines: IPv6 demands an MTU of 1,280 of every link
/// (RFC 8200 §5), and 40 and 8 of them are headers. A larger one might be cut into fragments, each
/// of which can be lost.
pub(crate) const LARGEST_REMOTE: usize = 1_232;

const INIT: u8 = 0;
const COOKIE: u8 = 1;
const CONNECT: u8 = 2;
const ACCEPT: u8 = 3;
const DATA: u8 = 4;
const CREDIT: u8 = 5;
const PROBE: u8 = 6;
const PING: u8 = 7;
const PONG: u8 = 8;
const BYE: u8 = 9;
const BYE_ACK: u8 = 10;
const GONE: u8 = 11;

/// A client's request to be admitted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct ConnectRequest {
    pub(crate) nonce: u64,
    pub(crate) window: u32,
    pub(crate) cookie: Cookie,
}

/// The position of a DATA datagram in its direction.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct StreamPlace {
    pub(crate) sequence: u32,
    pub(crate) position: u64,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Datagram<'a> {
    Init { nonce: u64 },
    Cookie { nonce: u64, cookie: Cookie },
    Connect(ConnectRequest),
    Accept { nonce: u64, id: u64, window: u32 },
    Data { id: u64, place: StreamPlace, record: &'a [u8] },
    Credit { id: u64, position: u64, received: u64, lost: u64 },
    Probe { id: u64, position: u64 },
    Ping { id: u64 },
    Pong { id: u64 },
    Bye { id: u64, sequence: u32 },
    ByeAck { id: u64 },
    Gone { id: u64 },
}

impl<'a> Datagram<'a> {
    /// The meaning of these bytes, or `None` for bytes that are not of this protocol.
    pub(crate) fn decode(bytes: &'a [u8]) -> Option<Self> {
        let padded = bytes.len() >= INIT_BYTES;
        let mut fields = FieldReader(bytes);
        let datagram = match fields.u8()? {
            INIT if padded && fields.u8()? == VERSION => {
                return Some(Self::Init { nonce: fields.u64()? });
            }
            COOKIE => Self::Cookie { nonce: fields.u64()?, cookie: fields.take()? },
            CONNECT => Self::Connect(ConnectRequest {
                nonce: fields.u64()?,
                window: fields.u32()?,
                cookie: fields.take()?,
            }),
            ACCEPT => {
                Self::Accept { nonce: fields.u64()?, id: fields.u64()?, window: fields.u32()? }
            }
            DATA => Self::Data {
                id: fields.u64()?,
                place: StreamPlace { sequence: fields.u32()?, position: fields.u64()? },
                record: std::mem::take(&mut fields.0),
            },
            CREDIT => Self::Credit {
                id: fields.u64()?,
                position: fields.u64()?,
                received: fields.u64()?,
                lost: fields.u64()?,
            },
            PROBE => Self::Probe { id: fields.u64()?, position: fields.u64()? },
            PING => Self::Ping { id: fields.u64()? },
            PONG => Self::Pong { id: fields.u64()? },
            BYE => Self::Bye { id: fields.u64()?, sequence: fields.u32()? },
            BYE_ACK => Self::ByeAck { id: fields.u64()? },
            GONE => Self::Gone { id: fields.u64()? },
            _ => return None,
        };
        fields.0.is_empty().then_some(datagram)
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let id_only = |kind: u8, id: u64| FieldWriter::new(kind).u64(id);
        let bytes = match *self {
            Self::Init { nonce } => {
                let mut bytes = FieldWriter::new(INIT).u8(VERSION).u64(nonce).0;
                bytes.resize(INIT_BYTES, 0);
                return bytes;
            }
            Self::Cookie { nonce, cookie } => FieldWriter::new(COOKIE).u64(nonce).bytes(&cookie),
            Self::Connect(ConnectRequest { nonce, window, cookie }) => {
                FieldWriter::new(CONNECT).u64(nonce).u32(window).bytes(&cookie)
            }
            Self::Accept { nonce, id, window } => {
                FieldWriter::new(ACCEPT).u64(nonce).u64(id).u32(window)
            }
            Self::Data { id, place, record } => {
                FieldWriter(data_header(id, place).to_vec()).bytes(record)
            }
            Self::Credit { id, position, received, lost } => {
                id_only(CREDIT, id).u64(position).u64(received).u64(lost)
            }
            Self::Probe { id, position } => id_only(PROBE, id).u64(position),
            Self::Ping { id } => id_only(PING, id),
            Self::Pong { id } => id_only(PONG, id),
            Self::Bye { id, sequence } => id_only(BYE, id).u32(sequence),
            Self::ByeAck { id } => id_only(BYE_ACK, id),
            Self::Gone { id } => id_only(GONE, id),
        };
        bytes.0
    }

    /// The connection that the datagram belongs to; those of the handshake belong to none.
    pub(crate) fn id(&self) -> Option<u64> {
        match *self {
            Self::Init { .. } | Self::Cookie { .. } | Self::Connect(_) => None,
            Self::Accept { id, .. }
            | Self::Data { id, .. }
            | Self::Credit { id, .. }
            | Self::Probe { id, .. }
            | Self::Ping { id }
            | Self::Pong { id }
            | Self::Bye { id, .. }
            | Self::ByeAck { id }
            | Self::Gone { id } => Some(id),
        }
    }
}

/// The header in front of the record in DATA, apart, so that records are sent from where they lie.
pub(crate) fn data_header(id: u64, place: StreamPlace) -> [u8; DATA_HEADER] {
    let mut header = [DATA; DATA_HEADER];
    header[1..9].copy_from_slice(&id.to_le_bytes());
    header[9..13].copy_from_slice(&place.sequence.to_le_bytes());
    header[13..].copy_from_slice(&place.position.to_le_bytes());
    header
}

/// Reads fields off the front of untrusted bytes.
pub(crate) struct FieldReader<'a>(pub(crate) &'a [u8]);

impl<'a> FieldReader<'a> {
    pub(crate) fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (field, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*field)
    }

    pub(crate) fn bytes(&mut self, count: usize) -> Option<&'a [u8]> {
        let (field, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(field)
    }

    pub(crate) fn u8(&mut self) -> Option<u8> {
        self.take().map(u8::from_le_bytes)
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_le_bytes)
    }
}

/// Writes fields one after the other.
pub(crate) struct FieldWriter(pub(crate) Vec<u8>);

impl FieldWriter {
    pub(crate) fn new(first: u8) -> Self {
        Self(vec![first])
    }

    pub(crate) fn bytes(mut self, field: &[u8]) -> Self {
        self.0.extend_from_slice(field);
        self
    }

    pub(crate) fn u8(self, field: u8) -> Self {
        self.bytes(&[field])
    }

    pub(crate) fn u32(self, field: u32) -> Self {
        self.bytes(&field.to_le_bytes())
    }

    pub(crate) fn u64(self, field: u64) -> Self {
        self.bytes(&field.to_le_bytes())
    }
}

// A COOKIE must not be larger than the INIT that asks for it.
const _: () = assert!(1 + 8 + COOKIE_BYTES <= INIT_BYTES);

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    fn samples() -> Vec<Datagram<'static>> {
        let cookie = [7; COOKIE_BYTES];
        let (id, nonce, window) = (0x0102_0304_0506_0708, u64::MAX - 1, 106_496);
        vec![
            Datagram::Init { nonce },
            Datagram::Cookie { nonce, cookie },
            Datagram::Connect(ConnectRequest { nonce, window, cookie }),
            Datagram::Accept { nonce, id, window },
            Datagram::Data {
                id,
                place: StreamPlace { sequence: 9, position: 1 << 40 },
                record: b"frame",
            },
            Datagram::Credit { id, position: 3, received: 4, lost: 5 },
            Datagram::Probe { id, position: 6 },
            Datagram::Ping { id },
            Datagram::Pong { id },
            Datagram::Bye { id, sequence: 77 },
            Datagram::ByeAck { id },
            Datagram::Gone { id },
        ]
    }

    /// Bytes without a pattern, the same in every run.
    pub(crate) fn junk(seed: u64, len: usize) -> Vec<u8> {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let next = |_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        };
        (0..len).map(next).collect()
    }

    #[test]
    fn reads_what_it_writes() {
        let lengths = [64, 41, 45, 21, 26, 33, 17, 9, 9, 13, 9, 9];
        for (kind, (datagram, length)) in samples().into_iter().zip(lengths).enumerate() {
            let bytes = datagram.encode();
            assert_eq!((bytes[0] as usize, bytes.len()), (kind, length), "{datagram:?}");
            assert_eq!(Datagram::decode(&bytes), Some(datagram));
        }
    }

    #[test]
    fn truncated_datagrams_are_none() {
        for datagram in samples() {
            let bytes = datagram.encode();
            for end in 0..bytes.len() {
                let decoded = Datagram::decode(&bytes[..end]);
                let still_data = bytes[0] == DATA && end >= DATA_HEADER;
                assert_eq!(decoded.is_some(), still_data, "{datagram:?} cut at {end}");
            }
        }
    }

    #[test]
    fn overlong_datagrams_are_none_but_for_padding_and_records() {
        for datagram in samples() {
            let bytes = [datagram.encode(), vec![0]].concat();
            let open_ended = matches!(datagram, Datagram::Init { .. } | Datagram::Data { .. });
            assert_eq!(Datagram::decode(&bytes).is_some(), open_ended, "{datagram:?}");
        }
    }

    #[test]
    fn junk_does_no_harm() {
        for seed in 0..20_000 {
            let mut bytes = junk(seed, seed as usize % 80);
            if let Some(first) = bytes.first_mut() {
                *first %= 12;
            }
            if let Some(datagram) = Datagram::decode(&bytes) {
                assert!(matches!(datagram, Datagram::Init { .. }) || datagram.encode() == bytes);
            }
        }
    }

    #[test]
    fn other_versions_are_none() {
        let mut bytes = Datagram::Init { nonce: 1 }.encode();
        bytes[1] = VERSION + 1;
        assert_eq!(Datagram::decode(&bytes), None);
    }
}
