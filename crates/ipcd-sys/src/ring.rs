//! A ring of records between two processes: one puts them in, the other takes them out, and each
//! tells the other when it sleeps, so that a bell is rung only for who does not look by itself.
//!
//! The two need not trust each other, nor whoever lived in the other's place before. All of the
//! memory is read and written by atomics; what stands there is checked before it is used, and a
//! record is copied out before anybody looks into it. Nothing here can crash, read elsewhere or go
//! on for ever, whatever the other side writes.
//!
//! A *life* numbers those who follow each other on one side. A new reader begins with an empty ring,
//! because the word that tells how far the ring is filled also tells for which life. A new writer
//! goes on where the last one has stopped; the *cut* tells the reader where that is, so that neither
//! can put in a record in the other's name, or spoil what the other has put in.
//!
//! ```text
//! record:  a word (life of the writer, bytes of the head, bytes of the body), the head, the body,
//!          each filled up to whole words; it lies in one piece
//! ```

#[cfg(target_arch = "x86_64")]
mod copying;
mod memory;

use std::sync::atomic::{AtomicU64, Ordering, fence};

pub use self::memory::{Area, Areas, Grid};

/// What the two sides share besides the records.
#[derive(Clone, Copy, Debug)]
pub enum Cell {
    /// Whom the ring is filled for, and how far: the writer's.
    Head,
    /// The life that reads, and how far it has come: the reader's.
    Tail,
    /// The number of the reader's sleep, odd while it sleeps: the reader's.
    Sleeps,
    /// How often the writer has found no room: the writer's.
    Starves,
    /// The life that writes, and where it began: set before it is born.
    Cut,
}

/// Memory that both sides have, all 0 at first.
pub trait Memory {
    /// What it consists of.
    type Word: Word;
    /// One of the words beside the records.
    fn cell(&self, cell: Cell) -> &Self::Word;
    /// Where the records lie: a power of two of words, at most 2^31.
    fn data(&self) -> &[Self::Word];
}

/// A word that two sides use at the same time.
pub trait Word {
    /// As of an atomic.
    fn load(&self, order: Ordering) -> u64;
    /// As of an atomic.
    fn store(&self, value: u64, order: Ordering);
    /// A fence of all words, sequentially consistent.
    fn fence();

    /// Stores these bytes, in no order, in as many words as they take.
    fn fill(words: &[Self], bytes: &[u8])
    where
        Self: Sized,
    {
        for (word, chunk) in words.iter().zip(bytes.chunks(WORD)) {
            let mut whole = [0; WORD];
            whole[..chunk.len()].copy_from_slice(chunk);
            word.store(u64::from_ne_bytes(whole), Ordering::Relaxed);
        }
    }

    /// Loads so many bytes, in no order.
    fn copy(words: &[Self], bytes: &mut [u8])
    where
        Self: Sized,
    {
        for (word, chunk) in words.iter().zip(bytes.chunks_mut(WORD)) {
            let whole = word.load(Ordering::Relaxed).to_ne_bytes();
            chunk.copy_from_slice(&whole[..chunk.len()]);
        }
    }
}

impl Word for AtomicU64 {
    fn load(&self, order: Ordering) -> u64 {
        self.load(order)
    }

    fn store(&self, value: u64, order: Ordering) {
        self.store(value, order);
    }

    fn fence() {
        fence(Ordering::SeqCst);
    }

    #[cfg(target_arch = "x86_64")]
    fn fill(words: &[Self], bytes: &[u8]) {
        copying::fill(words, bytes);
    }

    #[cfg(target_arch = "x86_64")]
    fn copy(words: &[Self], bytes: &mut [u8]) {
        copying::copy(words, bytes);
    }
}

/// Stands where the records go on at the start. No record has such a word.
const WRAP: u64 = u64::MAX;
const WORD: usize = size_of::<u64>();
const HEAD_BITS: u32 = 8;
const BODY_BITS: u32 = 24;

/// The side that puts records in.
#[derive(Debug)]
pub struct Writer<M> {
    memory: M,
    life: u32,
    reader: u32,
    head: u32,
    /// How often there was no room.
    starves: u64,
    /// The sleep of the reader that was rung for last.
    rung: u64,
}

impl<M: Memory> Writer<M> {
    /// For this life, after [`prepare_writer`].
    pub fn new(memory: M, life: u32) -> Self {
        let (reader, head) = unpack(memory.cell(Cell::Head).load(Ordering::Relaxed));
        Self { memory, life, reader, head, starves: 0, rung: 0 }
    }

