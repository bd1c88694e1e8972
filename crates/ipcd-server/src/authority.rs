//! The rights of the peers that workers ask for, as the supervisor knows them.

use ipcd_core::{Acl, DirectoryRequest};
use ipcd_proto::control::Who;

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
    let Some(principal) = request.principal().filter(|_| !acl.rules.is_empty()) else {
        return true;
    };
    let Some(peer) = admission.peer_of(by, slot) else { return false };
    let (uid, gid) = (peer.identity.uid, peer.identity.gid);
    let names = acl.listeners.get(&peer.owner.0);
    let proved = |what: &Option<String>| what.clone().filter(|_| uid.is_none());
    let who = Who {
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
