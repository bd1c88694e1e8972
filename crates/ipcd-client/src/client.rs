//! The client: owns its parts, and connects, publishes and subscribes.
//!
//! Each part keeps one kind of state and returns events: [`Session`] the connection,
//! [`SubscriptionTable`] the subscriptions, [`OutcomeTracker`] calls, requests and receipts,
//! [`Publisher`] the frames of messages. `driver` moves bytes and dispatches frames to them.

#[cfg(feature = "async")]
mod begun;
mod driver;
mod external_loop;
mod receive;
mod requests;

use std::time::{Duration, Instant};

use ipcd_proto::control::{Answer, Origin, Query, Unsubscribe, encode};
use ipcd_proto::{Filter, FrameKind};
use ipcd_transport::{Endpoint, PeerIdentity};

use crate::event::{Event, EventQueue};
use crate::frame_channel::BATCH;
use crate::location::DaemonLocation;
use crate::message::Publication;
use crate::options::{Options, SubscribeOptions, TokenSource};
use crate::origins::OriginCache;
use crate::outcomes::OutcomeTracker;
use crate::publisher::Publisher;
use crate::session::Session;
use crate::subscriptions::SubscriptionTable;
use crate::{Error, Result};

pub use receive::MessageIter;

/// A connection to ipcd.
///
/// Dropping it writes what is buffered and says goodbye, for at most [`Options::timeout`]. Errors
/// are then lost: [`Client::close`] reports them.
pub struct Client {
    session: Session,
    publisher: Publisher,
    subscriptions: SubscriptionTable,
    outcomes: OutcomeTracker,
    origins: OriginCache,
    events: EventQueue,
}

impl Client {
    /// Connects and opens a session.
    ///
    /// # Errors
    /// If nothing listens there, the daemon refuses, or [`Options::timeout`] passes.
    pub fn connect(endpoint: &Endpoint, options: Options) -> Result<Self> {
        let transport = ipcd_transports::find(endpoint.scheme());
        let is_reliable = transport.is_ok_and(|transport| transport.capabilities().reliable);
        Ok(Self {
            session: Session::open(endpoint, options)?,
            publisher: Publisher::default(),
            subscriptions: SubscriptionTable::new(is_reliable),
            outcomes: OutcomeTracker::default(),
            origins: OriginCache::default(),
            events: EventQueue::default(),
        })
    }

    /// Connects to the daemon that `ipcctl` finds without options ([`DaemonLocation::find`]). Its
    /// token is proved, unless the options have one.
    ///
    /// # Errors
    /// As [`DaemonLocation::find`] and [`Client::connect`].
    pub fn connect_default(options: Options) -> Result<Self> {
        let found = DaemonLocation::find()?;
        let token = match options.token {
            TokenSource::None => found.token,
            given => given,
        };
        Self::connect(&found.endpoint, Options { token, ..options })
    }

    /// This peer's id. Another connection has another one.
    pub fn peer(&self) -> u64 {
        self.session.welcome().peer
    }

    /// Bytes of the largest payload that the daemon accepts (`max_message`).
    pub fn max_payload(&self) -> usize {
        self.session.welcome().max_payload as usize
    }

    /// The version of the daemon, such as `0.1.0`.
    pub fn server_version(&self) -> &str {
        &self.session.welcome().server
    }

    /// Whether the daemon asked for a token, and both sides have proved that they hold it.
    pub fn has_proved_token(&self) -> bool {
        self.session.welcome().proof.is_some()
    }

    /// The endpoint that the client connects to.
    pub fn endpoint(&self) -> &Endpoint {
        self.session.endpoint()
    }

    /// Whether the connection is open, as far as is known: its end is noticed by reading.
    pub fn is_connected(&self) -> bool {
        self.session.channel_ref().ended().is_none()
    }

    /// The daemon's identity: its process and user where the kernel tells them, else its address.
    pub fn daemon_identity(&self) -> &PeerIdentity {
        self.session.identity()
    }

    /// Publishes a message: checks it, and copies it into the client's buffer. A return is no
    /// confirmation; the daemon's answer comes with [`Client::flush`].
    ///
    /// The buffer is written
    /// - by this call when the buffer holds 64 KiB or more, which waits until less is left: so a
    ///   daemon that makes publishers wait makes this call wait;
    /// - while the client waits for anything, as in [`Client::next_event`], [`Client::request`] or
    ///   [`Client::wait_until`];
    /// - by [`Client::push`], which does not wait for a confirmation;
    /// - by [`Client::flush`] and [`Client::close`], which do;
    /// - when the client is dropped.
    ///
    /// A message therefore stays in the buffer as long as the caller does other work. Call `push`
    /// after the last message of a batch, or `flush` if a refusal or a loss matters.
    ///
    /// # Errors
    /// If the subject is invalid, the payload is larger than [`Client::max_payload`], or the
    /// connection is lost. A refusal by the daemon is an error of the next `flush`.
    pub fn publish(&mut self, subject: &str, payload: &[u8]) -> Result<()> {
        self.publish_message(&Publication { subject, payload, ..Publication::default() })
    }

