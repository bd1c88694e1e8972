//! The supervisor: binds, admits, forks and reaps. It never reads what an admitted peer sends, and
//! stays small, because every fork copies its page tables.

use std::io::Write as _;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use ipcd_core::{DaemonInfo, Tokens};
use ipcd_proto::control::{Code, Refusal, encode};
use ipcd_proto::{FrameWriter, Header, Kind};
use ipcd_transport::{ChannelParts, Listener, Transport};
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, kill, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use sd_notify::NotifyState;
use tracing::{error, info, warn};

use crate::admission::Admission;
use crate::config::{Codec, Config, Listen};
use crate::link::{Link, Received, ToSupervisor, ToWorker};
use crate::runtime::RuntimeDir;
use crate::worker::{self, Birth};
use crate::{Error, VERSION, privileges};

/// Peers accepted of one listener in a turn, so that the others have theirs.
const ACCEPT_BUDGET: usize = 64;
/// Messages that wait for a worker's link; until it takes them, nobody is accepted.
const LINK_BACKLOG: usize = 64;
/// A worker that dies younger than this is started again only after a pause.
const INFANCY: Duration = Duration::from_secs(1);
/// The pause before the first such start; it doubles with each.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// How long a listener waits when the system has no descriptor or memory for a peer.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(100);

const SIGNALS: u64 = 0;
const LINK: u64 = 1;
const FIRST_LISTENER: u64 = 2;

/// What a daemon is started with, besides its configuration.
#[derive(Debug, Default)]
pub struct Start {
    /// Where the configuration came from.
    pub config_file: Option<PathBuf>,
    /// Gets a newline when the daemon serves, and is closed.
    pub ready_fd: Option<OwnedFd>,
}

/// Runs the daemon until it is told to end.
///
/// # Errors
/// If it cannot start.
pub fn run(config: Config, start: Start) -> Result<(), Error> {
    Supervisor::start(config, start)?.run()
}

struct Supervisor {
    config: Config,
    core: ipcd_core::Config,
    user: Option<privileges::Drop>,
    epoll: Epoll,
    signals: SignalFd,
    slot: Slot,
    listeners: Vec<Listening>,
    admission: Admission,
    ready_fd: Option<OwnedFd>,
    config_file: Option<PathBuf>,
    is_ready: bool,
    /// When a drain must be over.
    draining: Option<Instant>,
    _runtime_dir: RuntimeDir,
}

struct Listening {
    listener: Box<dyn Listener>,
    transport: &'static dyn Transport,
    codec: Codec,
    /// Whether it is waited for.
    armed: bool,
    /// Not to be waited for until then, because the system had no descriptor for a peer.
    paused: Option<Instant>,
}

/// The place of a worker. Its link outlives the worker: what is on its way is the successor's.
struct Slot {
    link: Link,
    far_end: Link,
    /// Whether messages wait for room on the link.
    is_blocked: bool,
    life: Life,
    incarnation: u32,
    pause: Duration,
}

enum Life {
    Running {
        pid: Pid,
        since: Instant,
        is_ready: bool,
    },
    /// Dead, to be started again at this time.
    Dead {
        until: Instant,
    },
}

impl Supervisor {
    fn start(config: Config, start: Start) -> Result<Self, Error> {
        privileges::raise_descriptor_limit();
        let user = privileges::Drop::of(&config.daemon)?;
        let runtime_dir = RuntimeDir::open(&config)?;
        let tokens = runtime_dir.tokens(&config.tokens)?;
        let (epoll, signals) = watch_signals()?;
        let listeners = bind_all(&config, &runtime_dir)?;
        let core = core_config(&config, &listeners, tokens);
        let pair = Link::pair().map_err(|error| Error::system("make a link", error))?;
        let slot = Slot {
            link: pair.0,
            far_end: pair.1,
            is_blocked: false,
            life: Life::Dead { until: Instant::now() },
            incarnation: 0,
            pause: FIRST_PAUSE,
        };
        watch(&epoll, &slot.link, LINK)?;
        write_pid_file(&config)?;
        let mut supervisor = Self {
            core,
            user,
            epoll,
            signals,
            slot,
            listeners,
            admission: Admission::new(&config.limits),
            ready_fd: start.ready_fd,
            config_file: start.config_file,
            is_ready: false,
            draining: None,
            config,
            _runtime_dir: runtime_dir,
        };
        supervisor.revive();
        Ok(supervisor)
    }

