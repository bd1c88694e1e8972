//! The target of a message: a subject, or a peer by its name or id.

use std::time::{Duration, Instant};

use ipcd_client::{Answer, Client, DirectAddress, Query};

use crate::exit::{Failure, FailureKind, Outcome};
use ipcd_transport::{deadline_after, later};

/// The interval at which `--wait-subs` asks.
const ASK_EVERY: Duration = Duration::from_millis(20);

/// The subject for a target: `@NAME` and `@ID` become the address of that peer.
pub(crate) fn resolve(client: &mut Client, given: &str) -> Outcome<String> {
    let Some(who) = given.strip_prefix('@') else { return Ok(given.to_owned()) };
    // The reply subject of a request (`@ID.NUMBER`) is a complete address.
    if DirectAddress::parse(given.as_bytes()).is_some_and(|address| address.request.is_some()) {
        return Ok(given.to_owned());
    }
    match client.find(who)? {
        Some(peer) => Ok(DirectAddress { peer, request: None }.to_string()),
        None => {
            let why = format!("no peer is named {who} (see ipcctl clients)");
            Err(Failure::new(FailureKind::NoPeer, why))
        }
    }
}

/// Refuses `--wait-subs` where there is nothing to wait for.
pub(crate) fn check_wait(given: &str, wanted: Option<u64>) -> Outcome {
    if wanted.is_some() && given.starts_with('@') {
        let why = "--wait-subs cannot be used for one peer: such a message needs no subscription";
        return Err(Failure::new(FailureKind::Usage, why));
    }
    Ok(())
}

/// Waits until at least `wanted` subscriptions match, if `--wait-subs` is given.
pub(crate) fn wait_for_subscriptions(
    client: &mut Client,
    subject: &str,
    wanted: Option<u64>,
    timeout: Duration,
) -> Outcome {
    let Some(wanted) = wanted else { return Ok(()) };
    let deadline = deadline_after(timeout);
    loop {
        let answers = client.query(&Query::Matching(subject.to_owned()))?;
        let found = match answers.first() {
            Some(Answer::Matching(count)) => *count,
            _ => 0,
        };
        if found >= wanted {
            return Ok(());
        }
        let now = Instant::now();
        if now >= deadline {
            let why = format!("{found} of {wanted} subscriptions came in time (see --timeout)");
            return Err(Failure::new(FailureKind::Timeout, why));
        }
        // The protocol has no notice of new subscriptions, so this asks again.
        client.wait_until(deadline.min(later(now, ASK_EVERY)))?;
    }
}
