//! The client: publish, subscribe, receive.
//!
//! What it asks and waits for is in `calls`, requests and receipts in `requests`; `incoming` handles
//! what comes, `events` keeps it for the caller, and `reconnect` is for when the connection is lost.
//! `turns` is for whoever has an event loop of their own.

mod calls;
mod events;
mod incoming;
mod reconnect;
mod requests;
mod turns;

use std::collections::BTreeMap;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use ipcd_proto::control::{Answer, Origin, Query, Refusal, Unsubscribe, Welcome, encode};
use ipcd_proto::{BadHeaders, Filter, Frame, Header, Kind, Subject, limits};
use ipcd_transport::{Endpoint, PeerIdentity, deadline_after};

use crate::message::Publication;
use crate::options::{Options, SubscribeOptions};
use crate::origins::Origins;
use crate::outstanding::Outstanding;
use crate::wire::{BATCH, Turn, Wire, Wish};
use crate::{Error, Result, session};

use calls::{Awaited, Ending};
use events::{Events, has_passed};
use reconnect::subscribe_body;

pub use events::{Event, Messages};

/// Bytes of messages that wait to be taken, before a client that only sends stops reading.
const MAX_PENDING: usize = 64 * 1024 * 1024;

/// What [`Client::wait_event_or`] waited for, and came first.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Woken {
    /// An event waits to be taken.
    Event,
    /// The descriptor is readable.
    Ready,
    /// The deadline came.
    Late,
}

/// A connection to ipcd.
pub struct Client {
    endpoint: Endpoint,
    options: Options,
    wire: Wire,
    welcome: Welcome,
    /// How many connections there were before this one.
    connection: u32,
    subscriptions: BTreeMap<u32, (Filter, SubscribeOptions)>,
    events: Events,
    origins: Origins,
    outstanding: Outstanding,
    next_subscription: u32,
    next_id: u64,
    /// The last subject that was found to be one: most messages go where the one before went.
    checked: String,
    awaited: Option<Awaited>,
    /// Where replies to a request go: kept, so that a request allocates nothing.
    own_address: String,
    /// Messages that have come, and how many of them before this connection was made.
    received: u64,
    received_before: u64,
    /// The first message that was refused since the last flush.
    refused: Option<Refusal>,
    /// Whether messages were sent on a connection that was lost before they were confirmed.
    unconfirmed: bool,
    lost_unconfirmed: bool,
    /// Why the session ends, if that is known better than by the end of the connection.
    ending: Option<Ending>,
    /// Why the connection was lost, until it is made again.
    lost: Option<String>,
    /// Subscriptions that were made again, by their frames.
    resubscribed: BTreeMap<u64, u32>,
    /// Why a subscription could not be made again: without it, going on is of no use.
    unsubscribed: Option<Refusal>,
}

impl Client {
    /// Connects and opens a session.
    ///
    /// # Errors
    /// If nobody is there, or the daemon refuses, or no answer comes in time.
    pub fn connect(endpoint: &Endpoint, options: Options) -> Result<Self> {
        let deadline = deadline_after(options.timeout);
        let (wire, welcome) = session::open(endpoint, &options, deadline)?;
        Ok(Self {
            endpoint: endpoint.clone(),
            options,
            wire,
            welcome,
            connection: 0,
            subscriptions: BTreeMap::new(),
            events: Events::default(),
            origins: Origins::default(),
            outstanding: Outstanding::default(),
            next_subscription: 1,
            next_id: 1,
            checked: String::new(),
            awaited: None,
            own_address: String::new(),
            received: 0,
            received_before: 0,
            refused: None,
            unconfirmed: false,
            lost_unconfirmed: false,
            ending: None,
            lost: None,
            resubscribed: BTreeMap::new(),
            unsubscribed: None,
        })
    }

    /// This peer's id.
    pub fn peer(&self) -> u64 {
        self.welcome.peer
    }

    /// Bytes of the largest payload that the daemon takes.
    pub fn max_payload(&self) -> usize {
        self.welcome.max_payload as usize
    }

    /// The version of the daemon.
    pub fn server_version(&self) -> &str {
        &self.welcome.server
    }

    /// Whether the daemon asked for a token, and both sides have proved that they hold it.
    pub fn has_proved_token(&self) -> bool {
        self.welcome.proof.is_some()
    }

