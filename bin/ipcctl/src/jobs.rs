//! Runs of a handler side by side, and the signals that end the tool meanwhile.
//!
//! One descriptor says that something is to be done, so that the connection can be kept going while
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

/// The signals at which the tool stops taking messages. At HUP it ends, and its keeper ends the rest.
const STOPPING: [Signal; 2] = [Signal::SIGTERM, Signal::SIGINT];

pub(crate) struct JobSet {
    epoll: Epoll,
    signals: SignalFd,
    /// Ends the handlers that run should this process be killed; there from the first one on.
    keeper: Option<Keeper>,
    bounds: JobLimits,
    limit: usize,
    running: Vec<HandlerJob>,
    /// Those that could not be started, or ended, and were not taken yet.
    ended: Vec<JobResult>,
    /// Children that were killed and may not be dead yet.
    dying: Vec<Pid>,
    /// Signals to stop that have come, and when the first of them has.
    stops: u32,
    stopped: Option<Instant>,
}

impl JobSet {
    /// From now on, the signals to stop are only noted.
    pub(crate) fn new(limit: usize, bounds: JobLimits) -> Outcome<Self> {
        let mut mask = stopping();
        mask.add(Signal::SIGCHLD);
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

    /// When [`JobSet::advance`] has something to do in any case.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.running.iter().filter_map(HandlerJob::deadline).min()
    }

    pub(crate) fn running(&self) -> usize {
        self.running.len()
    }

    pub(crate) fn is_full(&self) -> bool {
        self.running.len() >= self.limit
    }

    /// How many signals to stop have come; those of the first moment are one.
    pub(crate) fn stops(&self) -> u32 {
        self.stops
    }

    /// Starts the handler for a message. One that cannot be started has ended at once.
    pub(crate) fn start(
        &mut self,
        handler: &Handler,
        message: Message,
        origin: Option<&Origin>,
    ) -> Outcome {
        if self.keeper.is_none() {
            // Without it, which takes a process, handlers get TERM if this one is killed, but nothing
            // that they have started does.
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

    /// Does what can be done at once; the runs that have ended.
    pub(crate) fn advance(&mut self) -> Vec<JobResult> {
        self.read_signals();
        let now = Instant::now();
        let mut ended = std::mem::take(&mut self.ended);
        for job in self.running.extract_if(.., |job| job.advance(now)) {
            let (child, how) = job.end();
            self.keeper.iter().for_each(|keeper| keeper.ended(child));
            self.dying.push(child);
            ended.push(how);
        }
        let is_left = |child: &Pid| waitpid(*child, Some(WaitPidFlag::WNOHANG)).is_ok_and(still);
        self.dying.retain(is_left);
        ended
    }

    /// Lets signals to stop end the tool, as they did before there were jobs.
    pub(crate) fn let_stop(&self) {
        // It fails for no set that nix can make.
        let _ = stopping().thread_unblock();
    }

    fn read_signals(&mut self) {
        while let Ok(Some(signal)) = self.signals.read_signal() {
            if signal.ssi_signo == Signal::SIGCHLD as u32 {
                continue;
            }
            let first = *self.stopped.get_or_insert_with(Instant::now);
            if self.stops == 0 || first.elapsed() >= ONE_STOP {
                self.stops += 1;
            }
        }
    }

    /// Closing takes a descriptor out again: nobody else has it once the child has begun.
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

fn stopping() -> SigSet {
    STOPPING.into_iter().collect()
}

fn still(status: nix::sys::wait::WaitStatus) -> bool {
    status == nix::sys::wait::WaitStatus::StillAlive
}
