//! A peer and what it was connected to, with a flow in each direction.

use std::time::{Duration, Instant};

use ipcd_transport::PeerIdentity;

use crate::end::{End, Wish};
use crate::flow::{Flow, Room, Turned};
use crate::watch::{Token, Watch};
use crate::{Error, Observer, Result};

/// How long an end that never says that it is done may be silent, once nothing more is written to
/// it: a datagram's answer may still come, and so may a message.
const LINGER: Duration = Duration::from_millis(500);
/// How long the daemon may take to accept what was published last, and a peer to take what was for it.
const LEAVING: Duration = Duration::from_secs(5);

/// What its listener has to be told when nobody serves a peer any more.
pub(crate) type Origin = (PeerIdentity, Vec<u8>);

pub(crate) struct Pair {
    /// The one that came, and the one it was connected to.
    ends: [End; 2],
    /// From the first to the second, and back.
    flows: [Flow; 2],
    /// Who came, for people.
    who: String,
    origin: Origin,
    /// When something was moved last.
    moved: Instant,
    /// Until when the ends may take to let go, once both flows are done.
    leaving: Option<Instant>,
    /// Why its only session ended, where that is the relay's end, too.
    failure: Option<Error>,
}

/// What came of a turn.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct State {
    pub(crate) is_over: bool,
    /// Whether it wants another turn at once.
    pub(crate) more: bool,
    /// When it wants another in any case.
    pub(crate) deadline: Option<Instant>,
}

impl Pair {
    pub(crate) fn new(from: End, to: End, who: String, origin: Origin) -> Self {
        let flows = [Flow::new(&from, &to), Flow::new(&to, &from)];
        let (ends, moved) = ([from, to], Instant::now());
        Self { ends, flows, who, origin, moved, leaving: None, failure: None }
    }

    /// The process that was started for it.
    pub(crate) fn child(&self) -> Option<u32> {
        self.ends[1].child()
    }

    /// What it was, when it is over.
    pub(crate) fn into_end(self) -> (Origin, Option<Error>) {
        (self.origin, self.failure)
    }

    /// Moves nothing more, and lets go of both ends in the next turn.
    pub(crate) fn stop(&mut self) {
        self.flows.iter_mut().for_each(Flow::stop);
    }

    /// An end is gone in both directions. If it is not read any more, nobody else tells.
    pub(crate) fn end_is_gone(&mut self, end: usize) {
        if self.flows[end].has_ended() && !self.flows[1 - end].is_done() {
            self.flows[1 - end].stop();
        }
    }

    /// Moves what can be moved, and watches for the rest.
    pub(crate) fn turn(
        &mut self,
        key: usize,
        now: Instant,
        room: &mut Room,
        watch: &Watch,
        observer: &dyn Observer,
    ) -> Result<State> {
        let mut state = State::default();
        for end in &mut self.ends {
            end.advance();
        }
        for way in 0..2 {
            let turned = self.turn_flow(way, room);
            state.more |= turned.more;
            if turned.moved {
                self.moved = now;
            }
            if turned.finishes {
                self.ends[1 - way].finish(Token::Pair(key, 1 - way), watch)?;
            }
        }
        for (end, flow) in self.ends.iter_mut().zip(&self.flows) {
            state.more |= end.advance() && flow.wants_input();
        }
        state.deadline = self.due(now);
        self.tell(observer);
        if self.flows.iter().all(Flow::is_done) {
            return self.leave(key, now, room, watch);
        }
        self.watch(key, watch)?;
        Ok(state)
    }

    fn turn_flow(&mut self, way: usize, room: &mut Room) -> Turned {
        if self.flows[way].is_done() {
            return Turned::default();
        }
        let [first, second] = &mut self.ends;
        let (from, to) = if way == 0 { (first, second) } else { (second, first) };
        let turned = self.flows[way].turn(from, to, room);
        while let Some(why) = to.take_refused() {
            self.flows[way].refuse(why);
        }
        if turned.lost {
            self.flows[1 - way].stop();
        }
        turned
    }

    /// Does what is due; when the next is.
    fn due(&mut self, now: Instant) -> Option<Instant> {
        let mut next = None;
        for way in 0..2 {
            match self.ends[way].tick(now) {
                Ok(due) => next = next.into_iter().chain(due).min(),
                // It was silent for too long, or its connection is lost: reading tells.
                Err(_) => self.stop(),
            }
            if self.flows[1 - way].is_done() && !self.flows[way].has_ended() {
                next = next.into_iter().chain(self.linger(way, now)).min();
            }
        }
        next
    }

    /// Nothing is written any more to the end that this flow reads.
    fn linger(&mut self, way: usize, now: Instant) -> Option<Instant> {
        if self.ends[way].has_end() {
            return None;
        }
        let until = self.moved + LINGER;
        if until <= now {
            self.flows[way].stop();
        }
        Some(until)
    }

    fn tell(&mut self, observer: &dyn Observer) {
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

    /// Lets go of both ends, once nothing more is to be moved.
    fn leave(&mut self, key: usize, now: Instant, room: &mut Room, watch: &Watch) -> Result<State> {
        let until = *self.leaving.get_or_insert(now + LEAVING);
        let mut has_left = true;
        for (end, read) in self.ends.iter_mut().zip(&self.flows) {
            has_left &= end.leave(read.has_read_all(), &mut room.scratch);
        }
        if !has_left && now < until {
            self.watch(key, watch)?;
            return Ok(State { deadline: Some(until), ..State::default() });
        }
        for (end, side) in self.ends.iter_mut().zip(0..) {
            end.unwatch(Token::Pair(key, side), watch)?;
        }
        Ok(State { is_over: true, ..State::default() })
    }

    /// Says what is to be said at the end; not why its session ended, if the relay ends with that.
    pub(crate) fn tell_end(&self, is_last: bool, observer: &dyn Observer) {
        if let Some(error) = self.failure.as_ref().filter(|_| !is_last) {
            observer.trouble(&format!("{}: {error}", self.who));
        }
        let refused: u64 = self.flows.iter().map(Flow::refused).sum();
        if refused > 1 {
            observer.trouble(&format!("{}: {refused} messages were refused in all", self.who));
        }
    }

    fn watch(&mut self, key: usize, watch: &Watch) -> Result<()> {
        for side in 0..2 {
            let (read, written) = (&self.flows[side], &self.flows[1 - side]);
            let wish = Wish {
                input: read.wants_input(),
                room: written.wants_room() && !written.is_done(),
                end: read.has_ended() && !written.is_done(),
            };
            self.ends[side].watch(wish, Token::Pair(key, side), watch)?;
        }
        Ok(())
    }
}
