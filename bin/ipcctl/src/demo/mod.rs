//! x
use crate::args::*; use crate::context::Context; use crate::exit::Outcome;
pub(crate) fn run(_c: &Context, _a: &DemoArgs) -> Outcome { Ok(()) }
pub(crate) fn sender(_c: &Context, _a: &DemoPeerArgs) -> Outcome { Ok(()) }
pub(crate) fn receiver(_c: &Context, _a: &DemoPeerArgs) -> Outcome { Ok(()) }
