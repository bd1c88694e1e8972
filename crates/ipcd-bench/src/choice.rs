//! Which measurements a choice of settings stands for.

use std::path::Path;

use ipcd_transport::Transport;

use crate::message::LEAST;
use crate::plan::{
    BenchSettings, CorePin, CorePlacement, MeasureLayer, MeasureMode, SendPace, SkippedMeasurement,
};
use crate::raw;
use crate::target::{BenchTarget, Measurement};

/// All measurements, and those that are impossible, with the reason.
///
/// # Errors
/// If a transport or primitive does not exist; the error names those that do.
pub(crate) fn measurements(
    settings: &BenchSettings,
    cores: &[usize],
) -> Result<(Vec<Measurement>, Vec<SkippedMeasurement>), String> {
    let (mut measurements, mut skipped) = (Vec::new(), Vec::new());
    let targets = targets(settings)?;
    for &mode in &settings.modes {
        for target in targets.iter().filter(|target| suits(settings, mode, target)) {
            for &size in sizes(settings, mode, target) {
                if let Some(limit) = target.largest().filter(|&limit| size > limit) {
                    let why = format!("a message holds at most {limit} bytes");
                    let (layer, transport) = (target.layer(), target.name().to_owned());
                    skipped.push(SkippedMeasurement { mode, layer, transport, size, why });
                    continue;
                }
                for place in core_placements(settings.pin, mode, cores) {
                    for pace in send_paces(settings, mode) {
                        measurements.push(Measurement {
                            mode,
                            target: target.clone(),
                            size,
                            pace,
                            place,
                        });
                    }
                }
            }
        }
    }
    Ok((measurements, skipped))
}

fn targets(settings: &BenchSettings) -> Result<Vec<BenchTarget>, String> {
    let all = ipcd_transports::ALL;
    let known: Vec<&str> = all
        .iter()
        .map(|transport| transport.scheme())
        .chain(raw::ALL.iter().map(|it| it.name).filter(|name| !is_scheme(name)))
        .collect();
    if let Some(unknown) = settings.targets.iter().find(|name| !known.contains(&name.as_str())) {
        return Err(format!("there is no {unknown}: choose one of {}", known.join(", ")));
    }
    // A transport that needs more than an address, such as certificates, is measured on a running
    // daemon only.
    let default = |transport: &dyn Transport| {
        let endpoint = transport.default_endpoint(Path::new("/"));
        let none = || {
            format!(
                "{} has no listener by default: measure a daemon that has one",
                transport.scheme()
            )
        };
        let listens = transport.listens_by_default();
        endpoint
            .map_err(|error| error.to_string())
            .and_then(|_| listens.then_some(()).ok_or_else(none))
    };
    let is_running = |name: &str| settings.running.iter().any(|it| it.endpoint.scheme() == name);
    let is_asked = |name: &str| settings.targets.iter().any(|it| it == name) && !is_running(name);
    for transport in all.iter().filter(|it| is_asked(it.scheme())) {
        default(*transport)?;
    }
    let schemes =
        || all.iter().filter(|it| default(**it).is_ok()).map(|transport| transport.scheme());
    let is_wanted =
        |name: &str| settings.targets.is_empty() || settings.targets.iter().any(|it| it == name);
    let mut targets = Vec::new();
    for layer in &settings.layers {
        match layer {
            MeasureLayer::Raw => {
                targets.extend(
                    raw::ALL.into_iter().filter(|it| is_wanted(it.name)).map(BenchTarget::Raw),
                );
            }
            MeasureLayer::Lib => {
                targets.extend(schemes().filter(|it| is_wanted(it)).map(BenchTarget::Lib))
            }
            MeasureLayer::Daemon if settings.running.is_empty() => {
                targets.extend(schemes().filter(|it| is_wanted(it)).map(BenchTarget::Daemon));
            }
            MeasureLayer::Daemon => {
                targets.extend(settings.running.iter().cloned().map(BenchTarget::Running))
            }
            MeasureLayer::Peer => {}
        }
    }
    targets.extend(settings.peers.iter().copied().map(BenchTarget::Peer));
    Ok(targets)
}

fn is_scheme(name: &str) -> bool {
    ipcd_transports::find(name).is_ok()
}

/// Whether the mode makes sense over it, and is not left out of the matrix for the time it takes.
fn suits(settings: &BenchSettings, mode: MeasureMode, target: &BenchTarget) -> bool {
    if let BenchTarget::Raw(primitive) = target {
        let is_left_out = settings.is_matrix && !matches!(primitive.name, "unix" | "tcp");
        return match mode {
            MeasureMode::Pingpong => true,
            MeasureMode::Req => false,
            MeasureMode::Throughput => primitive.carries_payload(),
            MeasureMode::Load | MeasureMode::Fanout => primitive.carries_payload() && !is_left_out,
        };
    }
    if let BenchTarget::Peer(peer) = target {
        return match mode {
            MeasureMode::Req => false,
            MeasureMode::Fanout => peer.has_subjects(),
            MeasureMode::Pingpong | MeasureMode::Throughput | MeasureMode::Load => true,
        };
    }
    match mode {
        MeasureMode::Req => target.layer() == MeasureLayer::Daemon,
        MeasureMode::Load | MeasureMode::Fanout => {
            target.layer() == MeasureLayer::Daemon || !settings.is_matrix
        }
        MeasureMode::Pingpong | MeasureMode::Throughput => true,
    }
}

/// Round trips of the quick matrix, and all modes but throughput, take the first size only. Signals
/// have none.
fn sizes<'a>(settings: &'a BenchSettings, mode: MeasureMode, target: &BenchTarget) -> &'a [usize] {
    if !target.carries_payload() {
        return &[LEAST];
    }
    let is_one = settings.is_matrix
        && match mode {
            MeasureMode::Throughput => false,
            MeasureMode::Pingpong => settings.budget.is_some(),
            MeasureMode::Load | MeasureMode::Fanout | MeasureMode::Req => true,
        };
    if is_one { &settings.sizes[..1] } else { &settings.sizes }
}

fn core_placements(pin: CorePin, mode: MeasureMode, cores: &[usize]) -> Vec<CorePlacement> {
    match (pin, cores) {
        (CorePin::Free, _) => vec![CorePlacement::Free],
        (CorePin::Cores(near, far), _) if near == far => vec![CorePlacement::One(near)],
        (CorePin::Cores(near, far), _) => vec![CorePlacement::Two(near, far)],
        (CorePin::Auto, &[first, ..]) if mode.is_two_way() => vec![CorePlacement::One(first)],
        (CorePin::Both, &[first, second, ..]) if mode.is_two_way() => {
            vec![CorePlacement::One(first), CorePlacement::Two(first, second)]
        }
        (_, &[first, second, ..]) => vec![CorePlacement::Two(first, second)],
        (_, &[only]) => vec![CorePlacement::One(only)],
        (_, []) => vec![CorePlacement::Free],
    }
}

fn send_paces(settings: &BenchSettings, mode: MeasureMode) -> Vec<Option<SendPace>> {
    if mode != MeasureMode::Load {
        return vec![None];
    }
    let is_poisson = settings.is_poisson;
    let pace = |&rate: &Option<f64>| Some(SendPace { rate, is_poisson });
    settings.rates.iter().map(pace).collect()
}
