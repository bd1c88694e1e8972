//! The rights of the peers that workers ask for, as the supervisor knows them.

use ipcd_core::{Acl, DirectoryRequest};
use ipcd_proto::control::PeerAttributes;

use crate::admission::Admission;
use crate::ids::{AdmissionId, SlotId};

/// Whether the peer for which a worker asks may do so. The worker has checked that, but may have been
/// taken over, so the supervisor goes by its own knowledge of the worker's peers. Only what a peer has
/// proved to the worker has to be believed, and that not of a peer that the kernel vouches for.
pub(crate) fn permits(
    acl: &Acl,
    admission: &Admission,
    slot: SlotId,
    by: AdmissionId,
    request: &DirectoryRequest,
) -> bool {
    let Some(principal) = request.requesting_peer().filter(|_| !acl.rules.is_empty()) else {
        return true;
    };
    let Some(peer) = admission.peer_of(by, slot) else { return false };
    let (uid, gid) = (peer.identity.uid, peer.identity.gid);
    let names = acl.listeners.get(&peer.owner.0);
    let proved = |what: &Option<String>| what.clone().filter(|_| uid.is_none());
    let who = PeerAttributes {
        uid,
        gid,
        listener: names.and_then(|names| names.first().cloned()),
        token: proved(&principal.token),
        certificate: proved(&principal.certificate),
    };
    match request {
        DirectoryRequest::Ask { query, .. } => acl.may_ask(&who, query),
        DirectoryRequest::ClaimName { name, .. } => acl.may_be_named(&who, name),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::Instant;

    use ipcd_core::RequestingPeer;
    use ipcd_proto::control::Query;
    use ipcd_transport::{ChannelParts, PeerIdentity};

    use super::*;
    use crate::admission::{PeerArrival, Service};
    use crate::config::{Config, Limits};
    use crate::ids::OwnerId;

    fn acl(rules: &str) -> Acl {
        Config::parse(rules, Path::new("f.toml")).unwrap().acl()
    }

    fn admit(admission: &mut Admission, identity: PeerIdentity, slot: u32) -> AdmissionId {
        let parts = ChannelParts { descriptors: Vec::new(), identity, state: Vec::new() };
        let (owner, slot) = (OwnerId(0), SlotId(slot));
        let arrival = PeerArrival { owner, parts: &parts, must_prove: false, is_ours: false, slot };
        admission.admit(Instant::now(), arrival, || 0).unwrap().number
    }

    fn kick(token: Option<&str>) -> DirectoryRequest {
        let by = RequestingPeer { token: token.map(str::to_owned), ..RequestingPeer::default() };
        DirectoryRequest::Ask { ticket: 1, by, query: Query::Kick(7) }
    }

    fn claim(name: &str) -> DirectoryRequest {
        let by = RequestingPeer::default();
        DirectoryRequest::ClaimName { by, peer: 7, name: name.into() }
    }

    #[test]
    fn a_worker_gets_no_right_that_its_peer_lacks() {
        let acl = acl("[[acl]]\nuid = 1\nadmin = true\n[[acl]]\nuid = 2\nname = \"vault\"\n\
             [[acl]]\ntoken = \"ci\"\nadmin = true\n");
        let mut admission = Admission::new(&Limits::default(), Service::Pool(2));
        let [ann, bob] = [1, 2].map(|uid| admit(&mut admission, PeerIdentity::from_owner(uid), 0));
        let remote = PeerIdentity { addr: "10.0.0.1:1".parse().ok(), ..PeerIdentity::default() };
        let remote = admit(&mut admission, remote, 0);
        let may = |slot, by, request: &DirectoryRequest| {
            permits(&acl, &admission, SlotId(slot), by, request)
        };
        assert!(may(0, ann, &kick(None)) && !may(0, bob, &kick(None)));
        assert!(may(0, bob, &claim("vault")) && !may(0, ann, &claim("vault")));
        // In the name of another worker's peer, of one that is gone, or of none at all.
        assert!(!may(1, ann, &kick(None)));
        assert!(!may(0, AdmissionId(ann.0 + (1 << 40)), &kick(None)));
        assert!(!may(0, AdmissionId::NONE, &kick(None)));
        // Only of a peer that the kernel does not vouch for a proof has to be believed.
        assert!(!may(0, bob, &kick(Some("ci"))));
        assert!(may(0, remote, &kick(Some("ci"))) && !may(0, remote, &kick(Some("other"))));
        assert!(may(1, bob, &DirectoryRequest::Leaving), "it is for no peer");
    }

    #[test]
    fn without_rules_every_request_is_permitted() {
        let admission = Admission::new(&Limits::default(), Service::Pool(2));
        assert!(permits(&acl(""), &admission, SlotId(0), AdmissionId::NONE, &kick(None)));
    }
}