    fn run(&mut self) -> Result<(), Error> {
        let mut events = [EpollEvent::empty(); 64];
        loop {
            let count = self.wait(&mut events)?;
            for event in &events[..count] {
                match event.data() {
                    SIGNALS => self.handle_signals()?,
                    LINK => self.hear_worker(),
                    listener => self.accept((listener - FIRST_LISTENER) as usize),
                }
            }
            self.revive();
            self.arm()?;
            if self.is_over() {
                return Ok(());
            }
        }
    }

    fn wait(&mut self, events: &mut [EpollEvent]) -> Result<usize, Error> {
        let revival = match self.slot.life {
            Life::Dead { until } if self.draining.is_none() => Some(until),
            _ => None,
        };
        let pauses = self.listeners.iter().filter_map(|listening| listening.paused);
        let next = revival.into_iter().chain(self.draining).chain(pauses).min();
        let timeout = next.map_or(EpollTimeout::NONE, |at| {
            let left = at.saturating_duration_since(Instant::now()).as_millis() as i32;
            EpollTimeout::try_from(left.saturating_add(1)).unwrap_or(EpollTimeout::MAX)
        });
        match self.epoll.wait(events, timeout) {
            Ok(count) => Ok(count),
            Err(Errno::EINTR) => Ok(0),
            Err(error) => Err(Error::system("wait for events", error)),
        }
    }

    fn handle_signals(&mut self) -> Result<(), Error> {
        let read = |error| Error::system("read a signal", error);
        while let Some(info) = self.signals.read_signal().map_err(read)? {
            match Signal::try_from(info.ssi_signo as i32) {
                Ok(Signal::SIGCHLD) => self.reap(),
                Ok(Signal::SIGHUP) => self.reload(),
                Ok(signal) => self.drain(signal),
                Err(_) => {}
            }
        }
        Ok(())
    }

