//! What a certificate says of its owner.

use ipcd_transport::Identity;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::{CertificateError, Error};
use x509_cert::Certificate;
use x509_cert::der::Decode;
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;

/// The name in a certificate that was verified: the first DNS name of its subject alternative
/// names, else the first URI, else the first e-mail address. The subject itself is not looked at:
/// nothing says what stands there (RFC 9525 §2).
pub(crate) fn name_of(certificate: &CertificateDer<'_>) -> Option<String> {
    let parsed = Certificate::from_der(certificate).ok()?;
    let found = parsed.tbs_certificate().get_extension::<SubjectAltName>().ok()??;
    let SubjectAltName(names) = found.1;
    let dns = names.iter().filter_map(|name| match name {
        GeneralName::DnsName(name) => Some(name.as_str()),
        _ => None,
    });
    let uri = names.iter().filter_map(|name| match name {
        GeneralName::UniformResourceIdentifier(name) => Some(name.as_str()),
        _ => None,
    });
    let mail = names.iter().filter_map(|name| match name {
        GeneralName::Rfc822Name(name) => Some(name.as_str()),
        _ => None,
    });
    dns.chain(uri).chain(mail).find(|name| is_fit(name)).map(str::to_owned)
}

/// Names go into logs and rules: nothing that would have to be escaped there is taken for one.
fn is_fit(name: &str) -> bool {
    let length = 1..=Identity::LONGEST_NAME;
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
