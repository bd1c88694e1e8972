//! `ipcctl`, the tool of the ipcd daemon: arguments in, exit status out.

mod args;
mod attended;
mod bench;
mod body;
mod chat;
mod context;
mod delivery;
mod demo;
mod exit;
mod format;
mod handler;
mod inspect;
mod job;
mod jobs;
mod json;
mod news;
mod output;
mod ping;
mod print;
mod recv;
mod reply;
mod req;
mod send;
mod serve;
mod target;

use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use crate::args::{Arguments, Verb};
use crate::context::Context;
use crate::exit::Outcome;

fn main() -> ExitCode {
    let Arguments { global, verb } = Arguments::parse();
    let context = Context::new(global);
    match run(&context, verb) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(context.format()),
    }
}

fn run(context: &Context, verb: Verb) -> Outcome {
    match verb {
        Verb::Send(args) => send::run(context, &args),
        Verb::Recv(args) => recv::run(context, &args),
        Verb::Req(args) => req::run(context, &args),
        Verb::Serve(args) => serve::run(context, &args),
        Verb::Chat(args) => chat::run(context, &args),
        Verb::Ping(args) => ping::run(context, &args),
        Verb::Transports => inspect::transports(context),
        Verb::Status => inspect::status(context),
        Verb::Clients => inspect::clients(context),
        Verb::Subs => inspect::subs(context),
        Verb::Kick { id } => inspect::kick(context, id),
        Verb::Bench(args) => bench::run(context, &args),
        Verb::Demo(args) => demo::run(context, &args),
        Verb::DemoSender(args) => demo::sender(context, &args),
        Verb::DemoReceiver(args) => demo::receiver(context, &args),
        Verb::Completion { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Arguments::command(), "ipcctl", &mut script);
            output::write_all(&script)
        }
        Verb::Version => inspect::version(context),
    }
}
