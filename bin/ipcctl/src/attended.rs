//! A connection together with the handlers of its messages. Neither waits for the other.

use std::time::{Duration, Instant};

use ipcd_client::{Client, Error, Event, WakeReason};
use ipcd_transport::{deadline_after, poll_some};
use nix::poll::{PollFd, PollFlags};

use crate::exit::Outcome;
use crate::jobs::JobSet;

/// The longest that an attempt to reconnect keeps running handlers waiting: they are not looked at
/// meanwhile.
const BESIDE_HANDLERS: Duration = Duration::from_millis(250);
/// The time that an attempt gets at least when no handler runs. Signals are looked at in between.
const ALONE: Duration = Duration::from_millis(500);
/// The time that an attempt gets, as a multiple of the time of the first connection: over ssh, a
/// connection takes seconds, and a shorter attempt would never succeed.
const PATIENCE: u32 = 4;

pub(crate) struct AttendedClient {
    pub(crate) client: Client,
    pub(crate) jobs: JobSet,
    /// Whether the connection is known to be lost.
    is_lost: bool,
    patience: Duration,
}

impl AttendedClient {
    /// `connecting` is the time that the first connection took.
    pub(crate) fn new(client: Client, jobs: JobSet, connecting: Duration) -> Self {
        let patience = connecting.saturating_mul(PATIENCE).max(ALONE);
        Self { client, jobs, is_lost: false, patience }
    }

    pub(crate) fn is_lost(&self) -> bool {
        self.is_lost
    }

    /// Waits for an event. Returns `None` when the jobs have something to do, or at the deadline.
    pub(crate) fn next_event(&mut self, deadline: Option<Instant>) -> Outcome<Option<Event>> {
        let until = self.until(deadline);
        let event = match self.client.wait_event_or(self.jobs.fd(), until) {
            Ok(WakeReason::Event) => self.client.next_event(Some(Instant::now()))?,
            Ok(_) => None,
            // The connection is lost. `next_event` returns that as an event, and then reconnects.
            Err(_) => self.client.next_event(Some(self.attempt(until)))?,
        };
        match event {
            Some(Event::Disconnected { .. }) => self.is_lost = true,
            Some(Event::Reconnected { .. }) => self.is_lost = false,
            _ => {}
        }
        Ok(event)
    }

    /// Waits until the jobs have something to do, or until the deadline, and takes no events. Returns
    /// the error of the connection once, if it was lost meanwhile.
    pub(crate) fn attend(&mut self, deadline: Option<Instant>) -> Outcome<Option<Error>> {
        let until = self.until(deadline);
        if self.is_lost {
            // The lost channel would be ready at once, again and again.
            let mut fds = [PollFd::new(self.jobs.fd(), PollFlags::POLLIN)];
            poll_some(&mut fds, until)?;
            return Ok(None);
        }
        let lost = self.client.wait_for(self.jobs.fd(), until).err();
        self.is_lost = lost.is_some();
        Ok(lost)
    }

    fn until(&self, deadline: Option<Instant>) -> Option<Instant> {
        deadline.into_iter().chain(self.jobs.deadline()).min()
    }

    /// The time at which to give up an attempt to reconnect, and to look at the jobs.
    fn attempt(&self, deadline: Option<Instant>) -> Instant {
        let is_alone = self.jobs.running() == 0;
        let end = deadline_after(if is_alone { self.patience } else { BESIDE_HANDLERS });
        deadline.map_or(end, |deadline| deadline.min(end))
    }
}
