//! Message queues: POSIX, mq_overview(7), and System V, sysvipc(7).

use std::cell::RefCell;
use std::io;
use std::rc::Rc;

use ipcd_sys::sysv::MessageQueue;
use nix::mqueue::{MQ_OFlag, MqAttr, MqdT, mq_close, mq_open, mq_receive, mq_send, mq_unlink};
use nix::sys::stat::Mode;

use crate::end::{Lane, LaneSide, MessageEnd};

/// Messages that a POSIX queue holds; the default limit without privileges.
const DEPTH: i64 = 10;

/// A queue there, and one back.
pub(super) struct QueueLane<Q> {
    there: Rc<Q>,
    back: Rc<Q>,
    size: usize,
}

pub(super) fn posix(size: usize) -> io::Result<QueueLane<PosixQueue>> {
    let (there, back) = (PosixQueue::new("there", size)?, PosixQueue::new("back", size)?);
    Ok(QueueLane { there: there.into(), back: back.into(), size })
}

pub(super) fn sysv(size: usize) -> io::Result<QueueLane<RefCell<MessageQueue>>> {
    let queue = || MessageQueue::new(size).map(RefCell::new).map(Rc::new);
    Ok(QueueLane { there: queue()?, back: queue()?, size })
}

impl<Q> QueueLane<Q> {
    /// The queue that an end writes to, and the one that it reads.
    fn of(&self, side: LaneSide) -> (Rc<Q>, Rc<Q>) {
        let (there, back) = (self.there.clone(), self.back.clone());
        if side == LaneSide::Near { (there, back) } else { (back, there) }
    }
}

impl Lane for QueueLane<PosixQueue> {
    fn open(&mut self, side: LaneSide) -> io::Result<Box<dyn MessageEnd>> {
        let (out, into) = self.of(side);
        Ok(Box::new(PosixEnd { out, into, buffer: vec![0; self.size] }))
    }
}

impl Lane for QueueLane<RefCell<MessageQueue>> {
    fn open(&mut self, side: LaneSide) -> io::Result<Box<dyn MessageEnd>> {
        let (out, into) = self.of(side);
        Ok(Box::new(SysvEnd { out, into }))
    }
}

/// An open queue whose name is gone again.
#[derive(Debug)]
pub(super) struct PosixQueue(Option<MqdT>);

impl PosixQueue {
    fn new(way: &str, size: usize) -> io::Result<Self> {
        let name = format!("/ipcd-bench-{}-{way}", std::process::id());
        let flags = MQ_OFlag::O_CREAT | MQ_OFlag::O_EXCL | MQ_OFlag::O_RDWR | MQ_OFlag::O_CLOEXEC;
        let attributes = MqAttr::new(0, DEPTH, size as i64, 0);
        let mode = Mode::S_IRUSR | Mode::S_IWUSR;
        let queue = mq_open(name.as_str(), flags, mode, Some(&attributes))?;
        mq_unlink(name.as_str())?;
        Ok(Self(Some(queue)))
    }

    fn descriptor(&self) -> &MqdT {
        self.0.as_ref().expect("it is open until it is dropped")
    }
}

impl Drop for PosixQueue {
    fn drop(&mut self) {
        // A queue that could not be closed goes away with its last process.
        let _ = self.0.take().map(mq_close);
    }
}

struct PosixEnd {
    out: Rc<PosixQueue>,
    into: Rc<PosixQueue>,
    buffer: Vec<u8>,
}

impl MessageEnd for PosixEnd {
    fn send(&mut self, message: &[u8]) -> io::Result<()> {
        Ok(mq_send(self.out.descriptor(), message, 0)?)
    }

    fn receive(&mut self, take: &mut dyn FnMut(&[u8])) -> io::Result<usize> {
        let count = mq_receive(self.into.descriptor(), &mut self.buffer, &mut 0)?;
        take(&self.buffer[..count]);
        Ok(1)
    }
}

struct SysvEnd {
    out: Rc<RefCell<MessageQueue>>,
    into: Rc<RefCell<MessageQueue>>,
}

impl MessageEnd for SysvEnd {
    fn send(&mut self, message: &[u8]) -> io::Result<()> {
        self.out.borrow_mut().send(message)
    }

    fn receive(&mut self, take: &mut dyn FnMut(&[u8])) -> io::Result<usize> {
        take(self.into.borrow_mut().receive()?);
        Ok(1)
    }
}
