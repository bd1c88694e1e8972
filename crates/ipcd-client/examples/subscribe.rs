//! Prints the next messages of a filter: `subscribe ENDPOINT FILTER COUNT`

use std::process::ExitCode;

use ipcd_client::{Client, Endpoint, Options, SubscribeOptions};

fn main() -> ExitCode {
    match run(std::env::args().skip(1)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("subscribe: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(mut arguments: impl Iterator<Item = String>) -> Result<(), Box<dyn std::error::Error>> {
    let usage = "usage: subscribe ENDPOINT FILTER COUNT";
    let endpoint: Endpoint = arguments.next().ok_or(usage)?.parse()?;
    let filter = arguments.next().ok_or(usage)?;
    let count = arguments.next().ok_or(usage)?.parse()?;
    let mut client = Client::connect(&endpoint, Options::default())?;
    client.subscribe(&filter, SubscribeOptions::default())?;
    // From here on, nothing that is published is missed.
    eprintln!("subscribed");
    for message in client.messages().take(count) {
        let message = message?;
        println!("{}: {}", message.subject(), String::from_utf8_lossy(message.payload()));
    }
    Ok(())
}
