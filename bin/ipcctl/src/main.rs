//! `ipcctl`, the tool of the ipcd daemon: arguments in, exit status out.

mod access;
mod args;
mod attended;
mod bench;
mod body;
mod chat;
mod complete;
mod context;
mod delivery;
mod demo;
mod exit;
mod format;
mod handler;
mod hints;
mod inspect;
mod job;
mod jobs;
mod json;
mod manual;
mod news;
mod output;
mod ping;
mod print;
mod recv;
mod relay;
mod reply;
mod req;
mod send;
mod serve;
mod target;

use std::process::ExitCode;

use clap::Parser;
use clap::builder::StyledStr;
use clap::error::{ContextKind, ContextValue};
use ipcd_transports::VIA_VAR;

use crate::args::{Arguments, OutputFormat, Verb};
use crate::context::Context;
use crate::exit::{Failure, FailureKind, Outcome};

fn main() -> ExitCode {
    // A parent may have left SIGCHLD ignored or signals blocked: handlers would then never be reaped.
    // As process 1 of a container, TERM would have no effect, so a child takes over. Both fail only
    // where the system has no process left, and then the verb still works.
    let _ = ipcd_sys::inherited::reset();
    let _ = ipcd_sys::leave_first_place();
    forget_empty_variable();
    let Arguments { global, verb } = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) if error.use_stderr() && wants_json() => return usage(&error),
        Err(error) if error.use_stderr() => with_own_tip(error).exit(),
        // Help or the version.
        Err(error) => {
            let text = error.render().to_string();
            return end(output::write_all(text.as_bytes()), OutputFormat::Text);
        }
    };
    let context = Context::new(global);
    end(run(&context, verb), context.format())
}

fn end(outcome: Outcome, format: OutputFormat) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(format),
    }
}

/// Treats an empty `IPCD_VIA` as unset, as other tools do with their variables.
fn forget_empty_variable() {
    if std::env::var_os(VIA_VAR).is_some_and(|via| via.is_empty()) {
        // Removing fails only where there are threads. The empty name is then refused.
        let _ = ipcd_sys::remove_variables(&[VIA_VAR]);
    }
}

/// Whether the user wants JSON, found without clap: these arguments could not be parsed.
fn wants_json() -> bool {
    // Not `args`, which panics at an argument that is not UTF-8.
    let arguments = std::env::args_os().map(|argument| argument.to_string_lossy().into_owned());
    let arguments: Vec<String> = arguments.take_while(|argument| argument != "--").collect();
    let is_json = |format: &str| matches!(format, "json" | "jsonl");
    let is_flag = |argument: &String| argument == "-j";
    let is_value = |pair: &[String]| matches!(&*pair[0], "-o" | "--output") && is_json(&pair[1]);
    let is_joined = |argument: &String| argument.strip_prefix("--output=").is_some_and(is_json);
    arguments.iter().any(|argument| is_flag(argument) || is_joined(argument))
        || arguments.windows(2).any(is_value)
}

/// Replaces clap's tip for verbs that take a command: clap suggests `-- -w` for a flag of the command,
/// which would be taken for the command itself.
fn with_own_tip(mut error: clap::Error) -> clap::Error {
    let takes_command = error.render().to_string().contains("-- <CMD>");
    if takes_command && error.get(ContextKind::Suggested).is_some() {
        let tip = StyledStr::from("write the command and its arguments after --, such as -- wc -w");
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![tip]));
    }
    error
}

/// Reports bad usage in one line of JSON.
fn usage(error: &clap::Error) -> ExitCode {
    let text = error.render().to_string();
    let lines: Vec<&str> =
        text.lines().map(str::trim).take_while(|line| !line.is_empty()).collect();
    let line = lines.join(" ");
    let why = line.strip_prefix("error: ").unwrap_or(&line);
    Failure::new(FailureKind::Usage, why).report(OutputFormat::Json)
}

fn run(context: &Context, verb: Verb) -> Outcome {
    match verb {
        Verb::Send(args) => send::run(context, &args),
        Verb::Recv(args) => recv::run(context, &args),
        Verb::Req(args) => req::run(context, &args),
        Verb::Serve(args) => serve::run(context, &args),
        Verb::Chat(args) => chat::run(context, &args),
        Verb::Relay(args) => relay::run(context, &args),
        Verb::Ping(args) => ping::run(context, &args),
        Verb::Transports => inspect::transports(context),
        Verb::Status => inspect::status(context),
        Verb::Clients => inspect::clients(context),
        Verb::Subs => inspect::subs(context),
        Verb::Kick { who } => inspect::kick(context, &who),
        Verb::Acl(verb) => access::run(context, &verb),
        Verb::Bench(args) => bench::run(context, &args),
        Verb::Demo(args) => demo::run(context, &args),
        Verb::DemoSender(args) => demo::sender(context, &args),
        Verb::DemoReceiver(args) => demo::receiver(context, &args),
        Verb::Completion { shell } => complete::script(shell),
        Verb::Complete(args) => complete::run(&args),
        Verb::Man(args) => manual::run(&args),
        Verb::Version => inspect::version(context),
    }
}
