//! Numbers that name things in more than one process, each with a type of its own.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The place of a worker. It outlives the workers that live in it one after the other.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(crate) struct SlotId(pub(crate) u32);

impl SlotId {
    /// The same as an index into what exists once for each slot.
    pub(crate) fn index(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for SlotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The listener, server or program that a peer belongs to. They share one series of numbers, so that
/// access rules treat them alike.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
pub(crate) struct OwnerId(pub(crate) usize);

/// Hands out the numbers of owners. No number is used twice: peers may outlive their owner.
#[derive(Debug, Default)]
pub(crate) struct OwnerSequence {
    next: usize,
}

impl OwnerSequence {
    pub(crate) fn take(&mut self) -> OwnerId {
        self.next += 1;
        OwnerId(self.next - 1)
    }
}

/// The supervisor's number for a peer.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
pub(crate) struct AdmissionId(pub(crate) u64);

impl AdmissionId {
    /// Stands for no peer: admission counts from 1.
    pub(crate) const NONE: Self = Self(0);
}