    /// Puts a record in, for that life of the reader. If there is no room for it, it is not, and
    /// the reader will ring when there is some ([`Reader::is_awaited`]).
    ///
    /// # Panics
    /// If it is longer than half of the ring, the head longer than 255 bytes or the body than 2^24.
    pub fn put(&mut self, reader: u32, head: &[u8], body: &[u8]) -> bool {
        let words = 1 + head.len().div_ceil(WORD) + body.len().div_ceil(WORD);
        assert!(head.len() < 1 << HEAD_BITS && body.len() < 1 << BODY_BITS, "a record too long");
        assert!(words <= self.memory.data().len() / 2, "a record of {words} words in a ring");
        if self.reader != reader {
            (self.reader, self.head, self.rung) = (reader, 0, 0);
        }
        let Some(skipped) = self.place(words).or_else(|| self.starve(words)) else { return false };
        let (data, mask) = (self.memory.data(), self.memory.data().len() - 1);
        let at = self.head as usize & mask;
        if skipped > 0 {
            data[at].store(WRAP, Ordering::Relaxed);
        }
        let at = (at + skipped) & mask;
        let sizes = (head.len() as u64) << BODY_BITS | body.len() as u64;
        data[at].store(u64::from(self.life) << 32 | sizes, Ordering::Relaxed);
        let body_at = at + 1 + head.len().div_ceil(WORD);
        Word::fill(&data[at + 1..body_at], head);
        Word::fill(&data[body_at..at + words], body);
        self.head = self.head.wrapping_add((skipped + words) as u32);
        // Only now is there a record: one that is half written is none.
        self.say_head();
        true
    }

    /// Whether the reader sleeps, and must be rung for. To be asked after records were put in, and
    /// when there was no room for one.
    pub fn must_ring(&mut self) -> bool {
        // Either the reader sees what was put in, or we see that it sleeps.
        M::Word::fence();
        let sleep = self.memory.cell(Cell::Sleeps).load(Ordering::Relaxed);
        let must = sleep % 2 == 1 && sleep != self.rung;
        self.rung = if must { sleep } else { self.rung };
        must
    }

    /// How many words to pass over, so that the record behind them lies in one piece; `None` if it
    /// does not fit.
    fn place(&self, words: usize) -> Option<usize> {
        let capacity = self.memory.data().len();
        let tail = match unpack(self.memory.cell(Cell::Tail).load(Ordering::Acquire)) {
            (life, tail) if life == self.reader => tail,
            // It has not taken anything.
            _ => 0,
        };
        let used = self.head.wrapping_sub(tail) as usize;
        let at = self.head as usize & (capacity - 1);
        let left = capacity - at;
        // Begun anew while it is empty, so that little traffic stays in little memory.
        let skipped = match used == 0 && at > 0 && left + words <= capacity || words > left {
            true => left,
            false => 0,
        };
        // More than there can be is what no honest reader says, and no room.
        let room = capacity.checked_sub(used)?;
        (skipped + words <= room).then_some(skipped)
    }

    /// Asks to be told of room, unless there is some by now.
    fn starve(&mut self, words: usize) -> Option<usize> {
        self.starves += 1;
        // A predecessor that was taken over may have left something else there, which would keep
        // the reader from where we are.
        self.say_head();
        self.memory.cell(Cell::Starves).store(self.starves, Ordering::Relaxed);
        // Either the reader sees that, or we see what it has taken.
        M::Word::fence();
        self.place(words)
    }

    fn say_head(&self) {
        let head = pack(self.reader, self.head);
        self.memory.cell(Cell::Head).store(head, Ordering::Release);
    }
}

/// What was taken out of a ring.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Taken {
    /// There was nothing.
    Nothing,
    /// A record.
    Record {
        /// The life of the writer that has put it in.
        life: u32,
        /// Bytes of its head.
        head: usize,
        /// Bytes of its body, which follows.
        body: usize,
    },
    /// What no writer writes; it was passed over.
    Nonsense,
}

/// The side that takes records out.
#[derive(Debug)]
pub struct Reader<M> {
    memory: M,
    life: u32,
    tail: u32,
    /// The life that writes what stands at the tail.
    writer: u32,
    /// The number of the last sleep, or one more after it.
    sleep: u64,
    /// For which life of the writer, and which time without room, was rung last.
    answered: (u32, u64),
}

/// A record that was found, with all that it says of itself checked.
struct Found {
    life: u32,
    at: usize,
    head: usize,
    body: usize,
    /// Where the next one begins.
    next: u32,
}

impl<M: Memory> Reader<M> {
    /// For this life, after [`prepare_reader`].
    pub fn new(memory: M, life: u32) -> Self {
        Self { memory, life, tail: 0, writer: 0, sleep: 0, answered: (0, 0) }
    }

    /// Takes the next record out, to the start of `into`; one that is longer than that is none.
    pub fn take(&mut self, into: &mut [u8]) -> Taken {
        let (life, head) = unpack(self.memory.cell(Cell::Head).load(Ordering::Acquire));
        if life != self.life || head == self.tail {
            return Taken::Nothing;
        }
        let cut = unpack(self.memory.cell(Cell::Cut).load(Ordering::Relaxed));
        let Some(found) = self.find(head, cut, into.len()) else {
            self.pass_over(head, cut);
            return Taken::Nonsense;
        };
        let Found { life, at, head, body, next } = found;
        let data = self.memory.data();
        let body_at = at + head.div_ceil(WORD);
        Word::copy(&data[at..body_at], &mut into[..head]);
        let body_words = &data[body_at..body_at + body.div_ceil(WORD)];
        Word::copy(body_words, &mut into[head..head + body]);
        (self.tail, self.writer) = (next, life);
        self.say_tail();
        Taken::Record { life, head, body }
    }