    /// Collects children that have ended.
    fn reap(&mut self) {
        loop {
            let (pid, how) = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, status)) => (pid, format!("exit status {status}")),
                Ok(WaitStatus::Signaled(pid, signal, _)) => (pid, format!("signal {signal}")),
                Ok(WaitStatus::StillAlive) | Err(_) => return,
                Ok(_) => continue,
            };
            if matches!(self.slot.life, Life::Running { pid: running, .. } if running == pid) {
                self.bury(pid, &how);
            }
        }
    }

    fn bury(&mut self, pid: Pid, how: &str) {
        // What the dead one had said comes before anything that its successor says.
        self.hear_worker();
        for peer in self.admission.release_slot(0) {
            if let Some(listening) = self.listeners.get_mut(peer.listener) {
                listening.listener.orphaned(&peer.identity, &peer.state);
            }
        }
        let Life::Running { since, is_ready, .. } = self.slot.life else {
            unreachable!("the caller has matched the running worker");
        };
        let now = Instant::now();
        let mut until = now;
        if !is_ready || now - since < INFANCY {
            until += self.slot.pause;
            self.slot.pause = (2 * self.slot.pause).min(LONGEST_PAUSE);
        } else {
            self.slot.pause = FIRST_PAUSE;
        }
        self.slot.life = Life::Dead { until };
        if self.draining.is_none() {
            warn!(%pid, how, "worker died");
        }
    }

    /// Forks a worker for the slot if that has none and it is time.
    fn revive(&mut self) {
        let Life::Dead { until } = self.slot.life else {
            return;
        };
        let now = Instant::now();
        if self.draining.is_some() || now < until {
            return;
        }
        self.slot.incarnation += 1;
        let (incarnation, user) = (self.slot.incarnation, self.user);
        let mut core = self.core.clone();
        core.incarnation = incarnation;
        let supervisor = Pid::this();
        let listeners = self.listeners.iter().map(|listening| listening.transport).collect();
        let far_end = &self.slot.far_end;
        let born = ipcd_sys::fork(|| {
            worker::main(Birth { link: far_end.share(), supervisor, core, listeners, user })
        });
        match born {
            Ok(pid) => {
                info!(%pid, slot = 0, incarnation, "worker started");
                self.slot.life = Life::Running { pid, since: now, is_ready: false };
            }
            Err(error) => {
                error!(%error, "cannot fork a worker");
                self.slot.life = Life::Dead { until: now + self.slot.pause };
                self.slot.pause = (2 * self.slot.pause).min(LONGEST_PAUSE);
            }
        }
    }

    fn hear_worker(&mut self) {
        if let Err(error) = self.slot.link.flush() {
            warn!(%error, "a peer could not be handed to its worker");
        }
        loop {
            match self.slot.link.receive() {
                Ok(Received::Message(ToSupervisor::Ready, _)) => self.worker_is_ready(),
                Ok(Received::Message(ToSupervisor::Gone(numbers), _)) => {
                    numbers.into_iter().for_each(|number| self.admission.release(number, 0));
                }
                Ok(Received::NotReady | Received::Closed) => return,
                Err(error) => {
                    error!(%error, "a worker does not speak the link's protocol");
                    return self.kill_worker();
                }
            }
        }
    }

    fn worker_is_ready(&mut self) {
        if let Life::Running { is_ready, .. } = &mut self.slot.life {
            *is_ready = true;
        }
        if std::mem::replace(&mut self.is_ready, true) {
            return;
        }
        info!("ready");
        if let Some(fd) = self.ready_fd.take() {
            // Whoever asked for it may have gone.
            let _ = std::fs::File::from(fd).write_all(b"\n");
        }
        let _ = sd_notify::notify(&[NotifyState::Ready]);
    }

    fn accept(&mut self, index: usize) {
        let Some(listening) = self.listeners.get_mut(index) else {
            return;
        };
        for _ in 0..ACCEPT_BUDGET {
            if self.slot.link.waiting() >= LINK_BACKLOG {
                return;
            }
            let transport = listening.transport;
            match listening.listener.accept() {
                Ok(None) => return,
                Ok(Some(parts)) => {
                    let admitted = self.admission.admit(index, &parts, 0);
                    match admitted {
                        Ok(number) => hand_over(&mut self.slot.link, number, index, parts),
                        Err(why) => refuse(transport, parts, &why),
                    }
                }
                Err(error) => {
                    warn!(transport = %transport.scheme(), %error, "peer not accepted");
                    if error.is_exhaustion() {
                        listening.paused = Some(Instant::now() + EXHAUSTED_PAUSE);
                        return;
                    }
                }
            }
        }
    }

    /// Waits for room on the link where something waits for it, and for peers where they can be
    /// handed over.
    fn arm(&mut self) -> Result<(), Error> {
        let failed = |error| Error::system("watch a descriptor", error);
        let waiting = self.slot.link.waiting();
        if (waiting > 0) != self.slot.is_blocked {
            self.slot.is_blocked = waiting > 0;
            let write = EpollFlags::EPOLLOUT;
            let write = if waiting > 0 { write } else { EpollFlags::empty() };
            let mut event = EpollEvent::new(EpollFlags::EPOLLIN | write, LINK);
            self.epoll.modify(&self.slot.link, &mut event).map_err(failed)?;
        }
        let now = Instant::now();
        for (index, listening) in self.listeners.iter_mut().enumerate() {
            listening.paused.take_if(|until| *until <= now);
            let is_open = waiting < LINK_BACKLOG && listening.paused.is_none();
            if is_open == listening.armed {
                continue;
            }
            let fd = listening.listener.fd();
            match is_open {
                true => watch(&self.epoll, &fd, FIRST_LISTENER + index as u64)?,
                false => self.epoll.delete(fd).map_err(failed)?,
            }
            listening.armed = is_open;
        }
        Ok(())
    }

    /// This version applies changes at the next start only, but says what it thinks of the file.
    fn reload(&self) {
        let Some(path) = &self.config_file else {
            return warn!("nothing to reload: the daemon was started without a file");
        };
        match Config::load(path) {
            Ok(_) => warn!("the file is good; this version applies it at the next start"),
            Err(error) => error!(%error, "the file is not good, nothing changes"),
        }
    }

    /// Stops accepting and lets the workers end; at the second call, ends them.
    fn drain(&mut self, signal: Signal) {
        if self.draining.is_some() {
            info!(%signal, "ending at once");
            return self.kill_worker();
        }
        info!(%signal, "draining");
        let _ = sd_notify::notify(&[NotifyState::Stopping]);
        self.listeners.clear();
        self.draining = Some(Instant::now() + self.config.daemon.drain_timeout.0);
        if let Err(error) = self.slot.link.send(&ToWorker::Drain, Vec::new()) {
            error!(%error, "a worker cannot be told to end");
            self.kill_worker();
        }
    }

    /// Whether the drain is over: nobody is left, or the time is up.
    fn is_over(&mut self) -> bool {
        let Some(deadline) = self.draining else {
            return false;
        };
        if let Life::Running { pid, .. } = self.slot.life {
            if Instant::now() < deadline {
                return false;
            }
            warn!("peers did not take what was left for them in time");
            self.kill_worker();
            let _ = waitpid(pid, None);
        }
        if let Some(path) = &self.config.daemon.pid_file {
            let _ = std::fs::remove_file(path);
        }
        info!("ended");
        true
    }

    fn kill_worker(&self) {
        if let Life::Running { pid, .. } = self.slot.life {
            // It is our child and was not waited for, so the number is still its own.
            let _ = kill(pid, Signal::SIGKILL);
        }
    }
}

