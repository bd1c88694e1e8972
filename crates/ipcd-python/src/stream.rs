//! A stream of messages or of replies, for iteration in Python.
//!
//! Messages are moved into a queue in front of Python, many at once. They stay there until Python
//! takes them: a wait that is cancelled loses none.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use ipcd_client::{Error, Event, Replies, Result, Subscription};
use pyo3::prelude::*;
use tokio::sync::Notify;

use crate::error::exception;
use crate::message::Message;
use crate::runtime::ProcessRuntime;

/// Messages that are moved at once.
const BATCH: usize = 256;

/// The messages of a subscription, or the replies to a request.
#[pyclass(frozen)]
pub(crate) struct Stream {
    state: Arc<StreamState>,
    runtime: ProcessRuntime,
}

/// The source of a stream.
pub(crate) enum Source {
    Subscription(Subscription),
    Replies(Replies),
    Closed,
}

struct StreamState {
    /// Held by the one who waits for the source.
    source: tokio::sync::Mutex<Source>,
    queue: Mutex<VecDeque<Result<ipcd_client::Message>>>,
    is_closed: AtomicBool,
    closing: Notify,
    dropped: AtomicU64,
}

impl Stream {
    pub(crate) fn new(source: Source, runtime: ProcessRuntime) -> Self {
        let state = Arc::new(StreamState {
            source: tokio::sync::Mutex::new(source),
            queue: Mutex::default(),
            is_closed: AtomicBool::new(false),
            closing: Notify::new(),
            dropped: AtomicU64::new(0),
        });
        Self { state, runtime }
    }
}

#[pymethods]
impl Stream {
    /// The next message in the queue; None if there is none.
    fn take(&self, py: Python<'_>) -> PyResult<Option<Message>> {
        match self.state.queue().pop_front() {
            Some(Ok(message)) => Ok(Some(Message(message))),
            Some(Err(error)) => Err(exception(py, &error)),
            None => Ok(None),
        }
    }

    /// Waits until a message is in the queue; False at the end of the stream.
    #[pyo3(signature = (event_loop, timeout))]
    fn fill(
        &self,
        py: Python<'_>,
        event_loop: Option<&Bound<'_, PyAny>>,
        timeout: Option<f64>,
    ) -> PyResult<Py<PyAny>> {
        let state = self.state.clone();
        let timeout = timeout.map(|secs| Duration::try_from_secs_f64(secs.max(0.0)));
        let timeout = timeout.map(|timeout| timeout.unwrap_or(Duration::MAX));
        self.runtime.perform(event_loop, py, async move {
            match timeout {
                None => Ok(state.fill().await),
                Some(timeout) => tokio::time::timeout(timeout, state.fill())
                    .await
                    .map_err(|_| Error::TimedOut("message")),
            }
        })
    }

    /// Messages that the daemon has dropped, as far as the stream has come.
    fn dropped(&self) -> u64 {
        self.state.dropped.load(Ordering::Relaxed)
    }

    /// Ends the subscription or the request, and forgets the rest.
    fn close(&self) {
        self.state.close();
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.state.close();
    }
}

impl StreamState {
    fn queue(&self) -> MutexGuard<'_, VecDeque<Result<ipcd_client::Message>>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn close(&self) {
        self.is_closed.store(true, Ordering::Release);
        self.queue().clear();
        // One who waits drops the source itself.
        self.closing.notify_waiters();
        if let Ok(mut source) = self.source.try_lock() {
            *source = Source::Closed;
        }
    }

    async fn fill(&self) -> bool {
        let mut source = self.source.lock().await;
        let mut closing = pin!(self.closing.notified());
        closing.as_mut().enable();
        // Another one may have waited before, and have moved messages.
        let has_some = !self.queue().is_empty();
        if has_some {
            return true;
        }
        let filled = match self.is_closed.load(Ordering::Acquire) {
            true => None,
            false => {
                poll_fn(|cx| match closing.as_mut().poll(cx) {
                    Poll::Ready(()) => Poll::Ready(None),
                    Poll::Pending => self.poll_fill(&mut source, cx).map(Some),
                })
                .await
            }
        };
        if filled.is_none() {
            *source = Source::Closed;
        }
        filled == Some(true)
    }

    /// Moves what is there; false at the end of the stream.
    fn poll_fill(&self, source: &mut Source, cx: &mut Context<'_>) -> Poll<bool> {
        let Some(first) = ready!(source.poll_next(cx, &self.dropped)) else {
            return Poll::Ready(false);
        };
        let mut queue = self.queue();
        queue.push_back(first);
        while queue.len() < BATCH
            && let Poll::Ready(Some(next)) = source.poll_next(cx, &self.dropped)
        {
            queue.push_back(next);
        }
        Poll::Ready(true)
    }
}

impl Source {
    fn poll_next(
        &mut self,
        cx: &mut Context<'_>,
        dropped: &AtomicU64,
    ) -> Poll<Option<Result<ipcd_client::Message>>> {
        match self {
            Self::Subscription(stream) => loop {
                let polled = pin!(stream.next_event()).poll(cx);
                match ready!(polled) {
                    Some(Ok(Event::Message(message))) => return Poll::Ready(Some(Ok(message))),
                    Some(Ok(_)) => dropped.store(stream.dropped(), Ordering::Relaxed),
                    Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                    None => return Poll::Ready(None),
                }
            },
            Self::Replies(replies) => pin!(replies.next()).poll(cx),
            Self::Closed => Poll::Ready(None),
        }
    }
}
