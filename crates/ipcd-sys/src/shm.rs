//! A ring of messages in memory that forked processes share, with one that puts messages in and
//! one that takes them out, each of which sleeps by a doorbell.

use std::io;
use std::ptr::{NonNull, null_mut};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

use nix::errno::Errno;
use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::futex;

/// The way that the two sides of a ring wait for each other.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Bell {
    /// On a word of the shared memory, futex(2).
    Futex,
    /// On a descriptor, eventfd(2).
    Eventfd,
    /// On a semaphore in the shared memory, `sem_overview(7)`.
    Semaphore,
    /// Not at all: they look again and again, and offer the core to others after a while.
    Spin,
}

/// Looks at the ring before a spinning side offers its core to others.
const SPINS: u32 = 2000;

/// Makes a ring with `slots` places for messages of at most `largest` bytes.
///
/// After a fork each half must be used by one process only: there is one producer and one consumer.
///
/// # Errors
/// If there is no memory, or no descriptor for a bell.
pub fn ring(slots: usize, largest: usize, bell: Bell) -> io::Result<(Producer, Consumer)> {
    let stride = largest.next_multiple_of(LINE);
    let memory = Arc::new(Memory::new(size_of::<Head>() + slots * stride)?);
    let bells = Arc::new([DoorBell::new(bell)?, DoorBell::new(bell)?]);
    if bell == Bell::Semaphore {
        memory.init_semaphores()?;
    }
    let side = |_| Side { memory: memory.clone(), bells: bells.clone(), slots, stride, largest };
    Ok((Producer { side: side(0), known_tail: 0 }, Consumer { side: side(1), known_head: 0 }))
}

const LINE: usize = 64;
/// Places that are given back to the producer at once: the line with the counter moves between the
/// cores each time.
const GIVEN_BACK: u64 = 32;
/// The index of the bell that tells the consumer of messages.
const FILLED: usize = 0;
/// The index of the bell that tells the producer of room.
const EMPTIED: usize = 1;

/// A counter with a cache line of its own, so that the sides do not disturb each other.
#[repr(C, align(128))]
struct Counter(AtomicU64);

/// Whether a side sleeps: 1 while it does, or is about to.
#[repr(C, align(128))]
struct Sleeper(AtomicU32);

/// The start of the memory. All of it is valid when it is zero.
#[repr(C)]
struct Head {
    /// Messages put in since the start; written by the producer only.
    head: Counter,
    /// Messages taken out since the start; written by the consumer only.
    tail: Counter,
    sleepers: [Sleeper; 2],
    semaphores: [std::cell::UnsafeCell<libc::sem_t>; 2],
}

/// An anonymous mapping that forked processes share.
struct Memory {
    at: NonNull<u8>,
    bytes: usize,
}

// SAFETY: nothing in it belongs to a thread; access is by atomics, or by the rules of the ring.
unsafe impl Send for Memory {}
// SAFETY: the same.
unsafe impl Sync for Memory {}

impl Memory {
    fn new(bytes: usize) -> io::Result<Self> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // Populated at once, so that no page fault falls into what is measured.
        let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS | libc::MAP_POPULATE;
        // SAFETY: a new mapping wherever the kernel likes touches no memory of ours.
        let at = unsafe { libc::mmap(null_mut(), bytes, protection, flags, -1, 0) };
        if at == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let at = NonNull::new(at.cast()).ok_or_else(|| io::Error::from(Errno::ENOMEM))?;
        Ok(Self { at, bytes })
    }

    fn head(&self) -> &Head {
        // SAFETY: the mapping is page-aligned, at least as long, zeroed (which is a valid value),
        // and lives as long as `self`. What changes in it is atomic or in an UnsafeCell.
        unsafe { self.at.cast::<Head>().as_ref() }
    }

    fn init_semaphores(&self) -> io::Result<()> {
        for semaphore in &self.head().semaphores {
            // SAFETY: no other process has the memory yet; 1 = shared between processes.
            Errno::result(unsafe { libc::sem_init(semaphore.get(), 1, 0) })?;
        }
        Ok(())
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: it was mapped with this length, and nothing borrowed from it is left. A pending
        // waiter can only be in another process, which has its own mapping of the memory.
        unsafe { libc::munmap(self.at.as_ptr().cast(), self.bytes) };
    }
}

