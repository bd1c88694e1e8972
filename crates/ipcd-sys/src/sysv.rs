//! System V message queues, sysvipc(7).

use std::io;

use nix::errno::Errno;

/// Bytes of the type in front of each message.
const TYPE_BYTES: usize = size_of::<libc::c_long>();
/// The type of every message; it has to be positive.
const TYPE: libc::c_long = 1;

/// A private queue: only the owner of this value knows of it. Processes forked meanwhile share it.
///
/// The kernel keeps a queue until it is removed, which dropping this does.
#[derive(Debug)]
pub struct MessageQueue {
    id: libc::c_int,
    buffer: Vec<u8>,
}

impl MessageQueue {
    /// Makes a queue for messages of at most so many bytes.
    ///
    /// # Errors
    /// As msgget(2).
    pub fn new(largest: usize) -> io::Result<Self> {
        // SAFETY: plain numbers.
        let id = unsafe { libc::msgget(libc::IPC_PRIVATE, libc::IPC_CREAT | 0o600) };
        let id = Errno::result(id)?;
        let mut buffer = TYPE.to_ne_bytes().to_vec();
        buffer.resize(TYPE_BYTES + largest, 0);
        Ok(Self { id, buffer })
    }

    /// Sends a message, and waits while the queue is full.
    ///
    /// # Errors
    /// As msgsnd(2).
    ///
    /// # Panics
    /// If the message is longer than was said.
    pub fn send(&mut self, message: &[u8]) -> io::Result<()> {
        let text = TYPE_BYTES..TYPE_BYTES + message.len();
        self.buffer[..TYPE_BYTES].copy_from_slice(&TYPE.to_ne_bytes());
        self.buffer[text].copy_from_slice(message);
        // SAFETY: the buffer holds the type and, behind it, a text of the length that is given.
        let status =
            unsafe { libc::msgsnd(self.id, self.buffer.as_ptr().cast(), message.len(), 0) };
        Errno::result(status).map(drop).map_err(io::Error::from)
    }

    /// Waits for a message.
    ///
    /// # Errors
    /// As msgrcv(2).
    pub fn receive(&mut self) -> io::Result<&[u8]> {
        let largest = self.buffer.len() - TYPE_BYTES;
        // SAFETY: the buffer has room for the type and, behind it, a text of the length given.
        let count =
            unsafe { libc::msgrcv(self.id, self.buffer.as_mut_ptr().cast(), largest, TYPE, 0) };
        let count = Errno::result(count)? as usize;
        Ok(&self.buffer[TYPE_BYTES..TYPE_BYTES + count])
    }
}

impl Drop for MessageQueue {
    fn drop(&mut self) {
        // SAFETY: plain numbers. A process that waits on the queue gets an error.
        let _ = unsafe { libc::msgctl(self.id, libc::IPC_RMID, std::ptr::null_mut()) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_messages_apart() {
        let mut queue = MessageQueue::new(64).unwrap();
        queue.send(b"one").unwrap();
        queue.send(b"").unwrap();
        queue.send(&[7; 64]).unwrap();
        assert_eq!(queue.receive().unwrap(), b"one");
        assert_eq!(queue.receive().unwrap(), b"");
        assert_eq!(queue.receive().unwrap(), [7; 64]);
    }
}
