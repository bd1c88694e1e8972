//! Ids of peers and tickets, and the layout of a peer id.

use ipcd_proto::DirectAddress;
use serde::{Deserialize, Serialize};

/// This router's number of a message whose outcome is pending.
pub(crate) type Ticket = u64;

/// The index of a peer in its router. Indices are used again; the id of a peer
/// ([`ipcd_proto::control::Origin::peer`]) is not.
#[derive(
    Clone, Copy, Debug, Default, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize,
)]
pub struct PeerKey(pub u32);

/// Returns the id of a peer. It contains the slot and generation of the worker, so that any worker
/// can find the peer's own, and no generation uses an id twice. Ids stay below 2^53, so that every
/// JSON reader keeps them exact.
pub(crate) fn id_of(slot: u32, generation: u32, number: u32) -> u64 {
    let generation = generation % (1 << GENERATION_BITS);
    let place = u64::from(slot) << GENERATION_BITS | u64::from(generation);
    place << NUMBER_BITS | u64::from(number % (1 << NUMBER_BITS))
}

/// Returns the slot in an id, and the bits of the generation that an id can hold.
pub(crate) fn place_of(id: u64) -> (u32, u32) {
    let place = id >> NUMBER_BITS;
    let generation = place as u32 % (1 << GENERATION_BITS);
    (u32::try_from(place >> GENERATION_BITS).unwrap_or(u32::MAX), generation)
}

/// Parses an id: decimal digits, as in an address. `+7` and `007` are not ids.
pub(crate) fn id_in(text: &str) -> Option<u64> {
    let address = DirectAddress::parse(format!("@{text}").as_bytes())?;
    address.request.is_none().then_some(address.peer)
}

/// Whether a worker of this generation may have assigned an id with these generation bits.
pub(crate) fn is_generation(generation: u32, in_id: u32) -> bool {
    generation > 0 && generation % (1 << GENERATION_BITS) == in_id
}

const NUMBER_BITS: u32 = 29;
const GENERATION_BITS: u32 = 12;
