//! The registry: one line a transport.

pub mod allowlist;

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use ipcd_transport::{Endpoint, EndpointPurpose, Error, Result, Transport};

/// Every transport, in the order in which they are shown to users.
pub const ALL: &[&dyn Transport] = &[
    &ipcd_transport_unix::Unix,
    &ipcd_transport_pipe::Pipe,
    &ipcd_transport_fifo::Fifo,
    &ipcd_transport_tcp::Tcp,
    &ipcd_transport_udp::Udp,
    &ipcd_transport_tls::Tls,
    &ipcd_transport_vsock::Vsock,
];

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
pub const CHILD: &dyn Transport = &ipcd_transport_pipe::Pipe;

/// The transport of this scheme.
///
/// # Errors
/// If there is none; the error names those that exist.
pub fn find(scheme: &str) -> Result<&'static dyn Transport> {
    let found = ALL.iter().copied().find(|transport| transport.scheme() == scheme);
    found.ok_or_else(|| {
        let known = schemes().collect::<Vec<_>>().join(", ");
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

/// Names the runtime directory in the environment.
pub const RUNTIME_DIR_VAR: &str = "IPCD_RUNTIME_DIR";
/// The runtime directory of a daemon that root has started.
pub const SYSTEM_RUNTIME_DIR: &str = "/run/ipcd";

/// The runtime directory of a daemon that this user starts, if nothing is configured:
/// `$IPCD_RUNTIME_DIR`, `/run/ipcd` for root, else `$XDG_RUNTIME_DIR/ipcd`; where that is not set, as
/// in a session of su(1) or cron(8), the same in `/run/user/UID`, if there is such a directory.
pub fn own_runtime_dir(is_root: bool) -> Option<PathBuf> {
    let absolute = |name: &str| {
        let value = std::env::var_os(name).filter(|value| !value.is_empty())?;
        std::path::absolute(value).ok()
    };
    absolute(RUNTIME_DIR_VAR).or_else(|| match is_root {
        true => Some(PathBuf::from(SYSTEM_RUNTIME_DIR)),
        false => {
            let dir = absolute("XDG_RUNTIME_DIR").or_else(login_dir);
            dir.map(|dir| dir.join("ipcd"))
        }
    })
}

/// The directory that pam_systemd(8) makes for a user who has logged in.
fn login_dir() -> Option<PathBuf> {
    let uid = nix::unistd::geteuid().as_raw();
    let dir = PathBuf::from(format!("/run/user/{uid}"));
    std::fs::metadata(&dir).is_ok_and(|found| found.is_dir() && found.uid() == uid).then_some(dir)
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
