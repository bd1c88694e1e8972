//! The supervisor: binds, admits, forks and reaps. It never reads what an admitted peer sends, and
//! stays small, because every fork copies its page tables.
//!
//! It owns the parts and runs the loop. A part is given what it needs, and returns what is to be done
//! about other parts.

mod child_exits;
mod event_source;
mod line_reader;
mod listener_changes;
mod listeners;
mod open_listener;
mod peer_intake;
mod program;
mod programs;
mod reload;
mod servers;
mod service_notifier;
mod shutdown;
mod worker_launcher;
mod worker_log;
mod worker_messages;
mod worker_pool;
mod worker_slot;
mod worker_watchdog;

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use ipcd_core::{DaemonInfo, TokenSet};
use ipcd_sys::inherited;
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollTimeout};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::waitpid;
use sd_notify::NotifyState;
use tracing::{info, warn};

use self::event_source::{EventSource, watch};
use self::listeners::ListenerSet;
use self::open_listener::OpenListener;
use self::peer_intake::{LostPeer, PeerIntake, PeerOffer};
use self::programs::ProgramSet;
use self::servers::ServerSet;
use self::service_notifier::{ServiceNotifier, counted};
use self::shutdown::ShutdownState;
use self::worker_pool::{WorkerPool, service};
use crate::activation::PassedSocket;
use crate::admission::Admission;
use crate::config::{Config, ConfigError};
use crate::ids::{AdmissionId, OwnerId, OwnerSequence, SlotId};
use crate::lacking::PAUSE;
use crate::link::{LiveConfig, ToWorker};
use crate::pid_file::PidFile;
use crate::runtime::RuntimeDir;
use crate::sandbox::Sandbox;
use crate::{Error, VERSION, log, privileges};

/// The options of a start, besides the configuration.
#[derive(Default)]
pub struct StartOptions {
    /// Reads the configuration again; `None` if there is nothing to be read.
    pub reload: Option<Box<ConfigLoader>>,
    /// Gets a newline when the daemon serves, and is closed.
    pub ready_fd: Option<OwnedFd>,
    /// The sockets that a service manager has bound.
    pub sockets: Vec<PassedSocket>,
}

/// Reads a configuration.
pub type ConfigLoader = dyn Fn() -> Result<Config, ConfigError>;

/// Runs the daemon until it is told to end.
///
/// # Errors
/// If it cannot start.
pub fn run(config: Config, start: StartOptions) -> Result<(), Error> {
    Supervisor::start(config, start)?.run()
}

struct Supervisor {
    config: Config,
    /// The configuration of the router in each worker.
    router_config: ipcd_core::Config,
    epoll: Epoll,
    signals: SignalFd,
    workers: WorkerPool,
    admission: Admission,
    /// Children whose peers have to make room for others, in the order of their eviction.
    evicted: VecDeque<(SlotId, AdmissionId)>,
    listeners: ListenerSet,
    servers: ServerSet,
    programs: ProgramSet,
    owners: OwnerSequence,
    notifier: ServiceNotifier,
    reload: Option<Box<ConfigLoader>>,
    /// The time to try again what the kernel had no memory for.
    retry_at: Option<Instant>,
    is_ready: bool,
    shutdown: Option<ShutdownState>,
    pid_file: Option<PidFile>,
    runtime_dir: RuntimeDir,
}

