//! Settings as rustls wants them, parsed once by each process.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use ipcd_transport::{Error, Result};
use rustls::client::{ClientConfig, ClientConnection, Resumption};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::{NoClientAuth, NoServerSessionStorage, ServerConfig, ServerConnection};
use rustls::version::TLS13;
use rustls::{Connection, InconsistentKeys};

use crate::settings::{self, ClientAuth, TlsRole, TlsSettings};
use crate::verify;

/// Settings that a process remembers: those of its listeners, and of a reload or two.
const REMEMBERED: usize = 16;

thread_local! {
    static KNOWN: RefCell<VecDeque<(Vec<u8>, SessionConfig)>> = const { RefCell::new(VecDeque::new()) };
}

/// Everything that a new connection needs.
#[derive(Clone, Debug)]
pub(crate) enum SessionConfig {
    Server(Arc<ServerConfig>),
    Client(Arc<ClientConfig>, ServerName<'static>),
}

impl SessionConfig {
    /// The one of this id; it is in the file, if this process has not seen it yet.
    pub(crate) fn find(id: &[u8], file: &OwnedFd) -> Result<Self> {
        let known = KNOWN.with_borrow(|known| {
            let found = known.iter().find(|(other, _)| other == id);
            found.map(|(_, config)| config.clone())
        });
        if let Some(config) = known {
            return Ok(config);
        }
        let config = settings::open(file)?.config()?;
        config.remember(id);
        Ok(config)
    }

    /// Has this process know it under this id.
    pub(crate) fn remember(&self, id: &[u8]) {
        KNOWN.with_borrow_mut(|known| {
            known.truncate(REMEMBERED - 1);
            known.push_front((id.to_vec(), self.clone()));
        });
    }

    /// A connection before its handshake.
    pub(crate) fn connection(self) -> Result<Connection> {
        let made = match self {
            Self::Server(config) => ServerConnection::new(config).map(Connection::Server),
            Self::Client(config, name) => {
                ClientConnection::new(config, name).map(Connection::Client)
            }
        };
        made.map_err(|error| Error::Protocol(format!("TLS: {error}")))
    }
}

impl TlsSettings {
    /// The configuration that rustls makes of them.
    ///
    /// # Errors
    /// If they do not fit together; the error says which do not.
    pub(crate) fn config(&self) -> Result<SessionConfig> {
        let bad = |what: String| Error::Endpoint(format!("certificates: {what}"));
        match &self.role {
            TlsRole::Server(auth) => self.server(*auth).map(SessionConfig::Server).map_err(bad),
            TlsRole::Client(name) => {
                let server = ServerName::try_from(name.clone())
                    .map_err(|_| bad(format!("name={name}: no name of a host")))?;
                Ok(SessionConfig::Client(self.client().map_err(bad)?, server))
            }
        }
    }

    fn server(&self, auth: ClientAuth) -> std::result::Result<Arc<ServerConfig>, String> {
        let provider = provider();
        let verifier = match auth {
            ClientAuth::None => Arc::new(NoClientAuth),
            auth => {
                let is_required = auth == ClientAuth::Required;
                verify::clients(self.authorities(), is_required, provider.clone())?
            }
        };
        let key = self.key()?.ok_or("a listener has no key")?;
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])
            .map_err(|error| error.to_string())?
            .with_client_cert_verifier(verifier)
            .with_single_cert(self.chain(), key)
            .map_err(|error| mismatch(&error))?;
        // Nothing is resumed: connections last, tickets would have to be shared by workers, and a
        // resumed one would not show its certificate again.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        config.alpn_protocols = self.protocol.iter().cloned().collect();
        Ok(Arc::new(config))
    }

    fn client(&self) -> std::result::Result<Arc<ClientConfig>, String> {
        let provider = provider();
        let verifier = verify::servers(self.authorities(), provider.clone())?;
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])
            .map_err(|error| error.to_string())?
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        let mut config = match self.key()? {
            None => builder.with_no_client_auth(),
            Some(key) => builder
                .with_client_auth_cert(self.chain(), key)
                .map_err(|error| mismatch(&error))?,
        };
        config.resumption = Resumption::disabled();
        config.alpn_protocols = self.protocol.iter().cloned().collect();
        Ok(Arc::new(config))
    }

    fn chain(&self) -> Vec<CertificateDer<'static>> {
        self.chain.iter().cloned().map(CertificateDer::from).collect()
    }

    fn authorities(&self) -> Vec<CertificateDer<'static>> {
        self.authorities.iter().cloned().map(CertificateDer::from).collect()
    }

    fn key(&self) -> std::result::Result<Option<PrivateKeyDer<'static>>, String> {
        let key = self.key.clone().map(PrivateKeyDer::try_from).transpose();
        key.map_err(|error| format!("key=: {error}"))
    }
}

/// The cryptography is ring's.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

fn mismatch(error: &rustls::Error) -> String {
    match error {
        rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
            "the key in key= is not that of the certificate in cert=".into()
        }
        error => format!("cert= and key=: {error}"),
    }
}
