//! The state that the handles, the streams and the driver of a client share.
//!
//! A lock guards it. The lock is held for a step of the client at most, which waits for nothing.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use foldhash::fast::RandomState;
use ipcd_proto::Filter;
use ipcd_proto::control::{Answer, Welcome};
use tokio::sync::{Notify, oneshot};

use super::mailbox::{Delivery, QueuedBytes};
use crate::frame_channel::{FrameChannel, TurnOutcome};
use crate::message::Message;
use crate::options::{Backoff, SubscribeOptions};
use crate::outcomes::CallOutcome;
use crate::session::ConnectAttempt;
use crate::{Client, Error, Event, Result};

/// Bytes in the queues of streams at which the client stops reading, so that the daemon sees a slow
/// receiver.
const MAX_QUEUED: usize = 1024 * 1024;
/// The same while a call waits for an answer, which comes behind the messages.
const MAX_QUEUED_IN_CALL: usize = 64 * 1024 * 1024;

/// The result of a call.
pub(super) type CallResult = Result<(CallOutcome, Vec<Answer>)>;

pub(super) struct Shared {
    state: Mutex<State>,
    queued: QueuedBytes,
    /// Wakes the driver.
    pub(super) wake: Notify,
    /// Tells callers that wait for room or for a connection that the driver has made a step.
    pub(super) stepped: Notify,
}

pub(super) struct State {
    pub(super) client: Client,
    calls: HashMap<u64, OpenCall, RandomState>,
    /// The subscriptions' streams by their numbers; 0 is that of direct messages.
    pub(super) streams: HashMap<u32, Delivery<Result<Event>>, RandomState>,
    /// The streams of replies by their requests.
    pub(super) replies: HashMap<u64, Delivery<Result<Message>>, RandomState>,
    /// The time by which a client that was closed ends.
    leaves_by: Option<Instant>,
    /// The reason for which there will be no connection any more.
    over: Option<Error>,
}

struct OpenCall {
    caller: oneshot::Sender<CallResult>,
    effect: CallEffect,
}

/// The effect of a call on the subscriptions, once the daemon has confirmed it.
pub(super) enum CallEffect {
    None,
    Subscribes(u32, Filter, SubscribeOptions),
    Unsubscribes(u32),
}

/// The result of a step.
pub(super) enum Step {
    /// There may be more to read.
    Again,
    /// Nothing is left to do until one of these.
    Wait(WaitFor),
    /// The connection was lost. Attempts to connect again follow.
    Lost(Box<ConnectAttempt>, Backoff),
    /// There is no connection any more.
    Over,
}

/// The events that the driver waits for, beside a wake-up.
pub(super) struct WaitFor {
    pub(super) input: bool,
    pub(super) room: bool,
    pub(super) until: Option<Instant>,
}

