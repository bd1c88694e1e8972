//! The difference between the listeners that are open and those that are wanted.

use crate::activation::WantedListener;
use crate::ids::OwnerId;
use crate::supervisor::open_listener::OpenListener;

/// The listeners to change, to open and to close.
#[derive(Debug, Default)]
pub(super) struct ListenerChanges {
    /// Those that stay where they are, with other options.
    pub(super) changed: Vec<(OwnerId, WantedListener)>,
    pub(super) added: Vec<WantedListener>,
    pub(super) removed: Vec<OwnerId>,
}

impl ListenerChanges {
    pub(super) fn between(open: &[OpenListener], wanted: Vec<WantedListener>) -> Self {
        let mut left: Vec<&OpenListener> = open.iter().collect();
        let mut take = |fits: &dyn Fn(&OpenListener) -> bool| {
            left.iter().position(|open| fits(open)).map(|at| left.remove(at).owner)
        };
        // Exact matches first: two listeners may be at one address, which is port 0.
        let other: Vec<_> = wanted
            .into_iter()
            .filter(|wanted| take(&|open| open.matches_exactly(wanted)).is_none())
            .collect();
        let mut changes = Self::default();
        for wanted in other {
            match take(&|open| open.is_at(&wanted)) {
                Some(owner) => changes.changed.push((owner, wanted)),
                None => changes.added.push(wanted),
            }
        }
        changes.removed = left.into_iter().map(|open| open.owner).collect();
        changes
    }
}
