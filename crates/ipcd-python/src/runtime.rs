//! The runtime under all clients of a process, and waiting for its results, in a thread of Python or
//! in an event loop.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use ipcd_client::{Error, Result};
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::{IntoPyObject, IntoPyObjectExt};
use tokio::runtime::{Builder, Runtime};
use tokio::task::AbortHandle;

use crate::completions;
use crate::error::exception;

/// The pause after which a thread that waits looks for signals, such as Ctrl-C.
const SIGNAL_CHECK: Duration = Duration::from_millis(100);
/// The threads of the runtime. They move bytes and never hold the interpreter.
const THREADS: usize = 1;

/// The runtime of one process.
#[derive(Clone)]
pub(crate) struct ProcessRuntime {
    runtime: Arc<Runtime>,
    pid: u32,
}

static CURRENT: Mutex<Option<ProcessRuntime>> = Mutex::new(None);

impl ProcessRuntime {
    /// The runtime of this process. A child that was forked gets a new one: it has none of the
    /// threads of its parent.
    pub(crate) fn current() -> PyResult<Self> {
        let pid = std::process::id();
        let mut current = CURRENT.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = current.as_ref().filter(|found| found.pid == pid) {
            return Ok(found.clone());
        }
        let built = Builder::new_multi_thread()
            .worker_threads(THREADS)
            .thread_name("ipcd")
            .enable_all()
            .build()
            .map_err(|error| PyRuntimeError::new_err(format!("start the runtime: {error}")))?;
        let made = Self { runtime: Arc::new(built), pid };
        // The one of the parent is not dropped: that would wait for threads that are not there.
        std::mem::forget(current.replace(made.clone()));
        Ok(made)
    }

    /// The result of an operation: at once, or as a future of the event loop if there is one.
    /// Without one, the thread waits.
    ///
    /// # Errors
    /// If the operation fails, a signal handler raises, or this process is a forked child.
    pub(crate) fn perform<T>(
        &self,
        event_loop: Option<&Bound<'_, PyAny>>,
        py: Python<'_>,
        operation: impl Future<Output = Result<T>> + Send + 'static,
    ) -> PyResult<Py<PyAny>>
    where
        T: for<'py> IntoPyObject<'py> + Send + 'static,
    {
        if self.pid != std::process::id() {
            return Err(PyRuntimeError::new_err(
                "a client does not survive fork(): connect in the child",
            ));
        }
        let mut operation: Pin<Box<dyn Future<Output = Result<T>> + Send>> = Box::pin(operation);
        let entered = self.runtime.enter();
        // Most operations that only publish are over at once.
        let polled = operation.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        drop(entered);
        match (polled, event_loop) {
            (Poll::Ready(result), _) => convert(py, result),
            (Poll::Pending, None) => {
                let result = self.wait(py, operation)?;
                convert(py, result)
            }
            (Poll::Pending, Some(event_loop)) => self.promise(event_loop, operation),
        }
    }

    /// Waits without the interpreter, and looks for signals now and then.
    fn wait<T: Send>(
        &self,
        py: Python<'_>,
        operation: impl Future<Output = T> + Send,
    ) -> PyResult<T> {
        let mut operation = pin!(operation);
        loop {
            let slice = async { tokio::time::timeout(SIGNAL_CHECK, operation.as_mut()).await };
            if let Ok(result) = py.detach(|| self.runtime.block_on(slice)) {
                return Ok(result);
            }
            py.check_signals()?;
        }
    }

    /// A future of the event loop, which ends with the operation. Its cancellation drops the
    /// operation.
    fn promise<T>(
        &self,
        event_loop: &Bound<'_, PyAny>,
        operation: Pin<Box<dyn Future<Output = Result<T>> + Send>>,
    ) -> PyResult<Py<PyAny>>
    where
        T: for<'py> IntoPyObject<'py> + Send + 'static,
    {
        let future = event_loop.call_method0("create_future")?;
        let (loop_, promised) = (event_loop.clone().unbind(), future.clone().unbind());
        let task = self.runtime.spawn(async move {
            let result = operation.await;
            completions::hand_over(Box::new(move |py| settle(py, &loop_, promised, result)));
        });
        future.call_method1("add_done_callback", (Canceller(task.abort_handle()),))?;
        Ok(future.unbind())
    }
}

/// Ends a task whose future was cancelled.
#[pyclass(frozen)]
struct Canceller(AbortHandle);

#[pymethods]
impl Canceller {
    fn __call__(&self, _future: &Bound<'_, PyAny>) {
        // It has no effect on a task that has ended.
        self.0.abort();
    }
}

fn settle<T>(py: Python<'_>, event_loop: &Py<PyAny>, future: Py<PyAny>, result: Result<T>)
where
    T: for<'py> IntoPyObject<'py>,
{
    let outcome = convert(py, result);
    let settled = py.import("ipcd._aio").and_then(|module| {
        let (value, error) = match outcome {
            Ok(value) => (value, py.None()),
            Err(error) => (py.None(), error.into_value(py).into_any()),
        };
        let settle = module.getattr("settle")?;
        let args = (settle, future, value, error);
        event_loop.bind(py).call_method1("call_soon_threadsafe", args)
    });
    // The loop is closed: no task waits for the future any more.
    drop(settled);
}

fn convert<T>(py: Python<'_>, result: Result<T>) -> PyResult<Py<PyAny>>
where
    T: for<'py> IntoPyObject<'py>,
{
    match result {
        Ok(value) => value.into_py_any(py),
        Err(error) => Err(exception(py, &error)),
    }
}

/// The error of an operation on a client or stream that was closed.
pub(crate) fn closed() -> Error {
    Error::Disconnected("the client was closed".into())
}