impl Supervisor {
    fn start(config: Config, start: StartOptions) -> Result<Self, Error> {
        inherited::raise_descriptor_limit(u64::MAX);
        let user = privileges::UserSwitch::of(&config.daemon)?;
        // It forks a child, which inherits as little as possible this early.
        let sandbox = Sandbox::prepare(config.daemon.sandbox)?;
        // Its lock comes before everything that is written there: no other daemon uses it then.
        let runtime_dir = RuntimeDir::open(&config)?;
        let tokens = runtime_dir.tokens(&config.tokens)?;
        // Before the first child that lives on: a SIGCHLD that comes unblocked is lost.
        let (epoll, signals) = watch_signals()?;
        let mut owners = OwnerSequence::default();
        let listeners = ListenerSet::bind(&config, &runtime_dir, start.sockets, &mut owners)?;
        let worker_user = privileges::UserSwitch::of_workers(&config.daemon)?;
        sandbox.log();
        let router_config = router_config(&config, &listeners, tokens, sandbox.level().to_string());
        LiveConfig::check(&router_config)?;
        let workers = WorkerPool::new(&config, worker_user, sandbox, &epoll)?;
        let pid_file = config.daemon.pid_file.as_deref().map(PidFile::write).transpose()?;
        let mut supervisor = Self {
            router_config,
            epoll,
            signals,
            workers,
            admission: Admission::new(&config.limits, service(&config)),
            evicted: VecDeque::new(),
            listeners,
            servers: ServerSet::new(user),
            programs: ProgramSet::new(user),
            owners,
            notifier: ServiceNotifier::new(start.ready_fd),
            reload: start.reload,
            retry_at: None,
            is_ready: false,
            shutdown: None,
            config,
            pid_file,
            runtime_dir,
        };
        supervisor.set_owners();
        supervisor.set_rules();
        supervisor.revive();
        if supervisor.workers.serves_per_connection() {
            supervisor.become_ready();
        }
        Ok(supervisor)
    }

    fn run(&mut self) -> Result<(), Error> {
        let mut events = [EpollEvent::empty(); 64];
        loop {
            self.arm()?;
            let count = self.wait(&mut events)?;
            for event in &events[..count] {
                match EventSource::from_u64(event.data()) {
                    Some(source) => self.handle(source)?,
                    None => warn!("epoll reported an unknown descriptor"),
                }
            }
            self.run_due_tasks();
            if self.is_over() {
                return Ok(());
            }
        }
    }

    fn handle(&mut self, source: EventSource) -> Result<(), Error> {
        match source {
            EventSource::Signals => return self.handle_signals(),
            EventSource::Listener(owner) => self.peer_intake().accept(owner),
            EventSource::WorkerLink(slot) => self.serve_worker(slot),
            EventSource::WorkerLog(slot) => self.workers.slot(slot).read_log(slot, &self.epoll),
            EventSource::Dialler(owner) => self.read_dialler(owner),
            EventSource::ProgramLaunch(owner) => self.read_launch(owner),
            EventSource::ProgramStderr(owner) => self.programs.read_stderr(owner, &self.epoll),
        }
        Ok(())
    }

    /// Does what is due, in each turn.
    fn run_due_tasks(&mut self) {
        let now = Instant::now();
        if self.retry_at.take_if(|at| *at <= now).is_some() {
            self.workers.flush_refused();
        }
        let lost = self.peer_intake().release_lost();
        lost.into_iter().for_each(|lost| self.lose_peer(lost));
        self.revive();
        if self.is_ready {
            self.servers.tick(now, &self.epoll);
            let ended = self.programs.tick(now, &self.epoll);
            ended.into_iter().for_each(|peer| self.peer_intake().disconnect(peer));
        }
        self.workers.spread_changes();
        self.workers.probe(self.config.daemon.watchdog.duration());
        self.workers.watch_over(self.config.daemon.watchdog.duration());
        self.workers.read_paused_logs(now, &self.epoll);
        log::tick(now);
        self.notifier.tick();
    }

    /// Has epoll watch links and listeners as it is needed now. A call that the kernel had no
    /// memory for is repeated after a pause: epoll would report at once that there is room.
    fn arm(&mut self) -> Result<(), Error> {
        let now = Instant::now();
        let links = self.workers.arm(&self.epoll)?;
        let listeners = self.listeners.arm(&self.epoll, self.workers.has_room(), now)?;
        if links || listeners {
            self.retry_at.get_or_insert(now + PAUSE);
        }
        Ok(())
    }

