//! `ipcctl ping`.

use std::time::Duration;

use ipcd_transport::deadline_after;
use serde_json::json;

use crate::args::{OutputFormat, PingArgs};
use crate::context::Context;
use crate::exit::{Failure, FailureKind, Outcome};
use crate::output::StdoutBuffer;

pub(crate) fn run(context: &Context, args: &PingArgs) -> Outcome {
    let mut client = context.connect()?;
    let mut output = StdoutBuffer::new();
    let mut longest = Duration::ZERO;
    for number in 0..args.count {
        if number > 0 {
            client.wait_until(deadline_after(args.interval.duration()))?;
        }
        let round_trip = client.ping()?;
        longest = longest.max(round_trip);
        let micros = round_trip.as_nanos() as f64 / 1000.0;
        let line = match context.format() {
            OutputFormat::Text => format!("pong from {} in {micros:.1} µs\n", client.endpoint()),
            OutputFormat::Json | OutputFormat::Jsonl => {
                let endpoint = client.endpoint().to_string();
                format!("{}\n", json!({"endpoint": endpoint, "round_trip_us": micros}))
            }
        };
        output.add_own(line.as_bytes());
        output.flush()?;
    }
    match &args.max {
        Some(max) if longest > max.duration() => {
            let why = format!("ping {}: a round trip took more than {max}", client.endpoint());
            Err(Failure::new(FailureKind::Threshold, why))
        }
        _ => Ok(()),
    }
}
