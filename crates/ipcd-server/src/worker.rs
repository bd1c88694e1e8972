//! A worker: the loop that serves peers.
//!
//! Each turn waits, reads what is ready, looks at the time, and then does what the router asks
//! for. It starts in a freshly forked child, and knows the supervisor by its link only.

mod connection;
mod connection_table;
mod init;
mod nats_peers;
mod other_workers;
mod peer_io;
mod peer_sessions;
mod raw_peers;
mod read_buffers;
mod supervisor_link;
mod tick_queue;

use std::os::fd::OwnedFd;
use std::time::Instant;

use ipcd_core::{
    DirectoryChange, DirectoryEvent, DirectoryRequest, Output, PeerKey, Principal, Router,
};
use ipcd_proto::limits::{MAX_MAX_PAYLOAD, largest_frame};
use ipcd_transport::ChannelParts;
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags, EpollTimeout};
use tracing::debug;

use self::connection::EventToken;
use self::connection_table::ConnectionTable;
use self::init::{ConfinedWorker, confine};
pub(crate) use self::init::{CrashMarker, NewPeer, WorkerInit};
pub(crate) use self::nats_peers::NatsFacts;
use self::other_workers::{ForwardOutcome, OtherWorkers, ReceivedRecord};
use self::read_buffers::ReadBuffers;
use self::supervisor_link::SupervisorLink;
use self::tick_queue::TickQueue;
use crate::Error;
use crate::alarm::WakeupTimer;
use crate::ids::AdmissionId;
use crate::lacking::PAUSE;
use crate::link::{ReceiveOutcome, ToSupervisor, ToWorker};

/// After so much was given back to the allocator at once, so does the allocator to the system. It
/// would keep what is not at the end of its heap, which is most of what a burst has needed.
const TRIMMED_BYTES: usize = 256 * 1024;
/// Steps of handshakes that are taken in a turn: a signature is some milliseconds. The others wait in
/// the kernel, which reports them in their order.
const HANDSHAKE_STEPS: usize = 1;
/// Events taken from the kernel at once.
const EVENTS: usize = 256;
/// Records taken of other workers in one turn, as far as each gets at least one.
const RECORDS: usize = 16;

/// The link's token; no connection has it, for their numbers begin at 1.
const LINK: EventToken = EventToken { place: 0, number: 0 };
const ALARM: EventToken = EventToken { place: 1, number: 0 };
/// The socket to the worker in slot 0; those of the others follow.
const FIRST_OTHER: EventToken = EventToken { place: 2, number: 0 };