    fn wait(&mut self, events: &mut [EpollEvent]) -> Result<usize, Error> {
        let timeout = self.next().map_or(EpollTimeout::NONE, |at| {
            let left = at.saturating_duration_since(Instant::now()).as_millis();
            // Rounded up: a wait that ends too early would be followed by another of 0 ms.
            let left = i32::try_from(left).unwrap_or(i32::MAX).saturating_add(1);
            EpollTimeout::try_from(left).unwrap_or(EpollTimeout::MAX)
        });
        match self.epoll.wait(events, timeout) {
            Ok(count) => Ok(count),
            Err(Errno::EINTR) => Ok(0),
            Err(error) => Err(Error::system("wait for events", error)),
        }
    }

    /// The time at which something is due.
    fn next(&self) -> Option<Instant> {
        let watchdog = self.config.daemon.watchdog.duration();
        // Servers and programs have to wait until the daemon serves.
        let owners = self.servers.next().into_iter().chain(self.programs.next());
        let owners = owners.filter(|_| self.is_ready);
        owners
            .chain(self.workers.next(self.shutdown.is_none(), watchdog))
            .chain(self.listeners.next())
            .chain(self.shutdown.map(|shutdown| shutdown.next()))
            .chain(self.notifier.next())
            .chain(self.retry_at)
            .chain(log::next())
            .min()
    }

    fn handle_signals(&mut self) -> Result<(), Error> {
        loop {
            let info = match self.signals.read_signal() {
                Ok(Some(info)) => info,
                // A signal that was not read now makes the descriptor readable again.
                Ok(None) | Err(Errno::EINTR) => return Ok(()),
                Err(error) => return Err(Error::system("read a signal", error)),
            };
            match Signal::try_from(info.ssi_signo as i32) {
                Ok(Signal::SIGCHLD) => self.reap(),
                Ok(Signal::SIGHUP) if self.shutdown.is_some() => {
                    warn!("not reloaded: the daemon is ending");
                }
                Ok(Signal::SIGHUP) => self.reload(),
                Ok(signal) => self.shut_down(signal),
                Err(_) => {}
            }
        }
    }

