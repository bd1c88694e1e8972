//! The trusted peers: those with a certificate that a CA of `ca=` has signed, by the rules of
//! `rustls-webpki`; and those with a certificate that is in `ca=` itself.
//!
//! The second is for certificates that are signed by themselves, as `openssl req -x509` makes them:
//! it marks them as those of a CA, and webpki takes no CA for a server or client. One that has a
//! name is trusted itself and nothing else: it is no CA here, or each of several peers that are
//! trusted so could issue a certificate in the name of another.

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore,
    SignatureScheme, client::verify_server_name,
};

use crate::names::{check_validity, is_authority};

/// Verifies servers.
pub(crate) fn servers(
    trusted: Vec<CertificateDer<'static>>,
    provider: Arc<CryptoProvider>,
) -> Result<Arc<dyn ServerCertVerifier>, String> {
    let chains = match authorities(&trusted)? {
        None => None,
        Some(roots) => {
            let builder = WebPkiServerVerifier::builder_with_provider(roots, provider.clone());
            Some(builder.build().map_err(|error| error.to_string())?)
        }
    };
    Ok(Arc::new(ServerVerifier { trusted, chains, provider }))
}

/// Verifies clients, of which some may have no certificate.
pub(crate) fn clients(
    trusted: Vec<CertificateDer<'static>>,
    is_required: bool,
    provider: Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, String> {
    let hints = store(trusted.iter())?.subjects();
    let chains = match authorities(&trusted)? {
        None => None,
        Some(roots) => {
            let builder = WebPkiClientVerifier::builder_with_provider(roots, provider.clone());
            Some(builder.build().map_err(|error| error.to_string())?)
        }
    };
    Ok(Arc::new(ClientVerifier { trusted, chains, is_required, hints, provider }))
}

/// Those of the certificates that vouch for others; `None` if none does.
fn authorities(trusted: &[CertificateDer<'static>]) -> Result<Option<Arc<RootCertStore>>, String> {
    let roots = store(trusted.iter().filter(|certificate| is_authority(certificate)))?;
    Ok((!roots.is_empty()).then(|| Arc::new(roots)))
}

fn store<'a>(
    certificates: impl Iterator<Item = &'a CertificateDer<'static>>,
) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates {
        roots.add(certificate.clone()).map_err(|error| error.to_string())?;
    }
    Ok(roots)
}

fn is_unknown() -> Error {
    CertificateError::UnknownIssuer.into()
}

#[derive(Debug)]
struct ServerVerifier {
    trusted: Vec<CertificateDer<'static>>,
    /// Follows chains to the CAs, if there are any.
    chains: Option<Arc<WebPkiServerVerifier>>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if self.trusted.contains(end_entity) {
            check_validity(end_entity, now)?;
            verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
            return Ok(ServerCertVerified::assertion());
        }
        let chains = self.chains.as_ref().ok_or_else(is_unknown)?;
        chains.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[derive(Debug)]
struct ClientVerifier {
    trusted: Vec<CertificateDer<'static>>,
    /// Follows chains to the CAs, if there are any.
    chains: Option<Arc<dyn ClientCertVerifier>>,
    is_required: bool,
    hints: Vec<DistinguishedName>,
    provider: Arc<CryptoProvider>,
}

impl ClientCertVerifier for ClientVerifier {
    fn client_auth_mandatory(&self) -> bool {
        self.is_required
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.hints
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        if self.trusted.contains(end_entity) {
            check_validity(end_entity, now)?;
            return Ok(ClientCertVerified::assertion());
        }
        let chains = self.chains.as_ref().ok_or_else(is_unknown)?;
        chains.verify_client_cert(end_entity, intermediates, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
