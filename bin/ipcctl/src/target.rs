//! Where a message goes: a subject, or a peer by its name or id.

use ipcd_client::{Address, Client};

use crate::exit::{Exit, Failure, Outcome};

/// The subject for what the user has given: `@NAME` and `@ID` become the address of that peer.
pub(crate) fn resolve(client: &mut Client, given: &str) -> Outcome<String> {
    let Some(who) = given.strip_prefix('@') else { return Ok(given.to_owned()) };
    // An address for replies, as a message brings it, is complete.
    if Address::parse(given.as_bytes()).is_some_and(|address| address.request.is_some()) {
        return Ok(given.to_owned());
    }
    match client.find(who)? {
        Some(peer) => Ok(Address { peer, request: None }.to_string()),
        None => {
            let why = format!("there is no peer named {who} (ipcctl clients tells those that are)");
            Err(Failure::new(Exit::NoPeer, why))
        }
    }
}
