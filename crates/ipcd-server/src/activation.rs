//! Sockets that a service manager has bound for us (`sd_listen_fds(3)`), and which listener each of
//! them is.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};

use ipcd_transport::{InheritedFd, Listener, Transport};

use crate::Error;
use crate::listen::ListenConfig;

/// The name that a service manager gives to a socket without one.
const NAMELESS: &str = "unknown";
const VARIABLES: [&str; 3] = ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"];

/// A descriptor that was passed.
#[derive(Debug)]
pub struct PassedSocket {
    name: Option<String>,
    fd: OwnedFd,
    /// The number that the service manager gave it; `fd` is a duplicate.
    number: RawFd,
}

/// A listener that is wanted, and the number of the passed socket that it is.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct WantedListener {
    pub(crate) listen: ListenConfig,
    pub(crate) socket: Option<usize>,
}

/// Takes what was passed to this process, so that no child takes it for its own.
///
/// # Errors
/// If the environment promises what is not there.
pub fn take() -> Result<Vec<PassedSocket>, Error> {
    let bad = |error| Error::Config(format!("LISTEN_FDS: {error}: sockets were not passed well"));
    // Checks that they are for this process, and has them closed on exec.
    let numbers = sd_notify::listen_fds().map_err(bad)?;
    let names = names(numbers.len()).map_err(Error::Config)?;
    let taken =
        |(number, name)| Ok(PassedSocket { name, fd: ipcd_sys::duplicate_fd(number)?, number });
    let sockets: std::io::Result<Vec<_>> = numbers.zip(names).map(taken).collect();
    // A child would take the descriptors of these numbers for its own.
    ipcd_sys::remove_variables(&VARIABLES).map_err(bad)?;
    sockets.map_err(bad)
}

/// The names of so many sockets.
fn names(count: usize) -> Result<Vec<Option<String>>, String> {
    let Some(names) = std::env::var_os("LISTEN_FDNAMES").filter(|_| count > 0) else {
        return Ok(vec![None; count]);
    };
    let names = names.to_string_lossy();
    let name = |name: &str| Some(name.to_owned()).filter(|n| !n.is_empty() && n != NAMELESS);
    let names: Vec<_> = names.split(':').map(name).collect();
    match names.len() == count {
        true => Ok(names),
        false => Err(format!("LISTEN_FDNAMES: {} names for {count} sockets", names.len())),
    }
}

/// Which listener each passed socket is: that of the same name, or at the same address, or else one
/// more for frames. The others are to be bound by us.
pub(crate) fn assign(
    listeners: Vec<ListenConfig>,
    sockets: &[PassedSocket],
) -> Result<Vec<WantedListener>, Error> {
    let mut found: Vec<Vec<usize>> = vec![Vec::new(); listeners.len()];
    let mut further = Vec::new();
    for (number, socket) in sockets.iter().enumerate() {
        let passed = InheritedFd::of(socket.fd.as_fd());
        let is_named = |listen: &ListenConfig| socket.name.is_some() && listen.name == socket.name;
        let is_at = |listen: &ListenConfig| {
            ipcd_transports::of(&listen.endpoint, listen.purpose()).is_ok_and(|transport| {
                transport.activation().is_some_and(|found| found.is_at(&listen.endpoint, &passed))
            })
        };
        let which =
            listeners.iter().position(is_named).or_else(|| listeners.iter().position(is_at));
        match which {
            Some(which) => found[which].push(number),
            None => further
                .push(WantedListener { listen: socket.listen(&passed)?, socket: Some(number) }),
        }
    }
    let wanted = listeners.into_iter().zip(found).flat_map(|(listen, numbers)| {
        let own = numbers.is_empty().then_some(None);
        let sockets = own.into_iter().chain(numbers.into_iter().map(Some));
        sockets.map(|socket| WantedListener { listen: listen.clone(), socket }).collect::<Vec<_>>()
    });
    Ok(wanted.chain(further).collect())
}

impl AsFd for PassedSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl PassedSocket {
    /// The number that the service manager gave its descriptor.
    pub fn number(&self) -> i32 {
        self.number
    }

