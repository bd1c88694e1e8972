//! `ipcctl bench` measures the cost of local IPC: bare, over our transports, and through the
//! daemon. `cargo bench -p ipcd-bench` is [`data_path`].
//!
//! Every measuring client is a forked process. The parent has one thread. It starts the processes
//! of a measurement together, collects their findings, and measures nothing itself. It must not be
//! called in a process with several threads.

pub mod baseline;
mod children;
mod choice;
mod clock;
pub mod compare;
mod csv;
mod daemon;
pub mod data_path;
mod end;
mod environment;
mod format;
mod histogram;
mod html;
mod job;
mod library;
mod measure;
mod message;
mod one_way;
mod order;
mod paced;
mod peers;
mod plan;
mod raw;
mod report;
mod round_trip;
mod rows;
mod runner;
mod scratch;
mod selftest;
mod session;
mod stats;
mod tables;
mod tally;
mod target;
mod text;
mod usage;

pub use baseline::ChangeLimit;
pub use children::Interrupted;
pub use compare::{Comparison, FigureChange};
pub use csv::csv;
pub use environment::Environment;
pub use format::{layer_name, mode_name};
pub use histogram::{LatencySummary, PERCENTILES};
pub use html::html;
pub use job::Timeline;
pub use measure::{COMPARED, die_if_interrupted, measure};
pub use plan::{
    BenchSettings, CorePin, CorePlacement, MeasureLayer, MeasureMode, OtherServer, RunExtent,
    RunningDaemon, SendPace, SkippedMeasurement,
};
pub use report::{DaemonTax, MeasurementKey, Report, ResultRow, RunLength, SCHEMA};
pub use runner::Progress;
pub use selftest::{SelfCheck, selftest};
pub use stats::Estimate;
pub use tables::{Table, tables};
pub use tally::MessageCounts;
pub use text::{markdown, terminal};
pub use usage::ResourceUsage;