    /// Where the client is connected to.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Whether the connection has not ended, as far as is known.
    pub fn is_connected(&self) -> bool {
        self.wire.ended().is_none()
    }

    /// Who the daemon is, as far as the kernel can tell.
    pub fn daemon_identity(&self) -> &PeerIdentity {
        self.wire.channel().identity()
    }

    /// Sends a message, some time before the client waits or is dropped.
    ///
    /// # Errors
    /// If the message is no good, or the connection is lost.
    pub fn publish(&mut self, subject: &str, payload: &[u8]) -> Result<()> {
        self.publish_message(&Publication { subject, payload, ..Publication::default() })
    }

    /// The same, with everything that a message can have.
    ///
    /// # Errors
    /// If the message is no good, or the connection is lost.
    pub fn publish_message(&mut self, message: &Publication<'_>) -> Result<()> {
        self.publish_part(message, false)
    }

    /// Writes what is buffered, without waiting for a confirmation.
    ///
    /// # Errors
    /// If the connection is lost.
    pub fn push(&mut self) -> Result<()> {
        while self.wire.unwritten() > 0 {
            self.write_some()?;
        }
        Ok(())
    }

    /// Keeps the connection going until the descriptor is readable; false at the deadline.
    ///
    /// # Errors
    /// If the connection is lost.
    pub fn wait_for(&mut self, fd: BorrowedFd<'_>, deadline: Option<Instant>) -> Result<bool> {
        loop {
            let only_write = self.events.bytes() >= MAX_PENDING;
            let wish = Wish { also: Some(fd), only_write, ..Wish::input(deadline) };
            match self.turn(wish)? {
                Turn::Moved => {}
                turn => return Ok(turn == Turn::Other),
            }
        }
    }

    /// Keeps the connection going until an event waits to be taken, or the descriptor is readable,
    /// or the deadline comes.
    ///
    /// # Errors
    /// If the connection is lost and no event is left.
    pub fn wait_event_or(
        &mut self,
        fd: BorrowedFd<'_>,
        deadline: Option<Instant>,
    ) -> Result<Woken> {
        loop {
            if self.has_event() {
                return Ok(Woken::Event);
            }
            let wake = deadline.into_iter().chain(self.outstanding.next_deadline()).min();
            match self.turn(Wish { also: Some(fd), ..Wish::input(wake) }) {
                Ok(Turn::Moved) => {}
                Ok(Turn::Other) => return Ok(Woken::Ready),
                Ok(Turn::Late) if self.has_event() || !has_passed(deadline) => {}
                Ok(Turn::Late) => return Ok(Woken::Late),
                Err(error) if !self.has_event() => return Err(error),
                Err(_) => {}
            }
        }
    }

    /// Waits until the descriptor can be written; false at the deadline. No messages are taken
    /// meanwhile, as far as the transport can leave them: who cannot pass on what came lets its
    /// senders wait. What is buffered is written, and the end of the connection is noticed.
    ///
    /// # Errors
    /// If the connection is lost. What came before is an event, and waits to be taken.
    pub fn wait_writable(&mut self, fd: BorrowedFd<'_>, deadline: Option<Instant>) -> Result<bool> {
        let wish = Wish { also: Some(fd), also_writes: true, only_write: true, ..Wish::default() };
        loop {
            match self.turn(Wish { deadline, ..wish })? {
                Turn::Moved => {}
                turn => return Ok(turn == Turn::Other),
            }
        }
    }

    /// Keeps the connection going until then.
    ///
    /// # Errors
    /// If the connection is lost.
    pub fn wait_until(&mut self, time: Instant) -> Result<()> {
        while self.turn(Wish::input(Some(time)))? != Turn::Late {}
        Ok(())
    }

    /// Waits until the daemon has accepted everything that was published.
    ///
    /// # Errors
    /// If a message was refused, the connection was lost, or no answer came in time.
    pub fn flush(&mut self) -> Result<()> {
        self.call(Kind::Flush, &[], "confirmation")?;
        self.unconfirmed = false;
        if std::mem::take(&mut self.lost_unconfirmed) {
            let why = "messages that were not confirmed may be lost".into();
            return Err(Error::Disconnected(why));
        }
        match self.refused.take() {
            Some(refusal) => Err(Error::Refused(refusal)),
            None => Ok(()),
        }
    }

