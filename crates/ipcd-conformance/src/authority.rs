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
    /// A new one, which no peer knows yet.
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

    /// A certificate that was good until the year 2001.
    ///
    /// # Panics
    /// If the names are none.
    pub fn issue_expired(&self, names: &[&str]) -> Issued {
        let names = names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
        let mut params = CertificateParams::new(names).expect("names are plain");
        params.not_before = rcgen::date_time_ymd(2000, 1, 1);
        params.not_after = rcgen::date_time_ymd(2001, 1, 1);
        self.sign(params)
    }

    /// A certificate that is signed by itself, and marked as that of a CA, as `openssl req -x509`
    /// makes them.
    ///
    /// # Panics
    /// If the names are none.
    pub fn self_signed(names: &[&str]) -> Issued {
        Self::named(names).1
    }

    /// One whose own certificate is for these names, as that of a peer is that signed itself; and
    /// that certificate.
    ///
    /// # Panics
    /// If the names are none.
    pub fn named(names: &[&str]) -> (Self, Issued) {
        let names = names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
        let mut params = CertificateParams::new(names).expect("names are plain");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key can be made");
        let certificate = params.self_signed(&key).expect("it can be signed").pem();
        let (authority, key_text) = (certificate.clone(), key.serialize_pem());
        let own = Issued { certificate: certificate.clone(), key: key_text, authority };
        (Self { certificate, issuer: Issuer::new(params, key) }, own)
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
