//! The count of received messages, and the limits of count and time.

use std::time::Instant;

use ipcd_transport::later;

use crate::args::RecvArgs;
use crate::exit::{Failure, FailureKind, Outcome};

pub(super) struct ReceiveCount<'a> {
    args: &'a RecvArgs,
    received: u64,
    end: Option<Instant>,
    idle_since: Instant,
}

impl<'a> ReceiveCount<'a> {
    pub(super) fn new(args: &'a RecvArgs, start: Instant) -> Self {
        let end = args.wait.map(|wait| later(start, wait.duration()));
        Self { args, received: 0, end, idle_since: Instant::now() }
    }

    pub(super) fn count(&mut self) {
        self.received += 1;
        self.idle_since = Instant::now();
    }

    pub(super) fn received(&self) -> u64 {
        self.received
    }

    /// Whether `--count` messages have come.
    pub(super) fn is_complete(&self) -> bool {
        self.args.count == Some(self.received)
    }

    /// The time at which to exit without them.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let idle = self.args.idle.map(|idle| later(self.idle_since, idle.duration()));
        self.end.into_iter().chain(idle).min()
    }

    pub(super) fn is_late(&self) -> bool {
        self.deadline().is_some_and(|deadline| deadline <= Instant::now())
    }

    pub(super) fn outcome(&self) -> Outcome {
        match self.args.count {
            Some(wanted) if self.received < wanted => {
                let why = format!("{} of {wanted} messages came in time", self.received);
                Err(Failure::new(FailureKind::Timeout, why))
            }
            _ => Ok(()),
        }
    }
}
