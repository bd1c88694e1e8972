//! The parent of children that serve one peer each. It listens, forks and reaps, and reads no byte
//! that a peer has sent.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use ipcd_transport::{ChannelParts, Listener, poll_until};
use nix::poll::PollFlags;
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, getppid};

use crate::listening::PeerListener;
use crate::pair::PeerOrigin;
use crate::server::{PairServer, name};
use crate::signals::{SignalWatch, reap};
use crate::watch::{EpollWatch, INPUT, WatchToken};
use crate::{Observer, Relay, Result};

/// The time that children may take to end their commands and themselves.
const ENDING: Duration = Duration::from_secs(3);
/// The exit status of a child that could not serve its peer.
const FAILED: i32 = 1;

pub(crate) struct ForkParent<'a> {
    relay: &'a Relay,
    observer: &'a dyn Observer,
    watch: EpollWatch,
    signals: SignalWatch,
    listener: PeerListener,
    /// The children, and the origin of each one's peer, which the listener needs at its end.
    children: BTreeMap<Pid, PeerOrigin>,
    /// The most children at a time.
    most: usize,
}

impl<'a> ForkParent<'a> {
    pub(crate) fn new(
        relay: &'a Relay,
        observer: &'a dyn Observer,
        listener: Box<dyn Listener>,
        signals: SignalWatch,
        most: usize,
    ) -> Result<Self> {
        let watch = EpollWatch::new()?;
        watch.set(signals.fd(), WatchToken::Signals, None, Some(INPUT))?;
        let (listener, children) = (PeerListener::new(listener), BTreeMap::new());
        Ok(Self { relay, observer, watch, signals, listener, children, most })
    }

    pub(crate) fn run(mut self) -> Result<()> {
        loop {
            self.watch_listener()?;
            for woken in self.watch.wait(self.listener.pause_end())? {
                match woken.token {
                    WatchToken::Signals => {
                        let heard = self.signals.read_pending();
                        if heard.child {
                            self.reap();
                        }
                        if heard.ends {
                            return self.end();
                        }
                    }
                    _ => self.accept(),
                }
            }
        }
    }

    fn watch_listener(&mut self) -> Result<()> {
        let has_room = self.children.len() < self.most;
        self.listener.watch(&self.watch, has_room, Instant::now())
    }

    fn accept(&mut self) {
        while self.children.len() < self.most
            && let Some(parts) = self.listener.accept(self.observer, Instant::now())
        {
            self.start(parts);
        }
    }

    fn start(&mut self, parts: ChannelParts) {
        let origin = (parts.identity.clone(), parts.state.clone());
        let who = name(&parts.identity, &self.relay.from);
        let (relay, observer, parent) = (self.relay, self.observer, Pid::this());
        let child = ipcd_sys::fork(|| match serve_child(relay, observer, parts, parent) {
            Ok(()) => 0,
            Err(error) => {
                observer.trouble(&format!("{who}: {error}"));
                FAILED
            }
        });
        match child {
            Ok(pid) => {
                self.children.insert(pid, origin);
            }
            Err(error) => {
                self.observer.trouble(&format!("start a child: {error}"));
                self.listener.release(&origin);
                self.listener.pause(Instant::now());
            }
        }
    }

    fn reap(&mut self) {
        while let Some((pid, status)) = reap() {
            let Some(origin) = self.children.remove(&pid) else { continue };
            if let nix::sys::wait::WaitStatus::Signaled(_, signal, _) = status {
                let identity = &origin.0;
                self.observer.trouble(&format!("{identity}: its child was killed by {signal}"));
            }
            self.listener.release(&origin);
        }
    }

    fn end(mut self) -> Result<()> {
        // The listener goes first: no peer connects while the children end.
        drop(self.listener);
        signal_children(&self.children, Signal::SIGTERM);
        let deadline = Instant::now() + ENDING;
        while !self.children.is_empty() {
            if !poll_until(&self.signals.fd(), PollFlags::POLLIN, deadline)? {
                signal_children(&self.children, Signal::SIGKILL);
            }
            self.signals.read_pending();
            while let Some((pid, _)) = reap() {
                self.children.remove(&pid);
            }
        }
        Ok(())
    }
}

fn signal_children(children: &BTreeMap<Pid, PeerOrigin>, signal: Signal) {
    for pid in children.keys() {
        // A child that has just ended is still a zombie, so its number is not reused.
        let _ = kill(*pid, signal);
    }
}

/// The body of a child.
fn serve_child(
    relay: &Relay,
    observer: &dyn Observer,
    parts: ChannelParts,
    parent: Pid,
) -> Result<()> {
    set_pdeathsig(Signal::SIGTERM)?;
    // Descriptors of other peers must not stay open here: their ends would go unnoticed.
    let keep: Vec<BorrowedFd<'_>> = parts.descriptors.iter().map(AsFd::as_fd).collect();
    ipcd_sys::close_all_except(&keep)?;
    // The parent may have died before prctl(2): then its signal never comes.
    if getppid() != parent {
        return Ok(());
    }
    let mut server = PairServer::new(relay, observer, None)?;
    server.serve_one(parts)?;
    server.run()
}
