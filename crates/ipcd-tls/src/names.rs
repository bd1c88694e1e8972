//! The names in a certificate.

use ipcd_transport::PeerIdentity;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::{CertificateError, Error};
use x509_cert::Certificate;
use x509_cert::der::Decode;
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::ext::pkix::{BasicConstraints, KeyUsage, SubjectAltName};

/// The name in a certificate that was verified: the first DNS name of its subject alternative
/// names, else the first URI, else the first e-mail address. The subject itself is not looked at:
/// nothing says what stands there (RFC 9525 §2).
///
/// Each kind must look like what it is. Who may ask a CA for an e-mail address or a URI could have it
/// say a host's name there, and be taken for that host.
pub(crate) fn name_of(certificate: &CertificateDer<'_>) -> Option<String> {
    let parsed = Certificate::from_der(certificate).ok()?;
    let names = alternative_names(&parsed);
    let dns = names.iter().filter_map(|name| match name {
        GeneralName::DnsName(name) => Some(name.as_str()).filter(|name| is_host(name)),
        _ => None,
    });
    let uri = names.iter().filter_map(|name| match name {
        GeneralName::UniformResourceIdentifier(name) => {
            Some(name.as_str()).filter(|name| is_uri(name))
        }
        _ => None,
    });
    let mail = names.iter().filter_map(|name| match name {
        GeneralName::Rfc822Name(name) => Some(name.as_str()).filter(|name| is_mail(name)),
        _ => None,
    });
    dns.chain(uri).chain(mail).find(|name| is_fit(name)).map(str::to_owned)
}

/// Whether a certificate that is trusted may vouch for others: it is one of a CA, and of no peer
/// besides. A certificate with a name belongs to a peer, though it be marked as a CA's, as `openssl req
/// -x509` marks all that it signs by itself.
pub(crate) fn is_authority(certificate: &CertificateDer<'_>) -> bool {
    let Ok(parsed) = Certificate::from_der(certificate) else { return false };
    let tbs = parsed.tbs_certificate();
    // A certificate of the first version says nothing, and counts as a CA's as ever.
    let signs = match tbs.get_extension::<BasicConstraints>() {
        Ok(found) => found.is_none_or(|(_, constraints)| constraints.ca),
        Err(_) => false,
    };
    let may_sign = match tbs.get_extension::<KeyUsage>() {
        Ok(found) => found.is_none_or(|(_, usage)| usage.key_cert_sign()),
        Err(_) => false,
    };
    let has_name = alternative_names(&parsed).iter().any(|name| {
        matches!(
            name,
            GeneralName::DnsName(_)
                | GeneralName::IpAddress(_)
                | GeneralName::UniformResourceIdentifier(_)
                | GeneralName::Rfc822Name(_)
        )
    });
    signs && may_sign && !has_name
}

fn alternative_names(certificate: &Certificate) -> Vec<GeneralName> {
    let found = certificate.tbs_certificate().get_extension::<SubjectAltName>();
    found.ok().flatten().map_or_else(Vec::new, |(_, SubjectAltName(names))| names)
}

/// Letters, digits, hyphens and dots; an underscore and a wildcard occur.
fn is_host(name: &str) -> bool {
    name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._*".contains(&byte))
}

/// A scheme, a colon, and more (RFC 3986 §3).
fn is_uri(name: &str) -> bool {
    name.split_once(':').is_some_and(|(scheme, rest)| {
        let in_scheme = |byte: u8| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte);
        let begins = scheme.bytes().next().is_some_and(|byte| byte.is_ascii_alphabetic());
        begins && scheme.bytes().all(in_scheme) && !rest.is_empty()
    })
}

/// Something at a host, and so neither a host nor a URI.
fn is_mail(name: &str) -> bool {
    name.split_once('@').is_some_and(|(local, host)| {
        !local.is_empty() && !host.is_empty() && !local.contains(':') && is_host(host)
    })
}

/// Names go into logs and rules: nothing that would have to be escaped there is taken for one.
fn is_fit(name: &str) -> bool {
    let length = 1..=PeerIdentity::LONGEST_NAME;
    length.contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_graphic())
}

/// Whether the certificate is of use at this time.
pub(crate) fn check_validity(certificate: &CertificateDer<'_>, now: UnixTime) -> Result<(), Error> {
    let parsed = Certificate::from_der(certificate)
        .map_err(|_| Error::InvalidCertificate(CertificateError::BadEncoding))?;
    let validity = parsed.tbs_certificate().validity();
    let since = validity.not_before.to_unix_duration().as_secs();
    let until = validity.not_after.to_unix_duration().as_secs();
    match now.as_secs() {
        now if now < since => Err(CertificateError::NotValidYet.into()),
        now if now > until => Err(CertificateError::Expired.into()),
        _ => Ok(()),
    }
}
