//! A ring with honest, dying and hostile neighbours.

use std::sync::Arc;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

/// Words of the records in these tests' rings, and before them.
const WORDS: usize = 64;
const CELLS: usize = 128;
const LIFE: u32 = 3;

type Shared = Arc<[AtomicU64]>;

fn memory() -> Shared {
    (0..CELLS + WORDS).map(|_| AtomicU64::new(0)).collect()
}

fn sides(memory: &Shared) -> (Writer<Shared>, Reader<Shared>) {
    prepare_writer(memory, 1, LIFE);
    prepare_reader(memory, 1);
    (Writer::new(memory.clone(), 1), Reader::new(memory.clone(), LIFE))
}

/// The next record's writer and bytes.
fn next(reader: &mut Reader<Shared>) -> Option<(u32, Vec<u8>)> {
    let mut bytes = vec![0xee; WORDS * WORD];
    match reader.take(&mut bytes) {
        Taken::Record { life, head, body } => Some((life, bytes[..head + body].to_vec())),
        Taken::Nothing => None,
        Taken::Nonsense => panic!("what an honest writer puts in makes sense"),
    }
}

/// A record that tells its number by each of its bytes.
fn record(number: usize, bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| (number * 31 + at * 7) as u8).collect()
}

proptest! {
    /// Any records, put in and taken out in any order: all come, as they were, in turn.
    #[test]
    fn what_is_put_in_comes_out(
        steps in vec((0..20_usize, 0..220_usize, 0..4_usize), 1..200),
    ) {
        let memory = memory();
        let (mut writer, mut reader) = sides(&memory);
        let mut waiting = std::collections::VecDeque::new();
        for (number, (head, body, takes)) in steps.into_iter().enumerate() {
            let (head, body) = (record(number, head), record(number + 1, body));
            if writer.put(LIFE, &head, &body) {
                waiting.push_back((1, [head, body].concat()));
            } else {
                prop_assert!(!waiting.is_empty(), "an empty ring has room");
                prop_assert!(reader.is_awaited());
            }
            for _ in 0..takes {
                prop_assert_eq!(next(&mut reader), waiting.pop_front());
            }
        }
        while let Some(expected) = waiting.pop_front() {
            prop_assert_eq!(next(&mut reader), Some(expected));
        }
        prop_assert_eq!(next(&mut reader), None);
    }

    /// Anything at any place of the memory, at any time: nobody crashes or goes on for ever, and
    /// lives that come afterwards understand each other.
    #[test]
    fn hostile_neighbours_do_no_harm(
        writes in vec((0..CELLS + WORDS, any_word()), 0..60),
        is_reader_hostile in any::<bool>(),
    ) {
        let memory = memory();
        let (mut writer, mut reader) = sides(&memory);
        let mut bytes = [0; 100];
        for (number, (at, word)) in writes.iter().enumerate() {
            writer.put(LIFE, &[1], &record(number, number));
            memory[at % memory.len()].store(*word, Ordering::Relaxed);
            let cells = [Cell::Head, Cell::Tail, Cell::Cut].map(|cell| memory.cell(cell));
            cells[at % 3].store(*word, Ordering::Relaxed);
            if let Taken::Record { head, body, .. } = reader.take(&mut bytes) {
                prop_assert!(head + body <= bytes.len());
            }
            let _ = (writer.must_ring(), reader.is_awaited());
            let _ = reader.fall_asleep();
        }
        // Whoever was hostile dies.
        if is_reader_hostile {
            prepare_reader(&memory, 1);
            reader = Reader::new(memory.clone(), LIFE + 1);
            prop_assert!(writer.put(LIFE + 1, b"", b"again"));
            prop_assert_eq!(next(&mut reader), Some((1, b"again".to_vec())));
        } else {
            prepare_writer(&memory, 2, LIFE);
            writer = Writer::new(memory.clone(), 2);
            for _ in 0..3 * WORDS {
                let has_put = writer.put(LIFE, b"", b"again");
                while let taken = reader.take(&mut bytes) && taken != Taken::Nothing {
                    if let Taken::Record { life, head, body } = taken && life == 2 {
                        prop_assert_eq!(&bytes[..head + body], b"again");
                        prop_assert!(has_put);
                        return Ok(());
                    }
                }
                let _ = reader.is_awaited();
            }
            prop_assert!(false, "the new writer is not heard");
        }
    }
}

fn any_word() -> impl Strategy<Value = u64> {
    let cell = (0..5_u32, 0..300_u32).prop_map(|(life, at)| pack(life, at));
    let sizes = (0..5_u64, 0..20_u64, 0..600_u64);
    let sizes = sizes.prop_map(|(life, head, body)| life << 32 | head << BODY_BITS | body);
    prop_oneof![cell, sizes, Just(WRAP), any::<u64>()]
}

