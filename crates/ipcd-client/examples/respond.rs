//! Answers requests in capitals, and shares the work with others that do:
//! `respond ENDPOINT SUBJECT COUNT`

use std::process::ExitCode;

use ipcd_client::{Client, Endpoint, Event, Options, SubscribeOptions};

fn main() -> ExitCode {
    match run(std::env::args().skip(1)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("respond: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(mut arguments: impl Iterator<Item = String>) -> Result<(), Box<dyn std::error::Error>> {
    let usage = "usage: respond ENDPOINT SUBJECT COUNT";
    let endpoint: Endpoint = arguments.next().ok_or(usage)?.parse()?;
    let subject = arguments.next().ok_or(usage)?;
    let mut left: u64 = arguments.next().ok_or(usage)?.parse()?;
    let mut client = Client::connect(&endpoint, Options::default())?;
    let group = Some("capitals".to_owned());
    client.subscribe(&subject, SubscribeOptions { group, ..SubscribeOptions::default() })?;
    eprintln!("subscribed");
    while left > 0 {
        // A message to the subject that is no request wants no reply.
        if let Some(Event::Message(request)) = client.next_event(None)?
            && request.is_request
        {
            client.reply(&request, &request.payload().to_ascii_uppercase())?;
            left -= 1;
        }
    }
    client.close()?;
    Ok(())
}
