//! The order of all runs.
//!
//! Compared measurements are neighbours: the bare primitive, the transport and the daemon take
//! turns. A machine that is slower for a while is so for all of them.

use crate::plan::{MeasureLayer, MeasureMode};
use crate::report::PEERS_OVER;
use crate::target::Measurement;

/// The places in `cells`, in the order of their runs.
pub(crate) fn order(measurements: &[Measurement], runs: usize, is_interleaved: bool) -> Vec<usize> {
    let groups = groups(measurements);
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
fn groups(measurements: &[Measurement]) -> Vec<Vec<usize>> {
    let mut groups: Vec<Vec<usize>> = Vec::new();
    for (index, measurement) in measurements.iter().enumerate() {
        match groups.iter_mut().find(|group| are_neighbours(&measurements[group[0]], measurement)) {
            Some(group) => group.push(index),
            None => groups.push(vec![index]),
        }
    }
    groups
}

fn are_neighbours(one: &Measurement, other: &Measurement) -> bool {
    fn kind(measurement: &Measurement) -> (MeasureMode, &str, usize) {
        let mode = if measurement.mode == MeasureMode::Req {
            MeasureMode::Pingpong
        } else {
            measurement.mode
        };
        let over = if measurement.target.layer() == MeasureLayer::Peer {
            PEERS_OVER
        } else {
            measurement.target.name()
        };
        (mode, over, measurement.size)
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
        let measurement = |mode, target| Measurement {
            mode,
            target,
            size: 64,
            pace: None,
            place: CorePlacement::Free,
        };
        let measurements = [
            measurement(MeasureMode::Pingpong, BenchTarget::Raw(raw::find("unix"))),
            measurement(MeasureMode::Pingpong, BenchTarget::Raw(raw::find("tcp"))),
            measurement(MeasureMode::Pingpong, BenchTarget::Daemon("unix")),
            measurement(MeasureMode::Req, BenchTarget::Daemon("unix")),
        ];
        assert_eq!(order(&measurements, 2, false), [0, 2, 3, 3, 2, 0, 1, 1]);
        assert_eq!(order(&measurements, 2, true), [0, 2, 3, 1, 3, 2, 0, 1]);
    }
}