/// The primitive by which a side waits and is woken.
enum DoorBell {
    Futex,
    Eventfd(EventFd),
    Semaphore,
    Spin,
}

impl DoorBell {
    fn new(bell: Bell) -> io::Result<Self> {
        Ok(match bell {
            Bell::Futex => Self::Futex,
            Bell::Eventfd => Self::Eventfd(EventFd::from_flags(EfdFlags::EFD_CLOEXEC)?),
            Bell::Semaphore => Self::Semaphore,
            Bell::Spin => Self::Spin,
        })
    }
}

struct Side {
    memory: Arc<Memory>,
    bells: Arc<[DoorBell; 2]>,
    slots: usize,
    stride: usize,
    largest: usize,
}

impl Side {
    /// The place of a message, which only one side may touch at a time.
    fn slot(&self, number: u64) -> *mut u8 {
        let place = (number % self.slots as u64) as usize;
        // SAFETY: the mapping holds the head and `slots` strides behind it.
        unsafe { self.memory.at.as_ptr().add(size_of::<Head>() + place * self.stride) }
    }

    /// Sleeps by the bell until `is_ready` holds.
    fn wait(&self, which: usize, is_ready: impl Fn() -> bool) -> io::Result<()> {
        if let DoorBell::Spin = self.bells[which] {
            spin(is_ready);
            return Ok(());
        }
        let sleeper = &self.memory.head().sleepers[which].0;
        while !is_ready() {
            sleeper.store(1, Ordering::Relaxed);
            // The other side either sees that we sleep, or we see what it did.
            fence(Ordering::SeqCst);
            if is_ready() {
                break;
            }
            self.sleep(which, sleeper)?;
        }
        sleeper.store(0, Ordering::Relaxed);
        Ok(())
    }

    fn sleep(&self, which: usize, sleeper: &AtomicU32) -> io::Result<()> {
        match &self.bells[which] {
            DoorBell::Futex => futex::wait(sleeper, 1),
            DoorBell::Eventfd(fd) => fd.read().map(drop).map_err(io::Error::from),
            DoorBell::Semaphore => {
                let semaphore = self.memory.head().semaphores[which].get();
                // SAFETY: it was initialised when the ring was made.
                match Errno::result(unsafe { libc::sem_wait(semaphore) }) {
                    Ok(_) | Err(Errno::EINTR) => Ok(()),
                    Err(error) => Err(error.into()),
                }
            }
            DoorBell::Spin => unreachable!("a spinning side never sleeps"),
        }
    }

    /// Wakes the other side if it sleeps.
    fn ring(&self, which: usize) -> io::Result<()> {
        if let DoorBell::Spin = self.bells[which] {
            return Ok(());
        }
        fence(Ordering::SeqCst);
        let sleeper = &self.memory.head().sleepers[which].0;
        if sleeper.load(Ordering::Relaxed) == 0 || sleeper.swap(0, Ordering::Relaxed) == 0 {
            return Ok(());
        }
        match &self.bells[which] {
            DoorBell::Futex => futex::wake(sleeper),
            DoorBell::Eventfd(fd) => fd.write(1).map(drop).map_err(io::Error::from),
            DoorBell::Semaphore => {
                let semaphore = self.memory.head().semaphores[which].get();
                // SAFETY: it was initialised when the ring was made.
                Errno::result(unsafe { libc::sem_post(semaphore) })?;
                Ok(())
            }
            DoorBell::Spin => Ok(()),
        }
    }
}

