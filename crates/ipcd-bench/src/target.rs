//! One measurement: its mode, target, message size and placement.

use crate::plan::{CorePlacement, MeasureLayer, MeasureMode, OtherServer, RunningDaemon, SendPace};
use crate::raw::Primitive;

/// The transport, primitive or server that carries the messages.
#[derive(Clone, Debug)]
pub(crate) enum BenchTarget {
    Raw(Primitive),
    Lib(&'static str),
    Daemon(&'static str),
    Running(RunningDaemon),
    Peer(OtherServer),
}

impl BenchTarget {
    pub(crate) fn layer(&self) -> MeasureLayer {
        match self {
            Self::Raw(_) => MeasureLayer::Raw,
            Self::Lib(_) => MeasureLayer::Lib,
            Self::Daemon(_) | Self::Running(_) => MeasureLayer::Daemon,
            Self::Peer(_) => MeasureLayer::Peer,
        }
    }

    pub(crate) fn name(&self) -> &str {
        match self {
            Self::Raw(primitive) => primitive.name,
            Self::Lib(scheme) | Self::Daemon(scheme) => scheme,
            Self::Running(running) => running.endpoint.scheme(),
            Self::Peer(peer) => peer.name(),
        }
    }

    pub(crate) fn may_lose(&self) -> bool {
        match self {
            Self::Raw(primitive) => primitive.may_lose(),
            // Most other servers drop messages for a slow receiver.
            Self::Peer(peer) => !peer.is_ours(),
            target => {
                ipcd_transports::find(target.name()).is_ok_and(|it| !it.capabilities().reliable)
            }
        }
    }

    /// Whether it carries a payload, rather than only a wake-up.
    pub(crate) fn carries_payload(&self) -> bool {
        !matches!(self, Self::Raw(primitive) if !primitive.carries_payload())
    }

    pub(crate) fn largest(&self) -> Option<usize> {
        if let Self::Raw(primitive) = self { primitive.largest() } else { None }
    }

    /// Whether one message to it goes to several receivers.
    pub(crate) fn fans_out(&self) -> bool {
        match self {
            Self::Peer(peer) => peer.has_subjects(),
            target => target.layer() == MeasureLayer::Daemon,
        }
    }
}

/// One measurement.
#[derive(Clone, Debug)]
pub(crate) struct Measurement {
    pub(crate) mode: MeasureMode,
    pub(crate) target: BenchTarget,
    pub(crate) size: usize,
    pub(crate) pace: Option<SendPace>,
    pub(crate) place: CorePlacement,
}
