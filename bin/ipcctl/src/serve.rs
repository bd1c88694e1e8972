//! `ipcctl serve`.

use std::os::unix::ffi::OsStrExt;
use std::time::Instant;

use ipcd_client::{Client, Error, Event, Message, SubscribeOptions};

use crate::args::{ReplyArgs, ServeArgs};
use crate::attended::AttendedClient;
use crate::body::{PayloadSource, check_length};
use crate::context::Context;
use crate::exit::{Failure, FailureKind, Outcome};
use crate::handler::Handler;
use crate::job::{JobLimits, JobResult, OutputMode, TOO_MUCH};
use crate::jobs::JobSet;
use crate::news;
use crate::output::say;
use crate::reply;

pub(crate) fn run(context: &Context, args: &ServeArgs) -> Outcome {
    let reply = ReplySource::of(&args.reply)?;
    serve(context, args, reply)
        .map_err(|failure| failure.during(format_args!("serve {}", args.subject)))
}

fn serve(context: &Context, args: &ServeArgs, reply: ReplySource) -> Outcome {
    let (start, lasting) = (Instant::now(), context.lasting_options());
    let mut client = context.connect_patiently(&lasting, args.reconnect)?;
    let connecting = start.elapsed().min(lasting.timeout);
    let responder = reply.responder(&mut client)?;
    // Before the subscription: from the first request on, TERM must let handlers finish.
    let jobs = JobSet::new(args.jobs.into(), job_limits(args, &client))?;
    let options =
        SubscribeOptions { group: args.group.clone(), origin: true, ..SubscribeOptions::default() };
    let subscription = client.subscribe(&args.subject, options)?;
    context.remark_on_filter(&args.subject);
    if args.announce {
        say("subscribed");
    }
    let attended = AttendedClient::new(client, jobs, connecting);
    RequestServer { context, responder, attended, subscription }.run()
}

fn job_limits(args: &ServeArgs, client: &Client) -> JobLimits {
    let most = client.max_payload();
    let most = args.max_output.map_or(most, |given| given.bytes().min(most));
    let time = Some(args.job_timeout.duration()).filter(|time| !time.is_zero());
    JobLimits { output: OutputMode::Gathered(most), time }
}

/// The source of replies, as far as it can be prepared before connecting. A file is read after that,
/// when the daemon's limit is known.
enum ReplySource {
    Ready(Responder),
    File(PayloadSource),
}

/// The source of replies.
enum Responder {
    Echo,
    Fixed(Vec<u8>),
    Handler(Handler),
}

impl ReplySource {
    fn of(args: &ReplyArgs) -> Outcome<Self> {
        if args.echo {
            return Ok(Self::Ready(Responder::Echo));
        }
        if let Some(text) = args.body.as_ref().or(args.message.as_ref()) {
            return Ok(Self::Ready(Responder::Fixed(text.as_bytes().to_vec())));
        }
        if let Some(file) = &args.file {
            return Ok(Self::File(PayloadSource::open(file)?));
        }
        if args.empty {
            return Ok(Self::Ready(Responder::Fixed(Vec::new())));
        }
        Ok(Self::Ready(Responder::Handler(Handler::find(&args.command)?)))
    }

    fn responder(self, client: &mut Client) -> Outcome<Responder> {
        match self {
            Self::File(mut source) => Ok(Responder::Fixed(source.read(client)?)),
            Self::Ready(Responder::Fixed(reply)) => {
                check_length(client, reply.len())?;
                Ok(Responder::Fixed(reply))
            }
            Self::Ready(responder) => Ok(responder),
        }
    }
}

struct RequestServer<'a> {
    context: &'a Context,
    responder: Responder,
    attended: AttendedClient,
    subscription: u32,
}

