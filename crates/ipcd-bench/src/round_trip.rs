//! Round trips, one after the other: a question, and the same bytes back.

use std::io;
use std::time::Duration;

use crate::clock;
use crate::end::{MessageEnd, PATIENCE};
use crate::histogram;
use crate::job::{CountedPart, MeasureJob, ProcessFindings};
use crate::message::{MessageHeader, MessageKind, MessageWriter, foreign_message, read_body};
use crate::one_way::{SILENCE, say_end};
use crate::tally::SequenceTally;

/// The near end: asks, and measures from before a question is written until its answer is read.
pub(crate) fn measure_trips(
    end: &mut dyn MessageEnd,
    job: &MeasureJob,
) -> io::Result<ProcessFindings> {
    let mut writer = MessageWriter::new(job.size, &job.payload, job.has_crc);
    warm_up(end, job, &mut writer)?;
    let (mut findings, mut latency) = (ProcessFindings::default(), histogram::empty());
    let counted = CountedPart::begin(job);
    let mut number = 0;
    loop {
        let asked = clock::now();
        if counted.is_over(asked, number) {
            break;
        }
        let header =
            MessageHeader { kind: MessageKind::Counted, number, intended: asked, sent: asked };
        let answer = exchange_once(end, job, &mut writer, header)?;
        let answered = clock::now();
        number += 1;
        if let Some(is_whole) = answer {
            let took = answered - asked;
            latency.saturating_record(took);
            findings.timeline.note(answered - counted.first, 1, took);
            findings.counts.received += 1;
            findings.counts.corrupted += u64::from(!is_whole);
        }
        findings.last = answered;
    }
    counted.end(&mut findings);
    findings.counts.sent = number;
    findings.counts.lost = number - findings.counts.received;
    findings.latency = Some(histogram::to_text(&latency));
    say_end(end, job, &mut writer)?;
    Ok(findings)
}

fn warm_up(
    end: &mut dyn MessageEnd,
    job: &MeasureJob,
    writer: &mut MessageWriter,
) -> io::Result<()> {
    let until = clock::now() + job.warmup.as_nanos() as u64;
    let mut number = 0;
    while clock::now() < until {
        exchange_once(
            end,
            job,
            writer,
            MessageHeader { kind: MessageKind::Warm, number, intended: 0, sent: 0 },
        )?;
        number += 1;
    }
    Ok(())
}

/// One question and its answer: whether that was whole; nothing if it was lost.
fn exchange_once(
    end: &mut dyn MessageEnd,
    job: &MeasureJob,
    writer: &mut MessageWriter,
    header: MessageHeader,
) -> io::Result<Option<bool>> {
    end.send(writer.write(header))?;
    end.flush()?;
    loop {
        let mut answer = None;
        let count = end.receive(&mut |message| {
            // An answer to an earlier question, which has been given up, is not this one's.
            if MessageHeader::read(message)
                .is_some_and(|it| (it.kind, it.number) == (header.kind, header.number))
            {
                answer = Some(read_body(message, job.has_crc));
            }
        })?;
        if answer.is_some() || (count == 0 && job.may_lose) {
            return Ok(answer);
        }
    }
}

/// The far end: reads each question and sends its bytes back.
pub(crate) fn answer_trips(
    end: &mut dyn MessageEnd,
    job: &MeasureJob,
) -> io::Result<ProcessFindings> {
    let (mut findings, mut tally) = (ProcessFindings::default(), SequenceTally::new());
    let mut counted: Option<CountedPart<'_>> = None;
    let mut answer = Vec::with_capacity(job.size);
    let mut silence = Duration::ZERO;
    loop {
        let mut question = None;
        let count = end.receive(&mut |message| {
            question = MessageHeader::read(message);
            let is_whole = read_body(message, job.has_crc);
            answer.clear();
            answer.extend_from_slice(message);
            if let Some(MessageHeader { kind: MessageKind::Counted, number, .. }) = question {
                tally.note(number, is_whole);
            }
        })?;
        if count == 0 {
            silence += PATIENCE;
            if job.may_lose && silence >= SILENCE {
                break;
            }
            continue;
        }
        silence = Duration::ZERO;
        match question.ok_or_else(foreign_message)?.kind {
            MessageKind::End => break,
            MessageKind::Counted if counted.is_none() => counted = Some(CountedPart::begin(job)),
            _ => {}
        }
        job.do_extra_work();
        end.send(&answer)?;
        end.flush()?;
    }
    findings.counts = tally.counts;
    findings.last = clock::now();
    if let Some(counted) = counted {
        counted.end(&mut findings);
    }
    Ok(findings)
}
