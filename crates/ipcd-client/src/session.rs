//! The session with the daemon: the connection that carries it, the reason for its end, and the
//! next attempt after a loss.

use std::time::Instant;

use ipcd_proto::control::{Refusal, Welcome};
use ipcd_proto::{Frame, FrameKind};
use ipcd_transport::{Endpoint, PeerIdentity, deadline_after};

use crate::frame_channel::FrameChannel;
use crate::options::{Backoff, Options};
use crate::{Error, Result, handshake};

/// The daemon's reason for the end of a session, which is known better than by the end of the
/// connection.
pub(crate) enum SessionEnd {
    /// The daemon sent an ERROR without a frame that it refuses.
    Refused(Refusal),
    /// The bytes were no frame, so that nothing after them can be understood.
    Garbled(String),
}

impl SessionEnd {
    fn error(&self) -> Error {
        match self {
            Self::Refused(refusal) => Error::Refused(refusal.clone()),
            Self::Garbled(why) => Error::Protocol(why.clone()),
        }
    }
}

/// One session after the other, with the same daemon and the same options.
pub(crate) struct Session {
    endpoint: Endpoint,
    options: Options,
    channel: FrameChannel,
    welcome: Welcome,
    /// The number of the connection, counted from 0.
    number: u32,
    end: Option<SessionEnd>,
    /// The reason for the loss of the connection, until the next one is there.
    lost: Option<String>,
}

impl Session {
    pub(crate) fn open(endpoint: &Endpoint, options: Options) -> Result<Self> {
        let deadline = deadline_after(options.timeout);
        let (channel, welcome) = handshake::open(endpoint, &options, deadline)?;
        let endpoint = endpoint.clone();
        Ok(Self { endpoint, options, channel, welcome, number: 0, end: None, lost: None })
    }

    pub(crate) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// The deadline of an operation that begins now.
    pub(crate) fn deadline(&self) -> Instant {
        deadline_after(self.options.timeout)
    }

    pub(crate) fn reconnects(&self) -> bool {
        self.options.reconnect.is_some()
    }

    pub(crate) fn welcome(&self) -> &Welcome {
        &self.welcome
    }

    pub(crate) fn number(&self) -> u32 {
        self.number
    }

    pub(crate) fn channel(&mut self) -> &mut FrameChannel {
        &mut self.channel
    }

    pub(crate) fn channel_ref(&self) -> &FrameChannel {
        &self.channel
    }

    pub(crate) fn identity(&self) -> &PeerIdentity {
        self.channel.inner().identity()
    }

    /// The reason for a loss that the caller has been told of, until the connection is made again.
    pub(crate) fn lost(&self) -> Option<&str> {
        self.lost.as_deref()
    }

    pub(crate) fn note_end(&mut self, end: SessionEnd) {
        self.end = Some(end);
    }

    /// Ends the connection after an error, and returns the best reason that is known.
    pub(crate) fn fail(&mut self, error: Error) -> Error {
        if let Error::Protocol(why) = &error {
            self.end.get_or_insert(SessionEnd::Garbled(why.clone()));
        }
        let error = match (error, &self.end) {
            (Error::Disconnected(_), Some(end)) => end.error(),
            (error, _) => error,
        };
        self.channel.end(reason(&error));
        error
    }

    /// The error of an operation that finds the connection ended, for the given reason.
    pub(crate) fn ended_error(&self, why: String) -> Error {
        self.end.as_ref().map_or(Error::Disconnected(why), SessionEnd::error)
    }

    /// Closes a connection that has failed, so that the daemon sees its end now and not when there
    /// is a new one: a name is free again only then.
    pub(crate) fn drop_connection(&mut self) {
        self.channel.abandon();
    }

    pub(crate) fn note_loss(&mut self, why: String) {
        self.drop_connection();
        self.lost = Some(why);
    }

    /// Connects again and again until it succeeds; `None` at the deadline.
    ///
    /// # Errors
    /// If another attempt cannot succeed either, as with a wrong token.
    pub(crate) fn reconnect(
        &self,
        deadline: Option<Instant>,
    ) -> Result<Option<(FrameChannel, Welcome)>> {
        let backoff = self.backoff();
        let mut pauses = backoff.pauses();
        loop {
            let attempt =
                deadline.map_or(self.deadline(), |deadline| deadline.min(self.deadline()));
            match handshake::open(&self.endpoint, &self.options, attempt) {
                Ok(made) => return Ok(Some(made)),
                // A wrong token stays wrong: trying again would only fill the daemon's log.
                Err(error) if !error.is_temporary() => return Err(error),
                Err(_) => {}
            }
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                return Ok(None);
            }
            let pause = pauses.next().unwrap_or(backoff.longest);
            std::thread::park_timeout(left.map_or(pause, |left| pause.min(left)));
        }
    }

    pub(crate) fn backoff(&self) -> Backoff {
        self.options.reconnect.unwrap_or_default()
    }

    /// An attempt to connect again, for another thread.
    #[cfg(feature = "async")]
    pub(crate) fn attempt(&self) -> ConnectAttempt {
        ConnectAttempt { endpoint: self.endpoint.clone(), options: self.options.clone() }
    }

    /// Continues over a new connection. Returns the frames of the old one that are to be sent over
    /// it.
    pub(crate) fn resume(&mut self, channel: FrameChannel, welcome: Welcome) -> Vec<u8> {
        // A frame that was written in part is lost: its rest means nothing to the new connection.
        let untouched = self.channel.take_untouched(is_valid_elsewhere);
        self.channel = channel;
        self.welcome = welcome;
        self.number += 1;
        self.end = None;
        self.lost = None;
        untouched
    }
}

/// Everything that an attempt to connect again needs.
#[cfg(feature = "async")]
#[derive(Clone)]
pub(crate) struct ConnectAttempt {
    endpoint: Endpoint,
    options: Options,
}

#[cfg(feature = "async")]
impl ConnectAttempt {
    /// Connects, and waits for that.
    pub(crate) fn make(self) -> Result<(FrameChannel, Welcome)> {
        handshake::open(&self.endpoint, &self.options, deadline_after(self.options.timeout))
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let deadline = self.deadline();
        self.channel.close(deadline);
    }
}

/// The text for everything that ends together with the connection.
pub(crate) fn reason(error: &Error) -> String {
    match error {
        Error::Disconnected(why) => why.clone(),
        error => error.to_string(),
    }
}

/// Whether the frame means the same on another connection. A direct message does not: its receiver
/// may have another id by then. A tracked one does not either: its outcome has been told as lost.
fn is_valid_elsewhere(frame: &Frame<'_>) -> bool {
    let is_direct = frame.subject.starts_with(b"@");
    frame.header.kind == FrameKind::Message && !frame.header.is_tracked() && !is_direct
}
