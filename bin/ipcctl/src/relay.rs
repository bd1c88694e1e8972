//! `ipcctl relay`.

use std::cell::RefCell;
use std::time::Instant;

use ipcd_relay::{Error, Observer, Relay, RelaySide};
use ipcd_server::{LogOutlet, LogQuotas};
use ipcd_transport::{Endpoint, Error as TransportError};

use crate::args::RelayArgs;
use crate::context::Context;
use crate::exit::{Failure, FailureKind, Outcome};
use crate::output::visible;

pub(crate) fn run(context: &Context, args: &RelayArgs) -> Outcome {
    let relayed = relay(context, args).and_then(|relay| relay.run(&RelayRemarks::new(context)));
    relayed.map_err(|error| failure(error).during(format_args!("relay {} {}", args.from, args.to)))
}

fn relay(context: &Context, args: &RelayArgs) -> Result<Relay, Error> {
    let client = context.options();
    Ok(Relay {
        from: RelaySide::listening(&args.from)?,
        to: RelaySide::connecting(&args.to)?,
        is_raw: args.raw,
        codec: args.codec,
        children: args.fork.then_some(args.max_children as usize),
        ucspi: args.ucspi,
        timeout: client.timeout,
        daemon: context.resolve_via()?,
        client,
    })
}

/// Turns an error of the relay into a failure. An unreachable endpoint gets no advice about the daemon:
/// the endpoint is another server's.
fn failure(error: Error) -> Failure {
    match error {
        Error::Usage(what) | Error::Transport(TransportError::Endpoint(what)) => {
            Failure::new(FailureKind::Usage, what)
        }
        Error::Transport(error @ TransportError::TimedOut(_)) => {
            Failure::new(FailureKind::Timeout, format!("{error} (see --timeout)"))
        }
        Error::Transport(error) => Failure::new(FailureKind::CannotConnect, error.to_string()),
        Error::Client(error) => error.into(),
        Error::System(error) => error.into(),
    }
}

/// Remarks on standard error while peers are served. Writing never blocks, so that the relay goes on
/// when its remarks are not read; and a quota keeps hostile peers from filling the disk.
struct RelayRemarks<'a> {
    context: &'a Context,
    said: RefCell<RemarkWriter>,
}

struct RemarkWriter {
    /// The process that opened the outlet. A forked child has closed its parent's descriptors.
    process: u32,
    outlet: LogOutlet,
    quotas: LogQuotas,
}

impl<'a> RelayRemarks<'a> {
    fn new(context: &'a Context) -> Self {
        Self { context, said: RefCell::new(RemarkWriter::new()) }
    }
}

impl RemarkWriter {
    fn new() -> Self {
        let outlet = LogOutlet::stderr(|lines| format!("ipcctl: {lines} remarks were lost"));
        Self { process: std::process::id(), outlet, quotas: LogQuotas::default() }
    }
}

impl Observer for RelayRemarks<'_> {
    fn listening(&self, at: &Endpoint) {
        self.context.announce(&format!("listening on {at}"));
    }

    fn trouble(&self, what: &str) {
        let said = &mut *self.said.borrow_mut();
        if said.process != std::process::id() {
            // The parent's descriptor number may belong to another file in this child: dropping the
            // outlet would close that.
            std::mem::forget(std::mem::replace(said, RemarkWriter::new()));
        }
        let RemarkWriter { outlet, quotas, .. } = said;
        let now = Instant::now();
        for (_, lines) in quotas.report(now) {
            outlet.write(&format!("ipcctl: {lines} remarks were suppressed"), now);
        }
        if quotas.allows("peers", now) {
            outlet.write(&format!("ipcctl: {}", visible(what)), now);
        }
    }
}
