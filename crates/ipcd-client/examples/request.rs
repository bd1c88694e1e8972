//! Sends a request for each argument, all at once, and prints the replies as they come:
//! `request ENDPOINT SUBJECT LINE...`

use std::collections::HashMap;
use std::process::ExitCode;
use std::time::Duration;

use ipcd_client::{Client, Endpoint, Event, Options, Publication};

fn main() -> ExitCode {
    match run(std::env::args().skip(1)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("request: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(mut arguments: impl Iterator<Item = String>) -> Result<(), Box<dyn std::error::Error>> {
    let usage = "usage: request ENDPOINT SUBJECT LINE...";
    let endpoint: Endpoint = arguments.next().ok_or(usage)?.parse()?;
    let subject = arguments.next().ok_or(usage)?;
    let mut client = Client::connect(&endpoint, Options::default())?;
    let mut lines = HashMap::new();
    for line in arguments {
        let message =
            Publication { subject: &subject, payload: line.as_bytes(), ..Publication::default() };
        let request = client.start_request(&message, Duration::from_secs(5))?;
        lines.insert(request, line);
    }
    while !lines.is_empty() {
        if let Some(Event::Reply { request, reply }) = client.next_event(None)?
            && let Some(line) = lines.remove(&request)
        {
            println!("{line}: {}", String::from_utf8_lossy(reply?.payload()));
            client.finish_request(request);
        }
    }
    Ok(())
}