    /// Publishes a message with headers and a reply subject. It is buffered as with
    /// [`Client::publish`].
    ///
    /// # Errors
    /// As [`Client::publish`], and if the headers or the reply subject are invalid.
    pub fn publish_message(&mut self, message: &Publication<'_>) -> Result<()> {
        self.publish_part(message, false)
    }

    /// Writes the buffer, and returns when the transport has taken all of it. The daemon may not
    /// have read it yet.
    ///
    /// # Errors
    /// If the connection is lost.
    pub fn push(&mut self) -> Result<()> {
        while self.session.channel_ref().unwritten() > 0 {
            self.write_some()?;
        }
        Ok(())
    }

    /// Writes the buffer, and waits until the daemon has accepted everything that was published.
    ///
    /// # Errors
    /// [`Error::Refused`] with the first refusal of a message since the last call;
    /// [`Error::Disconnected`] if a connection was lost with unconfirmed messages;
    /// [`Error::TimedOut`] if no confirmation comes within [`Options::timeout`].
    pub fn flush(&mut self) -> Result<()> {
        self.call(FrameKind::Flush, &[], "confirmation")?;
        // A blocking client has published nothing meanwhile.
        self.conclude_flush(u64::MAX)
    }

    /// Publishes a message and waits until the daemon has accepted it.
    ///
    /// # Errors
    /// As [`Client::publish`] and [`Client::flush`].
    pub fn send(&mut self, subject: &str, payload: &[u8]) -> Result<()> {
        self.publish(subject, payload)?;
        self.flush()
    }

    /// Subscribes, and returns the number of the subscription. Every matching message that is
    /// published after the return will come.
    ///
    /// # Errors
    /// If the filter is invalid, the daemon refuses, the connection is lost, or the daemon does not
    /// answer in time.
    pub fn subscribe(&mut self, filter: &str, options: SubscribeOptions) -> Result<u32> {
        let filter = Filter::parse(filter.as_bytes())?;
        let number = self.subscriptions.take_number();
        let (header, body) = self.subscriptions.frame(number, &filter, &options);
        self.call_with(header, &body, "confirmation")?;
        // Only now: a refused subscription must not be made again after a loss.
        self.subscriptions.insert(number, filter, options);
        Ok(number)
    }

    /// Ends a subscription. Messages that came before can still be taken.
    ///
    /// # Errors
    /// If there is no such subscription, the connection is lost, or the daemon does not answer in
    /// time.
    pub fn unsubscribe(&mut self, subscription: u32) -> Result<()> {
        // First, so that a loss during the call does not bring it back.
        self.subscriptions.remove(subscription);
        self.call(FrameKind::Unsubscribe, &encode(&Unsubscribe { subscription }), "confirmation")?;
        Ok(())
    }

    /// The filter of a subscription.
    pub fn filter(&self, subscription: u32) -> Option<&Filter> {
        self.subscriptions.filter(subscription)
    }

    /// Measures the round trip to the daemon.
    ///
    /// # Errors
    /// If the connection is lost, or the daemon does not answer in time.
    pub fn ping(&mut self) -> Result<Duration> {
        let start = Instant::now();
        self.call(FrameKind::Ping, &[], "answer")?;
        Ok(start.elapsed())
    }

    /// Asks about the daemon. A long answer comes in several parts.
    ///
    /// # Errors
    /// If the daemon refuses, the connection is lost, or the daemon does not answer in time.
    pub fn query(&mut self, query: &Query) -> Result<Vec<Answer>> {
        self.call(FrameKind::Query, &encode(query), "answer")
    }

    /// The id of the peer with this name or id, if there is one.
    ///
    /// # Errors
    /// As [`Client::query`].
    pub fn find(&mut self, peer: &str) -> Result<Option<u64>> {
        match self.query(&Query::Find(peer.to_owned()))?[..] {
            [Answer::Found(found)] => Ok(found),
            _ => Err(unexpected_answer()),
        }
    }

    /// The identity of a sender, if a subscription asks for it ([`SubscribeOptions::origin`]).
    pub fn origin(&self, sender: u64) -> Option<&Origin> {
        self.origins.find(sender)
    }

    /// Waits until the daemon has accepted everything, and says goodbye.
    ///
    /// # Errors
    /// As [`Client::flush`].
    pub fn close(mut self) -> Result<()> {
        self.flush()
    }

    /// The result of a flush, by the number of its frame, that the daemon has confirmed.
    pub(crate) fn conclude_flush(&mut self, flush: u64) -> Result<()> {
        self.publisher.confirm(flush)?;
        self.outcomes.take_refused().map_or(Ok(()), |refusal| Err(Error::Refused(refusal)))
    }

    /// Buffers a message. With `more`, it is a reply that is not the last one.
    fn publish_part(&mut self, message: &Publication<'_>, more: bool) -> Result<()> {
        self.buffer(message, more)?;
        while self.session.channel_ref().unwritten() >= BATCH {
            self.write_some()?;
        }
        Ok(())
    }

    /// The same, and writes nothing.
    fn buffer(&mut self, message: &Publication<'_>, more: bool) -> Result<()> {
        self.publisher.check(message, self.max_payload())?;
        let frame = self.publisher.message(message, more);
        self.session.channel().frame(&frame);
        Ok(())
    }
}

pub(crate) fn unexpected_answer() -> Error {
    Error::Protocol("the answer does not belong to the question".into())
}