/// Many rounds of the positions, which are numbers of 32 bits.
#[test]
fn positions_begin_again() {
    let memory = memory();
    let (mut writer, mut reader) = sides(&memory);
    for start in [u32::MAX - 200, u32::MAX - 63, u32::MAX] {
        (writer.head, reader.tail) = (start, start);
        writer.reader = LIFE;
        reader.say_tail();
        reader.writer = 1;
        for number in 0..100 {
            assert!(writer.put(LIFE, &record(number, 3), &record(number, 150)));
            let expected = [record(number, 3), record(number, 150)].concat();
            assert_eq!(next(&mut reader), Some((1, expected)));
        }
    }
}

/// A writer that dies leaves its whole records; the next one goes on behind them.
#[test]
fn a_successor_goes_on_where_the_writer_stopped() {
    let memory = memory();
    let (mut writer, mut reader) = sides(&memory);
    assert!(writer.put(LIFE, b"", b"one") && writer.put(LIFE, b"", b"two"));
    assert_eq!(next(&mut reader), Some((1, b"one".to_vec())));
    prepare_writer(&memory, 2, LIFE);
    let mut writer = Writer::new(memory.clone(), 2);
    assert!(writer.put(LIFE, b"", b"three"));
    for expected in [Some((1, b"two".to_vec())), Some((2, b"three".to_vec())), None] {
        assert_eq!(next(&mut reader), expected);
    }
}

/// It can neither speak for its successor nor hide what that says.
#[test]
fn a_dead_writer_cannot_speak_for_its_successor() {
    let memory = memory();
    let (writer, mut reader) = sides(&memory);
    let mut forger = Writer { life: 2, ..writer };
    assert!(forger.put(LIFE, b"", b"a lie"));
    prepare_writer(&memory, 2, LIFE);
    let mut writer = Writer::new(memory.clone(), 2);
    assert!(writer.put(LIFE, b"", b"the truth"));
    let mut bytes = [0; 100];
    assert_eq!(reader.take(&mut bytes), Taken::Nonsense);
    assert_eq!(next(&mut reader), Some((2, b"the truth".to_vec())));
}

/// What was for a reader that has died is not for the next one, whatever it has written there.
#[test]
fn a_new_reader_begins_with_nothing() {
    let memory = memory();
    let (mut writer, _) = sides(&memory);
    assert!(writer.put(LIFE, b"", b"for the dead"));
    // In the writer's name, for the next one.
    memory.cell(Cell::Head).store(pack(LIFE + 1, 2), Ordering::Relaxed);
    prepare_reader(&memory, 1);
    let mut reader = Reader::new(memory.clone(), LIFE + 1);
    assert_eq!(next(&mut reader), None);
    // It has not heard of that yet.
    assert!(writer.put(LIFE, b"", b"for the dead"));
    assert_eq!(next(&mut reader), None);
    assert!(writer.put(LIFE + 1, b"", b"for the living"));
    assert_eq!(next(&mut reader), Some((1, b"for the living".to_vec())));
}

/// Whoever comes to a full ring is told of room, and a sleeper of records; nobody else is.
#[test]
fn bells_are_rung_for_who_sleeps_only() {
    let memory = memory();
    let (mut writer, mut reader) = sides(&memory);
    assert!(!writer.must_ring(), "the reader is awake");
    assert!(reader.fall_asleep());
    assert!(writer.put(LIFE, b"", b"one"));
    assert!(!reader.fall_asleep(), "there is a record");
    assert!(writer.must_ring() && !writer.must_ring(), "once");
    assert!(!reader.is_awaited());
    while writer.put(LIFE, b"", &[0; 100]) {}
    while next(&mut reader).is_some() {}
    assert!(!reader.fall_asleep(), "the writer waits");
    assert!(reader.is_awaited() && !reader.is_awaited(), "once");
    assert!(writer.put(LIFE, b"", &[0; 100]));
}

thread_local! {
    /// Stores until the writer dies.
    static LEFT: std::cell::Cell<usize> = const { std::cell::Cell::new(usize::MAX) };
}

/// A word that keeps what is stored only while its writer lives.
#[repr(transparent)]
struct MortalWord(AtomicU64);

impl Word for MortalWord {
    fn load(&self, order: Ordering) -> u64 {
        self.0.load(order)
    }

    fn store(&self, value: u64, order: Ordering) {
        if let Some(left) = LEFT.get().checked_sub(1) {
            LEFT.set(left);
            self.0.store(value, order);
        }
    }

    fn fence() {
        fence(Ordering::SeqCst);
    }
}

/// Memory of a few words, each an atomic of any kind.
struct Small<W>(Arc<([W; 5], Vec<W>)>);

impl<W> Small<W> {
    fn new(words: usize, new: impl Fn() -> W) -> Self {
        let cells = std::array::from_fn(|_| new());
        Self(Arc::new((cells, (0..words).map(|_| new()).collect())))
    }
}

impl<W> Clone for Small<W> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<W: Word> Memory for Small<W> {
    type Word = W;

    fn cell(&self, cell: Cell) -> &W {
        &self.0.0[cell as usize]
    }

    fn data(&self) -> &[W] {
        &self.0.1
    }
}

