//! `ipcctl recv --exec`: a command for each message, one at a time.

use std::time::Duration;

use ipcd_client::{Client, Event, Message};

use crate::attended::AttendedClient;
use crate::context::Context;
use crate::exit::{Failure, FailureKind, Outcome};
use crate::handler::Handler;
use crate::job::{JobLimits, JobResult, OutputMode};
use crate::jobs::JobSet;
use crate::news;

use super::tally::ReceiveCount;

pub(super) struct HandlerLoop<'a> {
    context: &'a Context,
    handler: Handler,
    attended: AttendedClient,
    tally: ReceiveCount<'a>,
    failed: u64,
}

impl<'a> HandlerLoop<'a> {
    pub(super) fn new(
        context: &'a Context,
        client: Client,
        handler: Handler,
        connecting: Duration,
        tally: ReceiveCount<'a>,
    ) -> Outcome<Self> {
        let jobs = JobSet::new(1, JobLimits { output: OutputMode::Shared, time: None })?;
        let attended = AttendedClient::new(client, jobs, connecting);
        Ok(Self { context, handler, attended, tally, failed: 0 })
    }

    pub(super) fn run(&mut self) -> Outcome {
        while !self.tally.is_complete() && self.attended.jobs.stops() == 0 {
            match self.attended.next_event(self.tally.deadline())? {
                Some(Event::Message(message)) => {
                    self.handle(message)?;
                    self.tally.count();
                }
                Some(event) => news::remark_event(self.context, &self.attended.client, &event),
                None if self.tally.is_late() => break,
                // No handler runs, so a signal has come.
                None => drop(self.attended.jobs.advance()),
            }
        }
        match self.failed {
            0 => self.tally.outcome(),
            failed => {
                let why = format!(
                    "the handler failed for {failed} of {} messages",
                    self.tally.received()
                );
                Err(Failure::new(FailureKind::HandlerFailed, why))
            }
        }
    }

    /// Runs the handler to its end. A second stop signal kills it.
    fn handle(&mut self, message: Message) -> Outcome {
        let AttendedClient { client, jobs, .. } = &mut self.attended;
        let origin = client.origin(message.sender);
        jobs.start(&self.handler, message, origin)?;
        loop {
            if let Some(ended) = self.attended.jobs.advance().pop() {
                self.conclude(&ended);
                return Ok(());
            }
            if self.attended.jobs.stops() > 1 {
                let why = "stopped by a second signal; the handler was killed";
                return Err(Failure::new(FailureKind::Internal, why));
            }
            // The next event tells of a loss.
            self.attended.attend(None)?;
        }
    }

    fn conclude(&mut self, ended: &JobResult) {
        if ended.status != 0 {
            self.failed += 1;
            let how = format!("the handler exited with status {}", ended.status);
            let how = ended.error.clone().unwrap_or(how);
            self.context.remark(&format!("{}: {how}", ended.message.subject()));
        }
    }
}
