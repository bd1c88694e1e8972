//! What the kernel has no memory for now: it is tried again after a pause, and costs nothing until
//! then.

use ipcd_core::{PeerKey, Principal};
use nix::errno::Errno;
use tracing::warn;

use super::Worker;
use crate::Error;
use crate::lacking::PAUSE;

impl Worker {
    /// Has [`Worker::try_again`] called after a pause.
    pub(super) fn retry_soon(&mut self) {
        self.retry_at.get_or_insert(self.now + PAUSE);
    }

    /// Ends the pause of everything that was refused.
    pub(super) fn try_again(&mut self) -> Result<(), Error> {
        if self.retry_at.is_none_or(|at| at > self.now) {
            return Ok(());
        }
        self.retry_at = None;
        self.link.flush().map_err(|error| Error::system("write to the link", error))?;
        for index in 0..self.connections.len() {
            let connection = self.connections[index].as_mut();
            if connection.is_some_and(|found| std::mem::take(&mut found.rests)) {
                self.rearm(PeerKey(index as u32));
            }
        }
        for slot in 0..self.full_inboxes.len() as u32 {
            self.forward(slot)?;
        }
        Ok(())
    }

    /// Lets a peer go that nothing would ever be heard of: the kernel cannot wait for it, for lack of
    /// memory (ENOMEM) or because the user waits for too much already (ENOSPC, `max_user_watches`
    /// in epoll(7)). It is told so, if it takes that at once.
    pub(super) fn leave_unwatched(&mut self, key: PeerKey, error: Errno) {
        let why = format!("the kernel cannot wait for it: {error}");
        if self.connection(key).is_some_and(|connection| connection.closing.is_none()) {
            let origin = self.core.origin(key);
            let (peer, source) =
                (origin.peer, Principal::of(origin.uid, origin.addr, self.core.prefixes()));
            warn!(
                %source,
                peer,
                why,
                "peer let go; see epoll(7) for the limit on what one user waits for"
            );
            self.core.leave_unwatched(self.now, key, &why);
            self.write(key);
            self.finish(key);
        }
        self.detach(key, &why);
    }
}
