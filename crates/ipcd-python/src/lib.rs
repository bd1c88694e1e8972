//! The native half of the Python package `ipcd`: the async client of Rust, for Python.
//!
//! It has no rules of its own about the protocol. The classes that users see are in `python/ipcd`.

mod client;
mod completions;
mod error;
mod message;
mod runtime;
mod stream;

use pyo3::prelude::*;

/// The native half of the package.
#[pymodule]
fn _ipcd(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<client::Core>()?;
    module.add_class::<message::Message>()?;
    module.add_class::<message::Origin>()?;
    module.add_class::<stream::Stream>()?;
    module.add_function(wrap_pyfunction!(client::connect, module)?)
}
