//! The processes of the demo: a sender and a receiver for each transport.
//!
//! A sender publishes numbered lines on `demo.data.FROM.TO`, pings on `demo.ping.FROM.TO`, and asks on
//! `demo.end.FROM.TO` for the receiver's count. The receiver answers on the reply subject.

use std::collections::HashMap;
use std::io::{BufRead, Write};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use ipcd_client::{Client, Event, Message, Publication, SubscribeOptions};
use ipcd_transport::deadline_after;
use serde::{Deserialize, Serialize};

use super::PairResult;
use crate::args::{DemoArgs, DemoPeerArgs};
use crate::context::Context;
use crate::exit::{Failure, FailureKind, Outcome};

/// A receiver's check of the lines of one sender.
#[derive(Debug, Default, Deserialize, Serialize)]
struct LineCheck {
    messages: u64,
    bytes: u64,
    error: Option<String>,
}

pub(super) struct DemoSender {
    client: Client,
    load: DemoArgs,
    scheme: String,
    timeout: Duration,
}

impl DemoSender {
    pub(super) fn new(context: &Context, args: &DemoPeerArgs) -> Outcome<Self> {
        let mut client = context.connect()?;
        let scheme = client.endpoint().scheme().to_owned();
        client.subscribe(&format!("demo.reply.{scheme}"), SubscribeOptions::default())?;
        Ok(Self { client, load: args.load.clone(), scheme, timeout: context.options().timeout })
    }

    /// Sends to one receiver after another. Each line of standard input names one.
    pub(super) fn run(&mut self) -> Outcome {
        report("ready")?;
        loop {
            let mut stdin = std::io::stdin().lock();
            self.client.wait_for(stdin.as_fd(), None)?;
            let mut to = String::new();
            if stdin.read_line(&mut to)? == 0 {
                return Ok(());
            }
            let cell = self.send_to(to.trim());
            report(&serde_json::to_string(&cell).expect("a cell is a plain value"))?;
        }
    }

    fn send_to(&mut self, to: &str) -> PairResult {
        let from = self.scheme.clone();
        let (tally, round_trip_us, error) = match self.try_send_to(to) {
            Ok((tally, round_trip)) => (tally, Some(round_trip), None),
            Err(failure) => (LineCheck::default(), None, Some(failure.to_string())),
        };
        let LineCheck { messages, bytes, error: theirs } = tally;
        PairResult { from, to: to.into(), messages, bytes, round_trip_us, error: error.or(theirs) }
    }

    fn try_send_to(&mut self, to: &str) -> Outcome<(LineCheck, f64)> {
        let pair = format!("{}.{to}", self.scheme);
        for number in 0..self.load.messages {
            self.client.publish(&format!("demo.data.{pair}"), &line(number, self.load.size))?;
        }
        self.client.flush()?;
        // After the flush: the round trips would otherwise wait behind the data.
        let mut round_trips = Vec::new();
        for _ in 0..self.load.pings.max(1) {
            let start = Instant::now();
            self.ask(&format!("demo.ping.{pair}"))?;
            round_trips.push(start.elapsed());
        }
        round_trips.sort_unstable();
        let median = round_trips[round_trips.len() / 2];
        let answer = self.ask(&format!("demo.end.{pair}"))?;
        let tally = serde_json::from_slice(answer.payload());
        let tally =
            tally.map_err(|error| Failure::new(FailureKind::BadMessage, error.to_string()))?;
        Ok((tally, median.as_nanos() as f64 / 1000.0))
    }

    fn ask(&mut self, subject: &str) -> Outcome<Message> {
        let reply = format!("demo.reply.{}", self.scheme);
        let question = Publication { subject, reply: &reply, ..Publication::default() };
        self.client.publish_message(&question)?;
        let deadline = deadline_after(self.timeout);
        loop {
            match self.client.next_event(Some(deadline))? {
                Some(Event::Message(answer)) => return Ok(answer),
                Some(_) => {}
                None => return Err(Failure::new(FailureKind::Timeout, "no answer came in time")),
            }
        }
    }
}

