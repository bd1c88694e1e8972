//! Values that every part uses: configuration, ids, names and principals. Imports no other part.

pub(crate) mod counters;
pub(crate) mod failure;
pub(crate) mod frame_parts;
pub(crate) mod ids;
pub(crate) mod interest;
pub(crate) mod names;
pub(crate) mod principal;
pub(crate) mod waiting;
