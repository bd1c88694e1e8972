//! `ipcctl recv`.

use std::io::Write;
use std::time::Instant;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ipcd_client::{Client, Event, Message, Origin, Overflow, SubscribeOptions};
use serde_json::{Value, json};

use crate::args::{Format, OverflowArg, RecvArgs};
use crate::context::Context;
use crate::exit::{Exit, Failure, Outcome};
use crate::output::Output;

pub(crate) fn run(context: &Context, args: &RecvArgs) -> Outcome {
    let start = Instant::now();
    let mut client =
        if args.no_reconnect { context.connect()? } else { context.connect_for_good()? };
    let options = SubscribeOptions {
        overflow: args.overflow.map(Overflow::from),
        origin: context.format() != Format::Text,
    };
    for subject in &args.subjects {
        client
            .subscribe(subject, options.clone())
            .map_err(|error| Failure::from(error).during(format_args!("recv {subject}")))?;
    }
    if args.announce {
        let _ = writeln!(std::io::stderr(), "subscribed");
    }
    let end = args.wait.map(|wait| start + wait.0);
    Receiver { context, args, client, output: Output::new(), received: 0 }.run(end)
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
    args: &'a RecvArgs,
    client: Client,
    output: Output,
    received: u64,
}

impl Receiver<'_> {
    fn run(&mut self, end: Option<Instant>) -> Outcome {
        let mut idle_since = Instant::now();
        while self.args.count != Some(self.received) {
            if !self.client.has_event() {
                self.output.flush()?;
            }
            let idle = self.args.idle.map(|idle| idle_since + idle.0);
            match self.client.next_event(end.into_iter().chain(idle).min())? {
                None => return self.ended_early(),
                Some(Event::Message(message)) => {
                    self.print(&message)?;
                    self.received += 1;
                    idle_since = Instant::now();
                }
                Some(Event::Gap { subscription, dropped }) => {
                    let filter = self.client.filter(subscription);
                    let filter = filter.map_or("?", |filter| filter.as_str());
                    self.context.remark(&format!("{dropped} messages of {filter} were dropped"));
                }
                Some(Event::Disconnected { why }) => {
                    self.context.remark(&format!("{why}; connecting again"));
                }
                Some(Event::Reconnected { .. }) => {
                    self.context.remark("connected again; messages may have been missed");
                }
            }
        }
        self.output.flush()
    }

    fn ended_early(&mut self) -> Outcome {
        self.output.flush()?;
        match self.args.count {
            None => Ok(()),
            Some(wanted) => {
                let why = format!("{} of {wanted} messages came in time", self.received);
                Err(Failure::new(Exit::Timeout, why))
            }
        }
    }

    fn print(&mut self, message: &Message) -> Outcome {
        if self.context.format() != Format::Text {
            let line = json_line(message, self.client.origin(message.sender)).to_string();
            self.output.own(line.as_bytes())?;
            return self.output.own(b"\n");
        }
        if self.args.verbose {
            self.output.foreign(message.subject().as_bytes())?;
            self.output.own(b" ")?;
        }
        self.output.foreign(message.payload())?;
        if self.args.no_newline { Ok(()) } else { self.output.own(b"\n") }
    }
}

fn json_line(message: &Message, origin: Option<&Origin>) -> Value {
    let headers: serde_json::Map<String, Value> = message
        .headers()
        .map(|(key, value)| (key.to_owned(), String::from_utf8_lossy(value).into()))
        .collect();
    let mut line = json!({
        "v": 1,
        "ts": jiff::Timestamp::now().to_string(),
        "subject": message.subject(),
        "id": message.id,
        "reply": message.reply(),
        "from": {
            "peer": message.sender,
            "name": origin.and_then(|origin| origin.name.as_ref()),
            "transport": origin.map(|origin| &origin.transport),
            "uid": origin.and_then(|origin| origin.uid),
            "gid": origin.and_then(|origin| origin.gid),
            "pid": origin.and_then(|origin| origin.pid),
            "addr": origin.and_then(|origin| origin.addr).map(|addr| addr.to_string()),
        },
        "headers": headers,
        "len": message.payload().len(),
    });
    match str::from_utf8(message.payload()) {
        Ok(text) => line["data"] = text.into(),
        Err(_) => line["data_b64"] = STANDARD.encode(message.payload()).into(),
    }
    line
}
