//! `ipcctl recv`.

mod handling;
mod tally;

use std::time::Instant;

use ipcd_client::{Client, Event, Overflow, SubscribeOptions};

use crate::args::{Format, OverflowArg, RecvArgs};
use crate::context::Context;
use crate::exit::{Exit, Failure, Outcome};
use crate::format::Template;
use crate::handler::Handler;
use crate::news;
use crate::output::say;
use crate::print::{End, Printer, Style};

use handling::Handling;
use tally::Tally;

pub(crate) fn run(context: &Context, args: &RecvArgs) -> Outcome {
    let start = Instant::now();
    let to = To::of(context, args)?;
    let lasting = if args.no_reconnect { context.options() } else { context.lasting() };
    let mut client = context.reach(&lasting, args.reconnect)?;
    let connecting = start.elapsed().min(lasting.timeout);
    let options = SubscribeOptions {
        group: args.group.clone(),
        overflow: args.overflow.map(Overflow::from),
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
    let tally = Tally::new(args, start);
    match to {
        To::Output(printer) => {
            let is_loss_told = false;
            Receiver { context, client, memberships, printer, tally, is_loss_told }.run()
        }
        To::Handler(handler) => Handling::new(context, client, handler, connecting, tally)?.run(),
    }
}

/// Where messages go.
enum To {
    Output(Printer),
    Handler(Handler),
}

impl To {
    fn of(context: &Context, args: &RecvArgs) -> Outcome<Self> {
        if args.exec {
            return Ok(Self::Handler(Handler::find(&args.command)?));
        }
        let end = match (args.no_newline, args.nul) {
            (true, _) => End::Nothing,
            (_, true) => End::Nul,
            _ => End::Newline,
        };
        Ok(Self::Output(Printer::new(style(context, args)?, end)))
    }

    fn names_sender(&self) -> bool {
        match self {
            Self::Output(printer) => printer.names_sender(),
            Self::Handler(_) => true,
        }
    }
}

fn style(context: &Context, args: &RecvArgs) -> Outcome<Style> {
    match (context.format(), &args.format) {
        (Format::Text, None) => Ok(Style::Payload { subject: args.verbose }),
        (Format::Text, Some(format)) => {
            let bad = |why| Failure::new(Exit::Usage, format!("--format {format}: {why}"));
            Ok(Style::Template(Template::parse(format).map_err(bad)?))
        }
        (_, None) => Ok(Style::Json),
        (_, Some(_)) => {
            let why = "--format cannot be used with -j, nor with -o json or jsonl";
            Err(Failure::new(Exit::Usage, why))
        }
    }
}

impl From<OverflowArg> for Overflow {
    fn from(what: OverflowArg) -> Self {
        match what {
            OverflowArg::Block => Self::Block,
            OverflowArg::DropOldest => Self::DropOldest,
            OverflowArg::DropNewest => Self::DropNewest,
            OverflowArg::Disconnect => Self::Disconnect,
        }
    }
}

struct Receiver<'a> {
    context: &'a Context,
    client: Client,
    /// Subscriptions that are shared with a group.
    memberships: Vec<u32>,
    printer: Printer,
    tally: Tally<'a>,
    /// Whether it was said that the connection that messages still come from is lost.
    is_loss_told: bool,
}

impl Receiver<'_> {
    fn run(&mut self) -> Outcome {
        while !self.tally.is_complete() {
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
        news::tell(self.context, &self.client, event);
    }

    /// Takes what has come for us of groups until they know that we leave: no other member gets it.
    fn leave_groups(&mut self) {
        for number in std::mem::take(&mut self.memberships) {
            // It may have ended with the connection, or because all that was wanted is on its way.
            let _ = self.client.unsubscribe(number);
            while !self.tally.is_complete()
                && self.client.has_event()
                && let Ok(Some(event)) = self.client.next_event(Some(Instant::now()))
            {
                self.take(&event);
            }
        }
    }

    /// Writes what was added. While nobody takes it, no more messages are, but the end of the
    /// connection is noticed and told: it may have come because nobody takes them.
    fn write(&mut self) -> Outcome {
        let Printer { output, .. } = &mut self.printer;
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
