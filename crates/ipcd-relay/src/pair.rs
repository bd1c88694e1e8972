//! A peer and the connection made for it, with a flow in each direction.

use std::time::{Duration, Instant};

use ipcd_transport::PeerIdentity;

use crate::end::{PairEnd, WantedEvents};
use crate::flow::{FlowTurn, RelayFlow, SharedBuffers};
use crate::watch::{EpollWatch, WatchToken};
use crate::{Error, Observer, Result};

/// The time that an end without an end of its own may be silent, once nothing more is written to
/// it: a datagram's answer or a message may still come.
const LINGER: Duration = Duration::from_millis(500);
/// The time that the daemon may take to accept the last published messages, and a peer to close.
const LEAVING: Duration = Duration::from_secs(5);

/// The identity and state that a listener needs when its peer has gone.
pub(crate) type PeerOrigin = (PeerIdentity, Vec<u8>);

pub(crate) struct RelayPair {
    /// The peer, and the connection made for it.
    ends: [PairEnd; 2],
    /// From the first to the second, and back.
    flows: [RelayFlow; 2],
    /// The peer's name for people.
    who: String,
    origin: PeerOrigin,
    /// The time of the last movement.
    moved: Instant,
    /// The deadline for closing the ends, once both flows are done.
    leaving: Option<Instant>,
    /// The error of its session, which ends the relay if it has no other peer.
    failure: Option<Error>,
}

/// The result of a turn.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct PairState {
    pub(crate) is_over: bool,
    /// Whether it wants another turn at once.
    pub(crate) more: bool,
    /// The time of the next turn in any case.
    pub(crate) deadline: Option<Instant>,
}

impl RelayPair {
    pub(crate) fn new(from: PairEnd, to: PairEnd, who: String, origin: PeerOrigin) -> Self {
        let flows = [RelayFlow::new(&from, &to), RelayFlow::new(&to, &from)];
        let (ends, moved) = ([from, to], Instant::now());
        Self { ends, flows, who, origin, moved, leaving: None, failure: None }
    }

    /// The process that was started for it.
    pub(crate) fn child(&self) -> Option<u32> {
        self.ends[1].child()
    }

    /// Its origin and its error, at its end.
    pub(crate) fn into_end(self) -> (PeerOrigin, Option<Error>) {
        (self.origin, self.failure)
    }

    /// Stops both flows; the next turn closes both ends.
    pub(crate) fn stop(&mut self) {
        self.flows.iter_mut().for_each(RelayFlow::stop);
    }

    /// An end has gone in both directions. If it is not read any more, only this event tells.
    pub(crate) fn end_is_gone(&mut self, end: usize) {
        if self.flows[end].has_ended() && !self.flows[1 - end].is_done() {
            self.flows[1 - end].stop();
        }
    }

    /// Moves bytes, and watches the events that are still needed.
    pub(crate) fn turn(
        &mut self,
        key: usize,
        now: Instant,
        buffers: &mut SharedBuffers,
        watch: &EpollWatch,
        observer: &dyn Observer,
    ) -> Result<PairState> {
        let mut state = PairState::default();
        // A handshake may leave input in a buffer, which no descriptor reports: before the flows it
        // is read with the rest, and after them it wants another turn.
        for end in &mut self.ends {
            end.advance();
        }
        for direction in 0..2 {
            let turned = self.turn_flow(direction, buffers);
            state.more |= turned.more;
            if turned.moved {
                self.moved = now;
            }
            if turned.finishes {
                self.ends[1 - direction].finish(WatchToken::Pair(key, 1 - direction), watch)?;
            }
        }
        for (end, flow) in self.ends.iter_mut().zip(&self.flows) {
            state.more |= end.advance() && flow.wants_input();
        }
        state.deadline = self.do_due_work(now);
        self.report_events(observer);
        if self.flows.iter().all(RelayFlow::is_done) {
            return self.leave(key, now, buffers, watch);
        }
        self.watch(key, watch)?;
        Ok(state)
    }

