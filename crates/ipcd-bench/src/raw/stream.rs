//! Byte streams: pipes, FIFOs, Unix-domain stream sockets, TCP.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::stat::Mode;

use crate::end::{Lane, LaneSide, MessageEnd};

/// Bytes that are read at once at the least, if they are there.
const READ: usize = 64 * 1024;
/// Bytes that pipes and FIFOs hold.
const PIPE: i32 = 256 * 1024;

/// The descriptors of both ends: to read from, and to write to.
pub(super) struct StreamLane {
    near: (File, File),
    far: (File, File),
    size: usize,
    batch: usize,
}

pub(super) fn pipe(size: usize, batch: usize) -> io::Result<StreamLane> {
    let ((there_out, there_in), (back_out, back_in)) = (io::pipe()?, io::pipe()?);
    enlarge_pipe(&there_in);
    enlarge_pipe(&back_in);
    let file = |fd: OwnedFd| File::from(fd);
    let near = (file(back_out.into()), file(there_in.into()));
    let far = (file(there_out.into()), file(back_in.into()));
    Ok(StreamLane { near, far, size, batch })
}

pub(super) fn fifo(dir: &Path, size: usize, batch: usize) -> io::Result<StreamLane> {
    let (there, back) = (FifoPipe::make(dir, "there")?, FifoPipe::make(dir, "back")?);
    Ok(StreamLane {
        near: (back.reader, there.writer),
        far: (there.reader, back.writer),
        size,
        batch,
    })
}

pub(super) fn unix(size: usize, batch: usize) -> io::Result<StreamLane> {
    let (near, far) = UnixStream::pair()?;
    both_ways(near.into(), far.into(), size, batch)
}

pub(super) fn tcp(size: usize, batch: usize) -> io::Result<StreamLane> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let near = TcpStream::connect(listener.local_addr()?)?;
    let (far, _) = listener.accept()?;
    near.set_nodelay(true)?;
    far.set_nodelay(true)?;
    both_ways(near.into(), far.into(), size, batch)
}

fn both_ways(near: OwnedFd, far: OwnedFd, size: usize, batch: usize) -> io::Result<StreamLane> {
    let (near, far) = (File::from(near), File::from(far));
    let (near, far) = ((near.try_clone()?, near), (far.try_clone()?, far));
    Ok(StreamLane { near, far, size, batch })
}

/// Makes a pipe as large as our transports make it, where the kernel allows it (pipe(7)).
fn enlarge_pipe(pipe: impl AsFd) {
    let _ = fcntl(pipe, FcntlArg::F_SETPIPE_SZ(PIPE));
}

/// A FIFO whose name is gone again.
struct FifoPipe {
    reader: File,
    writer: File,
}

impl FifoPipe {
    fn make(dir: &Path, name: &str) -> io::Result<Self> {
        let path = dir.join(name);
        nix::unistd::mkfifo(&path, Mode::S_IRUSR | Mode::S_IWUSR)?;
        // Open for both, which does not wait for the other side (fifo(7)).
        let writer = OpenOptions::new().read(true).write(true).open(&path)?;
        let reader = File::open(&path)?;
        enlarge_pipe(&writer);
        std::fs::remove_file(&path)?;
        Ok(Self { reader, writer })
    }
}

impl Lane for StreamLane {
    fn open(&mut self, side: LaneSide) -> io::Result<Box<dyn MessageEnd>> {
        let (reader, writer) = if side == LaneSide::Near { &self.near } else { &self.far };
        let input = vec![0; READ.max(self.size)];
        let (reader, writer) = (reader.try_clone()?, writer.try_clone()?);
        let (size, batch, output) = (self.size, self.batch, Vec::new());
        Ok(Box::new(StreamEnd { reader, writer, input, filled: 0, output, size, batch }))
    }
}

struct StreamEnd {
    reader: File,
    writer: File,
    input: Vec<u8>,
    filled: usize,
    output: Vec<u8>,
    size: usize,
    batch: usize,
}

impl MessageEnd for StreamEnd {
    fn send(&mut self, message: &[u8]) -> io::Result<()> {
        self.output.extend_from_slice(message);
        if self.output.len() >= self.batch { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.write_all(&self.output)?;
        self.output.clear();
        Ok(())
    }

    fn receive(&mut self, take: &mut dyn FnMut(&[u8])) -> io::Result<usize> {
        while self.filled < self.size {
            match self.reader.read(&mut self.input[self.filled..])? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => self.filled += count,
            }
        }
        let whole = self.filled - self.filled % self.size;
        self.input[..whole].chunks_exact(self.size).for_each(take);
        self.input.copy_within(whole..self.filled, 0);
        self.filled -= whole;
        Ok(whole / self.size)
    }
}