    /// The parts that peers come in by and go out by.
    fn peer_intake(&mut self) -> PeerIntake<'_> {
        PeerIntake {
            listeners: &mut self.listeners,
            admission: &mut self.admission,
            workers: &mut self.workers,
            evicted: &mut self.evicted,
            config: &self.config,
            router_config: &mut self.router_config,
            epoll: &self.epoll,
        }
    }

    /// Forks a worker for each slot that is due.
    fn revive(&mut self) {
        if self.shutdown.is_none() {
            self.workers.revive(&mut self.router_config, &self.epoll);
        }
    }

    /// Reads what a dialler has come to, and admits the server that it has connected.
    fn read_dialler(&mut self, owner: OwnerId) {
        if let Some(dialled) = self.servers.read_dialler(owner) {
            let servers::DialledPeer { transport, parts, raw_profile } = dialled;
            let offer = PeerOffer { owner, transport, parts, raw_profile: Some(raw_profile) };
            let peer = self.peer_intake().admit(offer);
            self.servers.set_peer(owner, peer);
        }
    }

    /// Reads whether a program was started, and admits its pipes.
    fn read_launch(&mut self, owner: OwnerId) {
        if let Some(started) = self.programs.read_launch(owner) {
            let programs::StartedProgram { parts, raw_profile } = started;
            let transport = ipcd_transports::CHILD;
            let offer = PeerOffer { owner, transport, parts, raw_profile: Some(raw_profile) };
            let peer = self.peer_intake().admit(offer);
            self.programs.set_peer(owner, peer);
        }
    }

    /// The peer of a server or a program has gone. A reload may have removed its owner.
    fn lose_peer(&mut self, lost: LostPeer) {
        let LostPeer { owner, peer, was_cut_off } = lost;
        self.servers.lose_peer(owner, peer);
        self.programs.lose_peer(owner, peer, was_cut_off, &self.epoll);
    }

    /// Tells the processes that wait for it that the daemon serves.
    fn become_ready(&mut self) {
        self.is_ready = true;
        info!("ready");
        self.notifier.signal_ready();
        self.notify_ready("");
    }

    /// Tells the service manager that the daemon serves, with a remark behind it.
    fn notify_ready(&mut self, remark: &str) {
        let workers = match self.workers.serves_per_connection() {
            true => {
                let most = self.config.daemon.max_children.count();
                format!("up to {}", counted(most, "child", "children"))
            }
            false => counted(self.workers.len(), "worker", "workers"),
        };
        let listeners = counted(self.listeners.len(), "listener", "listeners");
        let status = format!("serving on {listeners} with {workers}{remark}");
        self.notifier.notify(&[NotifyState::Ready, NotifyState::Status(&status)]);
    }

    /// TERM or INT: stops accepting, and lets the workers end; at a later signal, ends them.
    fn shut_down(&mut self, signal: Signal) {
        if let Some(shutdown) = self.shutdown {
            if shutdown.is_repeated() {
                info!(%signal, "ending at once");
                self.programs.kill_all();
                self.workers.kill_all();
            }
            return;
        }
        info!(%signal, "draining");
        let status = format!("draining, for at most {}", self.config.daemon.drain_timeout);
        self.notifier.notify(&[NotifyState::Stopping, NotifyState::Status(&status)]);
        // The kernel resets the connections that still wait in a backlog.
        self.listeners.clear();
        self.servers.stop();
        self.programs.stop();
        let drain_timeout = self.config.daemon.drain_timeout.duration();
        self.shutdown = Some(ShutdownState::new(Instant::now(), drain_timeout));
        self.workers.send_to_all(&ToWorker::Pause);
    }

    /// Whether the daemon's end is over: no process is left, or the time is up. On the way there,
    /// workers are told to drain once all have sent on what they had accepted.
    fn is_over(&mut self) -> bool {
        let Some(shutdown) = &mut self.shutdown else { return false };
        let now = Instant::now();
        let (must_drain, is_overdue) =
            (shutdown.must_drain(now, self.workers.is_quiet()), shutdown.is_overdue(now));
        if must_drain {
            self.workers.send_to_all(&ToWorker::Drain);
            self.programs.end(self.program_patience());
        }
        let left: Vec<_> = self.workers.living().collect();
        if !(left.is_empty() && self.programs.is_empty() || is_overdue) {
            return false;
        }
        self.programs.kill_remaining();
        for (id, pid) in left {
            warn!(slot = id.0, "worker did not end in time: its peers left messages unread");
            let slot = self.workers.slot(id);
            slot.kill();
            let _ = waitpid(pid, None);
            slot.finish_log(pid, &self.epoll);
        }
        self.pid_file = None;
        info!("ended");
        true
    }

    /// The time that a program has to read the messages for it before it gets TERM: half of the time
    /// that draining may take.
    fn program_patience(&self) -> Duration {
        self.config.daemon.drain_timeout.duration() / 2
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
    watch(&epoll, &signals, EventSource::Signals)?;
    Ok((epoll, signals))
}

fn router_config(
    config: &Config,
    listeners: &ListenerSet,
    tokens: TokenSet,
    sandbox: String,
) -> ipcd_core::Config {
    let limits = &config.limits;
    let describe = |open: &OpenListener| {
        (open.owner.0, (open.listener.local().to_string(), open.config.codec().to_string()))
    };
    let daemon = DaemonInfo {
        supervisor: std::process::id(),
        worker: 0,
        version: VERSION.into(),
        started: Instant::now(),
        listeners: listeners.iter().map(describe).collect(),
        sandbox,
    };
    ipcd_core::Config {
        max_payload: limits.max_message.bytes(),
        queue_limit: limits.outbox.bytes(),
        max_subscriptions: limits.max_subscriptions,
        max_subscriptions_per_principal: limits.max_subscriptions_per_uid,
        max_bytes_per_principal: limits.max_bytes_per_uid.bytes() as u64,
        prefixes: limits.prefixes(),
        handshake_timeout: limits.handshake_timeout.duration(),
        frame_timeout: limits.frame_timeout.duration(),
        idle_timeout: Some(limits.idle_timeout.duration()).filter(|timeout| !timeout.is_zero()),
        stall_timeout: limits.stall_timeout.duration(),
        tokens,
        ..ipcd_core::Config::new(daemon)
    }
}
