//! The accepting side, in a thread of its own, because connecting may need the other side's help.

use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};

use ipcd_transport::{ChannelParts, Endpoint, Listener, Result, Transport};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::peer::TestPeer;
use crate::watchdog::Watchdog;

/// A listener that accepts every peer. Dropping it ends it.
pub(crate) struct TestServer {
    transport: &'static dyn Transport,
    local: Endpoint,
    accepted: Receiver<Result<ChannelParts>>,
    /// Closing it ends the thread.
    stop: Option<UnixStream>,
    thread: Option<JoinHandle<()>>,
}

impl TestServer {
    /// Listens there.
    pub(crate) fn start(transport: &'static dyn Transport, at: &Endpoint) -> Result<Self> {
        let (stop, stopped) = UnixStream::pair().expect("a socket pair is at hand");
        let (bound, binding) = channel();
        let (peers, accepted) = channel();
        let at = at.clone();
        let serve = move || match transport.listen(&at) {
            Ok(mut listener) => {
                let _ = bound.send(Ok(listener.local().clone()));
                accept_until(&mut *listener, &stopped, &peers);
            }
            Err(error) => {
                let _ = bound.send(Err(error));
            }
        };
        let thread = Some(thread::spawn(serve));
        let watchdog = Watchdog::over("binding");
        let local = binding.recv_timeout(watchdog.left()).expect("binding ends")?;
        Ok(Self { transport, local, accepted, stop: Some(stop), thread })
    }

    /// The endpoint that it listens on.
    pub(crate) fn local(&self) -> &Endpoint {
        &self.local
    }

    /// The next peer, or what went wrong with it.
    pub(crate) fn next(&self) -> Result<ChannelParts> {
        let watchdog = Watchdog::over("a peer to be accepted");
        self.accepted.recv_timeout(watchdog.left()).expect("a peer is accepted")
    }

    /// The next peer, which is in order.
    pub(crate) fn accept(&self) -> TestPeer {
        TestPeer::adopt(self.transport, self.next().expect("the peer is accepted"))
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(Err(panic)) = self.thread.take().map(JoinHandle::join)
            && !thread::panicking()
        {
            std::panic::resume_unwind(panic);
        }
    }
}

fn accept_until(
    listener: &mut dyn Listener,
    stopped: &UnixStream,
    peers: &Sender<Result<ChannelParts>>,
) {
    loop {
        while let Some(accepted) = listener.accept().transpose() {
            // The test may have ended; then the peer is let go.
            let _ = peers.send(accepted);
        }
        let stop = PollFd::new(stopped.as_fd(), PollFlags::POLLIN);
        let mut polled = [PollFd::new(listener.fd(), PollFlags::POLLIN), stop];
        match poll(&mut polled, PollTimeout::NONE) {
            Ok(_) if polled[1].any() == Some(true) => return,
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => panic!("poll: {error}"),
        }
    }
}
