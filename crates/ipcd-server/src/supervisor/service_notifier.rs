//! Tells the service manager (`sd_notify(3)`), and the process that gave `--ready-fd`, how the daemon
//! is doing.

use std::collections::VecDeque;
use std::io::Write as _;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, UnixAddr, sendto, socket};
use sd_notify::NotifyState;
use tracing::debug;

/// The pause after a service manager has taken no more.
const PAUSE: Duration = Duration::from_millis(100);
/// Notices that wait for the service manager. Beyond that the oldest go: the last one counts.
const MOST_UNSENT: usize = 16;

/// Notifies the service manager, if there is one, and never waits for it.
#[derive(Default)]
pub(super) struct ServiceNotifier {
    /// Gets a newline when the daemon serves, and is closed.
    ready_fd: Option<OwnedFd>,
    /// Notices that the service manager has not taken yet.
    unsent: VecDeque<String>,
    retry_at: Option<Instant>,
    /// The interval of the service manager's watchdog, and when it is due.
    watchdog: Option<(Duration, Instant)>,
}

impl ServiceNotifier {
    /// A notifier for what the environment asks of this process. The watchdog hears of us after half
    /// of its time, as `sd_watchdog_enabled(3)` recommends.
    pub(super) fn new(ready_fd: Option<OwnedFd>) -> Self {
        let within = sd_notify::watchdog_enabled().filter(|within| !within.is_zero());
        let watchdog = within.map(|within| (within / 2, Instant::now()));
        Self { ready_fd, watchdog, ..Self::default() }
    }

    /// Tells the process that gave `--ready-fd` that the daemon serves.
    pub(super) fn signal_ready(&mut self) {
        if let Some(fd) = self.ready_fd.take() {
            // The process that asked for it may have ended.
            let _ = std::fs::File::from(fd).write_all(b"\n");
        }
    }

    pub(super) fn notify(&mut self, states: &[NotifyState<'_>]) {
        if self.unsent.len() == MOST_UNSENT {
            self.unsent.pop_front();
        }
        let line = |state: &NotifyState<'_>| state.to_string().replace('\n', " ") + "\n";
        self.unsent.push_back(states.iter().map(line).collect());
        self.flush();
    }

    /// Sends what is due.
    pub(super) fn tick(&mut self) {
        let now = Instant::now();
        if self.retry_at.is_some_and(|at| at <= now) {
            self.flush();
        }
        if let Some((every, next)) = self.watchdog.as_mut().filter(|(_, next)| *next <= now) {
            *next = now + *every;
            // A lost one does no harm: the next comes in half of the watchdog's time.
            let _ = send(NotifyState::Watchdog.to_string().as_bytes());
        }
    }

    /// The time at which something is due.
    pub(super) fn next(&self) -> Option<Instant> {
        self.retry_at.into_iter().chain(self.watchdog.map(|(_, next)| next)).min()
    }

    fn flush(&mut self) {
        self.retry_at = None;
        while let Some(text) = self.unsent.front() {
            match send(text.as_bytes()) {
                Err(Errno::EAGAIN) => {
                    self.retry_at = Some(Instant::now() + PAUSE);
                    return;
                }
                Err(error) => debug!(%error, "cannot notify the service manager"),
                Ok(()) => {}
            }
            self.unsent.pop_front();
        }
    }
}

/// A number of things in words.
pub(super) fn counted(number: usize, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

/// Sends a datagram to the service manager, if there is one. `sd_notify` itself is not used for it:
/// that blocks on a manager that does not read, and knows no abstract names.
fn send(text: &[u8]) -> Result<(), Errno> {
    let Some(to) = std::env::var_os("NOTIFY_SOCKET").filter(|to| !to.is_empty()) else {
        return Ok(());
    };
    let address = match to.as_bytes().strip_prefix(b"@") {
        Some(name) => UnixAddr::new_abstract(name)?,
        None => UnixAddr::new(to.as_os_str())?,
    };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Unix, SockType::Datagram, flags, None)?;
    sendto(socket.as_raw_fd(), text, &address, MsgFlags::MSG_NOSIGNAL).map(drop)
}