impl RequestServer<'_> {
    fn run(&mut self) -> Outcome {
        while self.attended.jobs.stops() == 0 {
            if self.attended.jobs.is_full() {
                self.attend()?;
            } else if let Some(event) = self.attended.next_event(None)? {
                self.take(event)?;
                // Events that have already come go first: a look at the handlers costs a system call.
                if self.attended.client.has_event() && !self.attended.jobs.is_full() {
                    continue;
                }
            }
            self.advance();
        }
        self.stop()
    }

    fn attend(&mut self) -> Outcome {
        if let Some(error) = self.attended.attend(None)? {
            self.note_loss(&error.to_string());
        }
        Ok(())
    }

    fn take(&mut self, event: Event) -> Outcome {
        match event {
            Event::Message(message) => self.handle(message),
            event => {
                if let Event::Disconnected { why } = &event {
                    self.note_loss(why);
                }
                news::remark_event(self.context, &self.attended.client, &event);
                Ok(())
            }
        }
    }

    /// Remarks that running jobs will get no reply through: their requests belong to the connection that
    /// was lost.
    fn note_loss(&self, why: &str) {
        let running = self.attended.jobs.running();
        if running > 0 {
            let what = format!("replies of running jobs will be dropped (jobs: {running}): {why}");
            self.context.remark(&what);
        }
    }

    fn handle(&mut self, message: Message) -> Outcome {
        let AttendedClient { client, jobs, .. } = &mut self.attended;
        match &self.responder {
            Responder::Echo => send_reply(self.context, client, &message, &[], message.payload()),
            Responder::Fixed(reply) => send_reply(self.context, client, &message, &[], reply),
            Responder::Handler(handler) => {
                let origin = client.origin(message.sender);
                jobs.start(handler, message, origin)?;
            }
        }
        Ok(())
    }

    fn advance(&mut self) {
        for ended in self.attended.jobs.advance() {
            self.conclude(&ended);
        }
    }

    /// Replies to a request with the result of its job. The result for another message is dropped.
    fn conclude(&mut self, ended: &JobResult) {
        let (message, client) = (&ended.message, &mut self.attended.client);
        let is_asked = message.is_request;
        if let Some(what) = job_remark(ended, is_asked) {
            self.context.remark(&format!("{}: {what}", message.subject()));
        }
        if is_asked {
            send_reply(self.context, client, message, &reply::result_headers(ended), &ended.output);
        }
    }

    /// Takes no more requests, and waits for running jobs.
    fn stop(&mut self) -> Outcome {
        if !self.attended.is_lost() {
            // An error does not matter: a lost connection has ended the subscription.
            let _ = self.attended.client.unsubscribe(self.subscription);
        }
        while self.attended.jobs.running() > 0 {
            if self.attended.jobs.stops() > 1 {
                let running = self.attended.jobs.running();
                let why = format!("stopped by a second signal (jobs killed: {running})");
                return Err(Failure::new(FailureKind::Internal, why));
            }
            self.attend()?;
            self.advance();
        }
        self.tell_unhandled();
        // The flush may wait for a slow daemon. From here on a signal may end it.
        self.attended.jobs.unblock_signals();
        if !self.attended.is_lost()
            && let Err(error) = self.attended.client.flush()
        {
            self.context.remark(&format!("the last replies may be lost: {error}"));
        }
        Ok(())
    }

    /// Remarks on messages that came and were not handled. The daemon tells their requesters.
    fn tell_unhandled(&mut self) {
        let client = &mut self.attended.client;
        let mut unhandled = 0;
        while client.has_event() {
            let event = client.next_event(Some(Instant::now()));
            unhandled += u64::from(matches!(event, Ok(Some(Event::Message(_)))));
        }
        if unhandled > 0 {
            self.context.remark(&format!("{unhandled} messages were not handled"));
        }
    }
}

/// The remark on a job, if there is one: an error of the job, or a failure that no reply reports.
fn job_remark(ended: &JobResult, is_asked: bool) -> Option<String> {
    let status = ended.status;
    let failed =
        (status != 0 && !is_asked).then(|| format!("the handler exited with status {status}"));
    ended.error.clone().or(failed)
}

/// Sends a reply. A reply that cannot be sent is replaced by one that reports the error.
fn send_reply(
    context: &Context,
    client: &mut Client,
    to: &Message,
    headers: &[u8],
    payload: &[u8],
) {
    // The reply subject of any other message is its sender's choice. The sender may have no right to
    // publish there, and this server may: answering would lend it that right.
    if !to.is_request {
        return;
    }
    // A lost connection is noticed when the next request is waited for.
    let sent = client.reply_message(to, headers, payload, false);
    if let Err(error @ (Error::TooLarge { .. } | Error::BadHeaders(_) | Error::BadSubject(_))) =
        sent
    {
        context.remark(&format!("{}: the reply cannot be sent: {error}", to.subject()));
        let headers = reply::failure_headers(TOO_MUCH, &error.to_string());
        let _ = client.reply_message(to, &headers, &[], false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_option_gives_its_own_source_of_replies() {
        let none = || ReplyArgs {
            body: None,
            message: None,
            file: None,
            empty: false,
            echo: false,
            command: Vec::new(),
        };
        let of = |args: ReplyArgs| match ReplySource::of(&args) {
            Ok(ReplySource::Ready(responder)) => Some(responder),
            _ => None,
        };
        assert!(matches!(of(ReplyArgs { echo: true, ..none() }), Some(Responder::Echo)));
        let fixed = of(ReplyArgs { message: Some("-x".into()), ..none() });
        assert!(matches!(fixed, Some(Responder::Fixed(reply)) if reply == b"-x"));
        let empty = of(ReplyArgs { empty: true, ..none() });
        assert!(matches!(empty, Some(Responder::Fixed(reply)) if reply.is_empty()));
        let command = of(ReplyArgs { command: vec!["cat".into()], ..none() });
        assert!(matches!(command, Some(Responder::Handler(_))));
    }
}
