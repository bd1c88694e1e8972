//! The listening side: a listener of streams, and what its peers may ask for.

use std::os::fd::BorrowedFd;

use ipcd_transport::{ChannelParts, Endpoint, Listener, Result, TrustAnchors};

use crate::origin;
use crate::place::Place;
use crate::request::RequestRules;
use crate::socket::WebSocket;

/// Accepts peers that ask for a WebSocket. The process that serves them judges the request.
pub struct WebSocketListener {
    streams: Box<dyn Listener>,
    local: Endpoint,
    is_raw: bool,
}

impl WebSocketListener {
    /// A listener at this endpoint; `listen` opens that of the streams below.
    ///
    /// # Errors
    /// As [`WebSocketListener::check`], and those of `listen`.
    pub fn open(
        at: &Endpoint,
        is_raw: bool,
        listen: impl FnOnce(&Endpoint) -> Result<Box<dyn Listener>>,
    ) -> Result<Self> {
        Self::check(at)?;
        let place = Place::of(at)?;
        let streams = listen(&place.stream)?;
        let local = place.at(streams.local());
        Ok(Self { streams, local, is_raw })
    }

    /// Checks the endpoint and the option of this layer.
    ///
    /// # Errors
    /// If the endpoint is no place of a WebSocket, or `origin=` lists what is no origin.
    pub fn check(at: &Endpoint) -> Result<()> {
        origin::listed(at)?;
        Place::of(at).map(drop)
    }

    fn rules(&self) -> Result<RequestRules> {
        let (path, origins) = (Place::of(&self.local)?.path, origin::listed(&self.local)?);
        Ok(RequestRules { path, origins, is_raw: self.is_raw })
    }
}

impl Listener for WebSocketListener {
    fn fd(&self) -> BorrowedFd<'_> {
        self.streams.fd()
    }

    fn local(&self) -> &Endpoint {
        &self.local
    }

    fn accept(&mut self) -> Result<Option<ChannelParts>> {
        let Some(below) = self.streams.accept()? else { return Ok(None) };
        let state = WebSocket::server(self.rules()?).encode(&below.state)?;
        Ok(Some(ChannelParts { state, ..below }))
    }

    fn adapt(&mut self, at: &Endpoint, is_raw: bool) -> Result<bool> {
        Self::check(at)?;
        let place = Place::of(at)?;
        let is_adapted = self.streams.adapt(&place.stream, is_raw)?;
        if is_adapted {
            (self.local, self.is_raw) = (place.at(self.streams.local()), is_raw);
        }
        Ok(is_adapted)
    }

    fn trust(&self) -> Option<&dyn TrustAnchors> {
        self.streams.trust()
    }

    fn trust_mut(&mut self) -> Option<&mut dyn TrustAnchors> {
        self.streams.trust_mut()
    }
}
