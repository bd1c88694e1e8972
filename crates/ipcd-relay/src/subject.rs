//! A session with the daemon as one end of a pair: written messages are published on the subject,
//! and messages of the subject are read. Each message is a record.

use std::time::Instant;

use ipcd_client::{Client, Error, Event, Options, SubscribeOptions};
use ipcd_transport::{Endpoint, ReadBuffer, ReadOutcome};

use crate::Result;

/// The number of unwritten bytes above which no more messages are queued.
const HIGH: usize = 256 * 1024;

pub(crate) struct SubjectSession {
    pub(crate) client: Client,
    subject: String,
    /// The next deadline of the transport.
    pub(crate) tick: Option<Instant>,
    /// Whether the loop wants messages. Otherwise they stay with the daemon, which handles slow
    /// subscribers.
    pub(crate) takes: bool,
    /// The error that ended the session, until it is reported.
    ended: Option<Error>,
    is_over: bool,
    has_left: bool,
}

impl SubjectSession {
    /// Connects and subscribes, which may take until the options' timeout.
    pub(crate) fn open(
        daemon: &Endpoint,
        options: &Options,
        subject: &str,
        echo: bool,
    ) -> Result<Self> {
        let options = Options { no_echo: !echo, ..options.clone() };
        let mut client = Client::connect(daemon, options)?;
        client.subscribe(subject, SubscribeOptions::default())?;
        Ok(Self {
            client,
            subject: subject.to_owned(),
            tick: None,
            takes: true,
            ended: None,
            is_over: false,
            has_left: false,
        })
    }

    /// Writes and reads the connection. Returns whether an event is buffered.
    pub(crate) fn advance(&mut self) -> bool {
        if !self.is_over {
            match self.client.advance(self.takes || self.has_left) {
                Ok(tick) => self.tick = tick,
                Err(error) => {
                    (self.ended, self.is_over) = (Some(error), true);
                    self.tick = None;
                }
            }
        }
        self.client.has_event() || self.ended.is_some()
    }

    pub(crate) fn has_left(&self) -> bool {
        self.has_left
    }

    /// Reads the next message. Other events, such as drops, are skipped: the end cannot receive
    /// them, and the daemon counts drops.
    pub(crate) fn read(&mut self, into: &mut ReadBuffer) -> Result<ReadOutcome> {
        loop {
            match self.client.take() {
                Some(Event::Message(message)) => {
                    into.extend(message.payload());
                    return Ok(ReadOutcome::Bytes(message.payload().len()));
                }
                Some(_) => {}
                None => break,
            }
        }
        match self.ended.take() {
            Some(error) if !self.has_left => Err(error.into()),
            _ if self.is_over => Ok(ReadOutcome::Closed),
            _ => Ok(ReadOutcome::NotReady),
        }
    }

    /// Publishes a message; `None` if too many bytes are unwritten.
    pub(crate) fn write(&mut self, payload: &[u8]) -> Result<Option<usize>> {
        // The socket may have room again: the loop may not have written since.
        if self.client.unwritten() > HIGH {
            self.advance();
        }
        if self.client.unwritten() > HIGH {
            return Ok(None);
        }
        self.client.queue(&self.subject, payload)?;
        Ok(Some(payload.len()))
    }

    /// The reason why the daemon has refused a message.
    pub(crate) fn take_refused(&mut self) -> Option<String> {
        self.client.take_refused().map(|refusal| refusal.message)
    }

    /// Leaves the session. The daemon has accepted all published messages when
    /// [`SubjectSession::has_gone`].
    pub(crate) fn leave(&mut self) {
        if !self.has_left && !self.is_over {
            self.has_left = true;
            self.client.leave();
            self.advance();
        }
    }

    /// Whether the connection has ended. Messages that come meanwhile are dropped.
    pub(crate) fn has_gone(&mut self) -> bool {
        while self.client.take().is_some() {}
        self.is_over
    }
}

impl Drop for SubjectSession {
    /// A loop with other peers does not wait for the daemon.
    fn drop(&mut self) {
        self.client.abandon();
    }
}