    /// Whether the writer waits for room, and must be rung for. To be asked after each turn of
    /// taking, and when there was nothing to take.
    pub fn is_awaited(&mut self) -> bool {
        // Either the writer sees what was taken, or we see that it waits.
        M::Word::fence();
        let starves = self.starves();
        if starves.1 == 0 || starves == self.answered {
            return false;
        }
        self.answered = starves;
        // A writer that was taken over may have written there, and its successor believes it.
        self.say_tail();
        true
    }

    /// Goes to sleep: whoever puts a record in from now on rings. False if there is something to
    /// be done first.
    pub fn fall_asleep(&mut self) -> bool {
        self.sleep = (self.sleep + 1) | 1;
        self.memory.cell(Cell::Sleeps).store(self.sleep, Ordering::Relaxed);
        // Either the writer sees that, or we see what it has put in.
        M::Word::fence();
        let (life, head) = unpack(self.memory.cell(Cell::Head).load(Ordering::Relaxed));
        let starves = self.starves();
        let is_awaited = starves.1 != 0 && starves != self.answered;
        !is_awaited && (life != self.life || head == self.tail)
    }

    /// Does not sleep any more.
    pub fn wake(&mut self) {
        if self.sleep % 2 == 1 {
            self.sleep += 1;
            self.memory.cell(Cell::Sleeps).store(self.sleep, Ordering::Relaxed);
        }
    }

    /// How often which life of the writer has found no room. Each has its own count.
    fn starves(&self) -> (u32, u64) {
        let (life, _) = unpack(self.memory.cell(Cell::Cut).load(Ordering::Relaxed));
        (life, self.memory.cell(Cell::Starves).load(Ordering::Relaxed))
    }

    /// The record that begins at the tail. What is read here is read once.
    fn find(&self, head: u32, cut: (u32, u32), largest: usize) -> Option<Found> {
        let data = self.memory.data();
        let mask = data.len() - 1;
        let mut tail = self.tail;
        let lives = match cut {
            (life, began) if life != self.writer && began != tail => self.writer..life,
            (life, _) => life..life.saturating_add(1),
        };
        // Nothing reaches from before the cut to behind it.
        let end = if lives.end == cut.0 { cut.1 } else { head };
        let mut left = end.wrapping_sub(tail) as usize;
        if left > head.wrapping_sub(tail) as usize || left > data.len() {
            return None;
        }
        let mut at = tail as usize & mask;
        let mut word = data[at].load(Ordering::Relaxed);
        if word == WRAP && at > 0 {
            let skipped = data.len() - at;
            left = left.checked_sub(skipped).filter(|left| *left > 0)?;
            (at, tail) = (0, tail.wrapping_add(skipped as u32));
            word = data[at].load(Ordering::Relaxed);
        }
        let (life, sizes) = unpack(word);
        let (head, body) = (sizes as usize >> BODY_BITS, sizes as usize & ((1 << BODY_BITS) - 1));
        let words = 1 + head.div_ceil(WORD) + body.div_ceil(WORD);
        let fits = words <= left && at + words <= data.len() && head + body <= largest;
        let next = tail.wrapping_add(words as u32);
        (fits && lives.contains(&life)).then_some(Found { life, at: at + 1, head, body, next })
    }

    /// Goes on behind what makes no sense: with what a new writer has put in, or with nothing.
    fn pass_over(&mut self, head: u32, (life, began): (u32, u32)) {
        let is_new = life != self.writer && began != self.tail;
        let is_there = head.wrapping_sub(began) as usize <= self.memory.data().len();
        self.tail = if is_new && is_there { began } else { head };
        self.writer = life;
        self.say_tail();
    }

    fn say_tail(&self) {
        let tail = pack(self.life, self.tail);
        self.memory.cell(Cell::Tail).store(tail, Ordering::Release);
    }
}

/// Empties a ring for a reader that is to be born, while no other is alive. The writer may be.
pub fn prepare_reader(memory: &impl Memory, writer: u32) {
    for cell in [Cell::Head, Cell::Tail, Cell::Sleeps, Cell::Starves] {
        memory.cell(cell).store(0, Ordering::Relaxed);
    }
    memory.cell(Cell::Cut).store(pack(writer, 0), Ordering::Release);
}

/// Notes where a writer begins that is to be born, while no other is alive. The reader may be,
/// in this life.
pub fn prepare_writer(memory: &impl Memory, writer: u32, reader: u32) {
    let began = match unpack(memory.cell(Cell::Head).load(Ordering::Acquire)) {
        (life, head) if life == reader => head,
        _ => 0,
    };
    memory.cell(Cell::Starves).store(0, Ordering::Relaxed);
    memory.cell(Cell::Cut).store(pack(writer, began), Ordering::Release);
}

fn pack(life: u32, at: u32) -> u64 {
    u64::from(life) << 32 | u64::from(at)
}

fn unpack(word: u64) -> (u32, u32) {
    ((word >> 32) as u32, word as u32)
}

#[cfg(test)]
mod tests;
