//! The listener of the first side, and its pauses.

use std::time::{Duration, Instant};

use ipcd_transport::{ChannelParts, Listener};

use crate::pair::PeerOrigin;
use crate::watch::{EpollWatch, INPUT, WatchToken, WatchedFlags};
use crate::{Observer, Result};

/// The pause after an error of the system, or after the only peer was refused.
const PAUSE: Duration = Duration::from_millis(500);

pub(crate) struct PeerListener {
    listener: Box<dyn Listener>,
    watched: WatchedFlags,
    /// The end of the pause.
    paused: Option<Instant>,
    /// Refused peers that the listener is told of after the pause.
    refused: Vec<PeerOrigin>,
}

impl PeerListener {
    pub(crate) fn new(listener: Box<dyn Listener>) -> Self {
        Self { listener, watched: None, paused: None, refused: Vec::new() }
    }

    /// Watches for peers if there is room for more and no pause. Others wait in the backlog.
    pub(crate) fn watch(&mut self, watch: &EpollWatch, has_room: bool, now: Instant) -> Result<()> {
        if self.paused.is_some_and(|until| until <= now) {
            self.paused = None;
            let refused = std::mem::take(&mut self.refused);
            refused.iter().for_each(|origin| self.release(origin));
        }
        let wanted = (has_room && self.paused.is_none()).then_some(INPUT);
        watch.set(self.listener.fd(), WatchToken::Listener, self.watched, wanted)?;
        self.watched = wanted;
        Ok(())
    }

    /// Accepts the next peer. An error is reported, and there is none then.
    pub(crate) fn accept(&mut self, observer: &dyn Observer, now: Instant) -> Option<ChannelParts> {
        if self.paused.is_some() {
            return None;
        }
        match self.listener.accept() {
            Ok(parts) => parts,
            Err(error) => {
                // The listener stays readable, so accepting again at once would spin.
                if error.is_exhaustion() {
                    self.pause(now);
                }
                observer.trouble(&error.to_string());
                None
            }
        }
    }

    pub(crate) fn pause(&mut self, now: Instant) {
        self.paused = Some(now + PAUSE);
    }

    pub(crate) fn pause_end(&self) -> Option<Instant> {
        self.paused
    }

    /// Tells the listener that a peer has gone.
    pub(crate) fn release(&mut self, (identity, state): &PeerOrigin) {
        self.listener.released(identity, state);
    }

    /// The same after a pause, for a peer that would come again at once.
    pub(crate) fn release_later(&mut self, origin: PeerOrigin, now: Instant) {
        self.pause(now);
        self.refused.push(origin);
    }

    /// Stops listening, and removes the listener's files.
    pub(crate) fn close(self, watch: &EpollWatch) -> Result<()> {
        watch.set(self.listener.fd(), WatchToken::Listener, self.watched, None)
    }
}
