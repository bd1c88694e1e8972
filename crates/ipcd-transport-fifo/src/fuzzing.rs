//! Access for the fuzz targets: only `cargo fuzz` compiles it.

use crate::record::{PairName, RECORD_BYTES, RecordScanner};

/// Finds records among these bytes, in one piece and byte by byte; and one behind them, if it is
/// not hidden by the beginning of another.
pub fn records(bytes: &[u8]) {
    let name = PairName::zero();
    let behind = [bytes, &[0; RECORD_BYTES], &name.record()].concat();
    let (found, skipped) = scan(&behind, usize::MAX);
    assert_eq!((&found, skipped), (&scan(&behind, 1).0, scan(&behind, 1).1));
    assert!(found.last().is_some_and(|last| *last == Some(name)), "the last record is lost");
    assert!(skipped + found.len() * RECORD_BYTES == behind.len());
}

/// The names, `None` for a record of another version; and the bytes that were none.
fn scan(bytes: &[u8], step: usize) -> (Vec<Option<PairName>>, usize) {
    let (mut scanner, mut found, mut rest) = (RecordScanner::default(), Vec::new(), bytes);
    while !rest.is_empty() {
        let room = scanner.room();
        let count = room.len().min(rest.len()).min(step);
        room[..count].copy_from_slice(&rest[..count]);
        found.extend(scanner.accept(count).map(Result::ok));
        rest = &rest[count..];
    }
    (found, scanner.take_skipped())
}
