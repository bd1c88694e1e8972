//! A certificate authority for tests, and the certificates that it issues.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};

/// A CA of a test's own.
#[derive(Debug)]
pub struct Authority {
    certificate: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate with its key, and the CA's, as PEM.
#[derive(Clone, Debug)]
pub struct Issued {
    /// The certificate.
    pub certificate: String,
    /// Its key.
    pub key: String,
    /// The certificate of who signed it.
    pub authority: String,
}

impl Authority {
    /// A new one, which nobody knows yet.
    ///
    /// # Panics
    /// If the system has no randomness.
    #[expect(clippy::new_without_default, reason = "each one is another")]
    pub fn new() -> Self {
        let key = KeyPair::generate().expect("a key can be made");
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "a CA for tests");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let certificate = params.self_signed(&key).expect("it can be signed").pem();
        Self { certificate, issuer: Issuer::new(params, key) }
    }

    /// A certificate for these names and addresses.
    ///
    /// # Panics
    /// If they are none.
    pub fn issue(&self, names: &[&str]) -> Issued {
        let names = names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
        self.sign(CertificateParams::new(names).expect("names are plain"))
    }

    /// A certificate of this kind.
    ///
    /// # Panics
    /// If it cannot be encoded.
    pub fn sign(&self, params: CertificateParams) -> Issued {
        let key = KeyPair::generate().expect("a key can be made");
        let certificate = params.signed_by(&key, &self.issuer).expect("it can be signed").pem();
        Issued { certificate, key: key.serialize_pem(), authority: self.certificate.clone() }
    }
}

impl Issued {
    /// Writes `cert.pem`, `key.pem` and `ca.pem` into the directory.
    ///
    /// # Panics
    /// If that is impossible.
    pub fn write(&self, dir: &Path) {
        for (file, text) in
            [("cert.pem", &self.certificate), ("key.pem", &self.key), ("ca.pem", &self.authority)]
        {
            fs::write(dir.join(file), text).expect("the directory is ours");
        }
        let private = fs::Permissions::from_mode(0o600);
        fs::set_permissions(dir.join("key.pem"), private).expect("the file is ours");
    }
}
