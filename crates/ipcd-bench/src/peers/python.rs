//! An interpreter that has a module: not every one does, and the system's may not be the first.

use std::io::{self, ErrorKind};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// The interpreter of Debian's packages, and the first in `PATH`.
const INTERPRETERS: [&str; 2] = ["/usr/bin/python3", "python3"];

/// An interpreter that knows ZeroMQ. Looked for once.
pub(super) fn with_zmq() -> io::Result<PathBuf> {
    static FOUND: OnceLock<Option<PathBuf>> = OnceLock::new();
    let found = FOUND.get_or_init(|| {
        let has_module = |python: &&&str| {
            let mut command = Command::new(**python);
            command.args(["-c", "import zmq"]).stdin(Stdio::null());
            let status = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
            status.is_ok_and(|status| status.success())
        };
        INTERPRETERS.iter().find(has_module).map(PathBuf::from)
    });
    let missing = || io::Error::new(ErrorKind::NotFound, "python3-zmq is not installed");
    found.clone().ok_or_else(missing)
}
