//! Handlers that run side by side, and the signals that stop the tool meanwhile.
//!
//! One epoll descriptor is readable when there is work, so that the connection is kept going while
//! handlers run. There are no threads.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::Instant;

use ipcd_client::{Message, Origin};
use ipcd_sys::{Keeper, ONE_STOP};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

use crate::exit::Outcome;
use crate::handler::Handler;
use crate::job::{HandlerJob, JobLimits, JobResult};

/// The signals at which the tool takes no more messages. HUP ends it at once, and the keeper then ends
/// the handlers.
const STOPPING: [Signal; 2] = [Signal::SIGTERM, Signal::SIGINT];

pub(crate) struct JobSet {
    epoll: Epoll,
    signals: SignalFd,
    /// Ends running handlers if this process is killed. It is started with the first handler.
    keeper: Option<Keeper>,
    bounds: JobLimits,
    limit: usize,
    running: Vec<HandlerJob>,
    /// Results that were not taken yet.
    ended: Vec<JobResult>,
    /// Killed children that are not reaped yet.
    dying: Vec<Pid>,
    /// The number of stop signals, and the time of the first one.
    stops: u32,
    stopped: Option<Instant>,
}

impl JobSet {
    /// From now on stop signals are only counted, and read from a descriptor.
    pub(crate) fn new(limit: usize, bounds: JobLimits) -> Outcome<Self> {
        let mut mask = stop_signals();
        mask.add(Signal::SIGCHLD);
        // Blocked before the descriptor exists: a signal in between would end the process.
        mask.thread_block().map_err(std::io::Error::from)?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        let signals = SignalFd::with_flags(&mask, flags).map_err(std::io::Error::from)?;
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(std::io::Error::from)?;
        let jobs = Self {
            epoll,
            signals,
            keeper: None,
            bounds,
            limit,
            running: Vec::new(),
            ended: Vec::new(),
            dying: Vec::new(),
            stops: 0,
            stopped: None,
        };
        jobs.watch(jobs.signals.as_fd(), EpollFlags::EPOLLIN)?;
        Ok(jobs)
    }

    /// Readable when [`JobSet::advance`] has something to do.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.epoll.0.as_fd()
    }

    /// The time at which [`JobSet::advance`] has something to do in any case.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.running.iter().filter_map(HandlerJob::deadline).min()
    }

    pub(crate) fn running(&self) -> usize {
        self.running.len()
    }

    pub(crate) fn is_full(&self) -> bool {
        self.running.len() >= self.limit
    }

    /// The number of stop signals. Those within a second of the first count as one: timeout(1) and a
    /// terminal signal a process and its group.
    pub(crate) fn stops(&self) -> u32 {
        self.stops
    }

    /// Starts the handler for a message. If it cannot be started, [`JobSet::advance`] returns that.
    pub(crate) fn start(
        &mut self,
        handler: &Handler,
        message: Message,
        origin: Option<&Origin>,
    ) -> Outcome {
        if self.keeper.is_none() {
            // The keeper takes a process. Without it a handler still gets TERM if this process is
            // killed (PR_SET_PDEATHSIG), but not the processes that the handler has started.
            self.keeper = Keeper::start().ok();
        }
        let command = handler.command(&message, origin);
        match HandlerJob::start(command, message, self.bounds, Instant::now()) {
            Ok(job) => {
                let (input, output) = job.descriptors();
                if let Some(input) = input {
                    self.watch(input.as_fd(), EpollFlags::EPOLLOUT)?;
                }
                if let Some(output) = output {
                    self.watch(output.as_fd(), EpollFlags::EPOLLIN)?;
                }
                self.running.push(job);
            }
            Err(ended) => self.ended.push(*ended),
        }
        Ok(())
    }

    /// Does as much as is possible without waiting. Returns the results of finished runs.
    pub(crate) fn advance(&mut self) -> Vec<JobResult> {
        self.read_signals();
        let now = Instant::now();
        let mut ended = std::mem::take(&mut self.ended);
        for job in self.running.extract_if(.., |job| job.advance(now)) {
            let (child, how) = job.end();
            // Before the child is reaped: its number may then belong to another process, which the
            // keeper must not kill.
            self.keeper.iter().for_each(|keeper| keeper.ended(child));
            self.dying.push(child);
            ended.push(how);
        }
        let is_left = |child: &Pid| waitpid(*child, Some(WaitPidFlag::WNOHANG)).is_ok_and(is_alive);
        self.dying.retain(is_left);
        ended
    }

    /// Lets stop signals end the tool again.
    pub(crate) fn unblock_signals(&self) {
        // sigprocmask(2) fails for no valid set.
        let _ = stop_signals().thread_unblock();
    }

    fn read_signals(&mut self) {
        while let Ok(Some(signal)) = self.signals.read_signal() {
            // SIGCHLD only wakes us: several may merge into one (signal(7)), so it names no child.
            if signal.ssi_signo == Signal::SIGCHLD as u32 {
                continue;
            }
            let first = *self.stopped.get_or_insert_with(Instant::now);
            if self.stops == 0 || first.elapsed() >= ONE_STOP {
                self.stops += 1;
            }
        }
    }

    /// Watches a descriptor. Closing removes it: no other process holds it after the child's exec(2),
    /// for it is close-on-exec (epoll(7)).
    fn watch(&self, fd: BorrowedFd<'_>, events: EpollFlags) -> Outcome {
        self.epoll.add(fd, EpollEvent::new(events, 0)).map_err(std::io::Error::from)?;
        Ok(())
    }
}

impl Drop for JobSet {
    fn drop(&mut self) {
        self.running.iter().for_each(HandlerJob::kill);
    }
}

fn stop_signals() -> SigSet {
    STOPPING.into_iter().collect()
}

fn is_alive(status: nix::sys::wait::WaitStatus) -> bool {
    status == nix::sys::wait::WaitStatus::StillAlive
}
