//! A worker: the loop that serves peers.
//!
//! Each turn waits, reads what is ready, looks at the time, and then does what the router asks
//! for. It starts in a freshly forked child, and knows the supervisor by its link only.

mod bare;
mod buffers;
mod crossing;
mod lacking;
mod peers;

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Instant;

use ipcd_core::{DirectoryRequest, DirectoryState, Output, PeerInfo, PeerKey, Principal, Router};
use ipcd_proto::control::Origin;
use ipcd_sys::marks::Marks;
use ipcd_sys::{MAX_PASSED, close_all_except};
use ipcd_transport::{Channel, ChannelParts, PeerIdentity, ReadBuffer, Transport};
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::signal::Signal;
use nix::unistd::{Pid, getppid};
use tracing::{debug, info, warn};

use crate::alarm::Alarm;
use crate::connection::{Connection, Token};
use crate::ids::{AdmissionId, OwnerId};
use crate::inbox::{Inboxes, Places};
use crate::lacking::is_exhaustion;
use crate::link::{Gone, Link, PEERS, Received, ToSupervisor, ToWorker, is_too_long};
use crate::listen::Dialect;
use crate::refusal::tell_refusal;
use crate::sandbox::Sandbox;
use crate::translator::Translator;
use crate::{Error, log, privileges};

/// Bytes that one read may take: what the kernel holds of a stream, and so one turn's share.
const SCRATCH_BYTES: usize = 256 * 1024;
const RESTS: usize = 16;
/// After so much was given back to the allocator at once, so does the allocator to the system. It
/// would keep what is not at the end of its heap, which is most of what a burst has needed.
const TRIMMED_BYTES: usize = 256 * 1024;
/// Steps of handshakes that are taken in a turn: a signature is some milliseconds. The others wait in
/// the kernel, which names them in their order.
const HANDSHAKE_STEPS: usize = 1;
/// Why a peer is not served that a worker has no descriptor for.
const NO_DESCRIPTOR: &str = "no descriptor is left for it: see RLIMIT_NOFILE";
/// Events taken from the kernel at once.
const EVENTS: usize = 256;

/// The link's token; no connection has it, for their numbers begin at 1.
const LINK: Token = Token { place: 0, number: 0 };
/// The inbox's.
const INBOX: Token = Token { place: 1, number: 0 };
/// The alarm's.
const ALARM: Token = Token { place: 2, number: 0 };
/// The way into the inbox of slot 0, and then of the others.
const FIRST_WAY: Token = Token { place: 3, number: 0 };

/// What a worker is given at its birth.
pub(crate) struct Birth<'a> {
    pub(crate) link: &'a Link,
    pub(crate) inboxes: &'a mut Places,
    pub(crate) supervisor: Pid,
    pub(crate) core: ipcd_core::Config,
    /// What all workers know, if there are several.
    pub(crate) shared: Option<DirectoryState>,
    /// The one peer that the worker is born for, with `--fork connection`.
    pub(crate) only: Option<NewPeer>,
    pub(crate) user: Option<privileges::Drop>,
    pub(crate) sandbox: &'a Sandbox,
    pub(crate) mark: Mark,
    /// Becomes standard input and output.
    pub(crate) null: &'a File,
    /// And for standard error: the pipe that it logs through.
    pub(crate) log: &'a OwnedFd,
}

/// Where a worker notes whom it is serving: a place in memory that outlives it.
pub(crate) struct Mark {
    pub(crate) marks: Marks,
    pub(crate) place: usize,
}

impl Mark {
    fn set(&self, AdmissionId(number): AdmissionId) {
        self.marks.set(self.place, number);
    }
}

/// A peer to be served.
pub(crate) struct NewPeer {
    /// The supervisor's number for it.
    pub(crate) number: AdmissionId,
    /// The listener, server or program that it belongs to.
    pub(crate) owner: OwnerId,
    pub(crate) transport: &'static dyn Transport,
    pub(crate) parts: ChannelParts,
    /// What it says and hears, if it is a bare one.
    pub(crate) dialect: Option<Dialect>,
}

/// Runs a worker in a freshly forked child; returns its exit status.
pub(crate) fn main(birth: Birth<'_>) -> i32 {
    let ended = start(birth).and_then(|mut worker| {
        let ended = worker.run();
        // The kernel closes hundreds of descriptors at once, faster than we one by one.
        std::mem::forget(worker);
        ended
    });
    match ended {
        Ok(()) => 0,
        Err(error) => {
            tracing::error!(%error, "worker failed");
            1
        }
    }
}