/// Hands a peer to a worker, or lets it go when that is impossible.
fn hand_over(link: &mut Link, number: u64, listener: usize, parts: ChannelParts) {
    let ChannelParts { descriptors, identity, state } = parts;
    let message = ToWorker::Admit { number, listener, identity, state };
    if let Err(error) = link.send(&message, descriptors) {
        warn!(%error, "a peer could not be handed to its worker");
    }
}

/// Tells a peer that it is not admitted, if it takes a frame at once, and lets it go.
fn refuse(transport: &dyn Transport, parts: ChannelParts, why: &str) {
    warn!(transport = %transport.scheme(), identity = %parts.identity, why, "peer refused");
    let refusal = Refusal { code: Code::Limit, message: why.to_owned() };
    let mut frame = Vec::new();
    FrameWriter(&mut frame).control(Header::new(Kind::Error, 0), &encode(&refusal));
    if let Ok(mut channel) = transport.adopt(parts) {
        let _ = channel.write(&frame).and_then(|_| channel.finish());
    }
}

/// Signals come as events. They stay blocked in the workers, which hear of an end by their link:
/// a terminal and a service manager send theirs to the whole group.
fn watch_signals() -> Result<(Epoll, SignalFd), Error> {
    let failed = |error| Error::system("watch signals", error);
    let mut set = SigSet::empty();
    for signal in [Signal::SIGCHLD, Signal::SIGHUP, Signal::SIGINT, Signal::SIGTERM] {
        set.add(signal);
    }
    sigprocmask(SigmaskHow::SIG_BLOCK, Some(&set), None).map_err(failed)?;
    let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
    let signals = SignalFd::with_flags(&set, flags).map_err(failed)?;
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(failed)?;
    watch(&epoll, &signals, SIGNALS)?;
    Ok((epoll, signals))
}

fn watch(epoll: &Epoll, fd: &impl AsFd, data: u64) -> Result<(), Error> {
    let event = EpollEvent::new(EpollFlags::EPOLLIN, data);
    epoll.add(fd, event).map_err(|error| Error::system("watch a descriptor", error))
}

fn bind_all(config: &Config, runtime_dir: &RuntimeDir) -> Result<Vec<Listening>, Error> {
    let defaults = || {
        let default = |transport: &dyn Transport| Listen {
            name: None,
            endpoint: transport.default_endpoint(runtime_dir.path()),
            codec: Codec::Frame,
        };
        ipcd_transports::ALL.map(default).to_vec()
    };
    let wanted = if config.listeners.is_empty() { defaults() } else { config.listeners.clone() };
    let mut listeners = Vec::new();
    for Listen { name, endpoint, codec } in wanted {
        let transport = ipcd_transports::of(&endpoint)?;
        let listener = transport.listen(&endpoint)?;
        let name = name.as_deref();
        info!(endpoint = %listener.local(), %codec, name, "listening");
        listeners.push(Listening { listener, transport, codec, armed: false, paused: None });
    }
    Ok(listeners)
}

fn core_config(config: &Config, listeners: &[Listening], tokens: Tokens) -> ipcd_core::Config {
    let limits = &config.limits;
    let describe = |l: &Listening| (l.listener.local().to_string(), l.codec.to_string());
    let daemon = DaemonInfo {
        supervisor: std::process::id(),
        worker: 0,
        version: VERSION.into(),
        started: Instant::now(),
        listeners: listeners.iter().map(describe).collect(),
    };
    ipcd_core::Config {
        max_payload: limits.max_message.bytes(),
        outbox: limits.outbox.0,
        max_subscriptions: limits.max_subscriptions,
        handshake_timeout: limits.handshake_timeout.0,
        frame_timeout: limits.frame_timeout.0,
        idle_timeout: Some(limits.idle_timeout.0).filter(|timeout| !timeout.is_zero()),
        stall_timeout: limits.stall_timeout.0,
        tokens,
        ..ipcd_core::Config::new(daemon)
    }
}

fn write_pid_file(config: &Config) -> Result<(), Error> {
    let Some(path) = &config.daemon.pid_file else {
        return Ok(());
    };
    std::fs::write(path, format!("{}\n", std::process::id()))
        .map_err(|error| Error::system(format!("write {}", path.display()), error))
}
