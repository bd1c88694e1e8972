//! Finds a place for a new peer, and the peer that has to make room for it.

use std::time::Instant;

use ipcd_core::Principal;

use super::startups::StartupRoom;
use super::{Admission, LATE, PeerStanding, Service};
use crate::ids::AdmissionId;

impl Admission {
    /// Room for one more of this source that has proved nothing; perhaps in the place of another.
    pub(super) fn make_room(
        &self,
        source: Principal,
        now: Instant,
        percent: impl FnOnce() -> u32,
    ) -> Result<Option<AdmissionId>, String> {
        let max = self.limits.max_startups;
        match self.startups.find_room(max, source, now, percent) {
            StartupRoom::There => Ok(None),
            StartupRoom::Of(number) => Ok(Some(number)),
            StartupRoom::None => {
                let most = max.hard_limit();
                Err(format!("the limit of {most} peers without proof is reached (max_startups)"))
            }
        }
    }

    /// Finds a place for one more peer of this source; if it is another's, also the reason that
    /// this one receives. The other is a peer of the busiest source, if this source has fewer, or
    /// one that is late to prove its token. The last places are reserved for root and the daemon's
    /// own user, which may evict any peer.
    pub(super) fn make_place(
        &self,
        source: Principal,
        standing: PeerStanding,
        now: Instant,
        one_goes: bool,
    ) -> Result<Option<(AdmissionId, String)>, String> {
        let (most, what, key) = match (self.limits.max_peers as usize, self.service) {
            (peers, Service::Children(children)) if children < peers => {
                (children, "children", "max_children")
            }
            (peers, _) => (peers, "peers", "max_peers"),
        };
        let is_favoured = standing == PeerStanding::Favoured;
        let free_to = if is_favoured { most } else { most - reserve(most) };
        // Those that are on their way out have a while for it.
        let is_crowded = self.peers.len() >= 2 * most && !is_favoured;
        if self.crowd.len() + self.favoured < free_to + usize::from(one_goes) && !is_crowded {
            return Ok(None);
        }
        let (own, busy) = (self.crowd.count(source), self.crowd.busiest_count());
        // With one peer more the new source must still have fewer than the other: two sources would
        // otherwise evict each other in turns.
        let may_take = is_favoured || (busy > own + 1 && !is_crowded);
        if let Some(other) = self.crowd.busiest().next().filter(|_| may_take) {
            let why = format!("evicted for a new peer: {other} has the most peers ({key})");
            // A peer that has proved nothing loses the least; after that, the newest.
            let number = self.startups.longest_of(other).or_else(|| self.crowd.newest(other));
            return Ok(number.map(|number| (number, why)));
        }
        if let Some(late) = self.startups.overdue(now).filter(|_| !is_crowded) {
            return Ok(Some((late, LATE.to_owned())));
        }
        Err(format!("the limit of {most} {what} is reached ({key})"))
    }
}

/// Of so many places, those that only root and the daemon's own user can take: a sixteenth, and no
/// more than they will need.
fn reserve(most: usize) -> usize {
    (most / 16).min(64)
}
