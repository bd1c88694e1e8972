//! The listening side: TCP, and what its peers need of the endpoint's files.

use std::os::fd::{AsFd, BorrowedFd};

use ipcd_transport::{
    ChannelParts, Endpoint, InetListener, Listener, PeerIdentity, Result, TrustAnchors,
};

use crate::settings::{SealedSettings, TlsSettings};

/// The names of the protocols inside TLS (RFC 7301), on which the two sides agree; `None` for none.
#[derive(Clone, Copy, Debug)]
pub struct ProtocolNames {
    /// The name for peers that speak frames.
    pub frames: Option<&'static [u8]>,
    /// The name for raw peers.
    pub raw: Option<&'static [u8]>,
}

impl ProtocolNames {
    fn of(self, is_raw: bool) -> Option<&'static [u8]> {
        if is_raw { self.raw } else { self.frames }
    }
}

/// Accepts peers over TCP, and hands each one the endpoint's certificates and key.
pub struct TlsListener {
    socket: InetListener,
    names: ProtocolNames,
    protocol: Option<&'static [u8]>,
    sealed: SealedSettings,
    /// The state before it was adapted, for the files may have changed since.
    before: Option<(Endpoint, Option<&'static [u8]>, SealedSettings)>,
}

impl TlsListener {
    /// Reads the files, and then binds the endpoint.
    ///
    /// # Errors
    /// If a file cannot be used, or the address not be bound.
    pub fn open(at: &Endpoint, names: ProtocolNames, is_raw: bool) -> Result<Self> {
        let protocol = names.of(is_raw);
        let sealed = read(at, protocol)?;
        Ok(Self { socket: InetListener::bind(at)?, names, protocol, sealed, before: None })
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
        let protocol = self.names.of(is_raw);
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
