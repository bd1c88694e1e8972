//! `ipcd --stdio`: a proxy between standard input and output and the daemon's Unix socket, for use
//! through ssh. It moves bytes and knows no frames.

use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::thread;

use ipcd_server::Config;
use ipcd_transport::{BlockingFile, check_server, peer_credentials};

/// Bytes that are moved at once.
const CHUNK: usize = 64 * 1024;

/// Moves bytes both ways until the daemon closes.
pub(crate) fn run(config: &Config) -> Result<(), String> {
    let dir = ipcd_server::runtime_dir(config).map_err(|error| error.to_string())?;
    let endpoint = ipcd_transports::resolve("unix", &dir).map_err(|error| error.to_string())?;
    let path = endpoint.path().map_err(|error| error.to_string())?;
    let failed = |error: io::Error| {
        format!("connect to {endpoint}: {error} (is ipcd running there? see --runtime-dir)")
    };
    let socket = UnixStream::connect(path).map_err(failed)?;
    peer_credentials(&socket)
        .and_then(|server| check_server(&endpoint, server.uid))
        .map_err(|error| error.to_string())?;
    pump(&socket).map_err(|error| format!("{endpoint}: {error}"))
}

fn pump(mut socket: &UnixStream) -> io::Result<()> {
    let mut up = socket.try_clone()?;
    // std's handles buffer, and fail with EAGAIN where ssh or a shell has made the shared file
    // description non-blocking (open(2)). These do neither.
    let mut input = BlockingFile::over(io::stdin())?;
    let mut output = BlockingFile::over(io::stdout())?;
    // Not joined: it may wait for input for ever. The process ends it.
    thread::spawn(move || {
        // At the end or at an error alike, nothing more comes from there.
        let _ = copy(&mut input, &mut up);
        up.shutdown(Shutdown::Write)
    });
    match copy(&mut socket, &mut output) {
        // The reader of our standard output has gone, so the session is over.
        Err(error) if is_gone(error.kind()) => Ok(()),
        copied => copied,
    }
}

fn is_gone(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::BrokenPipe | ErrorKind::ConnectionReset)
}

/// Moves bytes to the end. [`io::copy`] would use splice(2), which holds the lock of the pipe that it
/// fills while it waits for the socket: readers of that pipe then block, even with `O_NONBLOCK`.
fn copy(from: &mut impl Read, to: &mut impl Write) -> io::Result<()> {
    let mut chunk = vec![0; CHUNK];
    loop {
        match from.read(&mut chunk) {
            Ok(0) => return Ok(()),
            Ok(count) => to.write_all(&chunk[..count])?,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
