//! A connection, as the Python classes use it: each operation takes the event loop of its caller, or
//! None for a caller that waits.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use ipcd_client::{
    Answer, AsyncClient, Backoff, DaemonLocation, Error, Options, OverflowPolicy, Publication,
    Query, Result, SubscribeOptions, TokenSource,
};
use pyo3::IntoPyObject;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;

use crate::error::exception;
use crate::message::{Message, Origin, header_block};
use crate::runtime::{ProcessRuntime, closed};
use crate::stream::{Source, Stream};

/// An event loop of asyncio.
type EventLoop<'a, 'py> = Option<&'a Bound<'py, PyAny>>;
/// Headers as Python gives them.
type HeaderPairs = Option<Vec<(String, Vec<u8>)>>;

/// A connection.
#[pyclass(frozen)]
pub(crate) struct Core {
    client: Mutex<Option<AsyncClient>>,
    runtime: ProcessRuntime,
}

/// Connects; returns the connection.
#[pyfunction]
#[pyo3(signature = (event_loop, via, name, token_file, token_name, timeout, reconnect, no_echo))]
#[expect(clippy::too_many_arguments, reason = "each is an option of the Python function")]
pub(crate) fn connect(
    py: Python<'_>,
    event_loop: EventLoop<'_, '_>,
    via: Option<String>,
    name: Option<String>,
    token_file: Option<std::path::PathBuf>,
    token_name: Option<String>,
    timeout: f64,
    reconnect: bool,
    no_echo: bool,
) -> PyResult<Py<PyAny>> {
    let runtime = ProcessRuntime::current()?;
    let timeout = seconds(timeout)?;
    let made = runtime.clone();
    runtime.perform(event_loop, py, async move {
        let found = via.map_or_else(DaemonLocation::find, |via| DaemonLocation::via(&via))?;
        let options = Options {
            name,
            token: token_file.map_or(found.token, TokenSource::File),
            token_name,
            timeout,
            reconnect: reconnect.then(Backoff::default),
            no_echo,
        };
        let client = AsyncClient::connect(&found.endpoint, options).await?;
        Ok(Core { client: Mutex::new(Some(client)), runtime: made })
    })
}

