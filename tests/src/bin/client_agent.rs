//! The agent of the Rust client for the scenarios of `tests/clients/README.md`.

use std::collections::{HashMap, VecDeque};
use std::io::{BufRead, Write};
use std::time::Duration;

use ipcd_client::{
    Backoff, Client, DaemonLocation, Error, Event, Headers, Message, Options, Publication, Result,
    SubscribeOptions,
};
use ipcd_tests::{from_hex, to_hex};

const TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Default)]
struct Agent {
    client: Option<Client>,
    /// The numbers of subscriptions by their keys.
    keys: HashMap<String, u32>,
    queues: HashMap<u32, VecDeque<Message>>,
    last: HashMap<u32, Message>,
}

fn main() {
    let mut agent = Agent::default();
    for line in std::io::stdin().lock().lines() {
        let line = line.expect("commands are text");
        let fields: Vec<&str> = line.split(' ').collect();
        let answer = match agent.obey(&fields) {
            Ok(answer) => format!("ok {answer}"),
            Err(error) => format!("error {} {error}", kind(&error)),
        };
        writeln!(std::io::stdout(), "{}", answer.trim_end()).expect("the test reads");
    }
}

impl Agent {
    fn obey(&mut self, fields: &[&str]) -> Result<String> {
        match *fields {
            ["connect", via, ref rest @ ..] => self.connect(via, rest.contains(&"reconnect")),
            ["subscribe", key, filter, ref rest @ ..] => {
                let group = rest.first().map(|group| (*group).to_owned());
                let options = SubscribeOptions { group, ..SubscribeOptions::default() };
                let number = self.client().subscribe(filter, options)?;
                self.keys.insert(key.to_owned(), number);
                Ok(String::new())
            }
            ["unsubscribe", key] => {
                let number = self.keys[key];
                self.client().unsubscribe(number).map(|()| String::new())
            }
            ["publish", subject, payload, ref headers @ ..] => {
                let headers = header_block(headers)?;
                let payload = from_hex(payload);
                let message =
                    Publication { subject, reply: "", headers: &headers, payload: &payload };
                self.client().publish_message(&message)?;
                self.client().push().map(|()| String::new())
            }
            ["flush"] => self.client().flush().map(|()| String::new()),
            ["receive", key] => self.receive(self.keys[key]),
            ["request", subject, payload, millis] => {
                let timeout = Duration::from_millis(millis.parse().expect("it is a number"));
                let reply = self.client().request(subject, &from_hex(payload), timeout)?;
                Ok(to_hex(reply.payload()))
            }
            ["reply", key, payload] => {
                let request = self.last[&self.keys[key]].clone();
                self.client().reply(&request, &from_hex(payload))?;
                self.client().push().map(|()| String::new())
            }
            ["close"] => {
                let client = self.client.take().expect("the agent is connected");
                client.close().map(|()| String::new())
            }
            _ => panic!("{fields:?} is no command"),
        }
    }

    fn connect(&mut self, via: &str, reconnects: bool) -> Result<String> {
        let DaemonLocation { endpoint, token } = DaemonLocation::via(via)?;
        let reconnect = reconnects.then(Backoff::default);
        let options = Options { token, timeout: TIMEOUT, reconnect, ..Options::default() };
        let client = Client::connect(&endpoint, options)?;
        let largest = client.max_payload();
        self.client = Some(client);
        Ok(largest.to_string())
    }

    fn client(&mut self) -> &mut Client {
        self.client.as_mut().expect("the agent is connected")
    }

    fn receive(&mut self, number: u32) -> Result<String> {
        let message = loop {
            if let Some(message) = self.queues.entry(number).or_default().pop_front() {
                break message;
            }
            if let Some(Event::Message(message)) = self.client().next_event(None)? {
                self.queues.entry(message.subscription).or_default().push_back(message);
            }
        };
        let mut answer = format!("{} {}", message.subject(), to_hex(message.payload()));
        for (key, value) in message.headers() {
            answer += &format!(" {key}={}", to_hex(value));
        }
        self.last.insert(number, message);
        Ok(answer)
    }
}

fn header_block(fields: &[&str]) -> Result<Vec<u8>> {
    let mut block = Vec::new();
    for field in fields {
        let (key, value) = field.split_once('=').expect("a header has a value");
        Headers::append(&mut block, key, &from_hex(value))?;
    }
    Ok(block)
}

fn kind(error: &Error) -> String {
    match error {
        Error::Connect(_) => "connect".into(),
        Error::Refused(refusal) => format!("refused:{:?}", refusal.code),
        Error::TimedOut(_) => "timeout".into(),
        Error::Disconnected(_) => "disconnected".into(),
        Error::Token(_) => "token".into(),
        _ => "invalid".into(),
    }
}
