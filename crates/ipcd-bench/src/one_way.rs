//! One-way messages: as fast as possible, or at scheduled times (open loop).

use std::io;
use std::time::Duration;

use crate::clock;
use crate::end::{MessageEnd, PATIENCE};
use crate::histogram;
use crate::job::{CountedPart, MeasureJob, ProcessFindings};
use crate::message::{MessageHeader, MessageKind, MessageWriter, foreign_message, read_body};
use crate::plan::RunExtent;
use crate::tally::SequenceTally;

/// The time without messages after which a receiver that may lose the end message gives up.
pub(crate) const SILENCE: Duration = Duration::from_secs(3);

/// Messages between looks at the clock when nothing is paced, if they are small.
const STRIDE: u32 = 32;
/// Bytes from which on each message is worth a look.
const LARGE: usize = 4096;
/// The pause between saying the end and saying it again.
const FAREWELL_PAUSE: Duration = Duration::from_millis(2);

/// The sending end.
pub(crate) fn send(end: &mut dyn MessageEnd, job: &MeasureJob) -> io::Result<ProcessFindings> {
    let mut writer = MessageWriter::new(job.size, &job.payload, job.has_crc);
    let mut findings = ProcessFindings::default();
    let until = clock::now() + job.warmup.as_nanos() as u64;
    let at_a_rate = job.pace.and_then(|pace| Some((pace.rate?, pace.is_poisson)));
    let counted = match at_a_rate {
        None => {
            send_flood(end, job, &mut writer, MessageKind::Warm, |now, _| now >= until)?;
            let counted = CountedPart::begin(job);
            let is_over = |now, sent| counted.is_over(now, sent);
            findings.counts.sent =
                send_flood(end, job, &mut writer, MessageKind::Counted, is_over)?;
            counted
        }
        Some((rate, is_poisson)) => {
            let random = is_poisson.then(|| fastrand::Rng::with_seed(job.seed));
            let warm = SendSchedule::new(rate, random.clone(), RunExtent::Time(job.warmup));
            send_paced(end, &mut writer, warm, MessageKind::Warm)?;
            let counted = CountedPart::begin(job);
            let schedule = SendSchedule::new(rate, random, job.extent);
            findings.counts.sent = send_paced(end, &mut writer, schedule, MessageKind::Counted)?;
            counted
        }
    };
    findings.last = clock::now();
    counted.end(&mut findings);
    say_end(end, job, &mut writer)?;
    Ok(findings)
}

/// Sends until the end and returns the number of messages.
fn send_flood(
    end: &mut dyn MessageEnd,
    job: &MeasureJob,
    writer: &mut MessageWriter,
    kind: MessageKind,
    is_over: impl Fn(u64, u64) -> bool,
) -> io::Result<u64> {
    // A measurement of latency needs the time of each message.
    // Reading the clock costs about as much as sending a small message.
    let stride = if job.size < LARGE && job.pace.is_none() { STRIDE } else { 1 };
    let mut number = 0;
    let mut now = clock::now();
    while !is_over(now, number) {
        for _ in 0..stride {
            end.send(writer.write(MessageHeader { kind, number, intended: now, sent: now }))?;
            number += 1;
            if matches!(job.extent, RunExtent::Count(wanted) if kind == MessageKind::Counted && number >= wanted)
            {
                break;
            }
        }
        now = clock::now();
    }
    end.flush()?;
    Ok(number)
}

/// Sends each message at its time, or as soon as possible after it. The schedule is given up after
/// twice its length.
fn send_paced(
    end: &mut dyn MessageEnd,
    writer: &mut MessageWriter,
    mut schedule: SendSchedule,
    kind: MessageKind,
) -> io::Result<u64> {
    let mut number = 0;
    while let Some(intended) = schedule.next(number) {
        let mut now = clock::now();
        if now < intended {
            end.flush()?;
            clock::wait_until(intended)?;
            now = clock::now();
        }
        if now > schedule.give_up {
            break;
        }
        end.send(writer.write(MessageHeader { kind, number, intended, sent: now }))?;
        number += 1;
    }
    end.flush()?;
    Ok(number)
}

/// The scheduled times of messages.
struct SendSchedule {
    gap: f64,
    random: Option<fastrand::Rng>,
    extent: RunExtent,
    start: u64,
    at: f64,
    give_up: u64,
}

impl SendSchedule {
    fn new(rate: f64, random: Option<fastrand::Rng>, extent: RunExtent) -> Self {
        let gap = 1e9 / rate;
        let start = clock::now();
        let length = match extent {
            RunExtent::Time(time) => time.as_nanos() as u64,
            RunExtent::Count(count) => (count as f64 * gap) as u64,
        };
        Self { gap, random, extent, start, at: 0.0, give_up: start + 2 * length }
    }