    /// The name that the service manager gave it.
    pub(crate) fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// A listener for frames, where the socket is.
    fn listen(&self, passed: &InheritedFd) -> Result<ListenConfig, Error> {
        let endpoint =
            ipcd_transports::ALL.iter().find_map(|found| found.activation()?.endpoint_of(passed));
        let endpoint = endpoint.ok_or_else(|| {
            let name = self.name.as_deref().map(|name| format!(" ({name})")).unwrap_or_default();
            let number = self.number;
            let why = "cannot listen on it";
            Error::Config(format!("descriptor {number}{name} was passed, {passed}: {why}"))
        })?;
        Ok(ListenConfig { name: self.name.clone(), ..ListenConfig::frames(endpoint) })
    }

    /// Makes a listener of it. It may be bound elsewhere than the configuration says, so the checks
    /// of an endpoint are made of the real address.
    pub(crate) fn open(
        &self,
        listen: &ListenConfig,
        transport: &dyn Transport,
    ) -> Result<Box<dyn Listener>, Error> {
        let copy = self.fd.try_clone();
        let copy = copy.map_err(|error| Error::system("duplicate a passed socket", error))?;
        let inherited = InheritedFd::of(copy.as_fd());
        let activation = transport.activation_at(&listen.endpoint, &inherited)?;
        let listener = match listen.raw_profile {
            None => activation.inherit(&listen.endpoint, copy)?,
            Some(_) => activation.inherit_raw(&listen.endpoint, copy)?,
        };
        let actual = ListenConfig { endpoint: listener.local().clone(), ..listen.clone() };
        actual.check().map_err(Error::Config)?;
        Ok(listener)
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::os::unix::net::{UnixListener, UnixStream};

    use super::*;

    fn socket(name: Option<&str>, fd: impl Into<OwnedFd>) -> PassedSocket {
        PassedSocket { name: name.map(str::to_owned), fd: fd.into(), number: 3 }
    }

    fn shown(wanted: &[WantedListener]) -> Vec<(String, Option<usize>)> {
        wanted.iter().map(|w| (w.listen.endpoint.to_string(), w.socket)).collect()
    }

    #[test]
    fn name_or_address_decides_which_listener_a_socket_is() {
        let dir = std::env::temp_dir().join(format!("ipcd-activation.{}", std::process::id()));
        std::fs::create_dir(&dir).unwrap();
        let path = |name: &str| dir.join(name);
        let (tcp, other) = (TcpListener::bind("127.0.0.1:0"), TcpListener::bind("127.0.0.1:0"));
        let (tcp, other) = (tcp.unwrap(), other.unwrap());
        let port = tcp.local_addr().unwrap().port();
        let sockets = [
            socket(Some("unit.socket"), UnixListener::bind(path("pipe")).unwrap()),
            socket(None, tcp),
            socket(Some("web"), other.try_clone().unwrap()),
            socket(Some("more"), UnixListener::bind(path("more")).unwrap()),
            socket(Some("web"), other),
        ];
        let (pipe, own) = (format!("pipe://{}", path("pipe").display()), "unix:///nowhere");
        let web = ListenConfig {
            name: Some("web".into()),
            ..ListenConfig::frames("tcp://127.0.0.1:9?x=y".parse().unwrap())
        };
        let tcp = format!("tcp://localhost:{port}");
        let texts = [own, &pipe, &tcp].map(|text| ListenConfig::frames(text.parse().unwrap()));
        let wanted = assign(texts.into_iter().chain([web]).collect(), &sockets).unwrap();
        let more = format!("unix://{}", path("more").display());
        let expected = [
            (own, None),
            (pipe.as_str(), Some(0)),
            (&tcp, Some(1)),
            ("tcp://127.0.0.1:9?x=y", Some(2)),
            ("tcp://127.0.0.1:9?x=y", Some(4)),
            (&more, Some(3)),
        ];
        assert_eq!(shown(&wanted), expected.map(|(text, n)| (text.to_owned(), n)));
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn what_is_nothing_to_listen_on_is_named() {
        let (stream, _far) = UnixStream::pair().unwrap();
        let said = assign(Vec::new(), &[socket(Some("x"), stream)]).unwrap_err().to_string();
        assert!(said.contains("(x) was passed, a stream socket") && said.contains("connected"));
    }
}
