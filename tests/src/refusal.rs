//! A configuration that is no good.

use std::fs;
use std::process::Command;

use crate::{Running, ipcd};

/// What `ipcd -t` says of a configuration, from the line on.
///
/// # Panics
/// If it takes it, or does not name the file.
pub fn refusal(text: &str) -> String {
    let dir = crate::private_dir();
    let file = dir.path().join("ipcd.toml");
    fs::write(&file, text).expect("the directory is ours");
    let said = Running::start(Command::new(ipcd()).arg("-t").arg("-c").arg(&file)).wait();
    let said = said.expect(2).stderr;
    let place = format!("{}:", file.display());
    let rest = said.strip_prefix(&place).unwrap_or_else(|| panic!("it names no place: {said}"));
    rest.to_owned()
}
