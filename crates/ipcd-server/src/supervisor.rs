//! The supervisor: binds, admits, forks and reaps. It never reads what an admitted peer sends, and
//! stays small, because every fork copies its page tables.

mod admitting;
mod ending;
mod listening;
mod reload;

use std::io::Write as _;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

use ipcd_core::{DaemonInfo, Table, Tokens, Told};
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, kill, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use sd_notify::NotifyState;
use tracing::{error, info, warn};

use self::admitting::LINK_BACKLOG;
use self::ending::Ending;
use self::listening::{Listening, bind_all, find};
use crate::admission::Admission;
use crate::config::{Config, ConfigError, ForkMode};
use crate::inbox::{InboxPair, Inboxes};
use crate::link::{Received, ToSupervisor, ToWorker};
use crate::runtime::RuntimeDir;
use crate::slot::{Life, Slot};
use crate::worker::{self, Admitted, Birth};
use crate::{Error, VERSION, privileges};

const SIGNALS: u64 = 0;
const FIRST_LISTENER: u64 = 1;
const FIRST_LINK: u64 = 1 << 32;

/// What a daemon is started with, besides its configuration.
#[derive(Default)]
pub struct Start {
    /// Reads the configuration again; `None` if there is nothing to be read.
    pub reload: Option<Box<Reload>>,
    /// Gets a newline when the daemon serves, and is closed.
    pub ready_fd: Option<OwnedFd>,
}

