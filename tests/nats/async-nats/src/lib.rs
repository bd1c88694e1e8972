//! The interface that async-nats' own tests expect of their helper crate `nats-server`, which is not published:
//! servers of their own, each with a configuration in the words of nats-server.
//!
//! `NATS_TEST_SERVER` is the program to test: an `ipcd`, or a `nats-server` to check the tests
//! themselves. The tests, and so this crate, panic on every failure.

mod config;
mod ipcd;
mod nats;
mod process;

use std::env;
use std::path::PathBuf;

use process::ServerProcess;

/// A running server. Dropping it kills it, as an unplugged machine would.
pub struct Server {
    process: ServerProcess,
}

/// Servers that know each other.
pub struct Cluster {
    /// The servers, in their order.
    pub servers: Vec<Server>,
}

impl Server {
    /// The URL at which clients connect.
    pub fn client_url(&self) -> String {
        let (scheme, host) = if self.process.has_tls {
            // The certificates of the tests are for this name.
            ("tls", "localhost")
        } else {
            ("nats", "127.0.0.1")
        };
        format!("{scheme}://{host}:{}", self.client_port())
    }

    /// The port at which clients connect.
    pub fn client_port(&self) -> u16 {
        self.process.port
    }

    /// Kills the server and starts it again, with the same configuration and port.
    pub fn restart(&mut self) {
        self.process.restart();
    }
}

impl Cluster {
    /// The URL of the first server.
    pub fn client_url(&self) -> String {
        self.servers[0].client_url()
    }
}

/// A server without a configuration.
pub fn run_basic_server() -> Server {
    run_server("")
}

/// A server with this configuration file of nats-server, on a free port.
pub fn run_server(config: &str) -> Server {
    run_server_with_port(config, None)
}

/// The same on this port.
pub fn run_server_with_port(config: &str, port: Option<&str>) -> Server {
    let port = port.map(|port| port.parse().expect("a port is a number"));
    Server { process: ServerProcess::start(config.as_ref(), port, &[]) }
}

/// Three servers that know each other.
pub fn run_cluster(config: &str) -> Cluster {
    let routes = process::free_ports::<3>();
    let start = |own: usize| {
        let process = ServerProcess::start(config.as_ref(), None, &nats::routes(&routes, own));
        Server { process }
    };
    Cluster { servers: (0..routes.len()).map(start).collect() }
}

/// Makes the server tell its clients that it is about to end.
pub fn set_lame_duck_mode(server: &Server) {
    server.process.signal_lame_duck();
}

/// The program to test, and which of the two it is.
fn program() -> (PathBuf, bool) {
    let path = env::var_os("NATS_TEST_SERVER").expect("NATS_TEST_SERVER names the server to test");
    let path = PathBuf::from(path);
    let is_ipcd = path.file_name().is_some_and(|name| name == "ipcd");
    (path, is_ipcd)
}