fn start(mut birth: Birth<'_>) -> Result<Worker, Error> {
    let (slot, generation) = (birth.core.slot, birth.core.generation);
    let (inboxes, link) = Inboxes::take(birth.inboxes, slot, generation, birth.link)
        .map_err(|error| Error::system("take the link and the inbox", error))?;
    let mut keep: Vec<_> = inboxes.descriptors().chain([link.as_fd()]).collect();
    let only = birth.only.iter().flat_map(|only| &only.parts.descriptors);
    keep.extend(only.map(AsFd::as_fd));
    log::become_worker(birth.null, birth.log)
        .map_err(|error| Error::system("set the standard descriptors", error))?;
    close_all_except(&keep).map_err(|error| Error::system("close inherited descriptors", error))?;
    if let Some(user) = birth.user {
        user.apply()?;
    }
    // After the change of user, which resets it (prctl(2)).
    set_pdeathsig(Signal::SIGKILL).map_err(|error| Error::system("set PDEATHSIG", error))?;
    if getppid() != birth.supervisor {
        return Err(Error::Config("the supervisor is gone".into()));
    }
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)
        .map_err(|error| Error::system("make an epoll instance", error))?;
    epoll
        .add(&link, EpollEvent::new(EpollFlags::EPOLLIN, LINK.to_u64()))
        .map_err(|error| Error::system("watch the link", error))?;
    epoll
        .add(inboxes.own(), EpollEvent::new(EpollFlags::EPOLLIN, INBOX.to_u64()))
        .map_err(|error| Error::system("watch the inbox", error))?;
    let alarm = Alarm::new().map_err(|error| Error::system("make a timer", error))?;
    epoll
        .add(&alarm, EpollEvent::new(EpollFlags::EPOLLIN, ALARM.to_u64()))
        .map_err(|error| Error::system("watch the timer", error))?;
    let (most, _) = getrlimit(Resource::RLIMIT_NOFILE)
        .map_err(|error| Error::system("ask for the limit on descriptors", error))?;
    let last_descriptor = most.saturating_sub(MAX_PASSED as u64);
    let shared = inboxes.descriptors().chain([link.as_fd()]);
    birth.sandbox.enter(shared, alarm.as_fd())?;
    birth.core.daemon.worker = std::process::id();
    let slots = birth.shared.as_ref().map_or(0, |shared| shared.generations.len());
    let mut worker = Worker {
        epoll,
        alarm,
        link,
        link_is_blocked: false,
        inboxes,
        full_inboxes: vec![false; slots],
        has_heard_nonsense: false,
        serves_one: birth.only.is_some(),
        last_descriptor,
        reads_peers: true,
        quiescing: false,
        core: Router::new(birth.core, birth.shared),
        connections: Vec::new(),
        next_number: 1,
        scratch: ReadBuffer::new(SCRATCH_BYTES, 0),
        rests: Vec::with_capacity(RESTS),
        ticks: BinaryHeap::new(),
        retry_at: None,
        gone: Vec::new(),
        opened: Vec::new(),
        mark: birth.mark,
        draining: false,
        handshake_steps: 0,
        now: Instant::now(),
    };
    worker.tell(&ToSupervisor::Ready)?;
    if let Some(only) = birth.only {
        worker.admit(only);
        worker.obey_router()?;
    }
    worker.watch_link()?;
    Ok(worker)
}

/// A channel, and what translates for it.
type Taken = (Box<dyn Channel>, Option<Box<Translator>>);

fn nonce() -> Result<[u8; 32], Error> {
    let mut nonce = [0; 32];
    let failed = |error: getrandom::Error| std::io::Error::other(error.to_string());
    getrandom::fill(&mut nonce)
        .map_err(|error| Error::system("get random bytes", failed(error)))?;
    Ok(nonce)
}

