//! Routing: the index of subscriptions here, the table of all workers' interests, the cache of
//! routes, and the turns of queue groups. It finds receivers, and delivers nothing.

pub(crate) mod group_turns;
pub(crate) mod index;
pub(crate) mod interests;
pub(crate) mod routes;
