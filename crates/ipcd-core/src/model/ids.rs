//! Ids of peers and tickets.

use ipcd_proto::Address;
use serde::{Deserialize, Serialize};

/// The router's own number for a message of which the outcome is pending.
pub(crate) type Ticket = u64;

/// A peer's place in its router. Places are used again; [`Origin::peer`] never is.
#[derive(
    Clone, Copy, Debug, Default, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize,
)]
pub struct PeerKey(pub u32);

/// The id of a peer, which says which worker's life it belongs to and is not used again within
/// it. Ids stay below 2^53, so that every JSON reader keeps them exact.
pub(crate) fn id_of(slot: u32, generation: u32, number: u32) -> u64 {
    let generation = generation % (1 << GENERATION_BITS);
    let place = u64::from(slot) << GENERATION_BITS | u64::from(generation);
    place << NUMBER_BITS | u64::from(number % (1 << NUMBER_BITS))
}

/// The worker's place in an id, and what is in it of the place's generation.
pub(crate) fn place_of(id: u64) -> (u32, u32) {
    let place = id >> NUMBER_BITS;
    let generation = place as u32 % (1 << GENERATION_BITS);
    (u32::try_from(place >> GENERATION_BITS).unwrap_or(u32::MAX), generation)
}

/// The id that a text is: decimal digits, as in an address. `+7` and `007` are none.
pub(crate) fn id_in(text: &str) -> Option<u64> {
    let address = Address::parse(format!("@{text}").as_bytes())?;
    address.request.is_none().then_some(address.peer)
}

/// Whether a life of a place may have given out such an id.
pub(crate) fn is_generation(generation: u32, in_id: u32) -> bool {
    generation > 0 && generation % (1 << GENERATION_BITS) == in_id
}

const NUMBER_BITS: u32 = 29;
const GENERATION_BITS: u32 = 12;
