//! The scene of a case: a private directory, an endpoint in it, and two connected peers.

use std::io::Write as _;
use std::path::Path;

use ipcd_transport::{Endpoint, Error, Result, Transport};
use tempfile::TempDir;

use crate::Suite;
use crate::child::ChildProcess;
use crate::peer::{TestPeer, drive};
use crate::server::TestServer;
use crate::watchdog::Watchdog;

/// A case's surroundings.
pub(crate) struct TestScene {
    pub(crate) suite: Suite,
    pub(crate) endpoint: Endpoint,
    dir: TempDir,
}

/// Two connected peers and the listener through which they met.
pub(crate) struct PeerPair {
    /// The side that connected.
    pub(crate) client: TestPeer,
    /// The side that was accepted.
    pub(crate) server: TestPeer,
    pub(crate) listener: TestServer,
}

impl TestScene {
    pub(crate) fn new(suite: &Suite) -> Self {
        let dir = tempfile::tempdir().expect("there is room for a directory");
        Self { suite: *suite, endpoint: (suite.endpoint)(dir.path()), dir }
    }

    pub(crate) fn transport(&self) -> &'static dyn Transport {
        self.suite.transport
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The endpoint's path, if it has one. Otherwise the case has nothing to test, and says so.
    pub(crate) fn path(&self) -> Option<&Path> {
        let path = self.endpoint.path().ok();
        if path.is_none() {
            skip(&format!("{} is no path", self.endpoint));
        }
        path
    }

    pub(crate) fn listen(&self) -> TestServer {
        TestServer::start(self.transport(), &self.endpoint).expect("the endpoint is free")
    }

    pub(crate) fn connect(&self, to: &Endpoint) -> TestPeer {
        TestPeer::new(self.transport(), self.try_connect(to).expect("the listener is there"))
    }

    /// Connects, with all the time that is needed.
    pub(crate) fn try_connect(&self, to: &Endpoint) -> Result<Box<dyn ipcd_transport::Channel>> {
        let watchdog = Watchdog::over(format!("connecting to {to}"));
        let connected = self.transport().connect(to, watchdog.deadline());
        if let Err(Error::TimedOut(what)) = connected {
            panic!("{what}: it ended at its deadline only");
        }
        connected
    }

    pub(crate) fn pair(&self) -> PeerPair {
        let listener = self.listen();
        let (client, server) = self.meet(&listener);
        PeerPair { client, server, listener }
    }

    /// Two peers whose handshake is over, if there is one: until then nothing is written.
    pub(crate) fn settled_pair(&self) -> PeerPair {
        let mut pair = self.pair();
        if pair.server.channel().is_shaking_hands() {
            let PeerPair { client, server, .. } = &mut pair;
            drive("the handshake", [client, server], |peers| {
                peers.iter().all(|peer| !peer.channel().wants_service())
            });
        }
        pair
    }

    /// Connects to the listener: the peer that did, and the one that was accepted.
    pub(crate) fn meet(&self, listener: &TestServer) -> (TestPeer, TestPeer) {
        let client = self.connect(listener.local());
        (client, listener.accept())
    }

    /// Starts another process that plays this part at this endpoint.
    pub(crate) fn child(&self, part: &str, endpoint: &Endpoint) -> ChildProcess {
        ChildProcess::start(&self.suite, part, endpoint)
    }
}

/// Says that a case, or a part of one, tests nothing here, and why: also where the test runner
/// keeps to itself what a test prints.
pub(crate) fn skip(reason: &str) {
    let test = std::thread::current();
    let line = format!("skipped: {}: {reason}\n", test.name().unwrap_or("?"));
    let _ = std::io::stderr().write_all(line.as_bytes());
}