struct Worker {
    epoll: Epoll,
    alarm: Alarm,
    link: Link,
    link_is_blocked: bool,
    inboxes: Inboxes,
    /// Which inboxes take no more for now.
    full_inboxes: Vec<bool>,
    has_heard_nonsense: bool,
    /// Whether the worker ends with its peer.
    serves_one: bool,
    /// From this number on there may be no room for the descriptors of another peer.
    last_descriptor: u64,
    /// Whether peers are read.
    reads_peers: bool,
    /// Whether the supervisor wants to know when nothing is on
    /// its way to other workers.
    quiescing: bool,
    core: Router,
    connections: Vec<Option<Connection>>,
    next_number: u32,
    scratch: ReadBuffer,
    /// Memory of rests that were used up, for the next ones.
    rests: Vec<ReadBuffer>,
    ticks: BinaryHeap<Reverse<(Instant, Token)>>,
    /// When to try again what the kernel had no memory for.
    retry_at: Option<Instant>,
    /// Peers that have gone, of which the supervisor was not told yet.
    gone: Vec<Gone>,
    /// Peers that have proved their tokens, likewise.
    opened: Vec<AdmissionId>,
    /// Where the supervisor finds whom this worker was serving when it died.
    mark: Mark,
    draining: bool,
    /// Steps of handshakes that this turn has taken.
    handshake_steps: usize,
    /// The time of this turn.
    now: Instant,
}

impl Worker {
    /// Serves until the supervisor is gone, or it is time to end and all peers have left.
    fn run(&mut self) -> Result<(), Error> {
        let mut events = [EpollEvent::empty(); EVENTS];
        while !self.is_over()? {
            let count = self.wait(&mut events)?;
            self.now = Instant::now();
            self.handshake_steps = 0;
            for event in &events[..count] {
                match Token::from_u64(event.data()) {
                    LINK => {
                        if !self.hear_supervisor()? {
                            return Ok(());
                        }
                    }
                    INBOX => drop(self.hear_others()?),
                    // What is due is looked at in each turn.
                    ALARM => {
                        let stopped = self.alarm.stop();
                        stopped.map_err(|error| Error::system("read the timer", error))?;
                    }
                    Token { place, number: 0 } => self.inbox_has_room(place - FIRST_WAY.place)?,
                    token => self.handle(token, event.events()),
                }
            }
            self.look_at_time();
            self.try_again()?;
            self.obey_router()?;
            self.go_on()?;
            self.report_gone()?;
        }
        // What it has counted outlives it.
        let counted = DirectoryRequest::Counted(self.core.last_counters());
        self.request(counted)
    }

    /// Tells the supervisor something, and for whom.
    fn request(&mut self, request: DirectoryRequest) -> Result<(), Error> {
        let connection = request.principal().and_then(|by| self.connection(by.key));
        let by = connection.map_or(AdmissionId::NONE, |connection| connection.admission);
        self.tell(&ToSupervisor::DirectoryRequest { by, request })
    }

    /// Does a slice of what had to be put off, which may be much: others come first, and come soon.
    fn go_on(&mut self) -> Result<(), Error> {
        if !self.core.has_deferred() {
            return Ok(());
        }
        let key = self.core.next_deferred();
        let number = key
            .and_then(|key| self.connection(key))
            .map_or(AdmissionId::NONE, |found| found.admission);
        self.mark.set(number);
        self.core.go_on(self.now);
        self.obey_router()
    }

    /// Whether nothing is left to be done. A child whose peer has gone ends only when the others know
    /// of it and its inbox is empty; when the daemon ends, nobody is left who could take over.
    fn is_over(&mut self) -> Result<bool, Error> {
        if !(self.draining || self.serves_one) || self.core.peer_count() > 0 {
            return Ok(false);
        }
        let may_end = self.draining || self.core.leave(self.now);
        self.obey_router()?;
        self.report_gone()?;
        Ok(may_end && self.core.is_forwarded())
    }

    fn wait(&mut self, events: &mut [EpollEvent]) -> Result<usize, Error> {
        let ticks = self.ticks.peek().map(|Reverse((at, _))| *at);
        let pauses = ticks.into_iter().chain(self.retry_at);
        let next = self.core.next_deadline().into_iter().chain(pauses).min();
        self.mark.set(AdmissionId::NONE);
        if let Some(at) = next {
            self.alarm.set(at).map_err(|error| Error::system("set the timer", error))?;
        }
        let most = if self.core.has_deferred() { EpollTimeout::ZERO } else { EpollTimeout::NONE };
        match self.epoll.wait(events, most) {
            Ok(count) => Ok(count),
            Err(Errno::EINTR) => Ok(0),
            Err(error) => Err(Error::system("wait for events", error)),
        }
    }

