//! `ipcctl recv`.

mod handling;
mod tally;

use std::time::Instant;

use ipcd_client::{Client, Event, OverflowPolicy, SubscribeOptions};

use crate::args::{OutputFormat, OverflowArg, RecvArgs};
use crate::context::Context;
use crate::exit::{Failure, FailureKind, Outcome};
use crate::format::FormatTemplate;
use crate::handler::Handler;
use crate::news;
use crate::output::say;
use crate::print::{LineEnd, MessagePrinter, PrintStyle};

use handling::HandlerLoop;
use tally::ReceiveCount;

pub(crate) fn run(context: &Context, args: &RecvArgs) -> Outcome {
    let start = Instant::now();
    let to = MessageSink::of(context, args)?;
    let lasting = if args.no_reconnect { context.options() } else { context.lasting_options() };
    let mut client = context.connect_patiently(&lasting, args.reconnect)?;
    // Bounded: with --reconnect the time includes the wait for a daemon.
    let connecting = start.elapsed().min(lasting.timeout);
    let options = SubscribeOptions {
        group: args.group.clone(),
        overflow: args.overflow.map(OverflowPolicy::from),
        origin: to.names_sender(),
        limit: args.count,
    };
    let mut memberships = Vec::new();
    for subject in &args.subjects {
        let subscribed = client.subscribe(subject, options.clone());
        let number = subscribed
            .map_err(|error| Failure::from(error).during(format_args!("recv {subject}")))?;
        memberships.extend(args.group.is_some().then_some(number));
        context.remark_on_filter(subject);
    }
    if args.announce {
        say("subscribed");
    }
    let tally = ReceiveCount::new(args, start);
    match to {
        MessageSink::Output(printer) => {
            let is_loss_told = false;
            ReceiveLoop { context, client, memberships, printer, tally, is_loss_told }.run()
        }
        MessageSink::Handler(handler) => {
            HandlerLoop::new(context, client, handler, connecting, tally)?.run()
        }
    }
}

/// The destination of received messages.
enum MessageSink {
    Output(MessagePrinter),
    Handler(Handler),
}

impl MessageSink {
    fn of(context: &Context, args: &RecvArgs) -> Outcome<Self> {
        if args.exec {
            return Ok(Self::Handler(Handler::find(&args.command)?));
        }
        let end = match (args.no_newline, args.nul) {
            (true, _) => LineEnd::Nothing,
            (_, true) => LineEnd::Nul,
            _ => LineEnd::Newline,
        };
        Ok(Self::Output(MessagePrinter::new(style(context, args)?, end)))
    }

    fn names_sender(&self) -> bool {
        match self {
            Self::Output(printer) => printer.names_sender(),
            Self::Handler(_) => true,
        }
    }
}

fn style(context: &Context, args: &RecvArgs) -> Outcome<PrintStyle> {
    match (context.format(), &args.format) {
        (OutputFormat::Text, None) => Ok(PrintStyle::Payload { subject: args.verbose }),
        (OutputFormat::Text, Some(format)) => {
            let bad = |why| Failure::new(FailureKind::Usage, format!("--format {format}: {why}"));
            Ok(PrintStyle::Template(FormatTemplate::parse(format).map_err(bad)?))
        }
        (_, None) => Ok(PrintStyle::Json),
        (_, Some(_)) => {
            let why = "--format cannot be used with -j, nor with -o json or jsonl";
            Err(Failure::new(FailureKind::Usage, why))
        }
    }
}

impl From<OverflowArg> for OverflowPolicy {
    fn from(what: OverflowArg) -> Self {
        match what {
            OverflowArg::Block => Self::Block,
            OverflowArg::DropOldest => Self::DropOldest,
            OverflowArg::DropNewest => Self::DropNewest,
            OverflowArg::Disconnect => Self::Disconnect,
        }
    }
}

struct ReceiveLoop<'a> {
    context: &'a Context,
    client: Client,
    /// The numbers of subscriptions in a group.
    memberships: Vec<u32>,
    printer: MessagePrinter,
    tally: ReceiveCount<'a>,
    /// Whether the loss of the connection was remarked on while older messages are still printed.
    is_loss_told: bool,
}

impl ReceiveLoop<'_> {
    fn run(&mut self) -> Outcome {
        while !self.tally.is_complete() {
            // Written when no more events are there: one write for many small messages.
            if !self.client.has_event() || self.printer.output.has_batch() {
                self.write()?;
            }
            match self.client.next_event(self.tally.deadline())? {
                None => {
                    self.leave_groups();
                    break;
                }
                Some(event) => self.take(&event),
            }
        }
        self.write()?;
        self.tally.outcome()
    }

    fn take(&mut self, event: &Event) {
        if let Event::Message(message) = event {
            let origin = self.client.origin(message.sender);
            self.printer.add(message, origin);
            return self.tally.count();
        }
        self.is_loss_told &= !matches!(event, Event::Reconnected { .. });
        news::remark_event(self.context, &self.client, event);
    }

    /// Leaves the groups, and prints the messages that still come: the daemon has assigned them to this
    /// member, so no other one gets them.
    fn leave_groups(&mut self) {
        for number in std::mem::take(&mut self.memberships) {
            // An error does not matter: the connection may be lost, or the daemon may have ended the
            // membership itself, because --count messages are on their way.
            let _ = self.client.unsubscribe(number);
            while !self.tally.is_complete()
                && self.client.has_event()
                && let Ok(Some(event)) = self.client.next_event(Some(Instant::now()))
            {
                self.take(&event);
            }
        }
    }

    /// Writes the output. While standard output blocks, no messages are read, so that senders wait. The
    /// end of the connection is still noticed and remarked on: the daemon may have disconnected this
    /// receiver because it does not read.
    fn write(&mut self) -> Outcome {
        let MessagePrinter { output, .. } = &mut self.printer;
        while !output.write_some()? {
            if self.is_loss_told {
                return output.flush();
            }
            if let Err(error) = self.client.wait_writable(output.fd(), None) {
                self.context.remark(&format!("{error} (standard output is not being read)"));
                self.is_loss_told = true;
            }
        }
        Ok(())
    }
}