/// Reads a configuration.
pub type Reload = dyn Fn() -> Result<Config, ConfigError>;

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
    slots: Vec<Slot>,
    inboxes: Vec<InboxPair>,
    table: Table,
    /// The slot whose turn it is to get a peer.
    turn: usize,
    listeners: Vec<Listening>,
    admission: Admission,
    ready_fd: Option<OwnedFd>,
    reload: Option<Box<Reload>>,
    /// The number of the next listener.
    next_listener: usize,
    is_ready: bool,
    ending: Option<Ending>,
    runtime_dir: RuntimeDir,
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
        let (slots, inboxes) = make_slots(&config)?;
        for (slot, data) in slots.iter().zip(FIRST_LINK..) {
            watch(&epoll, &slot.link, data)?;
        }
        write_pid_file(&config)?;
        let mut supervisor = Self {
            core,
            user,
            epoll,
            signals,
            table: Table::new(slots.len()),
            slots,
            inboxes,
            turn: 0,
            next_listener: listeners.len(),
            listeners,
            admission: Admission::new(&config.limits),
            ready_fd: start.ready_fd,
            reload: start.reload,
            is_ready: false,
            ending: None,
            config,
            runtime_dir,
        };
        supervisor.revive();
        if supervisor.serves_per_connection() {
            supervisor.say_ready();
        }
        Ok(supervisor)
    }

    fn run(&mut self) -> Result<(), Error> {
        let mut events = [EpollEvent::empty(); 64];
        loop {
            self.arm()?;
            let count = self.wait(&mut events)?;
            for event in &events[..count] {
                match event.data() {
                    SIGNALS => self.handle_signals()?,
                    link @ FIRST_LINK.. => self.hear_worker((link - FIRST_LINK) as usize),
                    listener => self.accept((listener - FIRST_LISTENER) as usize),
                }
            }
            self.revive();
            self.spread_news();
            self.watch_over_workers();
            if self.is_over() {
                return Ok(());
            }
        }
    }

    fn wait(&mut self, events: &mut [EpollEvent]) -> Result<usize, Error> {
        let watchdog = self.config.daemon.watchdog.0;
        let births = self.slots.iter().filter_map(|slot| match slot.life {
            Life::Dead { until } if self.ending.is_none() => Some(until),
            _ => None,
        });
        let debts = self.slots.iter().filter_map(|slot| Some(slot.owes_since? + watchdog));
        let pauses = self.listeners.iter().filter_map(|listening| listening.paused);
        let ending =
            self.ending.iter().flat_map(|ending| ending.quiet_by.or(Some(ending.deadline)));
        let next = births.chain(debts).chain(pauses).chain(ending).min();
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
        loop {
            let info = match self.signals.read_signal() {
                Ok(Some(info)) => info,
                // What was not read now makes the descriptor readable again.
                Ok(None) | Err(Errno::EINTR) => return Ok(()),
                Err(error) => return Err(Error::system("read a signal", error)),
            };
            match Signal::try_from(info.ssi_signo as i32) {
                Ok(Signal::SIGCHLD) => self.reap(),
                Ok(Signal::SIGHUP) => self.reload(),
                Ok(signal) => self.drain(signal),
                Err(_) => {}
            }
        }
    }

    /// Collects children that have ended, and notes those that were stopped.
    fn reap(&mut self) {
        let flags = WaitPidFlag::WNOHANG | WaitPidFlag::WUNTRACED | WaitPidFlag::WCONTINUED;
        loop {
            match waitpid(None, Some(flags)) {
                Ok(WaitStatus::Exited(pid, status)) => self.bury(pid, status, None),
                Ok(WaitStatus::Signaled(pid, signal, _)) => self.bury(pid, 0, Some(signal)),
                Ok(WaitStatus::Stopped(pid, _)) => self.note_stopped(pid, true),
                Ok(WaitStatus::Continued(pid)) => self.note_stopped(pid, false),
                Err(Errno::EINTR) => {}
                Ok(WaitStatus::StillAlive) | Err(_) => return,
                Ok(_) => {}
            }
        }
    }

    fn slot_of(&self, pid: Pid) -> Option<usize> {
        self.slots.iter().position(|slot| slot.pid() == Some(pid))
    }

    fn note_stopped(&mut self, pid: Pid, is_stopped: bool) {
        if let Some(index) = self.slot_of(pid) {
            self.slots[index].is_stopped = is_stopped;
        }
    }

    fn bury(&mut self, pid: Pid, status: i32, signal: Option<Signal>) {
        let Some(index) = self.slot_of(pid) else { return };
        // What the dead one had said comes before anything that its successor says.
        self.hear_worker(index);
        for peer in self.admission.release_slot(index) {
            if let Some(listening) = find(&mut self.listeners, peer.listener) {
                listening.listener.orphaned(&peer.identity, &peer.state);
                listening.listener.released(&peer.identity, &peer.state);
            }
        }
        let told = self.table.died(index as u32);
        let per_connection = self.serves_per_connection();
        let slot = &mut self.slots[index];
        let has_done_its_work = status == 0 && signal.is_none();
        if self.ending.is_none() && !has_done_its_work {
            let signal = signal.map(Signal::as_str);
            warn!(%pid, slot = index, status, signal, "worker died");
        }
        let until = slot.next_birth();
        slot.life = if per_connection { Life::Free } else { Life::Dead { until } };
        slot.owes_since = None;
        self.tell_news(told);
    }

    fn serves_per_connection(&self) -> bool {
        self.config.daemon.fork == ForkMode::Connection
    }

    /// Forks a worker for each slot whose time has come.
    fn revive(&mut self) {
        let now = Instant::now();
        for index in 0..self.slots.len() {
            if let Life::Dead { until } = self.slots[index].life
                && self.ending.is_none()
                && until <= now
                && let Err(error) = self.fork(index, None)
            {
                error!(%error, "cannot fork a worker");
                let until = self.slots[index].after_pause();
                self.slots[index].life = Life::Dead { until };
            }
        }
    }

    /// Forks a worker for a slot.
    fn fork(&mut self, index: usize, only: Option<Admitted>) -> Result<(), Error> {
        let failed = |error| Error::system("fork a worker", error);
        let slot = &mut self.slots[index];
        slot.incarnation += 1;
        let incarnation = slot.incarnation;
        self.table.born(index as u32, incarnation);
        let mut core = self.core.clone();
        (core.slot, core.incarnation) = (index as u32, incarnation);
        let inboxes = Inboxes::new(&self.inboxes, index as u32, incarnation).map_err(failed)?;
        let born = {
            let table = &mut self.table;
            let (far_end, user) = (&slot.far_end, self.user);
            let supervisor = Pid::this();
            ipcd_sys::fork(|| {
                // The child's copy of the table is its own from here on.
                let shared = (self.inboxes.len() > 1).then(|| table.take_shared());
                let link = far_end.share();
                worker::main(Birth { link, supervisor, core, user, shared, inboxes, only })
            })
        };
        match born {
            Ok(pid) => {
                slot.born(pid);
                if self.config.daemon.fork == ForkMode::Pool {
                    info!(%pid, slot = index, incarnation, "worker started");
                }
                Ok(())
            }
            Err(error) => {
                let told = self.table.died(index as u32);
                self.tell_news(told);
                Err(failed(error))
            }
        }
    }

    fn hear_worker(&mut self, index: usize) {
        if let Err(error) = self.slots[index].link.flush() {
            warn!(%error, "a peer could not be handed to its worker");
        }
        loop {
            match self.slots[index].link.receive() {
                Ok(Received::Message(message, _)) => self.heed(index, message),
                Ok(Received::NotReady | Received::Closed) => return,
                Err(error) => {
                    error!(%error, slot = index, "a worker does not speak the link's protocol");
                    return self.kill(index);
                }
            }
        }
    }

    fn heed(&mut self, index: usize, message: ToSupervisor) {
        let slot = index as u32;
        match message {
            ToSupervisor::Ready => self.worker_is_ready(index),
            ToSupervisor::Gone(numbers) => {
                numbers.into_iter().for_each(|number| self.release(number, index));
            }
            ToSupervisor::Request(request) => {
                let told = self.table.heed(slot, request);
                self.tell_news(told);
            }
            ToSupervisor::Quiet => self.slots[index].is_quiet = true,
        }
    }

    fn tell_news(&mut self, told: Vec<Told>) {
        self.tell(told.into_iter().map(|(slot, news)| (slot, ToWorker::News(news))).collect());
    }

    /// Sends messages to workers; who does not live is not told.
    fn tell(&mut self, told: Vec<(u32, ToWorker)>) {
        for (slot, message) in told {
            let slot = &mut self.slots[slot as usize];
            if slot.pid().is_some()
                && let Err(error) = slot.link.send(&message, Vec::new())
            {
                error!(%error, "a worker cannot be told something");
            }
        }
    }

    fn spread_news(&mut self) {
        if self.slots.len() > 1 {
            let told = self.table.news();
            self.tell_news(told);
        }
    }

    /// Ends workers that have owed us something for too long.
    fn watch_over_workers(&mut self) {
        let now = Instant::now();
        let watchdog = self.config.daemon.watchdog.0;
        for index in 0..self.slots.len() {
            if self.slots[index].pid().is_none() {
                continue;
            }
            let owes = self.table.is_behind(index as u32) || self.slots[index].is_blocked;
            self.slots[index].note_debt(owes, now);
            if self.slots[index].owes_since.is_some_and(|since| now - since >= watchdog) {
                warn!(slot = index, "worker does not answer: ending it");
                self.slots[index].owes_since = Some(now);
                self.kill(index);
            }
        }
    }

    fn worker_is_ready(&mut self, index: usize) {
        if let Life::Running { is_ready, .. } = &mut self.slots[index].life {
            *is_ready = true;
        }
        let ready = |slot: &Slot| matches!(slot.life, Life::Running { is_ready: true, .. });
        if !self.is_ready && self.slots.iter().all(ready) {
            self.say_ready();
        }
    }

    fn say_ready(&mut self) {
        self.is_ready = true;
        info!("ready");
        if let Some(fd) = self.ready_fd.take() {
            // Whoever asked for it may have gone.
            let _ = std::fs::File::from(fd).write_all(b"\n");
        }
        let _ = sd_notify::notify(&[NotifyState::Ready]);
    }

    /// Waits for room on the links where something waits for it, and for peers where they can be
    /// handed over.
    fn arm(&mut self) -> Result<(), Error> {
        let failed = |error| Error::system("watch a descriptor", error);
        for (slot, data) in self.slots.iter_mut().zip(FIRST_LINK..) {
            let is_blocked = slot.link.waiting() > 0;
            if is_blocked != slot.is_blocked {
                slot.is_blocked = is_blocked;
                let write = EpollFlags::EPOLLOUT;
                let write = if is_blocked { write } else { EpollFlags::empty() };
                let mut event = EpollEvent::new(EpollFlags::EPOLLIN | write, data);
                self.epoll.modify(&slot.link, &mut event).map_err(failed)?;
            }
        }
        let now = Instant::now();
        let has_room = self.slots.iter().any(|slot| slot.link.waiting() < LINK_BACKLOG);
        for listening in &mut self.listeners {
            listening.paused.take_if(|until| *until <= now);
            let is_open = has_room && listening.paused.is_none();
            if is_open == listening.armed {
                continue;
            }
            let fd = listening.listener.fd();
            match is_open {
                true => watch(&self.epoll, &fd, FIRST_LISTENER + listening.number as u64)?,
                false => self.epoll.delete(fd).map_err(failed)?,
            }
            listening.armed = is_open;
        }
        Ok(())
    }

    fn tell_everybody(&mut self, message: impl Fn() -> ToWorker) {
        let told = (0..self.slots.len() as u32).map(|slot| (slot, message())).collect();
        self.tell(told);
    }

    fn kill(&self, index: usize) {
        if let Some(pid) = self.slots[index].pid() {
            // It is our child and was not waited for, so the number is still its own.
            let _ = kill(pid, Signal::SIGKILL);
        }
    }
}

/// The places of workers and their inboxes, all made before the first worker is born.
fn make_slots(config: &Config) -> Result<(Vec<Slot>, Vec<InboxPair>), Error> {
    let daemon = &config.daemon;
    let (count, life) = match daemon.fork {
        ForkMode::Pool => (daemon.workers.count(), Life::Dead { until: Instant::now() }),
        ForkMode::Connection => (daemon.max_children.max(1) as usize, Life::Free),
    };
    let failed = |error| Error::system("make the links and inboxes of workers", error);
    let slots: std::io::Result<_> = (0..count).map(|_| Slot::new(life)).collect();
    let inboxes: std::io::Result<_> = (0..count).map(|_| InboxPair::new()).collect();
    Ok((slots.map_err(failed)?, inboxes.map_err(failed)?))
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

fn core_config(config: &Config, listeners: &[Listening], tokens: Tokens) -> ipcd_core::Config {
    let limits = &config.limits;
    let describe =
        |l: &Listening| (l.number, (l.listener.local().to_string(), l.asked.codec().to_string()));
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
