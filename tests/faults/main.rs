//! Faults: what a peer, another process, the network or the kernel may do to the daemon. Each case
//! starts the real daemon and a load that is checked message by message, does its worst, and then
//! looks at what is promised whatever happens (`FaultScene::check`). docs/reliability.md lists promises
//! and cases.
//!
//! Cases that take long, or the whole machine, are `#[ignore]`d; `tests/faults/run` plays them too.

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
