//! Which measurements a choice of settings stands for.

use std::path::Path;

use ipcd_transport::Transport;

use super::message::LEAST;
use super::plan::{Cell, Layer, Mode, Pace, Pin, Place, Settings, Skipped, Way};
use super::raw;

/// All measurements, and what cannot be measured.
///
/// # Errors
/// If a way is named that does not exist; the error names those that do.
pub(crate) fn cells(
    settings: &Settings,
    cores: &[usize],
) -> Result<(Vec<Cell>, Vec<Skipped>), String> {
    let (mut cells, mut skipped) = (Vec::new(), Vec::new());
    let ways = ways(settings)?;
    for &mode in &settings.modes {
        for way in ways.iter().filter(|way| suits(settings, mode, way)) {
            for &size in sizes(settings, mode, way) {
                if let Some(limit) = way.largest().filter(|&limit| size > limit) {
                    let why = format!("a message holds at most {limit} bytes");
                    let (layer, transport) = (way.layer(), way.name().to_owned());
                    skipped.push(Skipped { mode, layer, transport, size, why });
                    continue;
                }
                for place in places(settings.pin, mode, cores) {
                    for pace in paces(settings, mode) {
                        cells.push(Cell { mode, way: way.clone(), size, pace, place });
                    }
                }
            }
        }
    }
    Ok((cells, skipped))
}

fn ways(settings: &Settings) -> Result<Vec<Way>, String> {
    let all = ipcd_transports::ALL;
    let known: Vec<&str> = all
        .map(Transport::scheme)
        .into_iter()
        .chain(raw::ALL.iter().map(|it| it.name).filter(|name| !is_scheme(name)))
        .collect();
    if let Some(unknown) = settings.ways.iter().find(|name| !known.contains(&name.as_str())) {
        return Err(format!("there is no {unknown}: choose of {}", known.join(", ")));
    }
    // What needs more than a place to listen at is measured on a daemon that runs.
    let default = |transport: &dyn Transport| transport.default_endpoint(Path::new("/"));
    let is_running = |name: &str| settings.running.iter().any(|it| it.endpoint.scheme() == name);
    let is_asked = |name: &str| settings.ways.iter().any(|it| it == name) && !is_running(name);
    for transport in all.into_iter().filter(|it| is_asked(it.scheme())) {
        default(transport).map_err(|error| error.to_string())?;
    }
    let schemes =
        || all.into_iter().filter(|&it| default(it).is_ok()).map(|transport| transport.scheme());
    let is_wanted =
        |name: &str| settings.ways.is_empty() || settings.ways.iter().any(|it| it == name);
    let mut ways = Vec::new();
    for layer in &settings.layers {
        match layer {
            Layer::Raw => {
                ways.extend(raw::ALL.into_iter().filter(|it| is_wanted(it.name)).map(Way::Raw));
            }
            Layer::Lib => ways.extend(schemes().filter(|it| is_wanted(it)).map(Way::Lib)),
            Layer::Daemon if settings.running.is_empty() => {
                ways.extend(schemes().filter(|it| is_wanted(it)).map(Way::Daemon));
            }
            Layer::Daemon => ways.extend(settings.running.iter().cloned().map(Way::Running)),
            Layer::Peer => {}
        }
    }
    ways.extend(settings.peers.iter().copied().map(Way::Peer));
    Ok(ways)
}

fn is_scheme(name: &str) -> bool {
    ipcd_transports::find(name).is_ok()
}

/// Whether the mode makes sense over it, and is not left out of the matrix for the time it takes.
fn suits(settings: &Settings, mode: Mode, way: &Way) -> bool {
    if let Way::Raw(primitive) = way {
        let is_left_out = settings.is_matrix && !matches!(primitive.name, "unix" | "tcp");
        return match mode {
            Mode::Pingpong => true,
            Mode::Req => false,
            Mode::Throughput => primitive.carries_payload(),
            Mode::Load | Mode::Fanout => primitive.carries_payload() && !is_left_out,
        };
    }
    if let Way::Peer(peer) = way {
        return match mode {
            Mode::Req => false,
            Mode::Fanout => peer.has_subjects(),
            Mode::Pingpong | Mode::Throughput | Mode::Load => true,
        };
    }
    match mode {
        Mode::Req => way.layer() == Layer::Daemon,
        Mode::Load | Mode::Fanout => way.layer() == Layer::Daemon || !settings.is_matrix,
        Mode::Pingpong | Mode::Throughput => true,
    }
}

/// Round trips of the quick matrix, and all modes but throughput, take the first size only. Signals
/// have none.
fn sizes<'a>(settings: &'a Settings, mode: Mode, way: &Way) -> &'a [usize] {
    if !way.carries_payload() {
        return &[LEAST];
    }
    let is_one = settings.is_matrix
        && match mode {
            Mode::Throughput => false,
            Mode::Pingpong => settings.budget.is_some(),
            Mode::Load | Mode::Fanout | Mode::Req => true,
        };
    if is_one { &settings.sizes[..1] } else { &settings.sizes }
}

fn places(pin: Pin, mode: Mode, cores: &[usize]) -> Vec<Place> {
    match (pin, cores) {
        (Pin::Free, _) => vec![Place::Free],
        (Pin::Cores(near, far), _) if near == far => vec![Place::One(near)],
        (Pin::Cores(near, far), _) => vec![Place::Two(near, far)],
        (Pin::Auto, &[first, ..]) if mode.is_two_way() => vec![Place::One(first)],
        (Pin::Both, &[first, second, ..]) if mode.is_two_way() => {
            vec![Place::One(first), Place::Two(first, second)]
        }
        (_, &[first, second, ..]) => vec![Place::Two(first, second)],
        (_, &[only]) => vec![Place::One(only)],
        (_, []) => vec![Place::Free],
    }
}

fn paces(settings: &Settings, mode: Mode) -> Vec<Option<Pace>> {
    if mode != Mode::Load {
        return vec![None];
    }
    let is_poisson = settings.is_poisson;
    let pace = |&rate: &Option<f64>| Some(Pace { rate, is_poisson });
    settings.rates.iter().map(pace).collect()
}
