//! The listening side: TCP, and what its peers need of the endpoint's files.

use std::os::fd::{AsFd, BorrowedFd};

use ipcd_transport::{ChannelParts, Endpoint, Identity, InetListener, Listener, Result};

use crate::settings::{Sealed, Settings};

pub(crate) struct Listening {
    socket: InetListener,
    protocol: Option<&'static [u8]>,
    sealed: Sealed,
}

impl Listening {
    /// Reads the files, and then binds the endpoint.
    pub(crate) fn open(at: &Endpoint, protocol: Option<&'static [u8]>) -> Result<Self> {
        let sealed = read(at, protocol)?;
        Ok(Self { socket: InetListener::bind(at)?, protocol, sealed })
    }
}

impl Listener for Listening {
    fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    fn local(&self) -> &Endpoint {
        self.socket.local()
    }

    fn accept(&mut self) -> Result<Option<ChannelParts>> {
        let Some((socket, from)) = self.socket.accept()? else { return Ok(None) };
        let (settings, state) = self.sealed.share()?;
        let (descriptors, identity) = (vec![socket, settings], Identity::from_addr(from));
        Ok(Some(ChannelParts { descriptors, identity, state }))
    }

    fn reload(&mut self) -> Result<bool> {
        self.sealed = read(self.socket.local(), self.protocol)?;
        Ok(true)
    }
}

/// What is in the files now. That it can be used is found out here, not when a peer comes.
fn read(at: &Endpoint, protocol: Option<&[u8]>) -> Result<Sealed> {
    let settings = Settings::to_listen(at, protocol)?;
    settings.config()?;
    Sealed::new(&settings)
}
