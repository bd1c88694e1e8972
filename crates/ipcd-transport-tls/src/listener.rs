//! The listening side: TCP, and what its peers need of the endpoint's files.

use std::os::fd::{AsFd, BorrowedFd};

use ipcd_transport::{
    ChannelParts, Endpoint, InetListener, Listener, PeerIdentity, Result, TrustAnchors,
};

use crate::ALPN;
use crate::settings::{SealedSettings, TlsSettings};

pub(crate) struct TlsListener {
    socket: InetListener,
    protocol: Option<&'static [u8]>,
    sealed: SealedSettings,
    /// The state before it was adapted, for the files may have changed since.
    before: Option<(Endpoint, Option<&'static [u8]>, SealedSettings)>,
}

impl TlsListener {
    /// Reads the files, and then binds the endpoint.
    pub(crate) fn open(at: &Endpoint, protocol: Option<&'static [u8]>) -> Result<Self> {
        let sealed = read(at, protocol)?;
        Ok(Self { socket: InetListener::bind(at)?, protocol, sealed, before: None })
    }
}

impl Listener for TlsListener {
    fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    fn local(&self) -> &Endpoint {
        self.socket.local()
    }

    fn accept(&mut self) -> Result<Option<ChannelParts>> {
        let Some((socket, from)) = self.socket.accept()? else { return Ok(None) };
        let (settings, state) = self.sealed.share()?;
        let (descriptors, identity) = (vec![socket, settings], PeerIdentity::from_addr(from));
        Ok(Some(ChannelParts { descriptors, identity, state }))
    }

    fn adapt(&mut self, at: &Endpoint, is_raw: bool) -> Result<bool> {
        let protocol = if is_raw { None } else { Some(ALPN) };
        let local = at.with_address(self.local().address());
        let is_meant = |(at, of, _): &mut (Endpoint, _, _)| (&*at, *of) == (&local, protocol);
        let sealed = match self.before.take_if(is_meant) {
            Some((.., sealed)) => sealed,
            None => read(&local, protocol)?,
        };
        let sealed = std::mem::replace(&mut self.sealed, sealed);
        self.before = Some((self.local().clone(), self.protocol, sealed));
        self.socket.set_options(&local);
        self.protocol = protocol;
        Ok(true)
    }

    fn trust(&self) -> Option<&dyn TrustAnchors> {
        Some(self)
    }

    fn trust_mut(&mut self) -> Option<&mut dyn TrustAnchors> {
        Some(self)
    }
}

impl TrustAnchors for TlsListener {
    fn reload(&mut self) -> Result<()> {
        self.sealed = read(self.socket.local(), self.protocol)?;
        Ok(())
    }

    fn trusted(&self) -> &[Vec<u8>] {
        self.sealed.authorities()
    }
}

/// The contents of the files now. An unusable file is an error here, not when a peer comes.
fn read(at: &Endpoint, protocol: Option<&[u8]>) -> Result<SealedSettings> {
    let settings = TlsSettings::to_listen(at, protocol)?;
    settings.config()?;
    SealedSettings::new(&settings)
}