    /// Does what the supervisor says; false when it is gone.
    fn hear_supervisor(&mut self) -> Result<bool, Error> {
        self.link.flush().map_err(|error| Error::system("write to the link", error))?;
        loop {
            let received = self.link.receive();
            match received.map_err(|error| Error::system("read the link", error))? {
                Received::NotReady => return Ok(true),
                Received::Closed => return Ok(false),
                Received::Message(ToWorker::LetGo(number), _) => self.let_go(number),
                Received::Message(ToWorker::Displace { number, why, may_prove }, _) => {
                    self.displace(number, &why, may_prove);
                }
                Received::Message(ToWorker::Quiesce, _) => self.quiesce()?,
                Received::Message(ToWorker::Drain, _) => {
                    // What others have accepted is here by now.
                    while self.hear_others()? || self.core.has_deferred() {
                        self.core.go_on(self.now);
                    }
                    self.draining = true;
                    self.core.drain(self.now);
                }
                Received::Message(ToWorker::DirectoryEvent(news), _) => {
                    self.core.hear_news(self.now, news)
                }
                Received::Message(ToWorker::Configure(live), _) => {
                    self.configure(*live);
                }
                Received::Message(ToWorker::Distrust { owner, may_return }, _) => {
                    self.core.distrust(self.now, owner.0, may_return);
                }
                Received::Message(ToWorker::Redirect { owner, dialect }, _) => {
                    self.redirect(owner, &dialect);
                }
                Received::Message(
                    ToWorker::Admit { number, owner, scheme, identity, state, dialect },
                    fds,
                ) => {
                    let parts = ChannelParts { descriptors: fds, identity, state };
                    let transport = ipcd_transports::find(&scheme)?;
                    self.admit(NewPeer { number, owner, transport, parts, dialect });
                }
            }
        }
    }

    fn admit(&mut self, peer: NewPeer) {
        let NewPeer { number, owner, transport, parts, dialect } = peer;
        let identity = parts.identity.clone();
        if parts.descriptors.is_empty() {
            return self.reject(number, transport, &identity, NO_DESCRIPTOR);
        }
        // While there is still room for the next one, whose own descriptors are needed to tell it why.
        if parts.descriptors.iter().any(|fd| fd.as_raw_fd() as u64 >= self.last_descriptor) {
            tell_refusal(transport, parts, dialect.is_some(), NO_DESCRIPTOR);
            return self.reject(number, transport, &identity, NO_DESCRIPTOR);
        }
        let (challenge, (channel, translator)) = match self.take_up(transport, parts, dialect) {
            Ok(taken) => taken,
            Err(error) => return self.reject(number, transport, &identity, &error.to_string()),
        };
        let origin = Origin {
            peer: 0,
            name: None,
            transport: transport.scheme().into(),
            pid: identity.pid,
            uid: identity.uid,
            gid: identity.gid,
            addr: identity.addr,
        };
        let bare = translator.as_ref().map(|translator| translator.session());
        let must_prove = challenge.is_some();
        let key =
            self.core.attach(self.now, PeerInfo { listener: owner.0, origin, challenge, bare });
        let peer = self.core.origin(key).peer;
        let source = self.source_of(&identity);
        info!(%source, peer, transport = %transport.scheme(), %identity, "peer connected");
        let place = key.0 as usize;
        if self.connections.len() <= place {
            self.connections.resize_with(place + 1, || None);
        }
        let token = Token { place: key.0, number: self.next_number };
        self.next_number = self.next_number.checked_add(1).unwrap_or(1);
        let mut connection = Connection::new(channel, translator, token, number);
        connection.must_prove = must_prove;
        self.connections[place] = Some(connection);
        // What came during the rendezvous is there already, and no event will tell.
        if !self.connection(key).is_some_and(|found| found.channel.is_shaking_hands()) {
            self.read(key);
        }
        self.served(key);
        self.tick(key);
        self.rearm(key);
    }

    /// Makes a channel of what was handed over, with what translates for it if it is a bare one. A
    /// peer that only an address is known of must prove that it holds a token, if it can.
    fn take_up(
        &self,
        transport: &dyn Transport,
        parts: ChannelParts,
        dialect: Option<Dialect>,
    ) -> Result<(Option<[u8; 32]>, Taken), Error> {
        let is_vouched = transport.capabilities().identity.is_vouched();
        let Some(dialect) = dialect else {
            let channel = transport.adopt(parts)?;
            let challenge = if is_vouched { None } else { Some(nonce()?) };
            return Ok((challenge, (channel, None)));
        };
        let (addr, is_chosen) = (parts.identity.addr, dialect.chosen);
        let raw = transport
            .raw()
            .ok_or_else(|| Error::Config(format!("{} takes frames only", transport.scheme())))?;
        let bare = raw.adopt_raw(parts)?;
        let mut translator = Translator::new(dialect, &bare, self.core.max_payload());
        let is_distant = addr.is_some_and(|addr| !addr.is_loopback());
        if addr.is_some() && !is_chosen && bare.has_end {
            translator.look_for_browser();
        }
        if is_distant && !is_chosen && !transport.capabilities().reliable {
            translator.distrust();
        }
        Ok((None, (bare.channel, Some(Box::new(translator)))))
    }

