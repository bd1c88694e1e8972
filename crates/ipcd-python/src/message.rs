//! Messages and senders, as Python sees them.

use ipcd_client::{Headers, Result};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};

/// A message that was received.
#[pyclass(frozen, module = "ipcd")]
pub(crate) struct Message(pub(crate) ipcd_client::Message);

#[pymethods]
impl Message {
    /// The subject that it was published on.
    #[getter]
    fn subject(&self) -> &str {
        self.0.subject()
    }

    /// The payload.
    #[getter]
    fn payload<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, self.0.payload())
    }

    /// The subject for answers, if there is one.
    #[getter]
    fn reply_subject(&self) -> Option<&str> {
        self.0.reply()
    }

    /// The headers.
    #[getter]
    fn headers<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let headers = PyDict::new(py);
        for (key, value) in self.0.headers() {
            headers.set_item(key, PyBytes::new(py, value))?;
        }
        Ok(headers)
    }

    /// The sender's number for the message.
    #[getter]
    fn id(&self) -> u64 {
        self.0.id
    }

    /// The id of the peer that sent it.
    #[getter]
    fn sender(&self) -> u64 {
        self.0.sender
    }

    /// Whether the sender waits for a reply.
    #[getter]
    fn is_request(&self) -> bool {
        self.0.is_request
    }

    /// Whether the same responder sends another reply after this one.
    #[getter]
    fn more(&self) -> bool {
        self.0.more
    }

    fn __repr__(&self) -> String {
        format!("<ipcd.Message {} with {} bytes>", self.0.subject(), self.0.payload().len())
    }
}

/// The identity of a sender.
#[pyclass(frozen, get_all, module = "ipcd")]
pub(crate) struct Origin {
    peer: u64,
    name: Option<String>,
    transport: String,
    pid: Option<u32>,
    uid: Option<u32>,
    gid: Option<u32>,
}

impl From<ipcd_client::Origin> for Origin {
    fn from(origin: ipcd_client::Origin) -> Self {
        let ipcd_client::Origin { peer, name, transport, pid, uid, gid, .. } = origin;
        Self { peer, name, transport: transport.into_owned(), pid, uid, gid }
    }
}

/// The header block of a dictionary.
pub(crate) fn header_block(headers: Option<Vec<(String, Vec<u8>)>>) -> Result<Vec<u8>> {
    let mut block = Vec::new();
    for (key, value) in headers.into_iter().flatten() {
        Headers::append(&mut block, &key, &value)?;
    }
    Ok(block)
}
