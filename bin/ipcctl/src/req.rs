//! `ipcctl req`.

use std::time::{Duration, Instant};

use ipcd_client::{Client, Error, Event, Message, Publication};

use crate::args::{OutputFormat, ReqArgs};
use crate::body::{MessageBody, header_block};
use crate::context::Context;
use crate::exit::{Failure, FailureKind, Outcome};
use crate::print::{LineEnd, MessagePrinter, PrintStyle};
use crate::reply;
use crate::target;
use ipcd_transport::deadline_after;

pub(crate) fn run(context: &Context, args: &ReqArgs) -> Outcome {
    let mut body = MessageBody::of(&args.body)?;
    let headers = header_block(&args.headers)?;
    target::check_wait(&args.subject, args.wait_subs)?;
    request(context, args, &mut body, headers)
        .map_err(|failure| failure.during(format_args!("req {}", args.subject)))
}

fn request(context: &Context, args: &ReqArgs, body: &mut MessageBody, headers: Vec<u8>) -> Outcome {
    let mut client = context.connect()?;
    let subject = target::resolve(&mut client, &args.subject)?;
    let timeout = context.options().timeout;
    target::wait_for_subscriptions(&mut client, &subject, args.wait_subs, timeout)?;
    let mut caller = RequestSender {
        client,
        subject,
        headers,
        is_json: context.format() != OutputFormat::Text,
        printer: printer(context, args),
        replies: args.replies,
        patience: ReplyTimeouts::of(args, timeout),
        failures: Vec::new(),
    };
    while let Some(payload) = body.next(&mut caller.client)? {
        caller.send_request(&payload)?;
    }
    caller.outcome()
}

fn printer(context: &Context, args: &ReqArgs) -> MessagePrinter {
    let style = match context.format() {
        OutputFormat::Text => PrintStyle::Payload { subject: false },
        OutputFormat::Json | OutputFormat::Jsonl => PrintStyle::Json,
    };
    MessagePrinter::new(style, if args.no_newline { LineEnd::Nothing } else { LineEnd::OneNewline })
}

/// The waits for replies.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct ReplyTimeouts {
    first: Duration,
    further: Duration,
    /// The waits for all replies together.
    whole: Duration,
}

impl ReplyTimeouts {
    fn of(args: &ReqArgs, timeout: Duration) -> Self {
        let further = args.reply_timeout.map_or(timeout, |given| given.duration());
        let times = u32::try_from(args.replies - 1).unwrap_or(u32::MAX);
        let whole = timeout.saturating_add(further.saturating_mul(times));
        Self { first: timeout, further, whole }
    }
}

struct RequestSender {
    client: Client,
    subject: String,
    headers: Vec<u8>,
    is_json: bool,
    printer: MessagePrinter,
    /// The number of replies to wait for, for each request.
    replies: u64,
    patience: ReplyTimeouts,
    /// Failures of handlers, as replies report them.
    failures: Vec<String>,
}

impl RequestSender {
    /// Sends a request, and prints the replies as they come.
    fn send_request(&mut self, payload: &[u8]) -> Outcome {
        let message = Publication {
            subject: &self.subject,
            headers: &self.headers,
            payload,
            ..Publication::default()
        };
        let request = self.client.start_request(&message, self.patience.whole)?;
        let mut wait = self.patience.first;
        for received in 0..self.replies {
            let Some(reply) = self.next_reply(request, deadline_after(wait))? else {
                return Err(Failure::new(FailureKind::Timeout, self.missing_replies(received)));
            };
            self.print(&reply)?;
            wait = self.patience.further;
        }
        // Without this, replies of further responders would pile up as events.
        self.client.finish_request(request);
        Ok(())
    }

    fn print(&mut self, reply: &Message) -> Outcome {
        let failure = reply::failure(reply);
        // A failed handler has no output: an empty line would look like some.
        if failure.is_none() || !reply.payload().is_empty() || self.is_json {
            let origin = self.client.origin(reply.sender);
            self.printer.add(reply, origin);
        }
        self.failures.extend(failure);
        self.printer.flush()
    }

    fn next_reply(&mut self, request: u64, deadline: Instant) -> Outcome<Option<Message>> {
        loop {
            match self.client.next_event(Some(deadline))? {
                Some(Event::Reply { request: which, reply }) if which == request => {
                    return match reply {
                        Ok(reply) => Ok(Some(reply)),
                        Err(Error::TimedOut(_)) => Ok(None),
                        Err(error) => Err(error.into()),
                    };
                }
                // A late reply to an earlier request, with -l.
                Some(_) => {}
                None => return Ok(None),
            }
        }
    }

    /// The error when no more replies come.
    fn missing_replies(&self, received: u64) -> String {
        match self.replies {
            1 => "no reply came in time (see --timeout)".into(),
            wanted => format!(
                "{received} of {wanted} replies came in time (see --timeout and --reply-timeout)"
            ),
        }
    }

    fn outcome(&self) -> Outcome {
        let why = match &self.failures[..] {
            [] => return Ok(()),
            [only] => format!("the handler failed: {only}"),
            [first, ..] => {
                format!(
                    "{} replies report a failure of the handler; the first: {first}",
                    self.failures.len()
                )
            }
        };
        Err(Failure::new(FailureKind::HandlerFailed, why))
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: ReqArgs,
    }

    #[test]
    fn waits_for_each_reply() {
        let secs = Duration::from_secs;
        let patience = |more: &[&str]| {
            let line = Line::parse_from([&["req", "a", "b"], more].concat());
            ReplyTimeouts::of(&line.args, secs(5))
        };
        let check = |more: &[&str], first, further, whole| {
            let expected =
                ReplyTimeouts { first: secs(first), further: secs(further), whole: secs(whole) };
            assert_eq!(patience(more), expected, "{more:?}");
        };
        check(&[], 5, 5, 5);
        check(&["--replies", "3"], 5, 5, 15);
        check(&["--replies", "3", "--reply-timeout", "1s"], 5, 1, 7);
        let endless = ["--replies", &u64::MAX.to_string(), "--reply-timeout", "1000y"];
        assert!(patience(&endless).whole > secs(1 << 40));
    }
}
