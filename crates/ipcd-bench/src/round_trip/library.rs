//! Clients as users write them, with the client library.

use std::io;

use ipcd_client::{Client, Event, Message, Options, SubscribeOptions, TokenSource};

use crate::daemon::Private;
use crate::load::SUBJECT;
use crate::process::WATCHDOG;

/// Sends requests.
pub(super) struct Requester {
    client: Client,
    reply: Option<Message>,
}

impl Requester {
    pub(super) fn connect(daemon: &Private) -> io::Result<Self> {
        Ok(Self { client: connect(daemon)?, reply: None })
    }
}

impl super::Requester for Requester {
    fn ask(&mut self, payload: &[u8]) -> io::Result<()> {
        let reply = self.client.request(SUBJECT, payload, WATCHDOG);
        self.reply = Some(reply.map_err(io::Error::other)?);
        Ok(())
    }

    fn reply(&self) -> &[u8] {
        self.reply.as_ref().map_or(&[], Message::payload)
    }
}

/// Answers requests.
pub(super) struct Responder(Client);

impl Responder {
    /// With a subscription that the daemon has confirmed.
    pub(super) fn connect(daemon: &Private) -> io::Result<Self> {
        let mut client = connect(daemon)?;
        let subscribed = client.subscribe(SUBJECT, SubscribeOptions::default());
        subscribed.map_err(io::Error::other)?;
        Ok(Self(client))
    }
}

impl super::Responder for Responder {
    /// The reply goes out when the next request is waited for, or the client is dropped.
    fn answer(&mut self) -> io::Result<()> {
        match self.0.next_event(None).map_err(io::Error::other)? {
            Some(Event::Message(request)) if request.is_request => {
                self.0.reply(&request, request.payload()).map_err(io::Error::other)
            }
            event => Err(io::Error::other(format!("{event:?} instead of a request"))),
        }
    }
}

fn connect(daemon: &Private) -> io::Result<Client> {
    let token = TokenSource::Secret(daemon.token().clone());
    let options = Options { token, timeout: WATCHDOG, ..Options::default() };
    Client::connect(daemon.endpoint(), options).map_err(io::Error::other)
}
