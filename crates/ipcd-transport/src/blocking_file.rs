//! Descriptors that others have opened, such as the standard streams.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, OwnedFd};

use nix::poll::{PollFd, PollFlags};

use crate::poll_some;

/// A descriptor that blocks, also if another who shares it has made it non-blocking (open(2): the flag
/// belongs to what is shared): then it is waited for. That nothing is there yet is not the end.
#[derive(Debug)]
pub struct BlockingFile(File);

impl BlockingFile {
    /// Over a duplicate of the descriptor.
    ///
    /// # Errors
    /// As fcntl(2).
    pub fn over(fd: impl AsFd) -> io::Result<Self> {
        Ok(Self(OwnedFd::into(fd.as_fd().try_clone_to_owned()?)))
    }

    fn wait(&self, events: PollFlags) -> io::Result<()> {
        let waited = poll_some(&mut [PollFd::new(self.0.as_fd(), events)], None);
        waited.map(drop).map_err(io::Error::other)
    }

    fn until_done<T>(
        &mut self,
        events: PollFlags,
        mut call: impl FnMut(&mut File) -> io::Result<T>,
    ) -> io::Result<T> {
        loop {
            match call(&mut self.0) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.wait(events)?,
                outcome => return outcome,
            }
        }
    }
}

impl Read for BlockingFile {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.until_done(PollFlags::POLLIN, |file| file.read(into))
    }
}

impl Write for BlockingFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.until_done(PollFlags::POLLOUT, |file| file.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn waits_where_others_have_made_it_non_blocking() {
        let (near, far) = UnixStream::pair().unwrap();
        near.set_nonblocking(true).unwrap();
        far.set_nonblocking(true).unwrap();
        let bytes: Vec<u8> = (0..1_000_000_u32).map(|i| i as u8).collect();
        let writer = std::thread::spawn({
            let bytes = bytes.clone();
            move || BlockingFile::over(near).unwrap().write_all(&bytes)
        });
        let mut came = Vec::new();
        BlockingFile::over(far).unwrap().read_to_end(&mut came).unwrap();
        writer.join().unwrap().unwrap();
        assert!(came == bytes);
    }
}