/// The writer dies after each number of stores: whole records come, then its successor's.
#[test]
fn a_writer_that_dies_at_any_store_leaves_whole_records() {
    for stores in 0..60 {
        LEFT.set(usize::MAX);
        let memory = Small::new(32, || MortalWord(AtomicU64::new(0)));
        prepare_writer(&memory, 1, LIFE);
        prepare_reader(&memory, 1);
        let mut reader = Reader::new(memory.clone(), LIFE);
        let mut writer = Writer::new(memory.clone(), 1);
        let mut take = || {
            let mut bytes = [0; 100];
            match reader.take(&mut bytes) {
                Taken::Record { life, head, body } => Some((life, bytes[..head + body].to_vec())),
                Taken::Nothing => None,
                Taken::Nonsense => panic!("nonsense after {stores} stores"),
            }
        };
        // So that a later one goes around the end.
        assert!(writer.put(LIFE, b"", &record(0, 70)) && writer.put(LIFE, b"", &record(1, 30)));
        assert_eq!(take(), Some((1, record(0, 70))));
        LEFT.set(stores);
        for number in 2..5 {
            writer.put(LIFE, &record(number, 1), &record(number, 40)[1..]);
        }
        LEFT.set(usize::MAX);
        prepare_writer(&memory, 2, LIFE);
        let mut writer = Writer::new(memory.clone(), 2);
        assert_eq!(take(), Some((1, record(1, 30))));
        let mut came = 2;
        while let Some(next) = take() {
            assert_eq!(next.0, 1);
            assert_eq!(next.1[1..], record(came, 40)[1..]);
            came += 1;
        }
        assert!(came < 5 || stores > 20, "{came} records of {stores} stores");
        assert!(writer.put(LIFE, b"", b"I live"));
        assert_eq!(take(), Some((2, b"I live".to_vec())), "after {stores} stores");
    }
}

mod interleaved {
    use loom::sync::Notify;
    use loom::sync::atomic::{AtomicU64, fence};
    use loom::thread;

    use super::*;

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
    }

    /// All orders in which two threads can run, with so many changes from one to the other, and
    /// all that the processor may make of their loads and stores.
    fn explore(test: impl Fn() + Sync + Send + 'static) {
        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(2);
        model.check(test);
    }

    type Ring = Small<AtomicU64>;

    fn ring() -> Ring {
        let memory = Small::new(4, || AtomicU64::new(0));
        prepare_writer(&memory, 1, LIFE);
        prepare_reader(&memory, 1);
        memory
    }

    /// Who sleeps at the wrong moment sleeps for ever, which is found. The ring holds two records.
    #[test]
    fn nobody_sleeps_while_there_is_something_to_do() {
        explore(|| {
            let (memory, records, room) =
                (ring(), Arc::new(Notify::new()), Arc::new(Notify::new()));
            let (theirs, to_reader, from_reader) = (memory.clone(), records.clone(), room.clone());
            let writing = thread::spawn(move || {
                let mut writer = Writer::new(theirs, 1);
                for number in 0..3_u64 {
                    while !writer.put(LIFE, b"", &number.to_ne_bytes()) {
                        if writer.must_ring() {
                            to_reader.notify();
                        }
                        from_reader.wait();
                    }
                    if writer.must_ring() {
                        to_reader.notify();
                    }
                }
            });
            let mut reader = Reader::new(memory, LIFE);
            let mut expected = 0_u64;
            let mut bytes = [0; WORD];
            while expected < 3 {
                match reader.take(&mut bytes) {
                    Taken::Nothing if reader.fall_asleep() => {
                        records.wait();
                        reader.wake();
                    }
                    Taken::Nothing => {}
                    Taken::Record { .. } => {
                        assert_eq!(u64::from_ne_bytes(bytes), expected);
                        expected += 1;
                    }
                    Taken::Nonsense => panic!("an honest writer's records make sense"),
                }
                if reader.is_awaited() {
                    room.notify();
                }
            }
            writing.join().unwrap();
        });
    }

    /// A reader is there while a writer dies and the next one comes.
    #[test]
    fn a_new_writer_is_understood() {
        explore(|| {
            let memory = ring();
            let theirs = memory.clone();
            let writing = thread::spawn(move || {
                assert!(Writer::new(theirs.clone(), 1).put(LIFE, b"", b"first"));
                prepare_writer(&theirs, 2, LIFE);
                assert!(Writer::new(theirs, 2).put(LIFE, b"", b"second"));
            });
            let mut reader = Reader::new(memory, LIFE);
            let mut bytes = [0; WORD];
            let mut lives = Vec::new();
            for turn in 0..2 {
                match reader.take(&mut bytes) {
                    Taken::Record { life, .. } => lives.push(life),
                    Taken::Nothing if turn == 0 => thread::yield_now(),
                    Taken::Nothing => {}
                    Taken::Nonsense => panic!("honest writers' records make sense"),
                }
            }
            writing.join().unwrap();
            while let Taken::Record { life, .. } = reader.take(&mut bytes) {
                lives.push(life);
            }
            assert_eq!(lives, [1, 2]);
        });
    }
}
