//! What every verb needs: where the daemon is, and how to talk to the user.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use ipcd_client::{Backoff, Client, Endpoint, Error, Options, TokenSource};
use ipcd_server::TOKEN_FILE;
use ipcd_transport::Error as TransportError;
use ipcd_transports::{SYSTEM_RUNTIME_DIR, own_runtime_dir};
use nix::unistd::Uid;

use crate::args::{GlobalArgs, OutputFormat};
use crate::exit::{Failure, FailureKind, Outcome};
use crate::hints;
use crate::output::{say, visible};

pub(crate) struct Context {
    global: GlobalArgs,
    runtime_dir: PathBuf,
}

impl Context {
    pub(crate) fn new(global: GlobalArgs) -> Self {
        let given = global.runtime_dir.clone();
        let given = given.map(|dir| std::path::absolute(&dir).unwrap_or(dir));
        let runtime_dir = given.unwrap_or_else(find_runtime_dir);
        Self { global, runtime_dir }
    }

    pub(crate) fn format(&self) -> OutputFormat {
        if self.global.json { OutputFormat::Json } else { self.global.output }
    }

    pub(crate) fn runtime_dir(&self) -> &Path {
        &self.runtime_dir
    }

    /// Where the daemon is to be reached.
    pub(crate) fn endpoint(&self) -> Outcome<Endpoint> {
        Ok(self.via()?)
    }

    /// The same, for who has words of their own for what is wrong with it.
    pub(crate) fn via(&self) -> ipcd_transport::Result<Endpoint> {
        ipcd_transports::resolve(&self.global.via, &self.runtime_dir)
    }

    /// Options for a connection that ends when it is lost.
    pub(crate) fn options(&self) -> Options {
        let token = self.global.token_file.clone();
        Options {
            name: self.global.name.clone(),
            token: TokenSource::File(token.unwrap_or_else(|| self.runtime_dir.join(TOKEN_FILE))),
            token_name: self.global.token_name.clone(),
            timeout: self.global.timeout.duration(),
            ..Options::default()
        }
    }

    /// Connects, once.
    pub(crate) fn connect(&self) -> Outcome<Client> {
        self.connect_with(self.options())
    }

    /// Connects, and says what keeps this user out, if that is it.
    pub(crate) fn connect_with(&self, options: Options) -> Outcome<Client> {
        let endpoint = self.endpoint()?;
        let token = options.token.clone();
        let connected = Client::connect(&endpoint, options);
        if connected.as_ref().is_ok_and(Client::has_proved_token)
            && let Some(warning) = token.warning()
        {
            self.remark(&warning);
        }
        connected.map_err(|error| match (&error, endpoint.path()) {
            (Error::Connect(TransportError::System { source, .. }), Ok(path))
                if source.kind() == ErrorKind::PermissionDenied =>
            {
                let why = format!("{error}: {}", hints::of_denied(path));
                Failure::new(FailureKind::CannotConnect, why)
            }
            _ => error.into(),
        })
    }

    /// A remark on a filter that is hardly what the user means.
    pub(crate) fn remark_on_filter(&self, filter: &str) {
        if let Some(hint) = hints::of_filter(filter) {
            self.remark(&hint);
        }
    }

    /// Options for a connection that is made again when it is lost.
    pub(crate) fn lasting(&self) -> Options {
        Options { reconnect: Some(Backoff::default()), ..self.options() }
    }

    /// Connects; with `waits` again and again, until a daemon is there.
    pub(crate) fn reach(&self, options: &Options, waits: bool) -> Outcome<Client> {
        for (attempt, pause) in Backoff::default().pauses().enumerate() {
            match self.connect_with(options.clone()) {
                Err(failure) if waits && failure.is_temporary() => {
                    if attempt == 0 {
                        self.remark(&format!("{failure}; waiting for it"));
                    }
                    std::thread::sleep(pause);
                }
                connected => return connected,
            }
        }
        unreachable!("there is always another pause")
    }

    /// A line that says how far we are, for people and scripts.
    pub(crate) fn announce(&self, text: &str) {
        if !self.global.quiet {
            say(&visible(text));
        }
    }

    /// A remark for people.
    pub(crate) fn remark(&self, text: &str) {
        if !self.global.quiet {
            say(&format!("ipcctl: {}", visible(text)));
        }
    }
}

/// The user's own directory, or the system's if there is none.
fn find_runtime_dir() -> PathBuf {
    let own = own_runtime_dir(Uid::effective().is_root());
    let is_set = std::env::var_os(ipcd_transports::RUNTIME_DIR_VAR).is_some();
    let own = own.filter(|dir| is_set || dir.is_dir());
    own.unwrap_or_else(|| PathBuf::from(SYSTEM_RUNTIME_DIR))
}
