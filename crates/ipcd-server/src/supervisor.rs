//! The supervisor: binds, admits, forks and reaps. It never reads what an admitted peer sends, and
//! stays small, because every fork copies its page tables.

mod admitting;
mod arming;
mod child;
mod children;
mod dialling;
mod ending;
mod hearing;
pub(crate) mod line_reader;
mod listening;
mod notifying;
mod reaping;
mod relisten;
mod reload;
mod slots;
mod worker_log;

use std::collections::VecDeque;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

use ipcd_core::{AddressedEvent, DaemonInfo, Directory, TokenSet};
use ipcd_sys::marks::Marks;
use ipcd_sys::{Keeper, inherited};
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, kill, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::Pid;
use tracing::{error, info, warn};

use self::child::Child;
use self::dialling::Dial;
use self::ending::Ending;
use self::listening::{Listening, bind_all};
use self::notifying::Herald;
use self::slots::{make_slots, most_children, occupied};
use crate::activation::Socket;
use crate::admission::Admission;
use crate::config::{Config, ConfigError, ForkMode};
use crate::inbox::Places;
use crate::link::{Link, Live, ToWorker, is_gone};
use crate::pid_file::PidFile;
use crate::privileges;
use crate::runtime::RuntimeDir;
use crate::sandbox::Sandbox;
use crate::slot::{Slot, WorkerState};
use crate::worker::{self, Admitted, Birth, Mark};
use crate::{Error, VERSION};

const SIGNALS: u64 = 0;
const FIRST_LISTENER: u64 = 1;
const FIRST_LINK: u64 = 1 << 32;
const FIRST_DIALLER: u64 = 2 << 32;
const FIRST_LAUNCH: u64 = 3 << 32;
const FIRST_STDERR: u64 = 4 << 32;
const FIRST_WORKER_LOG: u64 = 5 << 32;

const NULL: &str = "/dev/null";

/// What a daemon is started with, besides its configuration.
#[derive(Default)]
pub struct Start {
    /// Reads the configuration again; `None` if there is nothing to be read.
    pub reload: Option<Box<Reload>>,
    /// Gets a newline when the daemon serves, and is closed.
    pub ready_fd: Option<OwnedFd>,
    /// What a service manager has bound for us.
    pub sockets: Vec<Socket>,
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
    /// The same for workers, which never keep root's rights unasked.
    worker_user: Option<privileges::Drop>,
    sandbox: Sandbox,
    epoll: Epoll,
    signals: SignalFd,
    slots: Vec<Slot>,
    /// Those that are not free. Hundreds of free ones in each turn were a sixth of a fork's cost.
    occupied: Vec<usize>,
    inboxes: Places,
    table: Directory,
    /// The slot whose turn it is to get a peer.
    turn: usize,
    listeners: Vec<Listening>,
    dials: Vec<Dial>,
    children: Vec<Child>,
    /// Ends programs if this process is killed; there from the first one on.
    keeper: Option<Keeper>,
    admission: Admission,
    /// Children whose peers have to go for others, by slot and peer.
    leaving: VecDeque<(usize, u64)>,
    /// Whom each worker is serving.
    marks: Marks,
    /// `/dev/null`, for the standard input and output of workers.
    null: File,
    ready_fd: Option<OwnedFd>,
    herald: Herald,
    reload: Option<Box<Reload>>,
    /// The number of the next listener, server or program.
    next_number: usize,
    /// What a service manager has bound for us. They stay open, for another configuration may use
    /// them otherwise.
    sockets: Vec<Socket>,
    /// When to try again what the kernel had no memory for.
    retry_at: Option<Instant>,
    is_ready: bool,
    ending: Option<Ending>,
    pid_file: Option<PidFile>,
    runtime_dir: RuntimeDir,
}

