//! The context of every verb: the daemon to connect to, and remarks to the user.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use ipcd_client::{Backoff, Client, Endpoint, Error, Options, TokenSource};
use ipcd_transport::Error as TransportError;
use ipcd_transports::{TOKEN_FILE, find_runtime_dir};

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
        // Endpoints have absolute paths, and the working directory may change for a child.
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

    /// The endpoint of the daemon.
    pub(crate) fn endpoint(&self) -> Outcome<Endpoint> {
        Ok(self.resolve_via()?)
    }

    /// The same, with the plain error of the transport.
    pub(crate) fn resolve_via(&self) -> ipcd_transport::Result<Endpoint> {
        ipcd_transports::resolve(&self.global.via, &self.runtime_dir)
    }

    /// Options of a connection that is not made again after a loss.
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

    /// Connects once with these options. A missing permission is explained with the mode and the owner
    /// of the path.
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

    /// Remarks on a filter that looks like a mistake.
    pub(crate) fn remark_on_filter(&self, filter: &str) {
        if let Some(hint) = hints::of_filter(filter) {
            self.remark(&hint);
        }
    }

    /// Options of a connection that is made again after a loss.
    pub(crate) fn lasting_options(&self) -> Options {
        Options { reconnect: Some(Backoff::default()), ..self.options() }
    }

    /// Connects. With `waits`, tries again until a daemon is there.
    pub(crate) fn connect_patiently(&self, options: &Options, waits: bool) -> Outcome<Client> {
        for (attempt, pause) in Backoff::default().pauses().enumerate() {
            match self.connect_with(options.clone()) {
                Err(failure) if waits && failure.is_temporary() => {
                    // Once: a daemon may be away for hours, and each attempt fails alike.
                    if attempt == 0 {
                        self.remark(&format!("{failure}; waiting for the daemon"));
                    }
                    std::thread::sleep(pause);
                }
                connected => return connected,
            }
        }
        unreachable!("the pauses have no end")
    }

    /// Prints a line of progress on standard error, for people and scripts.
    pub(crate) fn announce(&self, text: &str) {
        if !self.global.quiet {
            say(&visible(text));
        }
    }

    /// Prints a remark for people on standard error.
    pub(crate) fn remark(&self, text: &str) {
        if !self.global.quiet {
            say(&format!("ipcctl: {}", visible(text)));
        }
    }
}
