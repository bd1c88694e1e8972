//! Faults that a peer, another process, the network or the kernel may cause. Each case starts the
//! real daemon and a load that is checked message by message, causes its fault, and then checks the
//! promises that always hold (`FaultScene::check`). docs/reliability.md lists promises
//! and cases.
//!
//! Cases that take long, or need the whole machine, are `#[ignore]`d; `tests/faults/run` plays them
//! too.

mod corpus;
mod escapes;
mod files;
mod held;
mod local;
mod network;
mod processes;
mod proxy;
mod refusals;
mod refused;
mod slow;
mod tcp;
mod tls;
mod udp;
mod undisturbed;