impl Supervisor {
    fn start(config: Config, start: Start) -> Result<Self, Error> {
        inherited::raise_descriptor_limit(u64::MAX);
        let user = privileges::Drop::of(&config.daemon)?;
        let sandbox = Sandbox::prepare(config.daemon.sandbox)?;
        let runtime_dir = RuntimeDir::open(&config)?;
        let tokens = runtime_dir.tokens(&config.tokens)?;
        let (epoll, signals) = watch_signals()?;
        let listeners = bind_all(&config, &runtime_dir, &start.sockets)?;
        let worker_user = privileges::Drop::of_workers(&config.daemon)?;
        sandbox.log();
        let core = core_config(&config, &listeners, tokens, sandbox.level().to_string());
        Live::check(&core)?;
        let (mut slots, inboxes) = make_slots(&config)?;
        if config.daemon.fork == ForkMode::Pool {
            for (slot, data) in slots.iter_mut().zip(FIRST_LINK..) {
                open_link(&epoll, slot, data)?;
            }
        }
        let marks = Marks::new(slots.len()).map_err(|error| Error::system("map memory", error))?;
        let null = File::options().read(true).write(true).open(NULL);
        let null = null.map_err(|error| Error::system(format!("open {NULL}"), error))?;
        let pid_file = config.daemon.pid_file.as_deref().map(PidFile::write).transpose()?;
        let mut supervisor = Self {
            core,
            user,
            worker_user,
            sandbox,
            epoll,
            signals,
            table: Directory::new(slots.len()),
            occupied: occupied(&slots),
            slots,
            inboxes,
            turn: 0,
            next_number: listeners.len(),
            listeners,
            dials: Vec::new(),
            children: Vec::new(),
            admission: Admission::new(&config.limits, most_children(&config)),
            leaving: VecDeque::new(),
            keeper: None,
            marks,
            null,
            ready_fd: start.ready_fd,
            herald: Herald::new(),
            reload: start.reload,
            sockets: start.sockets,
            retry_at: None,
            is_ready: false,
            ending: None,
            config,
            pid_file,
            runtime_dir,
        };
        supervisor.set_servers(supervisor.config.connects.clone());
        supervisor.set_programs(supervisor.config.execs.clone());
        supervisor.set_rules();
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
                    log @ FIRST_WORKER_LOG.. => self.hear_log((log - FIRST_WORKER_LOG) as usize),
                    stderr @ FIRST_STDERR.. => self.hear_stderr((stderr - FIRST_STDERR) as usize),
                    launch @ FIRST_LAUNCH.. => self.hear_launch((launch - FIRST_LAUNCH) as usize),
                    link @ FIRST_DIALLER.. => self.hear_dialler((link - FIRST_DIALLER) as usize),
                    link @ FIRST_LINK.. => self.hear_worker((link - FIRST_LINK) as usize),
                    listener => self.accept((listener - FIRST_LISTENER) as usize),
                }
            }
            self.send_refused();
            self.release_lost();
            self.revive();
            if self.is_ready {
                self.dial_servers();
                self.tend_programs();
            }
            self.spread_news();
            self.end_who_do_not_read();
            self.watch_over_workers();
            self.tend_logs();
            self.herald.tick();
            if self.is_over() {
                return Ok(());
            }
        }
    }

    fn wait(&mut self, events: &mut [EpollEvent]) -> Result<usize, Error> {
        let watchdog = self.config.daemon.watchdog.duration();
        let slots = || self.occupied.iter().map(|index| &self.slots[*index]);
        let births = slots().filter_map(|slot| match slot.state {
            WorkerState::Dead { until } if self.ending.is_none() => Some(until),
            _ => None,
        });
        let debts = slots().filter_map(|slot| Some(slot.owes_since? + watchdog));
        let pauses = self.listeners.iter().filter_map(|listening| listening.paused);
        let ending =
            self.ending.iter().flat_map(|ending| ending.quiet_by.or(Some(ending.deadline)));
        let own = self.next_of_own().into_iter().chain(self.herald.next());
        let own = own.chain(self.retry_at).chain(self.next_of_logs());
        let next = births.chain(debts).chain(pauses).chain(ending).chain(own).min();
        let timeout = next.map_or(EpollTimeout::NONE, |at| {
            let left = at.saturating_duration_since(Instant::now()).as_millis();
            let left = i32::try_from(left).unwrap_or(i32::MAX).saturating_add(1);
            EpollTimeout::try_from(left).unwrap_or(EpollTimeout::MAX)
        });
        match self.epoll.wait(events, timeout) {
            Ok(count) => Ok(count),
            Err(Errno::EINTR) => Ok(0),
            Err(error) => Err(Error::system("wait for events", error)),
        }
    }

    /// When something is to be done about servers and programs: not before the daemon serves.
    fn next_of_own(&self) -> Option<Instant> {
        let dials = self.dials.iter().filter_map(Dial::next);
        let children = self.children.iter().filter_map(Child::next);
        dials.chain(children).min().filter(|_| self.is_ready)
    }

    /// Numbers what peers are of: a listener, a server, a program.
    fn take_number(&mut self) -> usize {
        self.next_number += 1;
        self.next_number - 1
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
                Ok(Signal::SIGHUP) if self.ending.is_some() => {
                    warn!("not reloaded: the daemon is ending");
                }
                Ok(Signal::SIGHUP) => self.reload(),
                Ok(signal) => self.drain(signal),
                Err(_) => {}
            }
        }
    }

    fn serves_per_connection(&self) -> bool {
        self.config.daemon.fork == ForkMode::Connection
    }

    /// Forks a worker for each slot whose time has come.
    fn revive(&mut self) {
        let now = Instant::now();
        for at in 0..self.occupied.len() {
            let index = self.occupied[at];
            if let WorkerState::Dead { until } = self.slots[index].state
                && self.ending.is_none()
                && until <= now
                && let Err(error) = self.fork(index, &mut None)
            {
                error!(%error, "cannot fork a worker");
                let until = self.slots[index].after_pause();
                self.slots[index].state = WorkerState::Dead { until };
            }
        }
    }

    /// Forks a worker for a slot, and perhaps for one peer, which is still there afterwards.
    fn fork(&mut self, index: usize, only: &mut Option<Admitted>) -> Result<(), Error> {
        let failed = |error| Error::system("fork a worker", error);
        let (log, log_end) = worker_log::pipe()?;
        let (has_others, has_own_link) = (self.slots.len() > 1, self.serves_per_connection());
        let slot = &mut self.slots[index];
        if has_own_link {
            open_link(&self.epoll, slot, FIRST_LINK + index as u64)?;
            self.occupied.push(index);
        }
        slot.generation += 1;
        let (place, generation) = (index as u32, slot.generation);
        self.inboxes.begin(place, generation);
        self.table.born(place, generation);
        let born = {
            let (core, table, inboxes) = (&mut self.core, &mut self.table, &mut self.inboxes);
            let (far_end, user) = (&self.slots[index].far_end, self.worker_user);
            let (sandbox, marks, supervisor) = (&self.sandbox, &self.marks, Pid::this());
            let (null, log) = (&self.null, &log_end);
            // The child's copies of all this are its own: what it takes, the parent still has.
            ipcd_sys::fork(|| {
                let core = ipcd_core::Config { slot: place, generation, ..core.take() };
                let (only, shared) = (only.take(), has_others.then(|| table.take_shared()));
                let mark = Mark { marks: marks.clone(), place: index };
                worker::main(Birth {
                    link: far_end,
                    inboxes,
                    supervisor,
                    core,
                    user,
                    sandbox,
                    shared,
                    only,
                    mark,
                    null,
                    log,
                })
            })
        };
        let slot = &mut self.slots[index];
        match born {
            Ok(pid) => {
                slot.born(pid);
                slot.log = Some(worker_log::reader(log));
                if has_own_link {
                    slot.far_end = Link::none();
                }
                self.arm_log(index);
                if self.config.daemon.fork == ForkMode::Pool {
                    info!(pid = pid.as_raw(), slot = index, generation, "worker started");
                }
                Ok(())
            }
            Err(error) => {
                if has_own_link {
                    self.vacate(index);
                }
                let told = self.table.died(index as u32);
                self.tell_news(told);
                Err(failed(error))
            }
        }
    }

    /// Nobody lives in this place any more, nor will before it is taken again.
    fn vacate(&mut self, index: usize) {
        self.slots[index].close();
        self.occupied.retain(|occupied| *occupied != index);
    }

    fn tell_news(&mut self, told: Vec<AddressedEvent>) {
        self.tell(
            told.into_iter().map(|(slot, news)| (slot, ToWorker::DirectoryEvent(news))).collect(),
        );
    }

    /// Sends messages to workers; who does not live is not told.
    fn tell(&mut self, told: Vec<(u32, ToWorker)>) {
        for (slot, message) in told {
            let slot = &mut self.slots[slot as usize];
            if slot.pid().is_some()
                && let Err(error) = slot.link.send(&message, Vec::new())
                // One that has just ended need not be told.
                && !is_gone(&error)
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
        let watchdog = self.config.daemon.watchdog.duration();
        for index in self.occupied.iter().copied() {
            if self.slots[index].pid().is_none() {
                continue;
            }
            let owes = self.table.is_behind(index as u32) || self.slots[index].is_blocked;
            self.slots[index].note_debt(owes, now);
            if self.slots[index].owes_since.is_some_and(|since| now - since >= watchdog) {
                warn!(slot = index, "worker does not answer: ending it");
                self.slots[index].owes_since = Some(now);
                self.slots[index].has_hung = !self.slots[index].is_stopped;
                self.kill(index);
            }
        }
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

fn open_link(epoll: &Epoll, slot: &mut Slot, data: u64) -> Result<(), Error> {
    slot.open().map_err(|error| Error::system("make the link of a worker", error))?;
    watch(epoll, &slot.link, data)
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

fn core_config<'a>(
    config: &Config,
    listeners: impl IntoIterator<Item = &'a Listening>,
    tokens: TokenSet,
    sandbox: String,
) -> ipcd_core::Config {
    let limits = &config.limits;
    let describe =
        |l: &Listening| (l.number, (l.listener.local().to_string(), l.asked.codec().to_string()));
    let daemon = DaemonInfo {
        supervisor: std::process::id(),
        worker: 0,
        version: VERSION.into(),
        started: Instant::now(),
        listeners: listeners.into_iter().map(describe).collect(),
        sandbox,
    };
    ipcd_core::Config {
        max_payload: limits.max_message.bytes(),
        outbox: limits.outbox.bytes(),
        max_subscriptions: limits.max_subscriptions,
        max_subscriptions_per_source: limits.max_subscriptions_per_uid,
        max_bytes_per_source: limits.max_bytes_per_uid.bytes() as u64,
        prefixes: limits.prefixes(),
        handshake_timeout: limits.handshake_timeout.duration(),
        frame_timeout: limits.frame_timeout.duration(),
        idle_timeout: Some(limits.idle_timeout.duration()).filter(|timeout| !timeout.is_zero()),
        stall_timeout: limits.stall_timeout.duration(),
        tokens,
        ..ipcd_core::Config::new(daemon)
    }
}
