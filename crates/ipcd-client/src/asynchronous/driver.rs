//! The task that reads and writes the connection of an async client, and makes it again.

use std::future::{Future, poll_fn};
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use ipcd_transport::Error as TransportError;
use tokio::io::Interest;
use tokio::io::unix::{AsyncFd, AsyncFdReadyGuard};
use tokio::sync::Notify;
use tokio::task::{consume_budget, spawn_blocking};
use tokio::time::{Instant, sleep_until, timeout_at};

use super::shared::{Shared, Step, WaitFor};
use crate::options::Backoff;
use crate::session::ConnectAttempt;
use crate::{Client, Error, Result};

/// The descriptors of one connection, as the runtime watches them. They are copies: the runtime
/// forgets a descriptor when it is dropped, and the client closes its own at any time.
pub(super) struct WatchedFds {
    read: AsyncFd<OwnedFd>,
    write: AsyncFd<OwnedFd>,
}

/// The descriptors that are ready, until a step has found nothing more to do with them.
#[derive(Default)]
struct ReadyFds<'a> {
    read: Option<AsyncFdReadyGuard<'a, OwnedFd>>,
    write: Option<AsyncFdReadyGuard<'a, OwnedFd>>,
}

impl WatchedFds {
    pub(super) fn of(client: &Client) -> Result<Self> {
        Ok(Self {
            read: watch(client.read_fd(), Interest::READABLE)?,
            write: watch(client.write_fd(), Interest::WRITABLE)?,
        })
    }

    async fn ready(&self, wait: &WaitFor, wake: &Notify) -> io::Result<ReadyFds<'_>> {
        let mut woken = pin!(wake.notified());
        let mut late = pin!(wait.until.map(|at| sleep_until(at.into())));
        poll_fn(|cx| {
            let mut ready = ReadyFds::default();
            if wait.input
                && let Poll::Ready(guard) = self.read.poll_read_ready(cx)
            {
                ready.read = Some(guard?);
            }
            if wait.room
                && let Poll::Ready(guard) = self.write.poll_write_ready(cx)
            {
                ready.write = Some(guard?);
            }
            let is_late = late.as_mut().as_pin_mut().is_some_and(|late| late.poll(cx).is_ready());
            let is_woken = woken.as_mut().poll(cx).is_ready();
            match ready.read.is_some() || ready.write.is_some() || is_late || is_woken {
                true => Poll::Ready(Ok(ready)),
                false => Poll::Pending,
            }
        })
        .await
    }
}

#[expect(
    deprecated,
    reason = "its successor is unsafe, for types whose descriptor may change: that of an OwnedFd stays"
)]
fn watch(fd: BorrowedFd<'_>, interest: Interest) -> Result<AsyncFd<OwnedFd>> {
    let watched = fd.try_clone_to_owned().and_then(|copy| AsyncFd::with_interest(copy, interest));
    watched.map_err(|error| Error::Connect(TransportError::system("watch the connection", error)))
}

/// Ends the client together with its runtime, which drops the driver: callers on another runtime
/// would wait for ever.
struct EndOfDriver<'a>(&'a Shared);

impl Drop for EndOfDriver<'_> {
    fn drop(&mut self) {
        self.0.end(&Error::Disconnected("the runtime of the client has ended".into()));
    }
}

/// Runs a client until it is closed, or its connection is lost for good.
pub(super) async fn drive(shared: Arc<Shared>, fds: WatchedFds) {
    let _end = EndOfDriver(&shared);
    let mut connection = Some(fds);
    while let Some(fds) = connection.take() {
        if let Some((attempt, backoff)) = serve(&shared, fds).await {
            connection = come_back(&shared, attempt, backoff).await;
        }
    }
}

/// Serves one connection until its end. Returns the means to make it again, if that is wanted.
async fn serve(shared: &Shared, fds: WatchedFds) -> Option<(Box<ConnectAttempt>, Backoff)> {
    let mut ready = ReadyFds::default();
    loop {
        match shared.step() {
            // Lets other tasks run when this one has read a lot.
            Step::Again => consume_budget().await,
            Step::Wait(wait) => {
                // The runtime reports a descriptor again only after a change, so readiness ends
                // here: the step has read and written everything that it could.
                ready.read.iter_mut().for_each(AsyncFdReadyGuard::clear_ready);
                ready.write.iter_mut().for_each(AsyncFdReadyGuard::clear_ready);
                match fds.ready(&wait, &shared.wake).await {
                    Ok(now_ready) => ready = now_ready,
                    Err(error) => {
                        shared.end(&Error::Disconnected(error.to_string()));
                        return None;
                    }
                }
            }
            Step::Lost(attempt, backoff) => return Some((attempt, backoff)),
            Step::Over => return None,
        }
    }
}

/// Connects again and again, until it succeeds or cannot succeed, or the client is closed.
async fn come_back(
    shared: &Shared,
    attempt: Box<ConnectAttempt>,
    backoff: Backoff,
) -> Option<WatchedFds> {
    for pause in backoff.pauses() {
        let attempt = attempt.clone();
        // Connecting waits, and a name has to be resolved: not on a thread that serves tasks.
        let made = spawn_blocking(move || attempt.make()).await;
        let made = made.unwrap_or_else(|error| Err(Error::Protocol(error.to_string())));
        let fds = match made {
            Ok(made) => {
                let mut state = shared.lock();
                state.come_back(made);
                WatchedFds::of(&state.client)
            }
            Err(error) if error.is_temporary() => {
                if rest(shared, pause).await {
                    continue;
                }
                Err(super::shared::closed())
            }
            Err(error) => Err(error),
        };
        return fds.inspect_err(|error| shared.end(error)).ok();
    }
    None
}

/// Waits for the next attempt. Returns whether the client still wants one.
async fn rest(shared: &Shared, pause: Duration) -> bool {
    let until = Instant::now() + pause;
    loop {
        if shared.lock().is_leaving() {
            return false;
        }
        // Publishers wake the driver, too, which must not make the pause shorter.
        if timeout_at(until, shared.wake.notified()).await.is_err() {
            return true;
        }
    }
}
