//! A peer of another user. It stands alone in this file because it starts a process, which for a
//! moment has copies of whatever other tests in the same process have closed.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use ipcd_transport::{Endpoint, Transport, poll_until};
use ipcd_transport_fifo::Fifo;
use nix::poll::PollFlags;
use nix::unistd::geteuid;

const NOBODY: u32 = 65534;

/// The watchdog of every wait.
fn soon() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

/// Set in the process that connects as another user.
const GUEST: &str = "IPCD_FIFO_GUEST";

#[test]
fn another_user_connects_where_the_mode_allows_it() {
    if let Ok(endpoint) = std::env::var(GUEST) {
        return drop(Fifo.connect(&endpoint.parse().unwrap(), soon()).unwrap());
    }
    if !geteuid().is_root() {
        return eprintln!("skipped: only root can start another user's process");
    }
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o711)).unwrap();
    let mut endpoint = Fifo.default_endpoint(dir.path()).unwrap();
    endpoint.set_option("mode", "0622");
    let mut listener = Fifo.listen(&endpoint).unwrap();
    let mut guest = spawn_guest(dir.path(), &endpoint);
    // Its FIFOs are news before it is.
    let parts = loop {
        assert!(
            poll_until(&listener.fd(), PollFlags::POLLIN, soon()).unwrap(),
            "the guest does not come"
        );
        if let Some(parts) = listener.accept().unwrap() {
            break parts;
        }
    };
    assert_eq!((parts.identity.uid, parts.identity.pid), (Some(NOBODY), None));
    assert!(guest.wait().unwrap().success());
    assert_eq!(fs::read_dir(dir.path().join("fifo")).unwrap().count(), 0);
}

/// This very test, run as `nobody` from a copy, since the build directory may be closed to others.
fn spawn_guest(dir: &Path, endpoint: &Endpoint) -> Child {
    let copy = dir.join("guest");
    fs::copy(std::env::current_exe().unwrap(), &copy).unwrap();
    fs::set_permissions(&copy, PermissionsExt::from_mode(0o755)).unwrap();
    let mut command = Command::new(copy);
    command.args(["--exact", "another_user_connects_where_the_mode_allows_it", "--nocapture"]);
    command.current_dir("/").env(GUEST, endpoint.to_string());
    command.uid(NOBODY).spawn().unwrap()
}
