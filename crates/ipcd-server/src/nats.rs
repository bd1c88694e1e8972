//! NATS clients: what they say becomes frames for the router, and the router's frames become what
//! they understand. The router sees a session like any other.

mod adapter;
mod answers;
mod credentials;
mod inward;
mod outward;
mod profile;
mod subscriptions;

pub(crate) use self::adapter::{NatsAdapter, NatsChannel};
pub(crate) use self::credentials::{Credentials, has_signed};
pub(crate) use self::profile::NatsProfileText;
pub use self::profile::{AuthMode, NatsProfile, SlowClients};
