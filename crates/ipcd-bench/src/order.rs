//! The order of all runs.
//!
//! Compared measurements are neighbours: the bare primitive, the transport and the daemon take
//! turns. A machine that is slower for a while is so for all of them.

use crate::plan::{MeasureLayer, MeasureMode};
use crate::report::PEERS_OVER;
use crate::target::Measurement;

/// The places in `cells`, in the order of their runs.
pub(crate) fn order(cells: &[Measurement], runs: usize, is_interleaved: bool) -> Vec<usize> {
    let groups = groups(cells);
    let turn = |group: &Vec<usize>, run: usize| match run % 2 {
        0 => group.clone(),
        // The order alternates: otherwise the effect of one run on the next would always fall on
        // the same neighbour.
        _ => group.iter().rev().copied().collect(),
    };
    let runs = 0..runs;
    match is_interleaved {
        true => {
            runs.flat_map(|run| groups.iter().flat_map(move |group| turn(group, run))).collect()
        }
        false => groups
            .iter()
            .flat_map(|group| runs.clone().flat_map(move |run| turn(group, run)))
            .collect(),
    }
}

/// Measurements that differ in their target only.
fn groups(cells: &[Measurement]) -> Vec<Vec<usize>> {
    let mut groups: Vec<Vec<usize>> = Vec::new();
    for (index, cell) in cells.iter().enumerate() {
        match groups.iter_mut().find(|group| are_neighbours(&cells[group[0]], cell)) {
            Some(group) => group.push(index),
            None => groups.push(vec![index]),
        }
    }
    groups
}

fn are_neighbours(one: &Measurement, other: &Measurement) -> bool {
    fn kind(cell: &Measurement) -> (MeasureMode, &str, usize) {
        let mode = if cell.mode == MeasureMode::Req { MeasureMode::Pingpong } else { cell.mode };
        let over =
            if cell.way.layer() == MeasureLayer::Peer { PEERS_OVER } else { cell.way.name() };
        (mode, over, cell.size)
    }
    kind(one) == kind(other) && one.place == other.place && one.pace == other.pace
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::CorePlacement;
    use crate::raw;
    use crate::target::BenchTarget;

    #[test]
    fn neighbours_take_turns() {
        let cell =
            |mode, way| Measurement { mode, way, size: 64, pace: None, place: CorePlacement::Free };
        let cells = [
            cell(MeasureMode::Pingpong, BenchTarget::Raw(raw::find("unix"))),
            cell(MeasureMode::Pingpong, BenchTarget::Raw(raw::find("tcp"))),
            cell(MeasureMode::Pingpong, BenchTarget::Daemon("unix")),
            cell(MeasureMode::Req, BenchTarget::Daemon("unix")),
        ];
        assert_eq!(order(&cells, 2, false), [0, 2, 3, 3, 2, 0, 1, 1]);
        assert_eq!(order(&cells, 2, true), [0, 2, 3, 1, 3, 2, 0, 1]);
    }
}