    fn next(&mut self, number: u64) -> Option<u64> {
        let is_over = match self.extent {
            RunExtent::Time(time) => self.at >= time.as_nanos() as f64,
            RunExtent::Count(count) => number >= count,
        };
        let intended = self.start + self.at as u64;
        self.at += match &mut self.random {
            None => self.gap,
            // The times between events of a Poisson process are distributed exponentially.
            Some(random) => -(1.0 - random.f64()).ln() * self.gap,
        };
        (!is_over).then_some(intended)
    }
}

/// Sends the end message, several times where it may be lost.
pub(crate) fn say_end(
    end: &mut dyn MessageEnd,
    job: &MeasureJob,
    writer: &mut MessageWriter,
) -> io::Result<()> {
    let header = MessageHeader { kind: MessageKind::End, number: 0, intended: 0, sent: 0 };
    for left in (0..job.farewells).rev() {
        end.send(writer.write(header))?;
        end.flush()?;
        if left > 0 {
            std::thread::sleep(FAREWELL_PAUSE);
        }
    }
    end.finish()
}

/// The receiving end.
pub(crate) fn receive(end: &mut dyn MessageEnd, job: &MeasureJob) -> io::Result<ProcessFindings> {
    let mut receiver = MessageReceiver::new(job);
    let mut silence = Duration::ZERO;
    while !receiver.has_ended {
        if job.may_lose && silence >= SILENCE {
            break;
        }
        let before = receiver.tally.counts.received;
        let count = end.receive(&mut |message| receiver.take(message))?;
        silence = if count == 0 { silence + PATIENCE } else { Duration::ZERO };
        receiver.turn(before);
    }
    receiver.finish()
}

struct MessageReceiver<'a> {
    job: &'a MeasureJob,
    counted: Option<CountedPart<'a>>,
    tally: SequenceTally,
    latency: hdrhistogram::Histogram<u64>,
    service: hdrhistogram::Histogram<u64>,
    findings: ProcessFindings,
    has_ended: bool,
    has_stalled: bool,
    is_foreign: bool,
}

impl<'a> MessageReceiver<'a> {
    fn new(job: &'a MeasureJob) -> Self {
        Self {
            job,
            counted: None,
            tally: SequenceTally::new(),
            latency: histogram::empty(),
            service: histogram::empty(),
            findings: ProcessFindings::default(),
            has_ended: false,
            has_stalled: false,
            is_foreign: false,
        }
    }

    fn take(&mut self, message: &[u8]) {
        let Some(header) = MessageHeader::read(message) else {
            self.is_foreign = true;
            return;
        };
        let is_whole = read_body(message, self.job.has_crc);
        self.job.do_extra_work();
        match header.kind {
            MessageKind::Warm => {}
            MessageKind::End => self.has_ended = true,
            MessageKind::Counted => {
                let counted = self.counted.get_or_insert_with(|| CountedPart::begin(self.job));
                self.tally.note(header.number, is_whole);
                if self.job.pace.is_some() {
                    let now = clock::now();
                    let response = now.saturating_sub(header.intended);
                    self.latency.saturating_record(response);
                    self.service.saturating_record(now.saturating_sub(header.sent));
                    self.findings.timeline.note(now - counted.first, 1, response);
                }
            }
        }
    }

    /// After all that came at once has been read.
    fn turn(&mut self, before: u64) {
        let Some(counted) = &self.counted else { return };
        let came = self.tally.counts.received - before;
        if came == 0 {
            return;
        }
        let now = clock::now();
        self.findings.last = now;
        if self.job.pace.is_none() {
            self.findings.timeline.note(now - counted.first, came, 0);
        }
        if let Some((after, long)) = self.job.stall
            && !self.has_stalled
            && now - counted.first >= after.as_nanos() as u64
        {
            self.has_stalled = true;
            std::thread::sleep(long);
        }
    }

    fn finish(mut self) -> io::Result<ProcessFindings> {
        if self.is_foreign {
            return Err(foreign_message());
        }
        self.findings.counts = self.tally.counts;
        if self.job.pace.is_some() {
            self.findings.latency = Some(histogram::to_text(&self.latency));
            self.findings.service = Some(histogram::to_text(&self.service));
        }
        if let Some(counted) = self.counted {
            counted.end(&mut self.findings);
        }
        Ok(self.findings)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedules_as_many_messages_as_the_rate_asks_for() {
        for is_poisson in [false, true] {
            let random = is_poisson.then(|| fastrand::Rng::with_seed(1));
            let length = RunExtent::Time(Duration::from_secs(1));
            let mut schedule = SendSchedule::new(100_000.0, random, length);
            let (start, mut last, mut count) = (schedule.start, 0, 0u64);
            while let Some(at) = schedule.next(count) {
                assert!(at >= last.max(start), "times only grow");
                (last, count) = (at, count + 1);
            }
            assert!(count.abs_diff(100_000) < 1500, "{count}");
        }
    }
}
