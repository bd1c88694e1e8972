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
    let mut client =
        if args.no_reconnect { context.connect()? } else { context.connect_for_good()? };
    let connecting = start.elapsed();
    let options = SubscribeOptions {
        group: args.group.clone(),
        overflow: args.overflow.map(Overflow::from),
        origin: to.names_sender(),
    };
    for subject in &args.subjects {
        client
            .subscribe(subject, options.clone())
            .map_err(|error| Failure::from(error).during(format_args!("recv {subject}")))?;
        context.remark_on_filter(subject);
    }
    if args.announce {
        say("subscribed");
    }
    let tally = Tally::new(args, start);
    match to {
        To::Output(printer) => {
            Receiver { context, client, printer, tally, is_loss_told: false }.run()
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
                None => break,
                Some(Event::Message(message)) => {
                    let origin = self.client.origin(message.sender);
                    self.printer.add(&message, origin);
                    self.tally.count();
                }
                Some(event) => {
                    self.is_loss_told &= !matches!(event, Event::Reconnected { .. });
                    news::tell(self.context, &self.client, &event);
                }
            }
        }
        self.write()?;
        self.tally.outcome()
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