/// Payloads that are given back to the interpreter by a thread that holds it.
struct Published(#[expect(dead_code, reason = "it is only dropped")] Vec<PyBackedBytes>);

impl<'py> IntoPyObject<'py> for Published {
    type Target = pyo3::types::PyNone;
    type Output = Borrowed<'py, 'py, Self::Target>;
    type Error = std::convert::Infallible;

    fn into_pyobject(self, py: Python<'py>) -> std::result::Result<Self::Output, Self::Error> {
        Ok(pyo3::types::PyNone::get(py))
    }
}

#[pymethods]
impl Core {
    fn publish(
        &self,
        py: Python<'_>,
        event_loop: EventLoop<'_, '_>,
        subject: String,
        payload: PyBackedBytes,
        reply_subject: Option<String>,
        headers: HeaderPairs,
    ) -> PyResult<Py<PyAny>> {
        self.perform(py, event_loop, |client| async move {
            let headers = header_block(headers)?;
            let reply = reply_subject.as_deref().unwrap_or_default();
            let (subject, payload) = (&*subject, &*payload);
            let message = Publication { subject, reply, headers: &headers, payload };
            client.publish_message(&message).await
        })
    }

    fn publish_many(
        &self,
        py: Python<'_>,
        event_loop: EventLoop<'_, '_>,
        subject: String,
        payloads: Vec<PyBackedBytes>,
    ) -> PyResult<Py<PyAny>> {
        self.perform(py, event_loop, |client| async move {
            let mut rest = payloads.iter().map(|payload| &**payload);
            client.publish_all(&subject, &mut rest).await?;
            drop(rest);
            Ok(Published(payloads))
        })
    }

    fn publish_acked(
        &self,
        py: Python<'_>,
        event_loop: EventLoop<'_, '_>,
        subject: String,
        payload: PyBackedBytes,
        headers: HeaderPairs,
    ) -> PyResult<Py<PyAny>> {
        self.perform(py, event_loop, |client| async move {
            let headers = header_block(headers)?;
            let (subject, payload) = (&*subject, &*payload);
            let message =
                Publication { subject, payload, headers: &headers, ..Publication::default() };
            let receipt = client.publish_acked(&message).await?;
            let reasons = receipt.dropped.iter();
            let reasons = reasons.map(|(reason, count)| (format!("{reason:?}"), *count));
            Ok((receipt.delivered, reasons.collect::<Vec<_>>()))
        })
    }

    fn flush(&self, py: Python<'_>, event_loop: EventLoop<'_, '_>) -> PyResult<Py<PyAny>> {
        self.perform(py, event_loop, |client| async move { client.flush().await })
    }

    fn subscribe(
        &self,
        py: Python<'_>,
        event_loop: EventLoop<'_, '_>,
        filter: String,
        group: Option<String>,
        overflow: Option<&str>,
        origin: bool,
    ) -> PyResult<Py<PyAny>> {
        let overflow = overflow.map(overflow_policy).transpose()?;
        let options = SubscribeOptions { group, overflow, origin, limit: None };
        let runtime = self.runtime.clone();
        self.perform(py, event_loop, |client| async move {
            let subscription = client.subscribe(&filter, options).await?;
            Ok(Stream::new(Source::Subscription(subscription), runtime))
        })
    }

    fn direct(&self, py: Python<'_>) -> PyResult<Stream> {
        let client = self.client().map_err(|error| exception(py, &error))?;
        let source = Source::Subscription(client.direct_messages());
        Ok(Stream::new(source, self.runtime.clone()))
    }

    fn request(
        &self,
        py: Python<'_>,
        event_loop: EventLoop<'_, '_>,
        subject: String,
        payload: PyBackedBytes,
        timeout: f64,
        headers: HeaderPairs,
    ) -> PyResult<Py<PyAny>> {
        let timeout = seconds(timeout)?;
        self.perform(py, event_loop, |client| async move {
            let headers = header_block(headers)?;
            let (subject, payload) = (&*subject, &*payload);
            let message =
                Publication { subject, payload, headers: &headers, ..Publication::default() };
            client.request_message(&message, timeout).await.map(Message)
        })
    }

    fn request_many(
        &self,
        py: Python<'_>,
        event_loop: EventLoop<'_, '_>,
        subject: String,
        payload: PyBackedBytes,
        timeout: f64,
        headers: HeaderPairs,
    ) -> PyResult<Py<PyAny>> {
        let timeout = seconds(timeout)?;
        let runtime = self.runtime.clone();
        self.perform(py, event_loop, |client| async move {
            let headers = header_block(headers)?;
            let (subject, payload) = (&*subject, &*payload);
            let message =
                Publication { subject, payload, headers: &headers, ..Publication::default() };
            let replies = client.request_many(&message, timeout).await?;
            Ok(Stream::new(Source::Replies(replies), runtime))
        })
    }

    fn reply(
        &self,
        py: Python<'_>,
        event_loop: EventLoop<'_, '_>,
        request: &Bound<'_, Message>,
        payload: PyBackedBytes,
        more: bool,
        headers: HeaderPairs,
    ) -> PyResult<Py<PyAny>> {
        let request = request.get().0.clone();
        self.perform(py, event_loop, |client| async move {
            let headers = header_block(headers)?;
            client.reply_message(&request, &headers, &payload, more).await
        })
    }

    fn ping(&self, py: Python<'_>, event_loop: EventLoop<'_, '_>) -> PyResult<Py<PyAny>> {
        self.perform(py, event_loop, |client| async move {
            client.ping().await.map(|round_trip| round_trip.as_secs_f64())
        })
    }

    /// The number of subscriptions that match a subject.
    fn matching(
        &self,
        py: Python<'_>,
        event_loop: EventLoop<'_, '_>,
        subject: String,
    ) -> PyResult<Py<PyAny>> {
        self.perform(py, event_loop, |client| async move {
            match client.query(&Query::Matching(subject)).await?[..] {
                [Answer::Matching(count)] => Ok(count),
                _ => Err(Error::Protocol("the answer does not belong to the question".into())),
            }
        })
    }

    fn close(&self, py: Python<'_>, event_loop: EventLoop<'_, '_>) -> PyResult<Py<PyAny>> {
        let client = self.client.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.runtime.perform(event_loop, py, async move {
            match client {
                Some(client) => client.close().await,
                None => Ok(()),
            }
        })
    }

    fn origin(&self, sender: u64) -> Option<Origin> {
        self.client().ok()?.origin(sender).map(Origin::from)
    }

    #[getter]
    fn peer(&self) -> u64 {
        self.client().map_or(0, |client| client.peer())
    }

    #[getter]
    fn max_payload(&self) -> usize {
        self.client().map_or(0, |client| client.max_payload())
    }

    #[getter]
    fn is_connected(&self) -> bool {
        self.client().is_ok_and(|client| client.is_connected())
    }
}

impl Core {
    fn client(&self) -> Result<AsyncClient> {
        let client = self.client.lock().unwrap_or_else(PoisonError::into_inner);
        client.clone().ok_or_else(closed)
    }

    fn perform<T, F>(
        &self,
        py: Python<'_>,
        event_loop: EventLoop<'_, '_>,
        operation: impl FnOnce(AsyncClient) -> F,
    ) -> PyResult<Py<PyAny>>
    where
        F: Future<Output = Result<T>> + Send + 'static,
        T: for<'a> IntoPyObject<'a> + Send + 'static,
    {
        let client = self.client();
        match client {
            Ok(client) => self.runtime.perform(event_loop, py, operation(client)),
            Err(error) => Err(exception(py, &error)),
        }
    }
}

fn seconds(secs: f64) -> PyResult<Duration> {
    Duration::try_from_secs_f64(secs)
        .map_err(|error| PyValueError::new_err(format!("a timeout of {secs} s: {error}")))
}

fn overflow_policy(word: &str) -> PyResult<OverflowPolicy> {
    match word {
        "block" => Ok(OverflowPolicy::Block),
        "drop-oldest" => Ok(OverflowPolicy::DropOldest),
        "drop-newest" => Ok(OverflowPolicy::DropNewest),
        "disconnect" => Ok(OverflowPolicy::Disconnect),
        _ => Err(PyValueError::new_err(format!(
            "overflow={word}: choose one of block, drop-oldest, drop-newest, disconnect"
        ))),
    }
}
