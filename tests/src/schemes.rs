//! The schemes that tests go through: from the registry, so that a new transport is tested as well.

use std::ops::Deref;
use std::sync::LazyLock;

use ipcd_transport::{Capabilities, IdentityKind};

/// The way in which this transport knows its peers.
///
/// # Panics
/// If there is no such transport.
pub fn identity_kind(scheme: &str) -> IdentityKind {
    capabilities(scheme).identity
}

/// Whether this transport encrypts, and so needs certificates.
pub(crate) fn is_encrypted(scheme: &str) -> bool {
    capabilities(scheme).encrypted
}

fn capabilities(scheme: &str) -> Capabilities {
    ipcd_transports::find(scheme).expect("the transport exists").capabilities()
}

/// The transports on which a daemon listens by default, in the order of the registry.
pub const SCHEMES: SchemeList = SchemeList;

/// See [`SCHEMES`]. It reads as a slice, and iterates by value.
#[derive(Clone, Copy, Debug)]
pub struct SchemeList;

static LIST: LazyLock<Vec<&'static str>> = LazyLock::new(|| {
    let by_default = ipcd_transports::ALL.iter().filter(|found| found.listens_by_default());
    by_default.map(|transport| transport.scheme()).collect()
});

impl SchemeList {
    /// The result of `make` for each scheme.
    pub fn map<T>(self, make: impl FnMut(&'static str) -> T) -> Vec<T> {
        self.into_iter().map(make).collect()
    }
}

impl Deref for SchemeList {
    type Target = [&'static str];

    fn deref(&self) -> &Self::Target {
        &LIST
    }
}

impl IntoIterator for SchemeList {
    type Item = &'static str;
    type IntoIter = std::iter::Copied<std::slice::Iter<'static, &'static str>>;

    fn into_iter(self) -> Self::IntoIter {
        LIST.iter().copied()
    }
}

impl IntoIterator for &SchemeList {
    type Item = &'static &'static str;
    type IntoIter = std::slice::Iter<'static, &'static str>;

    fn into_iter(self) -> Self::IntoIter {
        LIST.iter()
    }
}
