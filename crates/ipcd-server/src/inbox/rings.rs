//! A worker's rings: one to each other worker, which it puts records into, and one from each. Who
//! sleeps is woken by a byte in its inbox.

use std::io;
use std::os::fd::OwnedFd;

use ipcd_sys::ring::{Area, Grid, Reader, Taken, Writer, prepare_reader, prepare_writer};
use nix::errno::Errno;
use nix::unistd::write;

/// Bytes of a ring, which are taken up as far as they are used. As much as may be on its way
/// between two workers (`Others::window`), and a power of two.
const RING_BYTES: usize = 512 * 1024;
/// What is written to the inbox of a worker that sleeps.
pub(super) const BELL: &[u8] = b"!";

/// The rings of all workers, made before the first is born.
#[derive(Debug)]
pub(crate) struct AllRings(Grid);

impl AllRings {
    pub(crate) fn new(slots: usize) -> io::Result<Self> {
        Grid::new(slots, RING_BYTES / size_of::<u64>()).map(Self)
    }

    /// Makes the rings of a slot ready for the life that is to be born in it; by slot, the lives
    /// are given that are there or were there last. What its predecessor had put in stays there,
    /// and what was for that is gone.
    pub(crate) fn prepare(&self, slot: usize, lives: &[u32]) {
        let others = (0..lives.len()).filter(|other| *other != slot);
        for other in others {
            prepare_writer(&self.0.ring(slot, other), lives[slot], lives[other]);
            prepare_reader(&self.0.ring(other, slot), lives[other]);
        }
    }

    /// For the worker of a slot: all rings but its own are out of its reach from here on.
    pub(crate) fn open(self, slot: usize, life: u32) -> io::Result<Rings> {
        let (to_each, from_each) = self.0.keep(slot)?;
        let writer = |area: Option<Area>| area.map(|area| Writer::new(area, life));
        let reader = |area: Option<Area>| area.map(|area| Reader::new(area, life));
        Ok(Rings {
            must_ring: vec![false; to_each.len()],
            writers: to_each.into_iter().map(writer).collect(),
            readers: from_each.into_iter().map(reader).collect(),
            turn: 0,
        })
    }
}

/// Those of one worker, by slot; there is none to itself.
#[derive(Debug)]
pub(crate) struct Rings {
    writers: Vec<Option<Writer<Area>>>,
    readers: Vec<Option<Reader<Area>>>,
    /// Who is still to be rung for.
    must_ring: Vec<bool>,
    /// Whose turn it is to be read.
    turn: usize,
}

impl Rings {
    /// Puts a record in; false if there is no room, and then the receiver rings when there is some.
    pub(super) fn put(&mut self, slot: u32, life: u32, head: &[u8], frames: &[u8]) -> bool {
        let writer = self.writers[slot as usize].as_mut();
        writer.expect("nobody sends to itself").put(life, head, frames)
    }

    /// Takes the next record, of each worker in its turn; from whom it is.
    pub(super) fn take(&mut self, into: &mut [u8]) -> (u32, Taken) {
        let count = self.readers.len();
        for slot in (self.turn..count).chain(0..self.turn) {
            let Some(reader) = &mut self.readers[slot] else { continue };
            let taken = reader.take(into);
            if taken != Taken::Nothing {
                self.turn = (slot + 1) % count;
                return (slot as u32, taken);
            }
        }
        (0, Taken::Nothing)
    }

    /// Wakes the worker in a slot, if it sleeps and we have put something in.
    pub(super) fn ring(&mut self, slot: u32, way: &OwnedFd) -> io::Result<()> {
        let index = slot as usize;
        let writer = self.writers[index].as_mut();
        self.must_ring[index] |= writer.is_some_and(Writer::must_ring);
        self.ring_if_due(index, way)
    }

    /// Wakes the worker in a slot, if it waits for room that there may be now.
    pub(super) fn answer(&mut self, slot: u32, way: &OwnedFd) -> io::Result<()> {
        let index = slot as usize;
        let reader = self.readers[index].as_mut();
        self.must_ring[index] |= reader.is_some_and(Reader::is_awaited);
        self.ring_if_due(index, way)
    }

    /// Whether nothing is left to be done, and whoever changes that will ring.
    pub(super) fn fall_asleep(&mut self) -> bool {
        let is_done = !self.must_ring.contains(&true);
        is_done && self.readers.iter_mut().flatten().all(Reader::fall_asleep)
    }

    pub(super) fn wake(&mut self) {
        self.readers.iter_mut().flatten().for_each(Reader::wake);
    }

    fn ring_if_due(&mut self, index: usize, way: &OwnedFd) -> io::Result<()> {
        if !self.must_ring[index] {
            return Ok(());
        }
        self.must_ring[index] = match write(way, BELL) {
            // An inbox that is full wakes its owner, too.
            Ok(_) | Err(Errno::EAGAIN) => false,
            // Tried again in the next turn, before which nobody sleeps.
            Err(Errno::EINTR | Errno::ENOBUFS | Errno::ENOMEM) => true,
            Err(error) => return Err(error.into()),
        };
        Ok(())
    }
}