impl Shared {
    pub(super) fn new(client: Client) -> Self {
        let state = State {
            client,
            calls: HashMap::default(),
            streams: HashMap::default(),
            replies: HashMap::default(),
            leaves_by: None,
            over: None,
        };
        Self {
            state: Mutex::new(state),
            queued: QueuedBytes::default(),
            wake: Notify::new(),
            stepped: Notify::new(),
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        // A panic inside a step would be a fault of ours; the state is still whole enough to end.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that a stream has taken so many bytes.
    pub(super) fn release(&self, bytes: usize) {
        if self.queued.falls_below(MAX_QUEUED, bytes) {
            self.wake.notify_one();
        }
    }

    /// One step of the client. Hands over everything that comes of it.
    pub(super) fn step(&self) -> Step {
        let mut state = self.lock();
        let takes = self.takes(&state);
        let stepped = state.client.step(takes);
        state.route(&self.queued);
        state.conclude_calls();
        let step = match stepped {
            Ok(TurnOutcome::Moved) => Step::Again,
            Ok(_) => state.wait(takes, &self.queued),
            Err(error) => state.lose(&error, &self.queued),
        };
        drop(state);
        self.stepped.notify_waiters();
        step
    }

    fn takes(&self, state: &State) -> bool {
        let awaits = !(state.calls.is_empty() && state.replies.is_empty());
        let limit = if awaits { MAX_QUEUED_IN_CALL } else { MAX_QUEUED };
        self.queued.now() < limit || state.leaves_by.is_some()
    }

    /// Ends everything for this reason.
    pub(super) fn end(&self, why: &Error) {
        self.lock().end(why, &self.queued);
        self.stepped.notify_waiters();
    }
}

impl State {
    /// # Errors
    /// The reason for which there is and will be no connection.
    pub(super) fn check(&self) -> Result<()> {
        match &self.over {
            Some(why) => Err(why.repeat()),
            None if self.leaves_by.is_some() => Err(closed()),
            None => Ok(()),
        }
    }

    pub(super) fn is_over(&self) -> bool {
        self.over.is_some()
    }

    /// Says goodbye behind everything that is buffered. Streams end.
    pub(super) fn leave(&mut self) {
        if self.over.is_none() && self.leaves_by.is_none() {
            self.leaves_by = Some(self.client.deadline());
            self.client.leave();
            self.streams.clear();
        }
    }

    /// Continues over a new connection.
    pub(super) fn come_back(&mut self, made: (FrameChannel, Welcome)) {
        self.client.conclude_return(made);
        if self.is_leaving() {
            self.client.leave();
        }
    }

    pub(super) fn is_leaving(&self) -> bool {
        self.leaves_by.is_some()
    }

    pub(super) fn await_call(
        &mut self,
        id: u64,
        effect: CallEffect,
    ) -> oneshot::Receiver<CallResult> {
        let (caller, result) = oneshot::channel();
        self.calls.insert(id, OpenCall { caller, effect });
        result
    }

    /// Forgets a call whose caller has gone.
    pub(super) fn abandon_call(&mut self, id: u64) {
        if self.calls.remove(&id).is_some() {
            self.client.abandon_call(id);
        }
    }

    /// Hands events to the streams that they concern.
    fn route(&mut self, queued: &QueuedBytes) {
        while let Some(event) = self.client.take() {
            match event {
                Event::Message(message) => {
                    self.put(message.subscription, Event::Message(message), queued);
                }
                Event::Gap { subscription, .. } => self.put(subscription, event, queued),
                Event::Reply { request, reply: Ok(reply) } => {
                    if let Some(stream) = self.replies.get(&request) {
                        stream.put(Ok(reply), queued);
                    }
                }
                // An error is the last that comes of a request.
                Event::Reply { request, reply } => {
                    if let Some(stream) = self.replies.remove(&request) {
                        stream.put(reply, queued);
                    }
                }
                Event::Disconnected { why } => {
                    self.tell_all(|| Ok(Event::Disconnected { why: why.clone() }), queued);
                }
                Event::Reconnected { why } => {
                    self.tell_all(|| Ok(Event::Reconnected { why: why.clone() }), queued);
                }
                // Messages with receipts are calls here.
                Event::Outcome { .. } => {}
            }
        }
    }

    fn put(&self, subscription: u32, event: Event, queued: &QueuedBytes) {
        if let Some(stream) = self.streams.get(&subscription) {
            stream.put(Ok(event), queued);
        }
    }

    fn tell_all(&self, event: impl Fn() -> Result<Event>, queued: &QueuedBytes) {
        self.streams.values().for_each(|stream| stream.put(event(), queued));
    }

    fn conclude_calls(&mut self) {
        for id in self.client.take_done() {
            let result = self.client.conclude_call(id);
            let Some(OpenCall { caller, effect }) = self.calls.remove(&id) else { continue };
            self.apply(effect, result.is_ok());
            // A caller that has gone wants no result.
            let _ = caller.send(result);
        }
    }

    fn apply(&mut self, effect: CallEffect, is_confirmed: bool) {
        match (effect, is_confirmed) {
            (CallEffect::Subscribes(number, filter, options), true) => {
                // Its stream may have been dropped meanwhile.
                if self.streams.contains_key(&number) {
                    self.client.keep_subscription(number, filter, options);
                }
            }
            (CallEffect::Subscribes(number, ..), false) | (CallEffect::Unsubscribes(number), _) => {
                self.streams.remove(&number);
            }
            (CallEffect::None, _) => {}
        }
    }

    fn wait(&mut self, takes: bool, queued: &QueuedBytes) -> Step {
        if self.leaves_by.is_some_and(|at| at <= Instant::now()) {
            self.end(&closed(), queued);
            return Step::Over;
        }
        let until = self.client.next_step().into_iter().chain(self.leaves_by).min();
        let input = takes || self.client.wants_service();
        Step::Wait(WaitFor { input, room: self.client.wants_room(), until })
    }

    /// Notes the loss of the connection.
    fn lose(&mut self, error: &Error, queued: &QueuedBytes) -> Step {
        if self.is_leaving() {
            self.end(&closed(), queued);
            return Step::Over;
        }
        self.fail_calls(error);
        let returns = self.client.begin_return(error);
        self.route(queued);
        match returns {
            Some((attempt, backoff)) => Step::Lost(Box::new(attempt), backoff),
            None => {
                self.end(error, queued);
                Step::Over
            }
        }
    }

    fn fail_calls(&mut self, error: &Error) {
        for (id, OpenCall { caller, .. }) in std::mem::take(&mut self.calls) {
            self.client.abandon_call(id);
            let _ = caller.send(Err(error.repeat()));
        }
    }

    fn end(&mut self, why: &Error, queued: &QueuedBytes) {
        if self.over.is_some() {
            return;
        }
        self.over = Some(why.repeat());
        self.fail_calls(why);
        self.streams.drain().for_each(|(_, stream)| stream.put(Err(why.repeat()), queued));
        self.replies.drain().for_each(|(_, stream)| stream.put(Err(why.repeat()), queued));
        self.client.abandon();
    }
}

impl Drop for State {
    /// Dropping the client itself would wait for the daemon.
    fn drop(&mut self) {
        self.client.abandon();
    }
}

pub(super) fn closed() -> Error {
    Error::Disconnected("the client was closed".into())
}
