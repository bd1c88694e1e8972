//! An invalid configuration.

use std::fs;
use std::process::Command;

use crate::{RunningProcess, ipcd};

/// The error of `ipcd -t` for a configuration, from the line number on.
///
/// # Panics
/// If the configuration is accepted, or the error does not name the file.
pub fn refusal(text: &str) -> String {
    let dir = crate::private_dir();
    let file = dir.path().join("ipcd.toml");
    fs::write(&file, text).expect("the directory is writable");
    let said = RunningProcess::start(Command::new(ipcd()).arg("-t").arg("-c").arg(&file)).wait();
    let said = said.expect(2).stderr;
    let place = format!("{}:", file.display());
    let rest =
        said.strip_prefix(&place).unwrap_or_else(|| panic!("the error names no line: {said}"));
    rest.to_owned()
}