fn spin(is_ready: impl Fn() -> bool) {
    let mut looks = 0;
    while !is_ready() {
        looks += 1;
        if looks < SPINS {
            std::hint::spin_loop();
        } else {
            std::thread::yield_now();
        }
    }
}

/// The side that puts messages in.
pub struct Producer {
    side: Side,
    known_tail: u64,
}

impl Producer {
    /// Puts a message in, and waits while the ring is full.
    ///
    /// # Errors
    /// If the bell fails.
    ///
    /// # Panics
    /// If the message has not exactly the length of all messages of the ring.
    pub fn push(&mut self, message: &[u8]) -> io::Result<()> {
        assert_eq!(message.len(), self.side.largest, "all messages of a ring have one length");
        let head = &self.side.memory.head().head.0;
        let tail = &self.side.memory.head().tail.0;
        let number = head.load(Ordering::Relaxed);
        let slots = self.side.slots as u64;
        if number - self.known_tail >= slots {
            let is_room = || number - tail.load(Ordering::Acquire) < slots;
            self.side.wait(EMPTIED, is_room)?;
            self.known_tail = tail.load(Ordering::Acquire);
        }
        // SAFETY: the slot is `largest` bytes long, and from the tail on to this number it is ours:
        // the consumer reads only below the head, which is raised after the copy.
        unsafe { self.side.slot(number).copy_from(message.as_ptr(), message.len()) };
        head.store(number + 1, Ordering::Release);
        self.side.ring(FILLED)
    }
}

/// The side that takes messages out.
pub struct Consumer {
    side: Side,
    known_head: u64,
}

impl Consumer {
    /// Waits for messages, and gives all that are there to `take`. Returns how many there were.
    ///
    /// # Errors
    /// If the bell fails.
    pub fn drain(&mut self, take: &mut dyn FnMut(&[u8])) -> io::Result<usize> {
        let head = &self.side.memory.head().head.0;
        let tail = &self.side.memory.head().tail.0;
        let first = tail.load(Ordering::Relaxed);
        if first == self.known_head {
            self.side.wait(FILLED, || head.load(Ordering::Acquire) != first)?;
            self.known_head = head.load(Ordering::Acquire);
        }
        for number in first..self.known_head {
            // SAFETY: the slot is `largest` bytes long and below the head, so the producer has
            // filled it, and leaves it alone until the tail is raised.
            let message =
                unsafe { std::slice::from_raw_parts(self.side.slot(number), self.side.largest) };
            take(message);
            if number + 1 == self.known_head || (number + 1).is_multiple_of(GIVEN_BACK) {
                tail.store(number + 1, Ordering::Release);
                self.side.ring(EMPTIED)?;
            }
        }
        Ok((self.known_head - first) as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_order_over_many_rounds() {
        for bell in [Bell::Futex, Bell::Eventfd, Bell::Semaphore, Bell::Spin] {
            let (mut producer, mut consumer) = ring(4, 8, bell).unwrap();
            for number in 0..100u64 {
                producer.push(&number.to_ne_bytes()).unwrap();
                let mut came = Vec::new();
                consumer.drain(&mut |message| came.extend_from_slice(message)).unwrap();
                assert_eq!(came, number.to_ne_bytes());
            }
        }
    }

    #[test]
    fn wakes_a_side_that_waits() {
        for bell in [Bell::Futex, Bell::Eventfd, Bell::Semaphore, Bell::Spin] {
            let (mut producer, mut consumer) = ring(4, 8, bell).unwrap();
            let sender = std::thread::spawn(move || {
                for number in 0..10_000u64 {
                    producer.push(&number.to_ne_bytes()).unwrap();
                }
            });
            let mut expected = 0;
            while expected < 10_000u64 {
                let mut check = |message: &[u8]| {
                    assert_eq!(message, expected.to_ne_bytes());
                    expected += 1;
                };
                consumer.drain(&mut check).unwrap();
            }
            sender.join().unwrap();
        }
    }
}
