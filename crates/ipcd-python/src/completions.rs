//! The thread that hands results to event loops. It holds the interpreter for many results at once,
//! so that the threads of the runtime never wait for it.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, PoisonError};

use pyo3::Python;

/// Hands one result over.
pub(crate) type Completion = Box<dyn FnOnce(Python<'_>) + Send>;

/// The way to the thread, and the process that it belongs to.
static THREAD: Mutex<Option<(u32, Sender<Completion>)>> = Mutex::new(None);

pub(crate) fn hand_over(completion: Completion) {
    let pid = std::process::id();
    let mut thread = THREAD.lock().unwrap_or_else(PoisonError::into_inner);
    // A forked child has none of the threads of its parent.
    let mut current = thread.take().filter(|(owner, _)| *owner == pid);
    let (_, sender) = current.get_or_insert_with(|| (pid, start()));
    // It ends with the interpreter: then no loop waits for anything.
    let _ = sender.send(completion);
    *thread = current;
}

fn start() -> Sender<Completion> {
    let (sender, receiver) = channel();
    let name = "ipcd-completions".to_owned();
    // Without a thread the sender has no receiver, and futures are not settled: the system that
    // refuses a thread has refused those of the runtime before.
    let _ = std::thread::Builder::new().name(name).spawn(move || serve(&receiver));
    sender
}

fn serve(receiver: &Receiver<Completion>) {
    while let Ok(first) = receiver.recv() {
        let handed_over = Python::try_attach(|py| {
            first(py);
            receiver.try_iter().for_each(|next| next(py));
        });
        if handed_over.is_none() {
            return;
        }
    }
}