pub(super) struct DemoReceiver {
    client: Client,
    load: DemoArgs,
    tallies: HashMap<String, LineCheck>,
}

impl DemoReceiver {
    pub(super) fn new(context: &Context, args: &DemoPeerArgs) -> Outcome<Self> {
        let mut client = context.connect()?;
        let scheme = client.endpoint().scheme().to_owned();
        client.subscribe(&format!("demo.*.*.{scheme}"), SubscribeOptions::default())?;
        Ok(Self { client, load: args.load.clone(), tallies: HashMap::new() })
    }

    pub(super) fn run(&mut self) -> Outcome {
        report("ready")?;
        loop {
            if let Some(Event::Message(message)) = self.client.next_event(None)? {
                self.handle(&message)?;
            }
        }
    }

    fn handle(&mut self, message: &Message) -> Outcome {
        let mut tokens = message.subject().split('.').skip(1);
        let (kind, from) = (tokens.next().unwrap_or(""), tokens.next().unwrap_or(""));
        let answer = match kind {
            "data" => {
                let tally = self.tallies.entry(from.to_owned()).or_default();
                tally.check(message.payload(), self.load.size);
                return Ok(());
            }
            "end" => {
                let mut tally = self.tallies.remove(from).unwrap_or_default();
                tally.expect(self.load.messages);
                serde_json::to_vec(&tally).expect("a tally is a plain value")
            }
            _ => Vec::new(),
        };
        if let Some(reply) = message.reply() {
            self.client.publish(reply, &answer)?;
            // Written now: the next wait would write it, too, but the sender measures this.
            self.client.push()?;
        }
        Ok(())
    }
}

impl LineCheck {
    /// Checks that the payload is the expected next line.
    fn check(&mut self, payload: &[u8], size: usize) {
        if payload != line(self.messages, size) {
            self.error.get_or_insert(format!(
                "line {} is missing, altered or out of order",
                self.messages
            ));
        }
        self.messages += 1;
        self.bytes += payload.len() as u64;
    }

    fn expect(&mut self, messages: u64) {
        if self.messages != messages {
            let came = format!("{} of {messages} lines came", self.messages);
            self.error.get_or_insert(came);
        }
    }
}

/// The line with this number: 1 to `size` bytes. It begins with the number, so that no two are alike.
fn line(number: u64, size: usize) -> Vec<u8> {
    /// A prime, so that all lengths occur before one is repeated.
    const STRIDE: u64 = 7919;
    const TEXT: &str = " says the sender: a stream has no boundaries, a datagram has no friends;";
    let length = 1 + (number.wrapping_mul(STRIDE) % size.max(1) as u64) as usize;
    let words = number.to_string().into_bytes().into_iter().chain(TEXT.bytes());
    words.cycle().take(length).collect()
}

fn report(text: &str) -> Outcome {
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{text}")?;
    Ok(stdout.flush()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_check_finds_lines_that_are_lost_repeated_or_out_of_order() {
        let tally = |numbers: &[u64]| {
            let mut tally = LineCheck::default();
            numbers.iter().for_each(|&number| tally.check(&line(number, 100), 100));
            tally.expect(3);
            tally.error
        };
        assert_eq!(tally(&[0, 1, 2]), None);
        assert!(tally(&[0, 1]).is_some());
        assert!(tally(&[0, 2, 1]).is_some());
        assert!(tally(&[0, 1, 2, 2]).is_some());
    }

    #[test]
    fn lines_have_all_lengths() {
        let mut lengths: Vec<_> = (0..100).map(|number| line(number, 100).len()).collect();
        lengths.sort_unstable();
        assert_eq!(lengths, (1..=100).collect::<Vec<_>>());
    }
}
