//! The client's side of the handshake.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use ipcd_transport::{Error, PeerIdentity, Result, poll_until};
use nix::poll::PollFlags;

use crate::channel::UdpChannel;
use crate::cookie::Cookie;
use crate::datagram::{ConnectRequest, Datagram};
use crate::errors::quote_errors;
use crate::session::UdpSession;
use crate::timing::RetryBackoff;
use crate::{random, widen_input, window_of};

/// A cookie that brought no ACCEPT in this time may have expired.
const COOKIE_LIFE: Duration = Duration::from_secs(10);

/// Connects, and repeats what may have been lost until the deadline. If the other machine says
/// that no listener is there, that is an error at once.
pub(crate) fn connect(address: SocketAddr, deadline: Instant) -> Result<UdpChannel> {
    let mut handshake = ClientHandshake::new(address)?;
    let mut backoff = RetryBackoff::new(Instant::now());
    loop {
        handshake.ask()?;
        if let Some(session) = handshake.answer(backoff.due.min(deadline))? {
            return UdpChannel::new(handshake.socket, PeerIdentity::from_addr(address), session);
        }
        let now = Instant::now();
        if now >= deadline {
            return Err(Error::TimedOut(handshake.what));
        }
        backoff.again(now);
    }
}

struct ClientHandshake {
    socket: UdpSocket,
    nonce: u64,
    window: u32,
    cookie: Option<(Cookie, Instant)>,
    /// The attempt, for errors.
    what: String,
}

impl ClientHandshake {
    fn new(address: SocketAddr) -> Result<Self> {
        let what = format!("connect to udp://{address}");
        let socket = socket(address).map_err(|error| Error::system(&*what, error))?;
        widen_input(&socket);
        quote_errors(&socket)?;
        let window = window_of(&socket)?;
        Ok(Self { socket, nonce: random()?, window, cookie: None, what })
    }

    /// Sends what is due: CONNECT with a good cookie, or else INIT.
    fn ask(&mut self) -> Result<()> {
        self.cookie = self.cookie.filter(|(_, since)| since.elapsed() < COOKIE_LIFE);
        let &mut Self { nonce, window, .. } = self;
        let datagram = match self.cookie {
            Some((cookie, _)) => Datagram::Connect(ConnectRequest { nonce, window, cookie }),
            None => Datagram::Init { nonce },
        };
        self.send(datagram)
    }

    fn say_gone(&self, id: u64) -> Result<()> {
        self.send(Datagram::Gone { id })
    }

    fn send(&self, datagram: Datagram<'_>) -> Result<()> {
        match self.socket.send(&datagram.encode()) {
            Err(error) if error.kind() != ErrorKind::WouldBlock => self.failed(error),
            _ => Ok(()),
        }
    }

    /// Waits for ACCEPT; a COOKIE on the way there is answered at once.
    fn answer(&mut self, until: Instant) -> Result<Option<UdpSession>> {
        let mut bytes = [0; 128];
        // The clock is asked too, because a flood keeps the socket readable for ever.
        while poll_until(&self.socket, PollFlags::POLLIN, until)? {
            match self.socket.recv(&mut bytes) {
                Ok(count) => match Datagram::decode(&bytes[..count]) {
                    Some(Datagram::Cookie { nonce, cookie })
                        if nonce == self.nonce && self.cookie.is_none() =>
                    {
                        self.cookie = Some((cookie, Instant::now()));
                        self.ask()?;
                    }
                    Some(Datagram::Accept { nonce, id, window }) if nonce == self.nonce => {
                        return Ok(Some(UdpSession::new(id, nonce, self.window, window)));
                    }
                    // It is for one who had our port before, and is gone.
                    Some(other) if let Some(id) = other.id() => self.say_gone(id)?,
                    _ => {}
                },
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => self.failed(error)?,
            }
            if Instant::now() >= until {
                break;
            }
        }
        Ok(None)
    }

    fn failed(&self, error: io::Error) -> Result<()> {
        Err(Error::system(&*self.what, error))
    }
}

/// A socket that is connected, so that the kernel drops what others send and reports ICMP errors.
pub(crate) fn socket(address: SocketAddr) -> io::Result<UdpSocket> {
    if address.port() == 0 {
        // connect(2) takes it, and then every port of that address is heard.
        return Err(io::Error::new(ErrorKind::InvalidInput, "no server has the port 0"));
    }
    let first = connected(address)?;
    if !is_connected_to_itself(&first)? {
        return Ok(first);
    }
    // Without a listener there, the kernel may choose the very port that we connect to as ours. While
    // the first socket has it, the second cannot get it.
    let second = connected(address).map_err(|_| ErrorKind::ConnectionRefused)?;
    drop(first);
    Ok(second)
}

fn connected(address: SocketAddr) -> io::Result<UdpSocket> {
    let any: IpAddr =
        if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(address)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

fn is_connected_to_itself(socket: &UdpSocket) -> io::Result<bool> {
    Ok(socket.local_addr()? == socket.peer_addr()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_is_connected_to_itself_is_noticed() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let other = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect(other.local_addr().unwrap()).unwrap();
        assert!(!is_connected_to_itself(&socket).unwrap());
        socket.connect(socket.local_addr().unwrap()).unwrap();
        assert!(is_connected_to_itself(&socket).unwrap());
    }

    #[test]
    fn nothing_is_connected_to_port_0() {
        let error = socket("127.0.0.1:0".parse().unwrap()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
    }

    /// Answers datagrams for the port's last owner: no process serves it any more.
    #[test]
    fn a_client_that_shakes_hands_disowns_the_sessions_of_others() {
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        let mut handshake = ClientHandshake::new(server.local_addr().unwrap()).unwrap();
        let to = handshake.socket.local_addr().unwrap();
        server.send_to(&Datagram::Ping { id: 77 }.encode(), to).unwrap();
        assert!(handshake.answer(Instant::now()).unwrap().is_none());
        let mut bytes = [0; 64];
        let count = server.recv(&mut bytes).unwrap();
        assert_eq!(Datagram::decode(&bytes[..count]), Some(Datagram::Gone { id: 77 }));
    }
}