    /// The source that a line about a peer is charged to.
    fn source_of(&self, identity: &PeerIdentity) -> Principal {
        Principal::of(identity.uid, identity.addr, self.core.prefixes())
    }

    fn reject(
        &mut self,
        number: AdmissionId,
        transport: &dyn Transport,
        who: &PeerIdentity,
        why: &str,
    ) {
        let source = self.source_of(who);
        warn!(%source, transport = %transport.scheme(), identity = %who, why, "peer not served");
        self.gone.push(Gone { number, was_cut_off: true });
    }

    fn look_at_time(&mut self) {
        self.core.tick(self.now);
        if self.core.take_released() >= TRIMMED_BYTES {
            self.rests.clear();
            self.scratch = ReadBuffer::new(SCRATCH_BYTES, 0);
            ipcd_sys::trim_memory();
        }
        while let Some(Reverse((at, token))) = self.ticks.peek().copied()
            && at <= self.now
        {
            self.ticks.pop();
            let key = PeerKey(token.place);
            let connection = self.connection(key);
            if let Some(connection) = connection.filter(|found| found.token == token)
                && connection.tick_at == Some(at)
            {
                connection.tick_at = None;
                self.tick(key);
                self.rearm(key);
            }
        }
    }

    fn obey_router(&mut self) -> Result<(), Error> {
        while let Some(output) = self.core.poll_output() {
            match output {
                Output::Write(key) => {
                    self.write(key);
                    self.served(key);
                    self.rearm(key);
                }
                Output::Resume(key) => self.resume(key),
                Output::Opened(key) => {
                    self.note_opened(key);
                    let origin = self.core.origin(key);
                    let source = Principal::of(origin.uid, origin.addr, self.core.prefixes());
                    debug!(%source, peer = origin.peer, name = ?origin.name, "session open");
                }
                Output::Denied(key, why) => self.note_denied(key, &why),
                Output::Close(key, why) => self.close(key, why),
                Output::Drop(key, why) => self.detach(key, &why),
                Output::Forward(slot) => self.forward(slot)?,
                Output::Tell(request) => self.request(request)?,
            }
        }
        // Also when nothing is left to be sent because the one it was for has died.
        self.say_if_quiet()
    }

    /// Waits for room on the link, if something waits for it.
    fn watch_link(&mut self) -> Result<(), Error> {
        if self.link.lacks_memory() {
            self.retry_soon();
        }
        let is_blocked = self.link.waiting() > 0 && !self.link.lacks_memory();
        if self.link_is_blocked == is_blocked {
            return Ok(());
        }
        let write = if is_blocked { EpollFlags::EPOLLOUT } else { EpollFlags::empty() };
        let mut event = EpollEvent::new(EpollFlags::EPOLLIN | write, LINK.to_u64());
        match self.epoll.modify(&self.link, &mut event) {
            Ok(()) => self.link_is_blocked = is_blocked,
            Err(error) if is_exhaustion(error) => self.retry_soon(),
            Err(error) => return Err(Error::system("watch the link", error)),
        }
        Ok(())
    }

    fn report_gone(&mut self) -> Result<(), Error> {
        while !self.opened.is_empty() {
            let batch = self.opened.split_off(self.opened.len().saturating_sub(PEERS));
            self.tell(&ToSupervisor::Opened(batch))?;
        }
        while !self.gone.is_empty() {
            let batch = self.gone.split_off(self.gone.len().saturating_sub(PEERS));
            self.tell(&ToSupervisor::Gone(batch))?;
        }
        self.watch_link()
    }

    fn tell(&mut self, message: &ToSupervisor) -> Result<(), Error> {
        match self.link.send(message, Vec::<OwnedFd>::new()) {
            // Whoever waits for it runs into a time-out, which is better than to end for it.
            Err(error) if is_too_long(&error) => {
                tracing::error!(%error, "the supervisor is not told something");
                Ok(())
            }
            sent => sent.map_err(|error| Error::system("write to the link", error)),
        }
    }
}
