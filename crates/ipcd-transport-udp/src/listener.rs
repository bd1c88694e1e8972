//! The daemon's side of the handshake: answers INIT without remembering it, and gives each client
//! that proves its address a connected socket of its own on the listener's port.

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use ipcd_transport::inherited_fd::{BoundName, prepare};
use ipcd_transport::{
    ChannelParts, Endpoint, Error, InheritedFd, Listener, PeerAddress, PeerIdentity, PeerTracking,
    Result,
};
use nix::errno::Errno;
use nix::sys::socket::SockType;

use crate::cookie::{Cookie, CookieJar};
use crate::datagram::{ConnectRequest, Datagram};
use crate::door::{AddressPair, SharedPortSocket, another_on};
use crate::errors::quote_errors;
use crate::session::UdpSession;
use crate::{random, window_of};

/// Room for a handshake datagram; what is longer is cut off, and then it is none.
const ROOM: usize = 128;

/// Datagrams looked at in one call of `accept`, so that a flood does not keep the caller.
const ACCEPT_BUDGET: usize = 64;

/// Datagrams that a socket of default size (212,992 bytes) holds at the most: 256 were counted. A
/// peer's holds twice as many.
const QUEUE: usize = 512;

/// The bound socket and what is kept for clients that have not been admitted: nothing, but for
/// those caught by another client's socket.
pub(crate) struct UdpListener {
    door: SharedPortSocket,
    local: Endpoint,
    jar: CookieJar,
    /// Cookies that were honoured. A repeated CONNECT can wait in the listener's queue while the
    /// first makes a socket, and a second socket would take the connection away from the first.
    /// Later ones go to that socket, so as many as a queue holds are enough.
    honoured: VecDeque<Cookie>,
    handed_back: VecDeque<(AddressPair, ConnectRequest)>,
}

impl UdpListener {
    pub(crate) fn new(door: SharedPortSocket, at: &Endpoint) -> Result<Self> {
        Ok(Self {
            local: at.with_address(door.bound().to_string()),
            door,
            jar: CookieJar::new(Instant::now())?,
            honoured: VecDeque::new(),
            handed_back: VecDeque::new(),
        })
    }

    /// Answers an INIT at once, and returns what a CONNECT asks for.
    fn consider(&self, bytes: &[u8], ends: AddressPair) -> Option<ConnectRequest> {
        match Datagram::decode(bytes).filter(|_| ends.can_answer() && !ends.is_loop())? {
            Datagram::Init { nonce } => {
                let cookie = self.jar.bake(nonce, ends.peer, Instant::now());
                // If it cannot be sent now, the client asks again.
                let _ = self.door.answer(&Datagram::Cookie { nonce, cookie }.encode(), ends);
                None
            }
            Datagram::Connect(request) => Some(request),
            // GONE itself is not answered, or two listeners could keep each other busy for ever.
            Datagram::Gone { .. } => None,
            datagram => {
                self.say_gone(datagram.id()?, ends);
                None
            }
        }
    }

    /// No process serves this connection any more: its process has died, and the socket with it.
    fn say_gone(&self, id: u64, ends: AddressPair) {
        // If it is lost, the peer's next sign of life is answered likewise.
        let _ = self.door.answer(&Datagram::Gone { id }.encode(), ends);
    }

    fn admit(
        &mut self,
        ends: AddressPair,
        request: ConnectRequest,
    ) -> Result<Option<ChannelParts>> {
        let ConnectRequest { nonce, window, cookie } = request;
        if !self.jar.verify(&cookie, nonce, ends.peer, Instant::now())
            || self.honoured.contains(&cookie)
        {
            return Ok(None);
        }
        let socket = self.door.socket_for(ends)?;
        quote_errors(&socket)?;
        self.drain(&socket, ends);
        let session = UdpSession::new(random()?, nonce, window_of(&socket)?, window);
        let session = UdpSession { local: Some(ends.local), ..session };
        if self.honoured.len() == QUEUE {
            self.honoured.pop_front();
        }
        self.honoured.push_back(cookie);
        // If this is lost, the client repeats its CONNECT and the channel answers.
        let _ = socket.send(&session.acceptance().encode());
        Ok(Some(ChannelParts {
            descriptors: vec![socket.into()],
            identity: PeerIdentity::from_addr(ends.peer),
            state: session.encode(),
        }))
    }

    /// Between bind and connect the kernel gave the new socket what came for the listener, or a share
    /// of it. Others' datagrams are treated as if the listener had them. The peer's own can only
    /// belong to this handshake, and ACCEPT answers them.
    fn drain(&mut self, socket: &UdpSocket, of: AddressPair) {
        let mut bytes = [0; ROOM];
        for _ in 0..QUEUE {
            let Ok((count, peer)) = socket.recv_from(&mut bytes) else { return };
            if peer == of.peer || self.handed_back.len() == QUEUE {
                continue;
            }
            let ends = AddressPair { peer, ..of };
            if let Some(request) = self.consider(&bytes[..count], ends) {
                self.handed_back.push_back((ends, request));
            }
        }
    }
}

