//! Which subscriptions a subject matches: the trie, remembered routes, and the turns of queue groups.

pub(crate) mod group_turns;
pub(crate) mod routes;
pub(crate) mod trie;
