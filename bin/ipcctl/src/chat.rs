//! `ipcctl chat`.

use std::io;
use std::os::fd::AsFd;
use std::time::Instant;

use ipcd_client::{
    Client, Error, Event, Message, Options, Origin, Subject, SubscribeOptions, WakeReason,
};
use ipcd_transport::poll_until;
use nix::poll::PollFlags;

use crate::args::{ChatArgs, OutputFormat};
use crate::body::{InputSplitter, check_length};
use crate::context::Context;
use crate::exit::Outcome;
use crate::json;
use crate::news;
use crate::output::StdoutBuffer;

/// The line that ends the chat.
const LEAVE: &[u8] = b"exit";

pub(crate) fn run(context: &Context, args: &ChatArgs) -> Outcome {
    chat(context, args).map_err(|failure| failure.during(format_args!("chat {}", args.subject)))
}

fn chat(context: &Context, args: &ChatArgs) -> Outcome {
    // A filter could be subscribed to, but not published on.
    Subject::parse(args.subject.as_bytes()).map_err(Error::from)?;
    // The terminal already shows the lines that the user types.
    let options = Options { no_echo: true, ..context.lasting_options() };
    let mut client = context.connect_patiently(&options, args.reconnect)?;
    let options = SubscribeOptions { origin: true, ..SubscribeOptions::default() };
    client.subscribe(&args.subject, options)?;
    let (lines, output) = (InputSplitter::ended_by(b'\n'), StdoutBuffer::new());
    ChatSession { context, subject: &args.subject, client, lines, output }.run()
}

struct ChatSession<'a> {
    context: &'a Context,
    subject: &'a str,
    client: Client,
    lines: InputSplitter,
    output: StdoutBuffer,
}

impl ChatSession<'_> {
    /// Shows and sends in turn. Neither waits for the other: two peers that both only sent would block
    /// each other.
    fn run(&mut self) -> Outcome {
        loop {
            self.show_what_came()?;
            // Input is looked at first: `wait_event_or` prefers events, and a flood of messages would
            // keep a typed line waiting.
            if !poll_until(&io::stdin(), PollFlags::POLLIN, Instant::now())? {
                match self.client.wait_event_or(io::stdin().as_fd(), None) {
                    Ok(WakeReason::Readable) => {}
                    Ok(_) => continue,
                    Err(_) => {
                        self.show_next(None)?;
                        continue;
                    }
                }
            }
            self.lines.read()?;
            if !self.send_lines()? {
                break;
            }
        }
        self.client.flush()?;
        self.show_what_came()
    }

    /// Sends the lines that were read. Returns false at the end of the chat.
    fn send_lines(&mut self) -> Outcome<bool> {
        while let Some(line) = self.lines.take() {
            if line == LEAVE {
                return Ok(false);
            }
            self.send(&line)?;
        }
        if !self.lines.is_over() {
            check_length(&self.client, self.lines.unfinished())?;
            return Ok(true);
        }
        if let Some(line) = self.lines.take_rest().filter(|line| line != LEAVE) {
            self.send(&line)?;
        }
        Ok(false)
    }

    fn send(&mut self, line: &[u8]) -> Outcome {
        match self.client.publish(self.subject, line) {
            Ok(()) => {}
            Err(error @ (Error::TooLarge { .. } | Error::BadSubject(_))) => {
                return Err(error.into());
            }
            // Unwritten messages go over the next connection. The flush at the end reports a loss.
            Err(_) => self.show_next(None)?,
        }
        self.show_what_came()
    }

    fn show_what_came(&mut self) -> Outcome {
        while self.client.has_event() {
            self.show_next(Some(Instant::now()))?;
            if self.output.has_batch() {
                self.write()?;
            }
        }
        self.write()
    }

    fn show_next(&mut self, deadline: Option<Instant>) -> Outcome {
        match self.client.next_event(deadline)? {
            Some(Event::Message(message)) => {
                let origin = self.client.origin(message.sender);
                show_message(self.context.format(), &mut self.output, &message, origin);
            }
            Some(event) => news::remark_event(self.context, &self.client, &event),
            None => {}
        }
        Ok(())
    }

    /// Writes the output. While standard output blocks, no messages are read, so that senders wait.
    fn write(&mut self) -> Outcome {
        while !self.output.write_some()? {
            if self.client.wait_writable(self.output.fd(), None).is_err() {
                return self.output.flush();
            }
        }
        Ok(())
    }
}

/// Shows each line of a message behind the sender's name: otherwise a newline in a message could fake
/// a line of another sender.
fn show_message(
    format: OutputFormat,
    output: &mut StdoutBuffer,
    message: &Message,
    origin: Option<&Origin>,
) {
    if format != OutputFormat::Text {
        let line = json::compact(&json::message_line(message, origin));
        return output.add_own(format!("{line}\n").as_bytes());
    }
    let who = display_name(message.sender, origin);
    let text = message.payload().strip_suffix(b"\n").unwrap_or(message.payload());
    for line in text.split(|&byte| byte == b'\n') {
        output.add_foreign(who.as_bytes());
        output.add_own(b": ");
        output.add_foreign(line);
        output.add_own(b"\n");
    }
}

/// The sender's name, or else what is certain: user and process, the address, or the peer's id.
fn display_name(sender: u64, origin: Option<&Origin>) -> String {
    let Some(origin) = origin else { return format!("@{sender}") };
    let (uid, pid) = (origin.uid, origin.pid);
    match (&origin.name, uid, pid, origin.addr) {
        (Some(name), ..) => name.clone(),
        (_, Some(uid), Some(pid), _) => format!("{uid}/{pid}"),
        (_, Some(uid), None, _) => uid.to_string(),
        (.., Some(addr)) => addr.to_string(),
        _ => format!("@{sender}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sender_is_named_by_what_is_known() {
        let nobody = Origin {
            peer: 7,
            name: None,
            transport: "x".into(),
            pid: None,
            uid: None,
            gid: None,
            addr: None,
        };
        let named = Origin { name: Some("ann".into()), uid: Some(1), ..nobody.clone() };
        let local = Origin { uid: Some(1000), pid: Some(42), ..nobody.clone() };
        let owner = Origin { uid: Some(1000), ..nobody.clone() };
        let remote = Origin { addr: "127.0.0.1:7117".parse().ok(), ..nobody.clone() };
        for (origin, shown) in [
            (None, "@7"),
            (Some(&nobody), "@7"),
            (Some(&named), "ann"),
            (Some(&local), "1000/42"),
            (Some(&owner), "1000"),
            (Some(&remote), "127.0.0.1:7117"),
        ] {
            assert_eq!(display_name(7, origin), shown);
        }
    }
}
