//! One process that talks to itself through the daemon, and survives a restart of it:
//! `pair [ENDPOINT [TOKEN_FILE]]`. Without an endpoint it is the daemon that `ipcctl` finds.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use ipcd_client::{Backoff, Client, Endpoint, Event, Options, SubscribeOptions, TokenSource};

fn main() -> ExitCode {
    match run(std::env::args().skip(1)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("pair: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(mut arguments: impl Iterator<Item = String>) -> Result<(), Box<dyn std::error::Error>> {
    let endpoint: Option<Endpoint> = arguments.next().map(|text| text.parse()).transpose()?;
    let token = arguments.next().map_or(TokenSource::None, |file| TokenSource::File(file.into()));
    let options = Options { token, reconnect: Some(Backoff::default()), ..Options::default() };
    let mut client = match endpoint {
        Some(endpoint) => Client::connect(&endpoint, options)?,
        None => Client::connect_default(options)?,
    };
    client.subscribe("pair.*", SubscribeOptions::default())?;
    client.send("pair.hello", b"it is me")?;
    match client.next_event(Some(Instant::now() + Duration::from_secs(5)))? {
        Some(Event::Message(message)) => {
            let text = String::from_utf8_lossy(message.payload());
            println!("{} said: {text}; a round trip takes {:?}", message.sender, client.ping()?);
            Ok(())
        }
        other => Err(format!("no message came, but {other:?}").into()),
    }
}
