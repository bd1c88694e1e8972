//! Writers of a ring that are killed at any instruction, one after the other: the reader gets whole
//! records only, none of them twice, and each successor is understood. No harness: it forks, which
//! wants a process with one thread.

use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use ipcd_sys::fork;
use ipcd_sys::ring::{Grid, Reader, Taken, Writer, prepare_reader, prepare_writer};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;

const LIVES: u32 = 100;
const READER: u32 = 7;
const WORDS: usize = 1024;
const LONGEST: usize = 1500;
/// How long a writer may take to be heard.
const PATIENCE: Duration = Duration::from_secs(60);

fn main() {
    let grid = Grid::new(2, WORDS).expect("there is memory");
    let ring = grid.ring(0, 1);
    prepare_reader(&ring, 0);
    let mut reader = Reader::new(ring, READER);
    for life in 1..=LIVES {
        prepare_writer(&ring, life, READER);
        let writer = fork(|| write_for_ever(ring, life)).expect("it can fork");
        let mut came = 0;
        // So that kills fall on all places of a ring, full and empty.
        read(&mut reader, life, &mut came, u64::from(life * 37 % 211));
        kill(writer, Signal::SIGKILL).expect("it is there");
        waitpid(writer, None).expect("it is a child");
        while take(&mut reader, life, &mut came) {}
    }
    println!("{LIVES} writers were killed");
}

fn write_for_ever(ring: &[AtomicU64], life: u32) -> i32 {
    set_pdeathsig(Signal::SIGKILL).expect("Linux can do it");
    let mut writer = Writer::new(ring, life);
    for number in 0.. {
        let record = record(life, number);
        while !writer.put(READER, &number.to_ne_bytes(), &record) {
            std::thread::yield_now();
        }
    }
    0
}

/// Reads until so many records have come.
fn read(reader: &mut Reader<&[AtomicU64]>, life: u32, came: &mut u64, wanted: u64) {
    let deadline = Instant::now() + PATIENCE;
    while *came < wanted {
        if !take(reader, life, came) {
            assert!(Instant::now() < deadline, "writer {life} is not heard after {came} records");
            std::thread::yield_now();
        }
    }
}

/// Takes the next record, and compares it.
fn take(reader: &mut Reader<&[AtomicU64]>, life: u32, came: &mut u64) -> bool {
    let mut bytes = [0; 8 + LONGEST];
    match reader.take(&mut bytes) {
        Taken::Nothing => false,
        Taken::Nonsense => panic!("writer {life} left nonsense after {came} records"),
        Taken::Record { life: of, head, body } => {
            assert_eq!(of, life, "after {came} records");
            assert_eq!(bytes[..head], came.to_ne_bytes(), "of writer {life}");
            assert_eq!(bytes[head..head + body], record(life, *came), "record {came} of {life}");
            *came += 1;
            true
        }
    }
}

fn record(life: u32, number: u64) -> Vec<u8> {
    let length = (number * 709 + u64::from(life)) as usize % LONGEST;
    (0..length).map(|at| (at as u64 * 7 + number * 31 + u64::from(life)) as u8).collect()
}
