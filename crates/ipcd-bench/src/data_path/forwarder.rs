//! The bare limit: a server that moves bytes without looking at them.

use std::fs::File;
use std::io::{self, Read, Write};

use super::gate::{ReadyGate, bytes_moved};

/// Bytes taken at once, as many as an ipcd worker takes.
pub(super) const READ_BYTES: usize = 256 * 1024;

/// Moves bytes to all subscribers until the publisher closes.
pub(super) fn serve(mut publisher: &File, subscribers: &[File]) -> io::Result<()> {
    let mut gate = ReadyGate::new(std::iter::once(publisher).chain(subscribers))?;
    let mut buffer = vec![0; READ_BYTES];
    let mut filled = 0;
    // The bytes of the buffer that each subscriber has received.
    let mut written = vec![0; subscribers.len()];
    loop {
        gate.wait_one_way(written.iter().map(|written| *written < filled))?;
        if written.iter().all(|written| *written == filled) {
            written.fill(0);
            filled = match bytes_moved(publisher.read(&mut buffer))? {
                Some(0) => return Ok(()),
                count => count.unwrap_or(0),
            };
        }
        for (mut subscriber, written) in subscribers.iter().zip(&mut written) {
            if *written < filled {
                *written += bytes_moved(subscriber.write(&buffer[*written..filled]))?.unwrap_or(0);
            }
        }
    }
}