    /// Publishes a message and waits until the daemon has accepted it.
    ///
    /// # Errors
    /// As [`Client::publish`] and [`Client::flush`].
    pub fn send(&mut self, subject: &str, payload: &[u8]) -> Result<()> {
        self.publish(subject, payload)?;
        self.flush()
    }

    /// Subscribes, and returns the number of the subscription. Whatever is published after this
    /// returns will come.
    ///
    /// # Errors
    /// If the daemon refuses, the connection is lost, or no answer comes in time.
    pub fn subscribe(&mut self, filter: &str, options: SubscribeOptions) -> Result<u32> {
        let filter = Filter::parse(filter.as_bytes())?;
        let number = self.next_subscription;
        self.next_subscription += 1;
        let header = self.subscribe_header(&options);
        self.call_with(header, &subscribe_body(number, &filter, &options), "confirmation")?;
        self.subscriptions.insert(number, (filter, options));
        Ok(number)
    }

    /// Ends a subscription. Messages that came before are still delivered.
    ///
    /// # Errors
    /// If there is no such subscription, the connection is lost, or no answer comes in time.
    pub fn unsubscribe(&mut self, subscription: u32) -> Result<()> {
        self.subscriptions.remove(&subscription);
        self.call(Kind::Unsubscribe, &encode(&Unsubscribe { subscription }), "confirmation")?;
        Ok(())
    }

    /// The filter of a subscription.
    pub fn filter(&self, subscription: u32) -> Option<&Filter> {
        self.subscriptions.get(&subscription).map(|(filter, _)| filter)
    }

    /// How long the daemon takes to answer.
    ///
    /// # Errors
    /// If the connection is lost, or no answer comes in time.
    pub fn ping(&mut self) -> Result<Duration> {
        let start = Instant::now();
        self.call(Kind::Ping, &[], "answer")?;
        Ok(start.elapsed())
    }

    /// Asks about the daemon.
    ///
    /// # Errors
    /// If the daemon refuses, the connection is lost, or no answer comes in time.
    pub fn query(&mut self, query: &Query) -> Result<Vec<Answer>> {
        self.call(Kind::Query, &encode(query), "answer")
    }

    /// The id of the peer with this name or id, if there is one.
    ///
    /// # Errors
    /// As [`Client::query`].
    pub fn find(&mut self, who: &str) -> Result<Option<u64>> {
        match self.query(&Query::Find(who.to_owned()))?[..] {
            [Answer::Found(found)] => Ok(found),
            _ => Err(Error::Protocol("it answered another question".into())),
        }
    }

    /// Who a sender is, if a subscription asked for it ([`SubscribeOptions::origin`]).
    pub fn origin(&self, sender: u64) -> Option<&Origin> {
        self.origins.find(sender)
    }

    /// Waits until everything is accepted, and says goodbye.
    ///
    /// # Errors
    /// As [`Client::flush`].
    pub fn close(mut self) -> Result<()> {
        self.flush()
    }

    /// Gives a message to the wire; with `more` it is a reply that is not the last one.
    fn publish_part(&mut self, message: &Publication<'_>, more: bool) -> Result<()> {
        self.check(message)?;
        let header = Header { more, ..Header::new(Kind::Message, self.take_id()) };
        self.wire.frame(&frame(header, message));
        self.unconfirmed = true;
        while self.wire.unwritten() >= BATCH {
            self.write_some()?;
        }
        Ok(())
    }

    /// Whether the daemon would take the message.
    fn check(&mut self, message: &Publication<'_>) -> Result<()> {
        if self.checked.is_empty() || message.subject != self.checked {
            Subject::parse(message.subject.as_bytes())?;
            self.checked.clear();
            self.checked.push_str(message.subject);
        }
        if !message.reply.is_empty() {
            Subject::parse(message.reply.as_bytes())?;
        }
        if message.headers.len() > limits::MAX_HEADERS {
            return Err(BadHeaders::TooLong.into());
        }
        let (bytes, limit) = (message.payload.len(), self.max_payload());
        if bytes > limit { Err(Error::TooLarge { bytes, limit }) } else { Ok(()) }
    }

    fn take_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id - 1
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.wire.close(deadline_after(self.options.timeout));
    }
}

fn frame<'a>(header: Header, message: &Publication<'a>) -> Frame<'a> {
    Frame {
        header,
        subject: message.subject.as_bytes(),
        reply: message.reply.as_bytes(),
        headers: message.headers,
        payload: message.payload,
    }
}
