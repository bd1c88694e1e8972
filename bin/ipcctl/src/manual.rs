//! Manual pages of the tool: one for itself and one for each verb, from the same texts as `--help`.
//!
//! The pages of the daemon, its configuration and the protocol are written by hand, in `docs/man`.

use std::fs;
use std::io;
use std::path::Path;

use clap::{Command, CommandFactory};
use clap_mangen::Man;

use crate::args::{Arguments, ManArgs};
use crate::exit::{Failure, FailureKind, Outcome};
use crate::output::write_all;

/// The sections that follow the options of the tool's own page.
const OWN_END: &str = include_str!("manual/ipcctl.roff");
/// The sections that follow the options of a verb.
const VERB_END: &str = include_str!("manual/verb.roff");

pub(crate) fn run(args: &ManArgs) -> Outcome {
    match &args.into {
        Some(dir) => write_pages(dir),
        None => write_all(&page(&find(&args.verb)?)?),
    }
}

/// The command of a page: the tool, or a verb of it.
fn find(verb: &[String]) -> Outcome<Command> {
    let mut found = named(Arguments::command(), None);
    for word in verb {
        let Some(inner) = found.find_subcommand(word).filter(|inner| !inner.is_hide_set()) else {
            let why = format!("man: there is no verb {word} (see ipcctl --help)");
            return Err(Failure::new(FailureKind::Usage, why));
        };
        found = named(inner.clone(), found.get_bin_name());
    }
    Ok(found)
}

/// A command with its whole name, as it is written, and as its page is called.
fn named(command: Command, outer: Option<&str>) -> Command {
    let own = command.get_name().to_owned();
    let whole = outer.map_or(own.clone(), |outer| format!("{outer} {own}"));
    let page_name = whole.replace(' ', "-");
    command.bin_name(whole).display_name(page_name).disable_help_subcommand(true)
}

fn write_pages(dir: &Path) -> Outcome {
    let failed = |path: &Path, error: io::Error| {
        Failure::new(FailureKind::Internal, format!("man: {}: {error}", path.display()))
    };
    fs::create_dir_all(dir).map_err(|error| failed(dir, error))?;
    let mut left = vec![named(Arguments::command(), None)];
    while let Some(command) = left.pop() {
        let name = command.get_display_name().unwrap_or_else(|| command.get_name());
        let path = dir.join(format!("{name}.1"));
        fs::write(&path, page(&command)?).map_err(|error| failed(&path, error))?;
        let inner = command.get_subcommands().filter(|inner| !inner.is_hide_set());
        left.extend(inner.map(|inner| named(inner.clone(), command.get_bin_name())));
    }
    Ok(())
}

fn page(command: &Command) -> Outcome<Vec<u8>> {
    let is_tool = command.get_bin_name() == Some("ipcctl");
    // Global options are on the tool's page only: a verb has them once it is built into the tool.
    let name = command.get_display_name().unwrap_or_else(|| command.get_name()).to_owned();
    let man = Man::new(command.clone())
        .title(name.to_uppercase())
        .section("1")
        .date(" ")
        .source(format!("ipcd {}", env!("CARGO_PKG_VERSION")))
        .manual("ipcd");
    let mut page = Vec::new();
    let mut render = || {
        man.render_title(&mut page)?;
        man.render_name_section(&mut page)?;
        man.render_synopsis_section(&mut page)?;
        man.render_description_section(&mut page)?;
        if command.get_arguments().next().is_some() {
            man.render_options_section(&mut page)?;
        }
        if command.has_subcommands() {
            man.render_subcommands_section(&mut page)?;
        }
        page.extend_from_slice(if is_tool { OWN_END } else { VERB_END }.as_bytes());
        io::Result::Ok(())
    };
    render().map_err(|error| Failure::new(FailureKind::Internal, format!("man: {error}")))?;
    Ok(page)
}
