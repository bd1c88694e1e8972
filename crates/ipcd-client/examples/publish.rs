//! Publishes a line for each argument: `publish ENDPOINT SUBJECT LINE...`

use std::process::ExitCode;

use ipcd_client::{Client, Endpoint, Options};

fn main() -> ExitCode {
    match run(std::env::args().skip(1)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("publish: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(mut arguments: impl Iterator<Item = String>) -> Result<(), Box<dyn std::error::Error>> {
    let usage = "usage: publish ENDPOINT SUBJECT LINE...";
    let endpoint: Endpoint = arguments.next().ok_or(usage)?.parse()?;
    let subject = arguments.next().ok_or(usage)?;
    let mut client = Client::connect(&endpoint, Options::default())?;
    for line in arguments {
        client.publish(&subject, line.as_bytes())?;
    }
    // Ends only when the daemon has accepted them all.
    client.close()?;
    Ok(())
}