impl Listener for UdpListener {
    fn fd(&self) -> BorrowedFd<'_> {
        self.door.as_fd()
    }

    fn local(&self) -> &Endpoint {
        &self.local
    }

    fn adapt(&mut self, at: &Endpoint, is_raw: bool) -> Result<bool> {
        if is_raw {
            return Ok(false);
        }
        self.local = at.with_address(self.local.address());
        Ok(true)
    }

    /// Requests that were handed back do not make the descriptor readable, so callers must go on until
    /// there is nothing; if they stop early, the clients concerned ask again.
    fn accept(&mut self) -> Result<Option<ChannelParts>> {
        while let Some((ends, request)) = self.handed_back.pop_front() {
            if let Some(parts) = self.admit(ends, request)? {
                return Ok(Some(parts));
            }
        }
        let mut bytes = [0; ROOM];
        for _ in 0..ACCEPT_BUDGET {
            let (count, ends) = match self.door.receive(&mut bytes) {
                Ok(received) => received,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
                Err(error) => {
                    return Err(Error::system(format!("receive on {}", self.local), error));
                }
            };
            if let Some(request) = self.consider(&bytes[..count], ends)
                && let Some(parts) = self.admit(ends, request)?
            {
                return Ok(Some(parts));
            }
        }
        Ok(None)
    }

    fn tracking(&self) -> Option<&dyn PeerTracking> {
        Some(self)
    }

    fn tracking_mut(&mut self) -> Option<&mut dyn PeerTracking> {
        Some(self)
    }
}

impl PeerTracking for UdpListener {
    fn orphaned(&mut self, identity: &PeerIdentity, state: &[u8]) {
        if let (Some(session), Some(peer)) =
            (UdpSession::decode(state), identity.addr.and_then(PeerAddress::ip))
        {
            let local = session.local.unwrap_or(self.door.bound());
            self.say_gone(session.id, AddressPair { local, peer });
        }
    }
}

/// A socket that can share its port with the peers' sockets.
pub(crate) fn bind_listener(at: &Endpoint, addresses: &[SocketAddr]) -> Result<SharedPortSocket> {
    let opened = UdpSocket::bind(addresses).and_then(SharedPortSocket::open);
    opened.map_err(|error| Error::system(format!("listen on {at}"), error))
}

