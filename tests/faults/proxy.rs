//! A seeded network that loses, doubles and reorders datagrams.

use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::network::run;

/// Milliseconds for which a datagram that is held back waits for another to overtake it.
const HELD_MS: u8 = 5;
/// Of a hundred datagrams, the numbers that are lost, doubled, and held back.
const LOST: u8 = 20;
const DOUBLED: u8 = 5;
const HELD: u8 = 10;

/// The present state of the network.
#[derive(Clone)]
pub(crate) struct NetworkWeather {
    is_bad: Arc<AtomicBool>,
    /// The commands for nft(8), if the kernel makes the weather.
    rules: Option<[&'static str; 2]>,
}

impl NetworkWeather {
    /// Good, until it is turned bad.
    pub(crate) fn new() -> Self {
        Self { is_bad: Arc::default(), rules: None }
    }

    /// The kernel's weather: one command makes it bad, and the other good.
    pub(crate) fn of_kernel(bad: &'static str, good: &'static str) -> Self {
        Self { is_bad: Arc::default(), rules: Some([bad, good]) }
    }

    pub(crate) fn turn_bad(&self) {
        self.is_bad.store(true, Ordering::Relaxed);
        self.rules.iter().for_each(|[bad, _]| run("nft", &[bad]));
    }

    pub(crate) fn turn_good(&self) {
        self.is_bad.store(false, Ordering::Relaxed);
        self.rules.iter().for_each(|[_, good]| run("nft", &[good]));
    }
}

/// Passes datagrams between one client and a daemon.
pub(crate) struct DatagramProxy {
    address: SocketAddr,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl DatagramProxy {
    pub(crate) fn start(target: SocketAddr, seed: u64, weather: &NetworkWeather) -> Self {
        let bound = || UdpSocket::bind("127.0.0.1:0").expect("a port is free");
        let (near, far) = (bound(), bound());
        far.connect(target).expect("an address can be connected");
        for socket in [&near, &far] {
            socket.set_nonblocking(true).expect("a socket may not block");
        }
        let address = near.local_addr().expect("the socket is bound");
        let over = Arc::<AtomicBool>::default();
        let (weather, end) = (weather.clone(), Arc::clone(&over));
        let random = fastrand::Rng::with_seed(seed);
        let mut passing = Passing { near, far, client: None, random, weather, held: [None, None] };
        let pass = move || {
            while !end.load(Ordering::Relaxed) {
                passing.turn();
            }
        };
        Self { address, over, thread: Some(std::thread::spawn(pass)) }
    }

    /// The daemon's endpoint for the client.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for DatagramProxy {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Passing {
    near: UdpSocket,
    far: UdpSocket,
    client: Option<SocketAddr>,
    random: fastrand::Rng,
    weather: NetworkWeather,
    /// A datagram that is held back in each direction: to the daemon, and from it.
    held: [Option<Vec<u8>>; 2],
}

impl Passing {
    fn turn(&mut self) {
        let mut fds = [&self.near, &self.far].map(|s| PollFd::new(s.as_fd(), PollFlags::POLLIN));
        if poll(&mut fds, PollTimeout::from(HELD_MS)) == Ok(0) {
            // Nothing has overtaken them.
            [0, 1].into_iter().for_each(|way| self.release(way));
        }
        let mut bytes = [0; 65_536];
        while let Ok((count, from)) = self.near.recv_from(&mut bytes) {
            self.client = Some(from);
            self.pass(0, &bytes[..count]);
        }
        while let Ok(count) = self.far.recv(&mut bytes) {
            self.pass(1, &bytes[..count]);
        }
    }

    fn pass(&mut self, way: usize, datagram: &[u8]) {
        let fate = match self.weather.is_bad.load(Ordering::Relaxed) {
            true => self.random.u8(..100),
            false => 99,
        };
        if fate < LOST {
            return;
        }
        if fate < LOST + HELD && self.held[way].is_none() {
            self.held[way] = Some(datagram.to_vec());
            return;
        }
        self.send(way, datagram);
        if (LOST + HELD..LOST + HELD + DOUBLED).contains(&fate) {
            self.send(way, datagram);
        }
        self.release(way);
    }

    fn release(&mut self, way: usize) {
        if let Some(held) = self.held[way].take() {
            self.send(way, &held);
        }
    }

    /// The receiver may have gone, which ends the proxy.
    fn send(&self, way: usize, datagram: &[u8]) {
        let _ = match (way, self.client) {
            (0, _) => self.far.send(datagram),
            (_, Some(client)) => self.near.send_to(datagram, client),
            (_, None) => Ok(0),
        };
    }
}
