//! The client for programs with a tokio runtime: handles, which may be cloned and used by many
//! tasks at once, over one connection. A task of the runtime reads and writes it.
//!
//! Connecting is the only thing that is done on a thread for blocking work.

mod driver;
mod mailbox;
mod requests;
mod shared;
mod streams;

use std::pin::pin;
use std::sync::Arc;
use std::time::Instant;

use ipcd_proto::control::{Answer, Origin, Query, encode};
use ipcd_proto::{Filter, FrameKind, Header};
use ipcd_transport::Endpoint;
use tokio::sync::oneshot;
use tokio::task::spawn_blocking;
use tokio::time::timeout_at;

use crate::message::Publication;
use crate::options::{Options, SubscribeOptions};
use crate::{Client, Error, Result};

use driver::WatchedFds;
use mailbox::mailbox;
use shared::{CallEffect, CallResult, Shared, State};
pub use streams::{Replies, Subscription};

/// A connection to ipcd for async programs. Clones share it.
///
/// ```no_run
/// use ipcd_client::{AsyncClient, Options, Result, SubscribeOptions};
///
/// async fn run() -> Result<()> {
///     let client = AsyncClient::connect_default(Options::default()).await?;
///     let mut logs = client.subscribe("logs.>", SubscribeOptions::default()).await?;
///     client.send("logs.web", b"hello").await?;
///     while let Some(message) = logs.next().await {
///         println!("{}", String::from_utf8_lossy(message?.payload()));
///     }
///     client.close().await
/// }
/// ```
///
/// A responder, which works on many requests at once:
///
/// ```no_run
/// use ipcd_client::{AsyncClient, Result, SubscribeOptions};
///
/// async fn respond(client: AsyncClient) -> Result<()> {
///     let group = Some("shouters".to_owned());
///     let options = SubscribeOptions { group, ..SubscribeOptions::default() };
///     let mut requests = client.subscribe("shout", options).await?;
///     while let Some(request) = requests.next().await {
///         let (client, request) = (client.clone(), request?);
///         tokio::spawn(async move {
///             client.reply(&request, &request.payload().to_ascii_uppercase()).await
///         });
///     }
///     Ok(())
/// }
/// ```
///
/// It needs a tokio runtime with I/O and time enabled. A task of that runtime serves the connection:
/// it writes messages as soon as they are published, answers the daemon, and connects again if
/// [`Options::reconnect`] says so. All methods can be called by many tasks at once.
///
/// **Cancellation**: every future can be dropped at any time, as `select!` and time-outs do. It then
/// has had its effect or not, and never half of it: a message is published whole or not at all, no
/// received message is lost, a subscription or request whose caller has gone ends. The client stays
/// usable.
///
/// After the last clone and the last stream are dropped, the task writes what is buffered and says
/// goodbye, for at most [`Options::timeout`]. Errors are then lost: [`AsyncClient::close`] reports
/// them.
#[derive(Clone)]
pub struct AsyncClient(Arc<Handle>);

/// The state that clones and streams share. Its end is the end of the client.
struct Handle(Arc<Shared>);

impl Drop for Handle {
    fn drop(&mut self) {
        self.0.lock().leave();
        self.0.wake.notify_one();
    }
}

/// A call that waits for its outcome. The call is given up if its caller goes.
struct AwaitedCall {
    client: AsyncClient,
    id: u64,
    result: oneshot::Receiver<CallResult>,
}

impl Drop for AwaitedCall {
    fn drop(&mut self) {
        self.client.shared().lock().abandon_call(self.id);
    }
}

impl AsyncClient {
    /// Connects and opens a session.
    ///
    /// # Errors
    /// As [`Client::connect`].
    ///
    /// # Panics
    /// If the runtime has I/O or time disabled.
    pub async fn connect(endpoint: &Endpoint, options: Options) -> Result<Self> {
        let endpoint = endpoint.clone();
        Self::make(move || Client::connect(&endpoint, options)).await
    }

    /// Connects to the daemon that `ipcctl` finds without options, as [`Client::connect_default`]
    /// does.
    ///
    /// # Errors
    /// As [`Client::connect_default`].
    ///
    /// # Panics
    /// If the runtime has I/O or time disabled.
    pub async fn connect_default(options: Options) -> Result<Self> {
        Self::make(move || Client::connect_default(options)).await
    }

    async fn make(connect: impl FnOnce() -> Result<Client> + Send + 'static) -> Result<Self> {
        let connected = spawn_blocking(connect).await;
        let client = connected.map_err(|error| Error::Disconnected(error.to_string()))??;
        let fds = WatchedFds::of(&client);
        let shared = Arc::new(Shared::new(client));
        let made = Self(Arc::new(Handle(shared.clone())));
        tokio::spawn(driver::drive(shared, fds?));
        Ok(made)
    }