/// The same of a socket that another process has bound.
pub(crate) fn take_listener(at: &Endpoint, passed: OwnedFd) -> Result<SharedPortSocket> {
    let found = InheritedFd::of(passed.as_fd());
    let Some(BoundName::Inet(_)) = found.bound(SockType::Datagram) else {
        return Err(found.refused(at, "a bound UDP socket"));
    };
    prepare(&passed)?;
    let failed = |error| Error::system(format!("share the port of {found} with peers"), error);
    let door = SharedPortSocket::open(passed.into()).map_err(failed)?;
    // Peers' sockets must be able to bind the port, which the kernel allows the same user only.
    match another_on(door.bound()) {
        Ok(_) => Ok(door),
        Err(Errno::EADDRINUSE | Errno::EACCES) => Err(found.refused(
            at,
            "one that this user has bound itself, for each peer gets a socket on its port",
        )),
        Err(error) => Err(failed(error.into())),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ipcd_transport::poll_until;
    use nix::poll::PollFlags;

    use super::*;
    use crate::cookie::COOKIE_BYTES;
    use crate::datagram::tests::junk;

    fn listening() -> UdpListener {
        let (any, at) = ("127.0.0.1:0".parse().unwrap(), "udp://127.0.0.1:0".parse().unwrap());
        UdpListener::new(bind_listener(&at, &[any]).unwrap(), &at).unwrap()
    }

    fn client(listening: &UdpListener) -> UdpSocket {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect(listening.door.bound()).unwrap();
        socket.set_nonblocking(true).unwrap();
        socket
    }

    fn receive(socket: &UdpSocket) -> Vec<u8> {
        let watchdog = Instant::now() + Duration::from_secs(20);
        assert!(poll_until(socket, PollFlags::POLLIN, watchdog).unwrap(), "no answer");
        let mut bytes = vec![0; 2_000];
        let count = socket.recv(&mut bytes).unwrap();
        bytes.truncate(count);
        bytes
    }

    /// The CONNECT of a client that has asked for its cookie.
    fn request(listening: &mut UdpListener, client: &UdpSocket, nonce: u64) -> Vec<u8> {
        let init = Datagram::Init { nonce }.encode();
        client.send(&init).unwrap();
        assert!(listening.accept().unwrap().is_none());
        let answer = receive(client);
        assert!(answer.len() <= 3 * init.len());
        let Some(Datagram::Cookie { nonce: echoed, cookie }) = Datagram::decode(&answer) else {
            panic!("no cookie: {answer:?}");
        };
        assert_eq!(echoed, nonce);
        Datagram::Connect(ConnectRequest { nonce, window: 100_000, cookie }).encode()
    }

    fn accepted_id(client: &UdpSocket, expected_nonce: u64) -> u64 {
        match Datagram::decode(&receive(client)) {
            Some(Datagram::Accept { nonce, id, .. }) if nonce == expected_nonce => id,
            other => panic!("no acceptance: {other:?}"),
        }
    }

    #[test]
    fn only_a_cookie_of_ones_own_is_honoured() {
        let mut listening = listening();
        let (honest, thief) = (client(&listening), client(&listening));
        let connect = request(&mut listening, &honest, 7);
        thief.send(&connect).unwrap();
        let made_up = ConnectRequest { nonce: 7, window: 1, cookie: [0; COOKIE_BYTES] };
        thief.send(&Datagram::Connect(made_up).encode()).unwrap();
        assert!(listening.accept().unwrap().is_none());
        honest.send(&connect).unwrap();
        let parts = listening.accept().unwrap().unwrap();
        assert_eq!(parts.identity.addr, Some(honest.local_addr().unwrap().into()));
        accepted_id(&honest, 7);
        assert_eq!(thief.recv(&mut [0; 100]).unwrap_err().kind(), ErrorKind::WouldBlock);
    }

    #[test]
    fn a_repeated_connect_makes_no_second_channel() {
        let mut listening = listening();
        let client = client(&listening);
        let connect = request(&mut listening, &client, 7);
        client.send(&connect).unwrap();
        client.send(&connect).unwrap();
        let _first = listening.accept().unwrap().unwrap();
        assert!(listening.accept().unwrap().is_none());
    }

    #[test]
    fn a_short_init_and_junk_get_no_answer_but_gone() {
        let mut listening = listening();
        let client = client(&listening);
        client.send(&Datagram::Init { nonce: 1 }.encode()[..63]).unwrap();
        client.send(&Datagram::Ping { id: 1 }.encode()).unwrap();
        client.send(&[]).unwrap();
        for seed in 0..40 {
            let mut bytes = junk(seed, seed as usize * 40);
            if let Some(first) = bytes.first_mut() {
                *first = 1 + *first % 15;
            }
            client.send(&bytes).unwrap();
        }
        assert!(listening.accept().unwrap().is_none());
        let mut bytes = [0; 100];
        let mut answers = 0;
        while let Ok(count) = client.recv(&mut bytes) {
            let answer = Datagram::decode(&bytes[..count]);
            assert!(matches!(answer, Some(Datagram::Gone { .. })), "{answer:?}");
            answers += 1;
        }
        assert!((1..=41).contains(&answers), "{answers} answers");
    }

    /// Until it is connected, a new socket gets a share of all peers' datagrams.
    #[test]
    fn what_a_new_socket_caught_is_handed_back() {
        let mut listening = listening();
        let clients: Vec<_> = (0..32).map(|_| client(&listening)).collect();
        let mut connects: Vec<_> = (0..)
            .zip(&clients)
            .map(|(nonce, client)| request(&mut listening, client, nonce))
            .collect();
        let late = client(&listening);
        let peer = UdpSocket::bind("127.0.0.1:0").unwrap();
        // The steps of `socket_for`, with a pause before `connect`.
        let caught = another_on(listening.door.bound()).unwrap();
        for (client, connect) in clients.iter().zip(&mut connects) {
            client.send(connect).unwrap();
        }
        for nonce in 100..132 {
            late.send(&Datagram::Init { nonce }.encode()).unwrap();
        }
        let ends = AddressPair { local: listening.door.bound(), peer: peer.local_addr().unwrap() };
        caught.connect(ends.peer).unwrap();
        listening.drain(&caught, ends);
        assert!(!listening.handed_back.is_empty(), "the kernel shares by a hash of the address");
        let mut admitted = Vec::new();
        while let Some(parts) = listening.accept().unwrap() {
            admitted.push(parts);
        }
        assert_eq!(admitted.len(), 32);
        for (nonce, client) in (0..).zip(&clients) {
            accepted_id(client, nonce);
        }
        for _ in 100..132 {
            assert!(matches!(Datagram::decode(&receive(&late)), Some(Datagram::Cookie { .. })));
        }
    }

    #[test]
    fn a_port_belongs_to_one_daemon() {
        let first = listening();
        let (at, bound) = (first.local.clone(), first.door.bound());
        for address in [bound, format!("0.0.0.0:{}", bound.port()).parse().unwrap()] {
            let Err(error) = bind_listener(&at, &[address]) else { panic!("{address} was free") };
            assert!(error.to_string().to_lowercase().contains("in use"), "{error}");
        }
    }
}
