//! A command that handles messages. It is looked for before anything is subscribed to, and its
//! environment describes each message.
//!
//! A peer's bytes become values of variables that begin with `IPC_`. They never become the beginning
//! of a name, an argument, or part of a command line: a peer could otherwise set `LD_PRELOAD` or
//! inject a shell command.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use ipcd_client::{Message, Origin};
use nix::errno::Errno;
use nix::unistd::{AccessFlags, access};

use crate::exit::{Failure, FailureKind, Outcome};

/// The prefix of all variables that describe a message.
const PREFIX: &str = "IPC_";
/// Bytes of the names and values of all headers together. Beyond some 128 KiB for one variable, or a
/// few MiB for all, execve(2) fails with E2BIG.
const MAX_HEADERS: usize = 32 * 1024;
/// The search path if PATH is not set, as for execvp(3).
const DEFAULT_PATH: &str = "/bin:/usr/bin";

/// The command and its arguments.
pub(crate) struct Handler {
    program: OsString,
    arguments: Vec<OsString>,
}

impl Handler {
    /// Checks that the command can be run.
    pub(crate) fn find(words: &[OsString]) -> Outcome<Self> {
        let Some((program, arguments)) = words.split_first() else {
            return Err(Failure::new(FailureKind::Usage, "no command: give one after --"));
        };
        let found = candidate_paths(program).map(|path| is_executable(&path));
        let found: Vec<_> = found.filter(|found| *found != Err(Errno::ENOENT)).collect();
        if found.contains(&Ok(())) {
            return Ok(Self { program: program.clone(), arguments: arguments.to_vec() });
        }
        let shown = program.display();
        Err(if found.is_empty() {
            let why = format!("{shown}: no such command (give its path, or see PATH)");
            Failure::new(FailureKind::NotFound, why)
        } else {
            Failure::new(FailureKind::NotExecutable, format!("{shown}: the file is not executable"))
        })
    }

    /// The command for a message, without its standard input and output.
    pub(crate) fn command(&self, message: &Message, origin: Option<&Origin>) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.arguments);
        let is_ours = |name: &OsStr| name.as_bytes().starts_with(PREFIX.as_bytes());
        // Inherited ones describe another message, if a handler has started this tool.
        for (name, _) in std::env::vars_os().filter(|(name, _)| is_ours(name)) {
            command.env_remove(name);
        }
        command.envs(message_variables(message, origin));
        command.envs(header_variables(message.headers()));
        command
    }
}

/// The paths at which the command may be.
fn candidate_paths(program: &OsStr) -> impl Iterator<Item = PathBuf> {
    let has_slash = program.as_bytes().contains(&b'/');
    let path = std::env::var_os("PATH").unwrap_or_else(|| DEFAULT_PATH.into());
    // A command with a slash is a path (execvp(3)): joined to the empty folder it stays as it is.
    let path = if has_slash { "".into() } else { path };
    let folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    let folders = folders.into_iter().filter(|_| !program.is_empty());
    folders.map(move |folder| folder.join(program))
}

fn is_executable(path: &Path) -> Result<(), Errno> {
    match path.metadata() {
        Err(_) => Err(Errno::ENOENT),
        Ok(about) if !about.is_file() => Err(Errno::EACCES),
        // access(2) also knows ACLs and capabilities, which the mode alone does not show.
        Ok(_) => access(path, AccessFlags::X_OK).map_err(|_| Errno::EACCES),
    }
}

/// The variables that are not headers. An unknown value is left out.
fn message_variables(message: &Message, origin: Option<&Origin>) -> Vec<(&'static str, String)> {
    let number = |value: Option<u32>| value.map(|value| value.to_string());
    let all = [
        ("IPC_SUBJECT", Some(message.subject().to_owned())),
        ("IPC_REPLY", message.reply().map(str::to_owned)),
        ("IPC_ID", Some(message.id.to_string())),
        ("IPC_FROM_PEER", Some(message.sender.to_string())),
        ("IPC_TRANSPORT", origin.map(|origin| origin.transport.to_string())),
        ("IPC_FROM_NAME", origin.and_then(|origin| origin.name.clone())),
        ("IPC_FROM_UID", number(origin.and_then(|origin| origin.uid))),
        ("IPC_FROM_GID", number(origin.and_then(|origin| origin.gid))),
        ("IPC_FROM_PID", number(origin.and_then(|origin| origin.pid))),
        ("IPC_FROM_ADDR", origin.and_then(|origin| origin.addr).map(|addr| addr.to_string())),
    ];
    let known = all.into_iter().filter_map(|(name, value)| Some((name, value?)));
    // The environment holds C strings: the rest after a NUL would be lost without a word.
    known.filter(|(_, value)| !value.contains('\0')).collect()
}

/// A variable for each header. Of two with the same name, the first counts.
fn header_variables<'a>(
    headers: impl Iterator<Item = (&'a str, &'a [u8])>,
) -> BTreeMap<String, OsString> {
    let mut variables = BTreeMap::new();
    let mut left = MAX_HEADERS;
    for (key, value) in headers.filter(|(_, value)| !value.contains(&0)) {
        let name = header_variable(key);
        let bytes = name.len() + value.len();
        if bytes <= left && !variables.contains_key(&name) {
            left -= bytes;
            variables.insert(name, OsString::from_vec(value.to_vec()));
        }
    }
    variables
}

/// `IPC_HDR_` and the key in capitals, with `_` for each character other than an ASCII letter or digit.
fn header_variable(key: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' };
    format!("{PREFIX}HDR_{}", key.chars().map(plain).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exit_of(program: &str) -> Option<u8> {
        Handler::find(&[program.into()]).err().map(|failure| failure.status())
    }

    #[test]
    fn a_missing_command_is_found_out_first() {
        assert_eq!(exit_of("sh"), None);
        assert_eq!(exit_of("/bin/sh"), None);
        assert_eq!(exit_of("no-such-command-anywhere"), Some(127));
        assert_eq!(exit_of("/nonexistent/command"), Some(127));
        assert_eq!(exit_of("/"), Some(126));
        assert_eq!(exit_of("/proc/self/status"), Some(126));
        assert_eq!(exit_of(""), Some(127));
    }

    #[test]
    fn names_of_headers_become_harmless() {
        assert_eq!(header_variable("Content-Type"), "IPC_HDR_CONTENT_TYPE");
        assert_eq!(header_variable("PATH=x\n\0ä"), "IPC_HDR_PATH_X___");
    }

    #[test]
    fn values_are_bounded_and_hold_no_nul() {
        let large = vec![b'x'; MAX_HEADERS - 100];
        let headers = [
            ("a", &b"1\0"[..]),
            ("a", b"2"),
            ("A", b"3"),
            ("large", &large),
            ("beyond", &large),
            ("b", b"\xff"),
        ];
        let variables = header_variables(headers.into_iter());
        let names: Vec<_> = variables.keys().map(String::as_str).collect();
        assert_eq!(names, ["IPC_HDR_A", "IPC_HDR_B", "IPC_HDR_LARGE"]);
        assert_eq!(variables["IPC_HDR_A"], "2");
        assert_eq!(variables["IPC_HDR_B"].as_bytes(), b"\xff");
    }
}