    /// This peer's id. Another connection has another one.
    pub fn peer(&self) -> u64 {
        self.shared().lock().client.peer()
    }

    /// Bytes of the largest payload that the daemon accepts (`max_message`).
    pub fn max_payload(&self) -> usize {
        self.shared().lock().client.max_payload()
    }

    /// Whether the connection is open, as far as is known.
    pub fn is_connected(&self) -> bool {
        self.shared().lock().client.is_connected()
    }

    /// The identity of a sender, if a subscription asks for it ([`SubscribeOptions::origin`]).
    pub fn origin(&self, sender: u64) -> Option<Origin> {
        self.shared().lock().client.origin(sender).cloned()
    }

    /// Publishes a message: checks it, and copies it into the client's buffer, from which it is
    /// written at once. Waits while the buffer holds 64 KiB or more, so a daemon that makes
    /// publishers wait makes this call wait. A return is no confirmation: see
    /// [`AsyncClient::flush`].
    ///
    /// # Errors
    /// As [`Client::publish`].
    pub async fn publish(&self, subject: &str, payload: &[u8]) -> Result<()> {
        self.publish_message(&Publication { subject, payload, ..Publication::default() }).await
    }

    /// Publishes a message with headers and a reply subject.
    ///
    /// # Errors
    /// As [`Client::publish_message`].
    pub async fn publish_message(&self, message: &Publication<'_>) -> Result<()> {
        self.with_room(|state| state.client.begin_message(message)).await
    }

    /// Publishes a message for each of these payloads, in their order. The iterator is left behind
    /// the last message that was published, also when the future is dropped.
    ///
    /// # Errors
    /// As [`Client::publish`], at the first payload that fails.
    pub async fn publish_all<'a>(
        &self,
        subject: &str,
        payloads: &mut (impl Iterator<Item = &'a [u8]> + Send),
    ) -> Result<()> {
        let put = |state: &mut State| {
            let had_room = state.client.has_room();
            while state.client.has_room() {
                let Some(payload) = payloads.next() else { return Ok(Some(())) };
                let message = Publication { subject, payload, ..Publication::default() };
                state.client.begin_message(&message)?;
            }
            // Only after a change: the driver's step asks this again.
            if had_room {
                self.shared().wake.notify_one();
            }
            Ok(None)
        };
        self.when(None, put).await
    }

    /// Waits until the daemon has accepted everything that was published.
    ///
    /// # Errors
    /// As [`Client::flush`].
    pub async fn flush(&self) -> Result<()> {
        let (id, _) = self.control(FrameKind::Flush, &[], "confirmation").await?;
        // Here and not in the driver: a caller that has gone takes no refusal away.
        self.shared().lock().client.conclude_flush(id)
    }

    /// Publishes a message and waits until the daemon has accepted it.
    ///
    /// # Errors
    /// As [`AsyncClient::publish`] and [`AsyncClient::flush`].
    pub async fn send(&self, subject: &str, payload: &[u8]) -> Result<()> {
        self.publish(subject, payload).await?;
        self.flush().await
    }

    /// Subscribes. Every matching message that is published after the return will come.
    ///
    /// # Errors
    /// As [`Client::subscribe`].
    pub async fn subscribe(&self, filter: &str, options: SubscribeOptions) -> Result<Subscription> {
        let filter = Filter::parse(filter.as_bytes())?;
        let deadline = self.deadline();
        let begin = |state: &mut State| {
            let (number, id) = state.client.begin_subscription(&filter, &options);
            let (delivery, mailbox) = mailbox(self.shared());
            // Its messages may come before the confirmation.
            state.streams.insert(number, delivery);
            let effect = CallEffect::Subscribes(number, filter.clone(), options.clone());
            (number, mailbox, id, state.await_call(id, effect))
        };
        let (number, mailbox, id, result) = self.when_connected(deadline, begin).await?;
        // Dropping this future drops both: the call is given up, and the subscription ended.
        let call = AwaitedCall { client: self.clone(), id, result };
        let subscription = Subscription::new(self.clone(), number, mailbox);
        call.outcome(deadline, "confirmation").await.map(|_| subscription)
    }

    /// Messages to this peer's own address, `@ID`. There is one such stream: an earlier one ends.
    /// Without one, such messages are dropped.
    pub fn direct_messages(&self) -> Subscription {
        let (delivery, mailbox) = mailbox(self.shared());
        self.shared().lock().streams.insert(0, delivery);
        Subscription::new(self.clone(), 0, mailbox)
    }

