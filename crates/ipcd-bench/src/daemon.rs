//! The daemon between two processes: embedded, with every transport, or one that runs already.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::Path;
use std::time::{Duration, Instant};

use ipcd_client::{
    Answer, Client, DaemonStatus, Endpoint, Event, Message, Options, Publication, Query,
    SubscribeOptions, TokenSource,
};
use ipcd_proto::auth::Token;
use ipcd_server::{Config, LogLevel, StartOptions, TOKEN_FILE};
use ipcd_transport::poll_until;
use nix::poll::PollFlags;

use crate::children::{ForkedChild, WATCHDOG, fork};
use crate::end::{Lane, LaneSide, MessageEnd, PATIENCE};
use crate::message::{MessageHeader, MessageKind};
use crate::plan::RunningDaemon;
use crate::session::Session;

/// A daemon of our own, in a private directory.
pub(crate) struct EmbeddedDaemon {
    _child: ForkedChild,
    endpoints: BTreeMap<String, Endpoint>,
    options: Options,
    token: Token,
    /// The supervisor and its workers.
    pub(crate) processes: Vec<u32>,
}

impl EmbeddedDaemon {
    /// Starts it with every transport and the default configuration, which `adjust` may change. The
    /// first listener must stay: by it the daemon is asked for its status.
    pub(crate) fn start(dir: &Path, adjust: impl FnOnce(&mut Config)) -> io::Result<Self> {
        let (mut ready, ready_fd) = io::pipe()?;
        let mut config = config(dir)?;
        adjust(&mut config);
        let ready_fd = std::os::fd::OwnedFd::from(ready_fd);
        let child = fork(c"bench-ipcd", || {
            ipcd_server::init_log(config.log);
            let ready_fd = Some(ready_fd.try_clone()?);
            ipcd_server::run(config, StartOptions { ready_fd, ..StartOptions::default() })
                .map_err(io::Error::other)
        })?;
        // The parent's copy would keep the pipe open, and hide that the daemon has ended.
        drop(ready_fd);
        let came = poll_until(&ready, PollFlags::POLLIN, Instant::now() + WATCHDOG);
        if !came.map_err(io::Error::other)? || ready.read(&mut [0])? == 0 {
            return Err(io::Error::other("the embedded daemon did not start"));
        }
        let token = Token::from_text(&std::fs::read(dir.join(TOKEN_FILE))?)
            .ok_or_else(|| io::Error::other("the embedded daemon has written no valid token"))?;
        let options = Options {
            token: TokenSource::Secret(token.clone()),
            timeout: WATCHDOG,
            ..Options::default()
        };
        let first = ipcd_transports::ALL[0].default_endpoint(dir).map_err(io::Error::other)?;
        let status = status(&first, &options)?;
        let parsed = status.listeners.iter().map(|it| it.endpoint.parse::<Endpoint>());
        let endpoints = parsed.collect::<Result<Vec<_>, _>>().map_err(io::Error::other)?;
        let endpoints = endpoints.into_iter().map(|it| (it.scheme().to_owned(), it)).collect();
        let processes = processes(&status);
        Ok(Self { _child: child, endpoints, options, token, processes })
    }

    /// The endpoint and options to connect over a transport.
    pub(crate) fn via(&self, scheme: &str) -> io::Result<RunningDaemon> {
        let endpoint = self.endpoint(scheme)?.clone();
        Ok(RunningDaemon { endpoint, options: self.options.clone() })
    }

    /// Opens a session of bare frames.
    pub(crate) fn session(&self, scheme: &str) -> io::Result<Session> {
        Session::open(self.endpoint(scheme)?, &self.token)
    }

    fn endpoint(&self, scheme: &str) -> io::Result<&Endpoint> {
        let none = || io::Error::other(format!("the embedded daemon has no {scheme}"));
        self.endpoints.get(scheme).ok_or_else(none)
    }
}

fn config(dir: &Path) -> io::Result<Config> {
    let mut config = Config::default();
    config.log.level = LogLevel::Warn;
    config.daemon.runtime_dir = Some(dir.to_owned());
    let listen = ipcd_transports::default_endpoints(dir)
        .map(|endpoint| endpoint.with_any_port().to_string().parse());
    config.listeners = listen.collect::<Result<_, _>>().map_err(io::Error::other)?;
    Ok(config)
}

fn status(at: &Endpoint, options: &Options) -> io::Result<DaemonStatus> {
    let mut client = Client::connect(at, options.clone()).map_err(io::Error::other)?;
    match client.query(&Query::Status).map_err(io::Error::other)?.into_iter().next() {
        Some(Answer::Status(status)) => Ok(status),
        _ => Err(io::Error::other("the daemon did not answer with its status")),
    }
}

