//! A NATS client of few lines, with which a test decides about every byte.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::Path;

use crate::PATIENCE;

/// Both directions of a connection.
trait Stream: Read + Write + Send {}
impl<T: Read + Write + Send> Stream for T {}

/// A connection.
pub struct NatsConnection {
    stream: Box<dyn Stream>,
    input: Vec<u8>,
}

/// CONNECT of a client with headers and 503.
const CONNECT: &str = "CONNECT {\"verbose\":false,\"headers\":true,\"no_responders\":true}\r\n";

impl NatsConnection {
    /// Connects to an address.
    ///
    /// # Panics
    /// If no process listens there.
    pub fn tcp(address: &str) -> Self {
        let stream = TcpStream::connect(address).expect("the daemon listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket has a timeout");
        Self::on(stream)
    }

    /// Connects to a Unix socket.
    ///
    /// # Panics
    /// If no process listens there.
    pub fn unix(path: &Path) -> Self {
        let stream = UnixStream::connect(path).expect("the daemon listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket has a timeout");
        Self::on(stream)
    }

    /// On a stream of a test's own, whose reads fail after a while.
    pub fn on(stream: impl Read + Write + Send + 'static) -> Self {
        Self { stream: Box::new(stream), input: Vec::new() }
    }

    /// The same, after INFO, CONNECT and PING.
    #[must_use]
    #[track_caller]
    pub fn open(self) -> Self {
        self.open_with(CONNECT)
    }

    /// The same with another CONNECT.
    #[must_use]
    #[track_caller]
    pub fn open_with(mut self, connect: &str) -> Self {
        self.info();
        self.send(connect);
        self.flush();
        self
    }

    /// Reads INFO.
    ///
    /// # Panics
    /// If it does not come next.
    #[track_caller]
    pub fn info(&mut self) -> serde_json::Value {
        let line = self.line();
        let json = line.strip_prefix("INFO ").unwrap_or_else(|| panic!("{line} is not INFO"));
        serde_json::from_str(json).expect("INFO has JSON")
    }

    /// Sends these bytes.
    ///
    /// # Panics
    /// If the daemon has closed the connection.
    #[track_caller]
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).expect("the daemon reads");
        self.stream.flush().expect("the daemon reads");
    }

    /// Waits until all that was sent is in force.
    ///
    /// # Panics
    /// If anything but PONG comes.
    #[track_caller]
    pub fn flush(&mut self) {
        self.send("PING\r\n");
        assert_eq!(self.line(), "PONG");
    }

    /// The next line, without its end.
    ///
    /// # Panics
    /// If none comes.
    #[track_caller]
    pub fn line(&mut self) -> String {
        loop {
            if let Some(end) = self.input.iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = self.input.drain(..=end).collect();
                return String::from_utf8_lossy(&line).trim_end().to_owned();
            }
            let so_far = String::from_utf8_lossy(&self.input).into_owned();
            assert!(self.more(), "the connection has ended behind {so_far:?}");
        }
    }

    /// Checks that exactly this comes next.
    #[track_caller]
    pub fn expect(&mut self, text: &str) {
        while self.input.len() < text.len() && self.more() {}
        let end = self.input.len().min(text.len());
        let next: Vec<u8> = self.input.drain(..end).collect();
        assert_eq!(String::from_utf8_lossy(&next), text);
    }

    /// The rest up to the end of the connection.
    #[track_caller]
    pub fn rest(&mut self) -> String {
        while self.more() {}
        String::from_utf8_lossy(&std::mem::take(&mut self.input)).into_owned()
    }

    #[track_caller]
    fn more(&mut self) -> bool {
        let mut bytes = [0; 64 * 1024];
        match self.stream.read(&mut bytes) {
            Ok(count) => {
                self.input.extend(&bytes[..count]);
                count > 0
            }
            Err(error) if error.kind() == ErrorKind::ConnectionReset => false,
            Err(error) => panic!("nothing came: {error}"),
        }
    }
}