    fn turn_flow(&mut self, direction: usize, buffers: &mut SharedBuffers) -> FlowTurn {
        if self.flows[direction].is_done() {
            return FlowTurn::default();
        }
        let [first, second] = &mut self.ends;
        let (from, to) = if direction == 0 { (first, second) } else { (second, first) };
        let turned = self.flows[direction].turn(from, to, buffers);
        while let Some(why) = to.take_refused() {
            self.flows[direction].note_refusal(why);
        }
        // A lost connection takes no more bytes either.
        if turned.lost {
            self.flows[1 - direction].stop();
        }
        turned
    }

    /// Does what is due, and returns the next deadline.
    fn do_due_work(&mut self, now: Instant) -> Option<Instant> {
        let mut next = None;
        for direction in 0..2 {
            match self.ends[direction].tick(now) {
                Ok(due) => next = next.into_iter().chain(due).min(),
                // The peer timed out or its connection is lost; reading returns the error.
                Err(_) => self.stop(),
            }
            if self.flows[1 - direction].is_done() && !self.flows[direction].has_ended() {
                next = next.into_iter().chain(self.linger(direction, now)).min();
            }
        }
        next
    }

    /// Bounds the silence of an end that nothing more is written to.
    fn linger(&mut self, direction: usize, now: Instant) -> Option<Instant> {
        if self.ends[direction].has_end() {
            return None;
        }
        let until = self.moved + LINGER;
        if until <= now {
            self.flows[direction].stop();
        }
        Some(until)
    }

    fn report_events(&mut self, observer: &dyn Observer) {
        for flow in &mut self.flows {
            if let Some(why) = flow.take_refusal() {
                let next = "the next ones are only counted";
                observer.trouble(&format!("{}: a message was refused: {why}; {next}", self.who));
            }
            if let Some(error) = flow.take_failure() {
                if let Error::Client(_) = &error {
                    self.failure = Some(error);
                } else {
                    observer.trouble(&format!("{}: {error}", self.who));
                }
            }
        }
    }

    /// Closes both ends after the last movement.
    fn leave(
        &mut self,
        key: usize,
        now: Instant,
        buffers: &mut SharedBuffers,
        watch: &EpollWatch,
    ) -> Result<PairState> {
        let until = *self.leaving.get_or_insert(now + LEAVING);
        let mut has_left = true;
        for (end, read) in self.ends.iter_mut().zip(&self.flows) {
            has_left &= end.leave(read.has_read_all(), &mut buffers.read_buf);
        }
        if !has_left && now < until {
            self.watch(key, watch)?;
            return Ok(PairState { deadline: Some(until), ..PairState::default() });
        }
        for (end, side) in self.ends.iter_mut().zip(0..) {
            end.unwatch(WatchToken::Pair(key, side), watch)?;
        }
        Ok(PairState { is_over: true, ..PairState::default() })
    }

    /// Reports refused messages and the session's error; the latter not if the relay itself ends
    /// with it.
    pub(crate) fn tell_end(&self, is_last: bool, observer: &dyn Observer) {
        if let Some(error) = self.failure.as_ref().filter(|_| !is_last) {
            observer.trouble(&format!("{}: {error}", self.who));
        }
        let refused: u64 = self.flows.iter().map(RelayFlow::refused).sum();
        if refused > 1 {
            observer.trouble(&format!("{}: {refused} messages were refused in all", self.who));
        }
    }

    fn watch(&mut self, key: usize, watch: &EpollWatch) -> Result<()> {
        for side in 0..2 {
            let (read, written) = (&self.flows[side], &self.flows[1 - side]);
            let wish = WantedEvents {
                input: read.wants_input(),
                room: written.wants_room() && !written.is_done(),
                end: read.has_ended() && !written.is_done(),
            };
            self.ends[side].watch(wish, WatchToken::Pair(key, side), watch)?;
        }
        Ok(())
    }
}
