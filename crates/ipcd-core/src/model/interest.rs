//! An interest: a filter, and perhaps a group, for which a worker has subscriptions.

use serde::{Deserialize, Serialize};

/// A filter for which a worker has subscriptions, of single peers or of a group.
#[derive(Clone, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
pub struct Interest {
    /// The filter.
    pub filter: String,
    /// The name of the group, if there is one.
    pub group: Option<String>,
}

/// A worker's part in a group, for the other workers.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct GroupPart {
    /// The worker's number for the group.
    pub number: u32,
    /// The number of its members.
    pub members: u32,
}
