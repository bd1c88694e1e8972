//! The bare limit: a server that moves bytes and looks at none of them.

use std::fs::File;
use std::io::{self, Read, Write};

use crate::gate::{Gate, moved};

/// Bytes taken at once, as many as an ipcd worker takes.
pub(crate) const READ_BYTES: usize = 256 * 1024;

/// Moves bytes until the publisher closes.
pub(crate) fn serve(mut publisher: &File, mut subscriber: &File) -> io::Result<()> {
    let mut gate = Gate::new([publisher, subscriber])?;
    let mut buffer = vec![0; READ_BYTES];
    let mut held = 0..0;
    loop {
        gate.wait_one_way(!held.is_empty())?;
        if held.is_empty() {
            match moved(publisher.read(&mut buffer))? {
                Some(0) => return Ok(()),
                count => held = 0..count.unwrap_or(0),
            }
        }
        if !held.is_empty() {
            held.start += moved(subscriber.write(&buffer[held.clone()]))?.unwrap_or(0);
        }
    }
}
