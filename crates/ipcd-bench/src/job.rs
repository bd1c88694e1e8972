//! The task of a measuring process, and its findings.

use std::rc::Rc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock;
use crate::plan::{RunExtent, SendPace};
use crate::tally::MessageCounts;
use crate::usage::{ResourceUsage, UsageMeter};

/// The work of one process.
#[derive(Clone, Debug)]
pub(crate) struct MeasureJob {
    /// Bytes of a message.
    pub(crate) size: usize,
    /// The bytes that bodies repeat; any bytes if it is empty.
    pub(crate) payload: Rc<[u8]>,
    pub(crate) has_crc: bool,
    pub(crate) warmup: Duration,
    pub(crate) extent: RunExtent,
    /// Whether messages may be lost on the way.
    pub(crate) may_lose: bool,
    /// The number of end messages. A receiver closes after the first, so a transport that waits for
    /// its receiver gets one only.
    pub(crate) farewells: u32,
    /// The rate; `None` for as fast as possible.
    pub(crate) pace: Option<SendPace>,
    pub(crate) seed: u64,
    /// Processes of the daemon, whose use of the machine the first near end notes.
    pub(crate) daemon: Vec<u32>,
    /// A pause of the far end: its start, and its length.
    pub(crate) stall: Option<(Duration, Duration)>,
    /// Work that the far end is to add to each message.
    pub(crate) work: Option<Duration>,
}

impl MeasureJob {
    /// As fast as it goes over a target that loses nothing, without any faults.
    pub(crate) fn new(size: usize, extent: RunExtent, warmup: Duration) -> Self {
        Self {
            size,
            payload: Rc::default(),
            has_crc: false,
            warmup,
            extent,
            may_lose: false,
            farewells: 1,
            pace: None,
            seed: 0,
            daemon: Vec::new(),
            stall: None,
            work: None,
        }
    }

    /// Does the work that is added to each message.
    pub(crate) fn do_extra_work(&self) {
        if let Some(work) = self.work {
            let until = clock::now() + work.as_nanos() as u64;
            while clock::now() < until {}
        }
    }
}

/// The findings of one process.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(crate) struct ProcessFindings {
    pub(crate) counts: MessageCounts,
    /// Just before the first counted message was sent, or when it came.
    pub(crate) first: u64,
    /// After the last one was sent, or had been read.
    pub(crate) last: u64,
    /// From the intended time of sending, as an HDR histogram.
    pub(crate) latency: Option<String>,
    /// From the real time of sending.
    pub(crate) service: Option<String>,
    pub(crate) usage: ResourceUsage,
    pub(crate) daemon: ResourceUsage,
    pub(crate) timeline: Timeline,
}

/// Events over time, in steps of equal length.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Timeline {
    /// Messages in each step.
    pub messages: Vec<u64>,
    /// The longest latency of each step, in ns.
    pub worst: Vec<u64>,
}

/// Nanoseconds of a step of a timeline.
pub(crate) const STEP: u64 = 10_000_000;
/// Steps that are kept. Later messages count for the last one.
const STEPS: usize = 6_000;

impl Timeline {
    /// Notes messages at a time after the first one.
    pub(crate) fn note(&mut self, since_first: u64, messages: u64, latency: u64) {
        let step = ((since_first / STEP) as usize).min(STEPS - 1);
        if self.messages.len() <= step {
            self.messages.resize(step + 1, 0);
            self.worst.resize(step + 1, 0);
        }
        self.messages[step] += messages;
        self.worst[step] = self.worst[step].max(latency);
    }
}

/// The counted part of a process's work, from its first message on.
pub(crate) struct CountedPart<'a> {
    job: &'a MeasureJob,
    pub(crate) first: u64,
    meter: UsageMeter,
}

impl<'a> CountedPart<'a> {
    pub(crate) fn begin(job: &'a MeasureJob) -> Self {
        let meter = UsageMeter::start(&job.daemon);
        Self { job, first: clock::now(), meter }
    }

    /// Whether that was all.
    pub(crate) fn is_over(&self, now: u64, count: u64) -> bool {
        match self.job.extent {
            RunExtent::Time(time) => now.saturating_sub(self.first) >= time.as_nanos() as u64,
            RunExtent::Count(wanted) => count >= wanted,
        }
    }

    pub(crate) fn end(self, findings: &mut ProcessFindings) {
        findings.first = self.first;
        (findings.usage, findings.daemon) = self.meter.stop(&self.job.daemon);
    }
}
