//! The environment variables of a command about its peer.
//!
//! `IPC_…` are those of the handlers of `ipcctl`. A UCSPI variable
//! (<https://cr.yp.to/proto/ucspi.txt>) begins with the name of the protocol, which is that of the
//! transport.

use std::net::SocketAddr;
use std::os::fd::AsRawFd;

use ipcd_transport::{ChannelParts, EnvVariable, PeerIdentity};
use nix::sys::socket::{SockaddrLike, SockaddrStorage, getsockname};
use nix::unistd::{Gid, Pid, Uid};

use crate::side::{RelaySide, SideEndpoint};

/// The prefix of ipcd's own variables.
const PREFIX: &str = "IPC_";

/// The variables about a peer of this side.
pub(crate) fn peer_variables(
    side: &RelaySide,
    peer: Option<&ChannelParts>,
    ucspi: bool,
) -> Vec<EnvVariable> {
    let unknown = PeerIdentity::default();
    let identity = peer.map_or(&unknown, |parts| &parts.identity);
    let (mut subject, mut transport) = (None, None);
    match side {
        RelaySide::Subject { subject: name, .. } => subject = Some(name.clone()),
        RelaySide::Endpoint(place) => transport = Some(place.transport.scheme().to_owned()),
    }
    let mut known = vec![
        ("IPC_SUBJECT".to_owned(), subject),
        ("IPC_TRANSPORT".to_owned(), transport),
        ("IPC_FROM_UID".to_owned(), to_text(identity.uid)),
        ("IPC_FROM_GID".to_owned(), to_text(identity.gid)),
        ("IPC_FROM_PID".to_owned(), to_text(identity.pid)),
        ("IPC_FROM_ADDR".to_owned(), to_text(identity.addr)),
    ];
    let mut prefixes = vec![PREFIX.to_owned()];
    if let (true, RelaySide::Endpoint(place), Some(parts)) = (ucspi, side, peer) {
        let protocol = place.transport.scheme().to_uppercase();
        known.extend(ucspi_variables(&protocol, place, parts));
        prefixes.extend([format!("{protocol}LOCAL"), format!("{protocol}REMOTE")]);
    }
    // Inherited variables are about another peer.
    let stale = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    let stale = stale.filter(|name| prefixes.iter().any(|prefix| name.starts_with(prefix)));
    // Removals come first, so that a new value of the same name stays.
    let mut variables: Vec<EnvVariable> = stale.map(|name| (name, None)).collect();
    variables.extend(known);
    variables
}

fn ucspi_variables(protocol: &str, place: &SideEndpoint, parts: &ChannelParts) -> Vec<EnvVariable> {
    let PeerIdentity { pid, uid, gid, addr, .. } = parts.identity;
    let mut variables = vec![("PROTO".to_owned(), Some(protocol.to_owned()))];
    let mut add = |name: &str, value: Option<String>| {
        variables.push((format!("{protocol}{name}"), value));
    };
    if let Some(addr) = addr {
        let ip = addr.ip();
        let local = parts.descriptors.first().and_then(local_address);
        add("REMOTEIP", ip.map(|addr| addr.ip().to_string()));
        add("REMOTEPORT", ip.map(|addr| addr.port().to_string()));
        add("LOCALIP", local.map(|addr| addr.ip().to_string()));
        add("LOCALPORT", local.map(|addr| addr.port().to_string()));
    } else {
        add("REMOTEPID", to_text(pid));
        add("REMOTEEUID", to_text(uid));
        add("REMOTEEGID", to_text(gid));
        add("LOCALPID", to_text(Some(Pid::this())));
        add("LOCALUID", to_text(Some(Uid::current())));
        add("LOCALGID", to_text(Some(Gid::current())));
        add("LOCALPATH", Some(place.endpoint.address().to_owned()));
    }
    variables
}

fn local_address(socket: &impl AsRawFd) -> Option<SocketAddr> {
    let address: SockaddrStorage = getsockname(socket.as_raw_fd()).ok()?;
    match address.family()? {
        nix::sys::socket::AddressFamily::Inet => {
            Some(SocketAddr::V4((*address.as_sockaddr_in()?).into()))
        }
        nix::sys::socket::AddressFamily::Inet6 => {
            Some(SocketAddr::V6((*address.as_sockaddr_in6()?).into()))
        }
        _ => None,
    }
}

fn to_text(value: Option<impl ToString>) -> Option<String> {
    value.map(|value| value.to_string())
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    fn value<'a>(variables: &'a [EnvVariable], name: &str) -> Option<&'a str> {
        let found = variables.iter().rev().find(|(key, _)| key == name)?;
        found.1.as_deref()
    }

    #[test]
    fn names_follow_from_the_transport() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        let client = TcpStream::connect(at).unwrap();
        let (socket, from) = listener.accept().unwrap();
        let identity = PeerIdentity::from_addr(from);
        let parts = ChannelParts { descriptors: vec![socket.into()], identity, state: Vec::new() };
        let side = RelaySide::listening("tcp://127.0.0.1:0").unwrap();
        let variables = peer_variables(&side, Some(&parts), true);
        let port = client.local_addr().unwrap().port().to_string();
        assert_eq!(value(&variables, "PROTO"), Some("TCP"));
        assert_eq!(value(&variables, "TCPREMOTEIP"), Some("127.0.0.1"));
        assert_eq!(value(&variables, "TCPREMOTEPORT"), Some(&*port));
        assert_eq!(value(&variables, "TCPLOCALPORT"), Some(&*at.port().to_string()));
        assert_eq!(value(&variables, "IPC_TRANSPORT"), Some("tcp"));
        assert_eq!(value(&variables, "IPC_FROM_ADDR"), Some(&*from.to_string()));
        let plain = peer_variables(&side, Some(&parts), false);
        assert!(plain.iter().all(|(name, _)| name.starts_with(PREFIX)));
    }

    #[test]
    fn local_peers_have_numbers() {
        let side = RelaySide::listening("unix:///run/x.sock").unwrap();
        let identity =
            PeerIdentity { pid: Some(1), uid: Some(2), gid: Some(3), ..PeerIdentity::default() };
        let parts = ChannelParts { descriptors: Vec::new(), identity, state: Vec::new() };
        let variables = peer_variables(&side, Some(&parts), true);
        assert_eq!(value(&variables, "PROTO"), Some("UNIX"));
        assert_eq!(value(&variables, "UNIXREMOTEPID"), Some("1"));
        assert_eq!(value(&variables, "UNIXREMOTEEUID"), Some("2"));
        assert_eq!(value(&variables, "UNIXREMOTEEGID"), Some("3"));
        assert_eq!(value(&variables, "UNIXLOCALPATH"), Some("/run/x.sock"));
        assert_eq!(value(&variables, "IPC_FROM_UID"), Some("2"));
        assert_eq!(value(&variables, "IPC_FROM_ADDR"), None);
    }
}
