//! What the service manager and whoever else waits for it are told (`sd_notify(3)`).

use std::collections::VecDeque;
use std::io::Write as _;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, UnixAddr, sendto, socket};
use sd_notify::NotifyState;
use tracing::{debug, info};

use super::Supervisor;

/// How long to leave a service manager alone that takes no more.
const PAUSE: Duration = Duration::from_millis(100);
/// What waits to be said, at the most. The last words count.
const MOST_UNSAID: usize = 16;

/// Tells the service manager, if there is one, and never waits for it.
#[derive(Default)]
pub(super) struct Herald {
    /// What it has not taken yet, and when to try again.
    unsaid: VecDeque<String>,
    retry: Option<Instant>,
    /// How often its watchdog wants to hear of us, and when next.
    pulse: Option<(Duration, Instant)>,
}

impl Herald {
    /// For what the environment asks this process for. A watchdog is told after half of the time
    /// that it leaves us, as `sd_watchdog_enabled(3)` has it.
    pub(super) fn new() -> Self {
        let within = sd_notify::watchdog_enabled().filter(|within| !within.is_zero());
        let pulse = within.map(|within| (within / 2, Instant::now()));
        Self { pulse, ..Self::default() }
    }

    pub(super) fn say(&mut self, states: &[NotifyState<'_>]) {
        if self.unsaid.len() == MOST_UNSAID {
            self.unsaid.pop_front();
        }
        let line = |state: &NotifyState<'_>| state.to_string().replace('\n', " ") + "\n";
        self.unsaid.push_back(states.iter().map(line).collect());
        self.flush();
    }

    /// Says what is due.
    pub(super) fn tick(&mut self) {
        let now = Instant::now();
        if self.retry.is_some_and(|at| at <= now) {
            self.flush();
        }
        if let Some((every, next)) = self.pulse.as_mut().filter(|(_, next)| *next <= now) {
            *next = now + *every;
            // One that is not taken is made up for by the next.
            let _ = send(NotifyState::Watchdog.to_string().as_bytes());
        }
    }

    /// When something is due.
    pub(super) fn next(&self) -> Option<Instant> {
        self.retry.into_iter().chain(self.pulse.map(|(_, next)| next)).min()
    }

    fn flush(&mut self) {
        self.retry = None;
        while let Some(text) = self.unsaid.front() {
            match send(text.as_bytes()) {
                Err(Errno::EAGAIN) => {
                    self.retry = Some(Instant::now() + PAUSE);
                    return;
                }
                Err(error) => debug!(%error, "the service manager cannot be told"),
                Ok(()) => {}
            }
            self.unsaid.pop_front();
        }
    }
}

impl Supervisor {
    /// Tells everybody who waits for it that the daemon serves.
    pub(super) fn say_ready(&mut self) {
        self.is_ready = true;
        info!("ready");
        if let Some(fd) = self.ready_fd.take() {
            // Whoever asked for it may have gone.
            let _ = std::fs::File::from(fd).write_all(b"\n");
        }
        self.notify_ready("");
    }

    /// Says that the daemon serves, and on how much, with a remark behind it.
    pub(super) fn notify_ready(&mut self, remark: &str) {
        let listeners = self.listeners.len();
        let workers = match (self.serves_per_connection(), self.slots.len()) {
            (true, _) => {
                let most = self.config.daemon.max_children.count();
                format!("up to {}", count(most, "child", "children"))
            }
            (false, workers) => count(workers, "worker", "workers"),
        };
        let listeners = count(listeners, "listener", "listeners");
        let status = format!("serving on {listeners} with {workers}{remark}");
        self.herald.say(&[NotifyState::Ready, NotifyState::Status(&status)]);
    }
}

fn count(number: usize, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

/// Sends a datagram to the service manager, if there is one. The library would wait for one that
/// does not read, and knows no abstract names.
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
