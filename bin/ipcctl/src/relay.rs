//! `ipcctl relay`.

use ipcd_relay::{Error, Observer, Relay, Side};
use ipcd_transport::{Endpoint, Error as TransportError};

use crate::args::RelayArgs;
use crate::context::Context;
use crate::exit::{Exit, Failure, Outcome};

pub(crate) fn run(context: &Context, args: &RelayArgs) -> Outcome {
    let relayed = relay(context, args).and_then(|relay| relay.run(context));
    relayed.map_err(|error| failure(error).during(format_args!("relay {} {}", args.from, args.to)))
}

fn relay(context: &Context, args: &RelayArgs) -> Result<Relay, Error> {
    let client = context.options();
    Ok(Relay {
        from: Side::listening(&args.from)?,
        to: Side::connecting(&args.to)?,
        is_raw: args.raw,
        codec: args.codec,
        children: args.fork.then_some(args.max_children as usize),
        ucspi: args.ucspi,
        timeout: client.timeout,
        daemon: context.via()?,
        client,
    })
}

/// Who cannot be reached here is not the daemon, unless it is.
fn failure(error: Error) -> Failure {
    match error {
        Error::Usage(what) | Error::Transport(TransportError::Endpoint(what)) => {
            Failure::new(Exit::Usage, what)
        }
        Error::Transport(error @ TransportError::TimedOut(_)) => {
            Failure::new(Exit::Timeout, format!("{error} (see --timeout)"))
        }
        Error::Transport(error) => Failure::new(Exit::CannotConnect, error.to_string()),
        Error::Client(error) => error.into(),
        Error::System(error) => error.into(),
    }
}

impl Observer for Context {
    fn listening(&self, at: &Endpoint) {
        self.announce(&format!("listening on {at}"));
    }

    fn trouble(&self, what: &str) {
        self.complain(what);
    }
}
