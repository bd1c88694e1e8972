//! `ipcd --stdio`: the way to a daemon's Unix socket for whoever holds our standard input and
//! output, such as ssh. It moves bytes and knows nothing of frames.

use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::thread;

use ipcd_server::Config;
use ipcd_transport::{BlockingFile, check_server, peer_credentials};

/// Bytes moved at once.
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
    // Descriptors, not std's handles, whose buffers would only be in the way.
    let mut input = BlockingFile::over(io::stdin())?;
    let mut output = BlockingFile::over(io::stdout())?;
    // It ends with the process, whatever it waits for.
    thread::spawn(move || {
        // Whether the end or an error: nothing more will come from there.
        let _ = copy(&mut input, &mut up);
        up.shutdown(Shutdown::Write)
    });
    match copy(&mut socket, &mut output) {
        // Nobody is left to hear what the daemon says.
        Err(error) if is_gone(error.kind()) => Ok(()),
        copied => copied,
    }
}

fn is_gone(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::BrokenPipe | ErrorKind::ConnectionReset)
}

/// Moves bytes to the end. Not by [`io::copy`], which uses splice(2): while that waits for a socket,
/// it holds the lock of the pipe that it fills, and whoever reads the pipe waits for the lock, also
/// with `O_NONBLOCK`.
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