    /// Measures the round trip to the daemon.
    ///
    /// # Errors
    /// As [`Client::ping`].
    pub async fn ping(&self) -> Result<std::time::Duration> {
        let start = Instant::now();
        self.control(FrameKind::Ping, &[], "answer").await?;
        Ok(start.elapsed())
    }

    /// Asks about the daemon. A long answer comes in several parts.
    ///
    /// # Errors
    /// As [`Client::query`].
    pub async fn query(&self, query: &Query) -> Result<Vec<Answer>> {
        self.control(FrameKind::Query, &encode(query), "answer").await.map(|(_, answers)| answers)
    }

    /// Waits until the daemon has accepted everything, says goodbye, and ends all streams. Other
    /// clones are closed, too.
    ///
    /// # Errors
    /// As [`AsyncClient::flush`].
    pub async fn close(self) -> Result<()> {
        let flushed = self.flush().await;
        self.shared().lock().leave();
        self.shared().wake.notify_one();
        // The driver ends within a bounded time.
        loop {
            let mut stepped = pin!(self.shared().stepped.notified());
            stepped.as_mut().enable();
            if self.shared().lock().is_over() {
                return flushed;
            }
            stepped.await;
        }
    }

    /// Ends a subscription, and with it its stream.
    async fn unsubscribe(&self, number: u32) -> Result<()> {
        let deadline = self.deadline();
        let begin = |state: &mut State| {
            let id = state.client.begin_unsubscription(number);
            (id, state.await_call(id, CallEffect::Unsubscribes(number)))
        };
        let (id, result) = self.when_connected(deadline, begin).await?;
        let call = AwaitedCall { client: self.clone(), id, result };
        call.outcome(deadline, "confirmation").await.map(drop)
    }

    fn shared(&self) -> &Arc<Shared> {
        &self.0.0
    }

    fn deadline(&self) -> Instant {
        self.shared().lock().client.deadline()
    }

    /// Does something with the buffer as soon as it has room.
    async fn with_room(&self, mut put: impl FnMut(&mut State) -> Result<()>) -> Result<()> {
        let put = |state: &mut State| match state.client.has_room() {
            true => put(state).map(Some),
            false => Ok(None),
        };
        self.when(None, put).await
    }

    /// Begins something as soon as there is a connection, by the deadline.
    async fn when_connected<T>(
        &self,
        deadline: Instant,
        mut begin: impl FnMut(&mut State) -> T,
    ) -> Result<T> {
        let begin = |state: &mut State| Ok(state.client.is_connected().then(|| begin(state)));
        self.when(Some(deadline), begin).await
    }

    /// Begins something as soon as that is possible. `begin` returns `None` to be asked again after
    /// the driver's next step.
    async fn when<T>(
        &self,
        deadline: Option<Instant>,
        mut begin: impl FnMut(&mut State) -> Result<Option<T>>,
    ) -> Result<T> {
        let shared = self.shared();
        let mut attempt = || {
            let mut state = shared.lock();
            state.check()?;
            let begun = begin(&mut state)?;
            drop(state);
            if begun.is_some() {
                shared.wake.notify_one();
            }
            Ok::<_, Error>(begun)
        };
        if let Some(begun) = attempt()? {
            return Ok(begun);
        }
        loop {
            let mut stepped = pin!(shared.stepped.notified());
            // Before the attempt, so that no step between the two is missed.
            stepped.as_mut().enable();
            if let Some(begun) = attempt()? {
                return Ok(begun);
            }
            match deadline {
                None => stepped.await,
                Some(at) => timeout_at(at.into(), stepped)
                    .await
                    .map_err(|_| Error::TimedOut("connection"))?,
            }
        }
    }

    /// A call by a control frame. Returns its number, and the answers.
    async fn control(
        &self,
        kind: FrameKind,
        body: &[u8],
        awaited: &'static str,
    ) -> Result<(u64, Vec<Answer>)> {
        let deadline = self.deadline();
        let begin = |state: &mut State| {
            let id = state.client.begin_call(Header::new(kind, 0), body);
            (id, state.await_call(id, CallEffect::None))
        };
        let (id, result) = self.when_connected(deadline, begin).await?;
        let call = AwaitedCall { client: self.clone(), id, result };
        call.outcome(deadline, awaited).await.map(|(_, answers)| (id, answers))
    }
}

impl AwaitedCall {
    /// Waits for the outcome, by the deadline.
    async fn outcome(mut self, deadline: Instant, awaited: &'static str) -> CallResult {
        match timeout_at(deadline.into(), &mut self.result).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(shared::closed()),
            Err(_) => Err(Error::TimedOut(awaited)),
        }
    }
}
