//! The registry: one line a transport. Every transport but the first is a feature of this crate, for
//! clients that need only some. Features of Cargo add up, so a program with the daemon has them all.

#[cfg(feature = "allowlist")]
pub mod allowlist;
mod location;

use std::path::Path;

use ipcd_transport::{Endpoint, EndpointPurpose, Error, Result, Transport};

pub use location::{
    DEFAULT_VIA, RUNTIME_DIR_VAR, SYSTEM_RUNTIME_DIR, TOKEN_FILE, VIA_VAR, find_runtime_dir,
    own_runtime_dir,
};

/// Makes the list of transports from their features, which have the names of the schemes.
macro_rules! registry {
    ($first:path, $($feature:literal => $transport:path,)*) => {
        /// Every transport of this build, in the order in which they are shown to users.
        pub const ALL: &[&dyn Transport] =
            &[&$first, $(#[cfg(feature = $feature)] &$transport,)*];

        /// The schemes of transports that exist, and that this build does not have.
        const LEFT_OUT: &[&str] = &[$(#[cfg(not(feature = $feature))] $feature,)*];
    };
}

registry! {
    ipcd_transport_unix::Unix,
    "pipe" => ipcd_transport_pipe::Pipe,
    "fifo" => ipcd_transport_fifo::Fifo,
    "tcp" => ipcd_transport_tcp::Tcp,
    "udp" => ipcd_transport_udp::Udp,
    "tls" => ipcd_transport_tls::Tls,
    "ws" => ipcd_transport_ws::Ws,
    "wss" => ipcd_transport_wss::Wss,
    "vsock" => ipcd_transport_vsock::Vsock,
}

/// The schemes of all transports.
pub fn schemes() -> impl Iterator<Item = &'static str> {
    ALL.iter().map(|transport| transport.scheme())
}

/// The default endpoints of the transports that listen there when no listener is configured.
pub fn default_endpoints(runtime_dir: &Path) -> impl Iterator<Item = Endpoint> {
    let by_default = ALL.iter().filter(|transport| transport.listens_by_default());
    by_default.filter_map(move |transport| transport.default_endpoint(runtime_dir).ok())
}

/// The transport of a child's standard input and output.
#[cfg(feature = "pipe")]
pub const CHILD: &dyn Transport = &ipcd_transport_pipe::Pipe;

/// The transport of this scheme.
///
/// # Errors
/// If there is none; the error names those that exist. A transport that this build does not have is
/// an error of its own, which names the feature.
pub fn find(scheme: &str) -> Result<&'static dyn Transport> {
    let found = ALL.iter().copied().find(|transport| transport.scheme() == scheme);
    found.ok_or_else(|| {
        let known = schemes().collect::<Vec<_>>().join(", ");
        if LEFT_OUT.contains(&scheme) {
            return Error::Endpoint(format!(
                "this program was built without the transport {scheme}: enable the feature \
                 `{scheme}` of ipcd-client, or choose one of {known}"
            ));
        }
        let scheme = scheme.escape_debug();
        Error::Endpoint(format!("there is no transport {scheme}: choose one of {known}"))
    })
}

/// The transport of an endpoint whose address and options it knows what to do with, where it is for
/// this.
///
/// # Errors
/// If there is no such transport, or it has no such option, and the error names those that exist; or
/// the option would have no effect.
pub fn of(endpoint: &Endpoint, purpose: EndpointPurpose) -> Result<&'static dyn Transport> {
    let transport = find(endpoint.scheme())?;
    let known = transport.options();
    match endpoint.option_names().find(|name| !known.contains(name)) {
        None => {
            check_effect(endpoint, purpose, transport)?;
            transport.check(endpoint, purpose).map(|()| transport)
        }
        Some(unknown) if known.is_empty() => {
            Err(endpoint.error(format_args!("there is no option {unknown}: it takes none")))
        }
        Some(unknown) => {
            let known = known.join(", ");
            Err(endpoint.error(format_args!("there is no option {unknown}: choose one of {known}")))
        }
    }
}

/// Refuses options without effect: their user would rely on them.
fn check_effect(
    endpoint: &Endpoint,
    purpose: EndpointPurpose,
    transport: &dyn Transport,
) -> Result<()> {
    let has_effect = transport.options_for(purpose);
    let idle = endpoint.option_names().find(|name| !has_effect.contains(name));
    let role = match (purpose.listens(), purpose.is_raw()) {
        (true, false) => "a listener for frames",
        (true, true) => "a listener",
        (false, _) => "a connection",
    };
    idle.map_or(Ok(()), |name| {
        Err(endpoint.error(format_args!("{name}= has no effect for {role}: leave it out")))
    })
}

/// The meaning of `--via`: an endpoint, or the default endpoint of a transport.
///
/// # Errors
/// If it is neither, or the transport has no default endpoint.
pub fn resolve(via: &str, runtime_dir: &Path) -> Result<Endpoint> {
    if !via.contains(':') {
        return find(via)?.default_endpoint(runtime_dir);
    }
    let endpoint: Endpoint = via.parse()?;
    of(&endpoint, EndpointPurpose::Connect)?;
    Ok(endpoint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(feature = "all")]
    #[test]
    fn names_what_exists() {
        let error = |text: &str| resolve(text, Path::new("/r")).unwrap_err().to_string();
        let known = schemes().collect::<Vec<_>>().join(", ");
        assert!(error("carrier-pigeon").ends_with(&known));
        assert!(error("tcp://127.0.0.1").contains("host and port"));
        assert!(error("unix://relative").contains("absolute path"));
        assert!(error("quic://x").contains(&known));
        assert!(error("unix:///x?colour=red").contains("type, mode, owner, group"));
        assert!(error("tcp://h:1?mode=0600").contains("takes none"));
        // Options of listeners only.
        for option in [
            "unix:///x?mode=0600",
            "unix:@x?group=0",
            "pipe:///x?group=0",
            "fifo:///x?mode=0600",
            "fifo:///x?direction=in",
            "tls://h:1?ca=/c&client_auth=none",
        ] {
            assert!(error(option).contains("= has no effect for a connection"), "{option}");
        }
        assert!(error("unix:///x?type=dgram").contains("with a codec only"));
        assert!(error("tls://h:1").contains("ca=FILE"));
    }

    #[cfg(feature = "all")]
    #[test]
    fn a_scheme_alone_means_its_default_endpoint() {
        let resolve = |text: &str| resolve(text, Path::new("/r")).unwrap().to_string();
        assert_eq!(resolve("unix"), "unix:///r/ipcd.sock");
        assert_eq!(resolve("pipe"), "pipe:///r/pipe.sock");
        assert_eq!(resolve("fifo"), "fifo:///r/ipcd.fifo");
        assert_eq!(resolve("tcp"), "tcp://127.0.0.1:7117");
        assert_eq!(resolve("udp"), "udp://127.0.0.1:7117");
        assert_eq!(resolve("tcp://[::1]:9"), "tcp://[::1]:9");
        let error = super::resolve("tls", Path::new("/r")).unwrap_err().to_string();
        assert!(error.contains("write tls://"), "{error}");
    }

    #[test]
    fn a_transport_that_is_left_out_names_its_feature() {
        for scheme in LEFT_OUT {
            let error = resolve(scheme, Path::new("/r")).unwrap_err().to_string();
            assert!(error.contains(&format!("feature `{scheme}`")), "{error}");
        }
        assert!(resolve(DEFAULT_VIA, Path::new("/r")).is_ok());
    }
}