fn processes(status: &DaemonStatus) -> Vec<u32> {
    std::iter::once(status.pid).chain(status.workers.iter().map(|worker| worker.pid)).collect()
}

/// The processes of a daemon that runs already; none if it does not say.
pub(crate) fn processes_of(running: &RunningDaemon) -> Vec<u32> {
    status(&running.endpoint, &running.options).map(|status| processes(&status)).unwrap_or_default()
}

/// A subject there, and one back.
pub(crate) struct SubjectLane {
    pub(crate) daemon: RunningDaemon,
    /// Different for each lane, but the same for all receivers of a fan-out.
    pub(crate) name: String,
    /// Whether something comes back.
    pub(crate) is_two_way: bool,
    /// Whether the daemon's requests and replies are used.
    pub(crate) are_requests: bool,
}

impl Lane for SubjectLane {
    fn open(&mut self, side: LaneSide) -> io::Result<Box<dyn MessageEnd>> {
        let connected = Client::connect(&self.daemon.endpoint, self.daemon.options.clone());
        let mut client = connected.map_err(io::Error::other)?;
        let (there, back) = (format!("{}.there", self.name), format!("{}.back", self.name));
        let (to, from) = if side == LaneSide::Near { (there, back) } else { (back, there) };
        let subscribes = match side {
            LaneSide::Far => true,
            LaneSide::Near => self.is_two_way && !self.are_requests,
        };
        if subscribes {
            client.subscribe(&from, SubscribeOptions::default()).map_err(io::Error::other)?;
        }
        Ok(match self.are_requests {
            true => Box::new(RequestEnd { client, to, request: None }),
            false => Box::new(ClientEnd { client, to }),
        })
    }
}

struct ClientEnd {
    client: Client,
    to: String,
}

impl MessageEnd for ClientEnd {
    fn send(&mut self, message: &[u8]) -> io::Result<()> {
        self.client.publish(&self.to, message).map_err(io::Error::other)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.client.push().map_err(io::Error::other)
    }

    fn finish(&mut self) -> io::Result<()> {
        self.client.flush().map_err(io::Error::other)
    }

    fn receive(&mut self, take: &mut dyn FnMut(&[u8])) -> io::Result<usize> {
        receive(&mut self.client, |event| {
            // A dropped message is noticed by its missing number.
            if let Event::Message(message) = event {
                take(message.payload());
            }
        })
    }
}

/// The near end requests, and the far end replies to the last request.
struct RequestEnd {
    client: Client,
    to: String,
    request: Option<Message>,
}

/// The time limit of a request.
const REQUEST: Duration = Duration::from_secs(10);

impl MessageEnd for RequestEnd {
    fn send(&mut self, message: &[u8]) -> io::Result<()> {
        let is_end =
            MessageHeader::read(message).is_some_and(|header| header.kind == MessageKind::End);
        let sent = match self.request.take() {
            Some(request) => self.client.reply(&request, message),
            None if is_end => self.client.publish(&self.to, message),
            None => {
                let subject = &self.to;
                let message = Publication { subject, payload: message, ..Publication::default() };
                self.client.start_request(&message, REQUEST).map(drop)
            }
        };
        sent.map_err(io::Error::other)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.client.push().map_err(io::Error::other)
    }

    fn finish(&mut self) -> io::Result<()> {
        self.client.flush().map_err(io::Error::other)
    }

    fn receive(&mut self, take: &mut dyn FnMut(&[u8])) -> io::Result<usize> {
        let (request, mut failed) = (&mut self.request, None);
        let count = receive(&mut self.client, |event| match event {
            Event::Message(message) => {
                take(message.payload());
                *request = Some(message).filter(|message| message.is_request);
            }
            Event::Reply { reply: Ok(message), .. } => take(message.payload()),
            Event::Reply { reply: Err(error), .. } => failed = Some(io::Error::other(error)),
            _ => {}
        })?;
        failed.map_or(Ok(count), Err)
    }
}

/// Waits for events, and gives all that are there to `take`.
fn receive(client: &mut Client, mut take: impl FnMut(Event)) -> io::Result<usize> {
    let deadline = Instant::now() + PATIENCE;
    let Some(first) = client.next_event(Some(deadline)).map_err(io::Error::other)? else {
        return Ok(0);
    };
    take(first);
    let mut count = 1;
    while client.has_event() {
        let Some(event) = client.next_event(Some(deadline)).map_err(io::Error::other)? else {
            break;
        };
        take(event);
        count += 1;
    }
    Ok(count)
}
