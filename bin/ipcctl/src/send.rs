//! `ipcctl send`.

use std::io::IsTerminal;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use ipcd_client::{Answer, Client, Error, Headers, Publication, Query};

use crate::args::{Ack, SendArgs};
use crate::context::Context;
use crate::exit::{Exit, Failure, Outcome};

/// How often `--wait-subs` asks.
const ASK_EVERY: Duration = Duration::from_millis(20);
/// Bytes read of standard input at once.
const READ_BYTES: usize = 64 * 1024;

pub(crate) fn run(context: &Context, args: &SendArgs) -> Outcome {
    if args.subject.starts_with('@') {
        let why = "sending to one peer (@NAME, @ID) is not in this version: give a subject";
        return Err(Failure::new(Exit::Usage, why));
    }
    let body = Body::of(args)?;
    let headers = header_block(&args.headers)?;
    let mut sender = Sender { client: context.connect()?, args, headers, sent: 0 };
    sender
        .run(context, &body)
        .map_err(|failure| failure.during(format_args!("send {}", args.subject)))
}

/// Where the messages come from.
enum Body {
    One(Vec<u8>),
    /// Parts of standard input that end in this byte.
    Parts(u8),
    /// All of standard input.
    Whole,
}

impl Body {
    fn of(args: &SendArgs) -> Outcome<Self> {
        let body = &args.body;
        if let Some(text) = body.body.as_ref().or(body.message.as_ref()) {
            return Ok(Self::One(text.clone().into_bytes()));
        }
        if let Some(file) = &body.file {
            let bytes = std::fs::read(file);
            let failed = |error| Failure::new(Exit::Usage, format!("{}: {error}", file.display()));
            return Ok(Self::One(bytes.map_err(failed)?));
        }
        if body.empty {
            return Ok(Self::One(Vec::new()));
        }
        if body.lines {
            return Ok(Self::Parts(b'\n'));
        }
        if body.nul {
            return Ok(Self::Parts(0));
        }
        if !body.stdin && std::io::stdin().is_terminal() {
            let advice = "no message: give one, or -n for an empty one, or -l to type lines";
            return Err(Failure::new(Exit::Usage, advice));
        }
        Ok(Self::Whole)
    }
}

struct Sender<'a> {
    client: Client,
    args: &'a SendArgs,
    headers: Vec<u8>,
    sent: u64,
}

impl Sender<'_> {
    fn run(&mut self, context: &Context, body: &Body) -> Outcome {
        if let Some(wanted) = self.args.wait_subs {
            self.wait_for_subscriptions(wanted, context.options().timeout)?;
        }
        match body {
            Body::One(payload) => self.send_counted(payload)?,
            Body::Whole => {
                let payload = self.read_all()?;
                self.send_counted(&payload)?;
            }
            Body::Parts(end) => self.send_parts(*end)?,
        }
        match self.args.ack {
            Ack::None => Ok(self.client.push()?),
            Ack::Accepted => Ok(self.client.flush()?),
        }
    }

    fn send_counted(&mut self, payload: &[u8]) -> Outcome {
        for _ in 0..self.args.count {
            self.send(payload)?;
        }
        Ok(())
    }

    fn send(&mut self, payload: &[u8]) -> Outcome {
        if let Some(interval) = self.args.interval.filter(|_| self.sent > 0) {
            self.client.wait_until(Instant::now() + interval.0)?;
        }
        self.client.publish_message(&Publication {
            subject: &self.args.subject,
            reply: self.args.reply.as_deref().unwrap_or_default(),
            headers: &self.headers,
            payload,
        })?;
        self.sent += 1;
        Ok(())
    }

    /// Sends each part as soon as it is there; the last one needs no end.
    fn send_parts(&mut self, end: u8) -> Outcome {
        let mut pending = Vec::new();
        while self.read_some(&mut pending)? {
            let mut start = 0;
            while let Some(length) = pending[start..].iter().position(|&byte| byte == end) {
                self.send_counted(&pending[start..start + length])?;
                start += length + 1;
            }
            pending.drain(..start);
            self.check_length(&pending)?;
        }
        if pending.is_empty() { Ok(()) } else { self.send_counted(&pending) }
    }

    fn read_all(&mut self) -> Outcome<Vec<u8>> {
        let mut bytes = Vec::new();
        while self.read_some(&mut bytes)? {
            self.check_length(&bytes)?;
        }
        Ok(bytes)
    }

    /// Reads standard input while the connection goes on; false at its end.
    fn read_some(&mut self, into: &mut Vec<u8>) -> Outcome<bool> {
        let stdin = std::io::stdin();
        self.client.wait_for(stdin.as_fd(), None)?;
        let mut chunk = [0; READ_BYTES];
        // A file's worth of data is not to be copied twice by std's own buffer.
        let count = nix::unistd::read(stdin, &mut chunk).map_err(std::io::Error::from)?;
        into.extend_from_slice(&chunk[..count]);
        Ok(count > 0)
    }

    /// What is too large already is not read to its end.
    fn check_length(&self, payload: &[u8]) -> Outcome {
        let (bytes, limit) = (payload.len(), self.client.max_payload());
        if bytes > limit { Err(Error::TooLarge { bytes, limit }.into()) } else { Ok(()) }
    }

    fn wait_for_subscriptions(&mut self, wanted: u64, timeout: Duration) -> Outcome {
        let deadline = Instant::now() + timeout;
        loop {
            let answers = self.client.query(&Query::Matching(self.args.subject.clone()))?;
            let found = match answers.first() {
                Some(Answer::Matching(count)) => *count,
                _ => 0,
            };
            if found >= wanted {
                return Ok(());
            }
            let now = Instant::now();
            if now >= deadline {
                let why = format!("{found} of {wanted} receivers came in time (see --timeout)");
                return Err(Failure::new(Exit::Timeout, why));
            }
            self.client.wait_until(deadline.min(now + ASK_EVERY))?;
        }
    }
}

fn header_block(headers: &[String]) -> Outcome<Vec<u8>> {
    let mut block = Vec::new();
    for header in headers {
        let Some((key, value)) = header.split_once(':') else {
            return Err(Failure::new(Exit::Usage, format!("-H {header}: a header is KEY:VALUE")));
        };
        Headers::append(&mut block, key.trim(), value.trim_start().as_bytes())
            .map_err(|error| Failure::from(Error::from(error)).during(format_args!("-H {key}")))?;
    }
    Ok(block)
}
