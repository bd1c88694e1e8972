//! The error of the other side, and the remedy.

use rustls::{AlertDescription, CertificateError, Error, InvalidMessage, PeerIncompatible};

/// Our side of the connection, for alerts that concern us.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum HandshakeSide {
    /// We were connected to.
    Server,
    /// We connect.
    Client,
}

/// A sentence about an error of the handshake, or of what came later.
pub(crate) fn explain(error: &Error, side: HandshakeSide) -> String {
    match error {
        Error::InvalidCertificate(error) => certificate(error, side),
        Error::AlertReceived(alert) => told(*alert, side),
        Error::NoCertificatesPresented => "it shows no certificate, and one is required".into(),
        Error::InvalidMessage(
            InvalidMessage::InvalidContentType | InvalidMessage::UnknownProtocolVersion,
        ) => "its bytes are not TLS".into(),
        Error::PeerIncompatible(
            PeerIncompatible::SupportedVersionsExtensionRequired
            | PeerIncompatible::ServerDoesNotSupportTls12Or13
            | PeerIncompatible::Tls13RequiredForQuic
            | PeerIncompatible::Tls12NotOfferedOrEnabled,
        ) => "it does not speak TLS 1.3".into(),
        Error::NoApplicationProtocol => "it speaks TLS, but not for ipcd (ALPN)".into(),
        error => format!("TLS: {error}"),
    }
}

fn certificate(error: &CertificateError, side: HandshakeSide) -> String {
    let mend = match side {
        HandshakeSide::Client => {
            "give the CA of the daemon's certificate as ca=FILE; a certificate in it \
                         that has a host's name is no CA"
        }
        HandshakeSide::Server => "its CA is not in ca=, or has a host's name there and so is none",
    };
    match error {
        // By another CA of the same name, too.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            format!("no trusted CA has signed its certificate: {mend}")
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "its certificate has expired: it has to be renewed, unless the clock here is wrong"
                .into()
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "its certificate is not valid yet: is the clock right, here and where it was made?"
                .into()
        }
        CertificateError::NotValidForNameContext { expected, presented } => {
            let expected = expected.to_str();
            let presented = presented.iter().map(|name| bare(name)).collect::<Vec<_>>().join(", ");
            format!(
                "its certificate is for {presented}, not for {expected}: connect to it by its \
                 name, or give that as name=NAME"
            )
        }
        CertificateError::NotValidForName => {
            "its certificate is for another name: connect to it by that, or give name=NAME".into()
        }
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "its certificate is not for this purpose (extended key usage)".into()
        }
        CertificateError::Other(error) => {
            format!("its certificate cannot be verified ({error}): {mend}")
        }
        error => format!("its certificate cannot be used: {error}"),
    }
}

/// The name in what rustls has of one: `DnsName("localhost")`, `IpAddress(127.0.0.1)`.
fn bare(presented: &str) -> &str {
    let inside = presented.split_once('(').and_then(|(_, rest)| rest.strip_suffix(')'));
    inside.unwrap_or(presented).trim_matches('"')
}

/// An alert is what the other side says of us (RFC 8446 §6.2).
fn told(alert: AlertDescription, side: HandshakeSide) -> String {
    let ours = match side {
        HandshakeSide::Client => "our certificate (cert=)",
        HandshakeSide::Server => "the certificate of this listener (cert=)",
    };
    match alert {
        AlertDescription::CertificateRequired => {
            "it wants to see a certificate: give cert=FILE&key=FILE".into()
        }
        AlertDescription::UnknownCA => format!("it does not know the CA of {ours}"),
        AlertDescription::CertificateExpired => format!("it says that {ours} has expired"),
        // A bad signature, in a certificate or of its owner's.
        AlertDescription::DecryptError
        | AlertDescription::BadCertificate
        | AlertDescription::CertificateUnknown
        | AlertDescription::CertificateRevoked
        | AlertDescription::UnsupportedCertificate
        | AlertDescription::AccessDenied => format!("it does not accept {ours}: {alert:?}"),
        AlertDescription::ProtocolVersion => "it does not speak TLS 1.3".into(),
        AlertDescription::NoApplicationProtocol => "it speaks TLS, but not for ipcd (ALPN)".into(),
        alert => format!("it ended TLS with the alert {alert:?}"),
    }
}
