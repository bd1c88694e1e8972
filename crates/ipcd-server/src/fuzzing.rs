//! Entry points for fuzzing: only `cargo fuzz` compiles them.

use ipcd_core::{Directory, DirectoryChange};

use crate::link::{ToSupervisor, ToWorker, decode};

/// Workers of the table that is asked.
const WORKERS: u32 = 3;

/// Gives the supervisor's table what workers say, one message behind the other. The first byte of
/// each says which worker, the second how long it is.
pub fn link(bytes: &[u8]) {
    let mut table = Directory::in_process(WORKERS as usize, 1 << 20);
    (0..WORKERS).for_each(|slot| table.add_worker(slot, 1));
    let mut rest = bytes;
    while let [worker, length, behind @ ..] = rest {
        let (message, next) = behind.split_at(usize::from(*length).min(behind.len()));
        let slot = u32::from(*worker) % WORKERS;
        if let Ok(ToSupervisor::DirectoryRequest { by, request }) = decode(message) {
            // Whether its peer may do so is the supervisor's affair; a fault is an answer, too.
            match by.0 % 2 == 0 {
                true => drop(table.handle(slot, request)),
                false => drop(table.deny(slot, request)),
            }
            table.take_events();
        }
        let _ = decode::<ToWorker>(message);
        if *worker >= 250 {
            table.remove_worker(slot);
            table.add_worker(slot, u32::from(*worker));
        }
        rest = next;
    }
    let mut shared = table.state();
    let _ = decode::<DirectoryChange>(bytes).map(|change| shared.apply(&change));
}