/// Runs a worker in a freshly forked child; returns its exit status.
pub(crate) fn main(init: WorkerInit<'_>) -> i32 {
    let ended = Worker::start(init).and_then(|mut worker| {
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

struct Worker {
    epoll: Epoll,
    alarm: WakeupTimer,
    link: SupervisorLink,
    others: OtherWorkers,
    generation: u32,
    router: Router,
    connections: ConnectionTable,
    buffers: ReadBuffers,
    /// Memory for frames that adapters make, and for bytes that they stage.
    frames: Vec<u8>,
    spare: Vec<u8>,
    ticks: TickQueue,
    /// Whether the worker ends with its peer.
    serves_one: bool,
    /// From this number on there may be no room for the descriptors of another peer.
    last_descriptor: u64,
    /// Whether peers are read.
    reads_peers: bool,
    /// Whether the supervisor waits for the report that nothing is on its way to other workers.
    must_report_quiet: bool,
    /// The time to try again what the kernel had no memory for.
    retry_at: Option<Instant>,
    /// Tells the supervisor which peer this worker was serving when it died.
    mark: CrashMarker,
    is_draining: bool,
    /// Steps of handshakes that this turn has taken.
    handshake_steps: usize,
    /// The time of this turn.
    now: Instant,
}

impl Worker {
    fn start(mut init: WorkerInit<'_>) -> Result<Self, Error> {
        let confined = confine(&mut init)?;
        let ConfinedWorker { epoll, alarm, link, last_descriptor } = confined;
        let link = SupervisorLink::new(link, LINK, &epoll)?;
        epoll
            .add(&alarm, EpollEvent::new(EpollFlags::EPOLLIN, ALARM.to_u64()))
            .map_err(|error| Error::system("watch the timer", error))?;
        init.router_config.daemon.worker = std::process::id();
        let mut worker = Self {
            epoll,
            alarm,
            link,
            others: OtherWorkers::new(FIRST_OTHER),
            generation: init.router_config.generation,
            router: Router::new(init.router_config, init.directory),
            connections: ConnectionTable::default(),
            buffers: ReadBuffers::new(),
            frames: Vec::new(),
            spare: Vec::new(),
            ticks: TickQueue::default(),
            serves_one: init.only.is_some(),
            last_descriptor,
            reads_peers: true,
            must_report_quiet: false,
            retry_at: None,
            mark: init.mark,
            is_draining: false,
            handshake_steps: 0,
            now: Instant::now(),
        };
        // Only now that it is confined. It has read no byte of a peer yet.
        worker.link.send(&ToSupervisor::Ready)?;
        // The outputs for this peer must go out before the first wait: no event announces them.
        if let Some(only) = init.only {
            worker.admit_peer(only);
            worker.obey_router()?;
        }
        worker.arm_link()?;
        Ok(worker)
    }

    /// Serves until the supervisor is gone, or it is time to end and all peers have left.
    fn run(&mut self) -> Result<(), Error> {
        let mut events = [EpollEvent::empty(); EVENTS];
        while !self.is_over()? {
            let count = self.wait_for_events(&mut events)?;
            // The clock is read once a turn, so that all deadlines of the turn are compared with
            // one time.
            self.now = Instant::now();
            self.handshake_steps = 0;
            for event in &events[..count] {
                match EventToken::from_u64(event.data()) {
                    LINK => {
                        if !self.read_link()? {
                            // A worker does not outlive its supervisor: nothing else could end or
                            // replace it.
                            return Ok(());
                        }
                    }
                    // Each turn looks at the time anyway.
                    ALARM => {
                        let stopped = self.alarm.stop();
                        stopped.map_err(|error| Error::system("read the timer", error))?;
                    }
                    EventToken { place, number: 0 } => {
                        self.serve_other(place - FIRST_OTHER.place, event.events())?;
                    }
                    token => self.handle_event(token, event.events()),
                }
            }
            // After the events: a peer that was heard in this turn must not count as silent.
            self.look_at_time();
            self.try_again()?;
            self.obey_router()?;
            self.run_deferred()?;
            self.report_peers()?;
        }
        // The counters outlive the worker.
        let counted = DirectoryRequest::Counted(self.router.last_counters());
        self.send_request(counted)
    }

    /// Asks the supervisor for something, with the peer that it is for.
    fn send_request(&mut self, request: DirectoryRequest) -> Result<(), Error> {
        let principal = request.requesting_peer();
        let connection = principal.and_then(|by| self.connections.get(by.key));
        let by = connection.map_or(AdmissionId::NONE, |connection| connection.admission);
        self.link.send(&ToSupervisor::DirectoryRequest { by, request })
    }

    /// Does a slice of the work that had to be put off. There may be much of it: other peers are
    /// served first, and again soon.
    fn run_deferred(&mut self) -> Result<(), Error> {
        if !self.router.has_deferred() {
            return Ok(());
        }
        let key = self.router.next_deferred();
        let connection = key.and_then(|key| self.connections.get(key));
        self.mark.set(connection.map_or(AdmissionId::NONE, |found| found.admission));
        self.router.run_deferred(self.now);
        self.obey_router()
    }

    /// Whether nothing is left to do. A child whose peer has gone ends only when the other workers know
    /// of it and its inbox is empty; when the daemon ends, no worker is left that could take over.
    fn is_over(&mut self) -> Result<bool, Error> {
        if !(self.is_draining || self.serves_one) || self.router.peer_count() > 0 {
            return Ok(false);
        }
        let may_end = self.is_draining || self.router.leave(self.now);
        self.obey_router()?;
        self.report_peers()?;
        Ok(may_end && self.router.is_forwarded())
    }

    fn wait_for_events(&mut self, events: &mut [EpollEvent]) -> Result<usize, Error> {
        let own = self.ticks.next().into_iter().chain(self.retry_at);
        let next = self.router.next_deadline().into_iter().chain(own).min();
        // While it waits no peer is to blame, whatever kills it.
        self.mark.set(AdmissionId::NONE);
        if let Some(at) = next {
            self.alarm.set(at).map_err(|error| Error::system("set the timer", error))?;
        }
        // No event announces deferred work, so it must not wait for one.
        let most = if self.router.has_deferred() { EpollTimeout::ZERO } else { EpollTimeout::NONE };
        match self.epoll.wait(events, most) {
            Ok(count) => Ok(count),
            Err(Errno::EINTR) => Ok(0),
            Err(error) => Err(Error::system("wait for events", error)),
        }
    }

    /// Reads the messages of the supervisor; false when that is gone.
    fn read_link(&mut self) -> Result<bool, Error> {
        // The event may be for the room in the link that an earlier message waits for.
        self.link.flush()?;
        loop {
            match self.link.receive()? {
                ReceiveOutcome::NotReady => return Ok(true),
                ReceiveOutcome::Closed => return Ok(false),
                ReceiveOutcome::Message(message, fds) => self.obey_supervisor(message, fds)?,
            }
        }
    }

    fn obey_supervisor(&mut self, message: ToWorker, fds: Vec<OwnedFd>) -> Result<(), Error> {
        match message {
            ToWorker::Admit { number, owner, scheme, identity, state, raw_profile } => {
                let parts = ChannelParts { descriptors: fds, identity, state };
                let transport = ipcd_transports::find(&scheme)?;
                self.admit_peer(NewPeer { number, owner, transport, parts, raw_profile });
            }
            ToWorker::Disconnect(number) => self.dismiss_peer(number),
            ToWorker::Evict { number, why, may_prove } => self.evict_peer(number, &why, may_prove),
            ToWorker::Pause => self.pause_peers()?,
            ToWorker::Drain => {
                self.router.stop_meeting();
                // Everything that other workers have accepted is in the sockets by now.
                while self.read_others()? || self.router.has_deferred() {
                    self.router.run_deferred(self.now);
                }
                self.is_draining = true;
                self.router.drain(self.now);
            }
            ToWorker::DirectoryEvent(event) => {
                self.note_met(&event, fds)?;
                self.router.handle_event(self.now, event);
            }
            ToWorker::Configure(live) => self.apply_config(*live),
            ToWorker::Distrust { owner, may_return } => {
                self.router.distrust(self.now, owner.0, may_return);
            }
            ToWorker::Redirect { owner, raw_profile } => self.resubscribe_raw(owner, &raw_profile),
        }
        Ok(())
    }

    /// Stops reading peers. Messages that were accepted still go out to the other workers.
    fn pause_peers(&mut self) -> Result<(), Error> {
        (self.must_report_quiet, self.reads_peers) = (true, false);
        for key in self.connections.keys() {
            if let Some(connection) = self.connections.get_mut(key) {
                // A peer that waits is not read. What it sends stays in the kernel.
                connection.waiting = true;
            }
            self.rearm_peer(key);
        }
        self.report_if_quiet()
    }

    fn report_if_quiet(&mut self) -> Result<(), Error> {
        if self.must_report_quiet && self.router.is_forwarded() {
            self.must_report_quiet = false;
            self.link.send(&ToSupervisor::Quiet)?;
        }
        Ok(())
    }

    /// Serves the socket to another worker.
    fn serve_other(&mut self, slot: u32, events: EpollFlags) -> Result<(), Error> {
        if events.contains(EpollFlags::EPOLLOUT) && self.others.note_room(slot, &self.epoll)? {
            self.forward_frames(slot)?;
        }
        if events.intersects(EpollFlags::EPOLLIN | EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR) {
            // Epoll is level-triggered here, so it reports the rest again.
            let most = (RECORDS / self.others.slots().len().max(1)).max(1);
            self.read_records(slot, most)?;
        }
        Ok(())
    }

    /// Takes what all other workers have sent, as far as it is there; whether there may be more.
    fn read_others(&mut self) -> Result<bool, Error> {
        let mut has_more = false;
        for slot in self.others.slots() {
            has_more |= self.read_records(slot, RECORDS)?;
        }
        Ok(has_more)
    }

    /// Takes records of a worker, at most so many; whether there may be more.
    fn read_records(&mut self, slot: u32, most: usize) -> Result<bool, Error> {
        for _ in 0..most {
            if self.router.is_behind() {
                return Ok(true);
            }
            if !self.read_record(slot)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Takes the next record of a worker; whether there was one.
    fn read_record(&mut self, slot: u32) -> Result<bool, Error> {
        let mut buffer = self.buffers.take_empty();
        // The sender may have read a new configuration before this worker.
        buffer.set_largest_frame(largest_frame(MAX_MAX_PAYLOAD));
        let received = self.others.receive(slot, &mut buffer, &self.epoll)?;
        if let ReceivedRecord::Of(generation) = received {
            self.router.arrive(self.now, slot, generation, buffer.filled_mut());
        }
        self.buffers.put_back(buffer);
        self.router.count_stale(self.others.take_dropped());
        Ok(matches!(received, ReceivedRecord::Of(_) | ReceivedRecord::Invalid))
    }

    /// Takes the socket to a worker that this one meets.
    fn note_met(&mut self, event: &DirectoryEvent, mut fds: Vec<OwnedFd>) -> Result<(), Error> {
        let DirectoryEvent::WorkerChanged { to, change } = event else { return Ok(()) };
        let DirectoryChange::Generation { slot, generation } = *change else { return Ok(()) };
        // An event for the previous worker of this slot: its socket is closed.
        if *to != self.generation {
            return Ok(());
        }
        let Some(socket) = fds.pop() else {
            return Err(Error::Config("no descriptor is left for another worker".into()));
        };
        // The predecessor has ended, and its last records come before those of this worker. They are
        // no more than its socket holds.
        while self.read_record(slot)? {}
        self.others.add(slot, generation, socket, &self.epoll);
        self.watch_other(slot)
    }

    fn watch_other(&mut self, slot: u32) -> Result<(), Error> {
        if !self.others.watch(slot, &self.epoll)? {
            self.retry_soon();
        }
        Ok(())
    }

    /// Sends what is on its way to another worker, as much as its socket takes.
    fn forward_frames(&mut self, slot: u32) -> Result<(), Error> {
        while !self.others.is_full(slot) {
            let (frames, generation) = self.router.outgoing(slot);
            if frames.is_empty() {
                return self.report_if_quiet();
            }
            match self.others.send(slot, generation, frames, &self.epoll)? {
                ForwardOutcome::Bytes(count) => self.router.forwarded(slot, count),
                ForwardOutcome::Full => break,
                ForwardOutcome::NoMemory => {
                    self.retry_soon();
                    break;
                }
            }
        }
        Ok(())
    }

    fn look_at_time(&mut self) {
        self.router.tick(self.now);
        if self.router.take_released() >= TRIMMED_BYTES {
            self.buffers.trim();
            ipcd_sys::trim_memory();
        }
        while let Some((at, token)) = self.ticks.pop_due(self.now) {
            let connection = self.connections.of_event(token);
            // A connection that was given an earlier time since has left this entry behind.
            if let Some(connection) = connection.filter(|found| found.tick_at == Some(at)) {
                connection.tick_at = None;
                let key = PeerKey(token.place);
                self.tick_peer(key);
                self.rearm_peer(key);
            }
        }
    }

    fn obey_router(&mut self) -> Result<(), Error> {
        while let Some(output) = self.router.poll_output() {
            match output {
                Output::Write(key) => {
                    self.write_peer(key);
                    self.after_service(key);
                    self.rearm_peer(key);
                }
                Output::Resume(key) => self.resume_peer(key),
                Output::Opened(key) => {
                    self.note_opened(key);
                    let (peer, source) = self.peer_and_source(key);
                    debug!(%source, peer, name = ?self.router.origin(key).name, "session open");
                }
                Output::Denied(key, why) => self.note_denied(key, &why),
                Output::Close(key, why) => self.close_session(key, why),
                Output::Drop(key, why) => self.detach_peer(key, &why),
                Output::Forward(slot) => self.forward_frames(slot)?,
                Output::Tell(request) => self.send_request(request)?,
            }
        }
        // The last of it may have been dropped with the worker that it was for.
        self.report_if_quiet()
    }

    /// Has [`Worker::try_again`] called after a pause.
    fn retry_soon(&mut self) {
        // The first time stands. Otherwise each further failure would postpone the next try.
        self.retry_at.get_or_insert(self.now + PAUSE);
    }

    /// Tries again what the kernel had no memory for. Until then it costs nothing.
    fn try_again(&mut self) -> Result<(), Error> {
        if self.retry_at.take_if(|at| *at <= self.now).is_none() {
            return Ok(());
        }
        self.link.flush()?;
        for key in self.connections.keys() {
            let connection = self.connections.get_mut(key);
            if connection.is_some_and(|found| std::mem::take(&mut found.is_paused)) {
                self.rearm_peer(key);
            }
        }
        for slot in self.others.slots() {
            self.watch_other(slot)?;
            self.forward_frames(slot)?;
        }
        Ok(())
    }

    fn report_peers(&mut self) -> Result<(), Error> {
        self.link.report()?;
        self.arm_link()
    }

    fn arm_link(&mut self) -> Result<(), Error> {
        if self.link.arm(&self.epoll)? {
            self.retry_soon();
        }
        Ok(())
    }

    /// A peer's id, and the source that lines about it are charged to.
    fn peer_and_source(&self, key: PeerKey) -> (u64, Principal) {
        let origin = self.router.origin(key);
        (origin.peer, Principal::of(origin.uid, origin.addr, self.router.prefixes()))
    }
}
