//! Round trips, one after the other: a question, and the same bytes back.

use std::io;
use std::time::Duration;

use super::clock;
use super::end::End;
use super::histogram;
use super::job::{Counted, Findings, Job};
use super::message::{Header, Kind, Writer, foreign, touch};
use super::one_way::{SILENCE, say_end};
use super::tally::Tally;

/// The near end: asks, and measures from before a question is written until its answer is read.
pub(crate) fn ask(end: &mut dyn End, job: &Job) -> io::Result<Findings> {
    let mut writer = Writer::new(job.size, &job.payload, job.has_crc);
    warm_up(end, job, &mut writer)?;
    let (mut findings, mut latency) = (Findings::default(), histogram::empty());
    let counted = Counted::begin(job);
    let mut number = 0;
    loop {
        let asked = clock::now();
        if counted.is_over(asked, number) {
            break;
        }
        let header = Header { kind: Kind::Counted, number, intended: asked, sent: asked };
        let answer = trip(end, job, &mut writer, header)?;
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

fn warm_up(end: &mut dyn End, job: &Job, writer: &mut Writer) -> io::Result<()> {
    let until = clock::now() + job.warmup.as_nanos() as u64;
    let mut number = 0;
    while clock::now() < until {
        trip(end, job, writer, Header { kind: Kind::Warm, number, intended: 0, sent: 0 })?;
        number += 1;
    }
    Ok(())
}

/// One question and its answer: whether that was whole; nothing if it was lost.
fn trip(
    end: &mut dyn End,
    job: &Job,
    writer: &mut Writer,
    header: Header,
) -> io::Result<Option<bool>> {
    end.send(writer.write(header))?;
    end.flush()?;
    loop {
        let mut answer = None;
        let count = end.receive(&mut |message| {
            // An answer to an earlier question, which has been given up, is not this one's.
            if Header::read(message)
                .is_some_and(|it| (it.kind, it.number) == (header.kind, header.number))
            {
                answer = Some(touch(message, job.has_crc));
            }
        })?;
        if answer.is_some() || (count == 0 && job.may_lose) {
            return Ok(answer);
        }
    }
}

/// The far end: reads each question and sends its bytes back.
pub(crate) fn answer(end: &mut dyn End, job: &Job) -> io::Result<Findings> {
    let (mut findings, mut tally) = (Findings::default(), Tally::new());
    let mut counted: Option<Counted<'_>> = None;
    let mut answer = Vec::with_capacity(job.size);
    let mut silence = Duration::ZERO;
    loop {
        let mut question = None;
        let count = end.receive(&mut |message| {
            question = Header::read(message);
            let is_whole = touch(message, job.has_crc);
            answer.clear();
            answer.extend_from_slice(message);
            if let Some(Header { kind: Kind::Counted, number, .. }) = question {
                tally.note(number, is_whole);
            }
        })?;
        if count == 0 {
            silence += super::end::PATIENCE;
            if job.may_lose && silence >= SILENCE {
                break;
            }
            continue;
        }
        silence = Duration::ZERO;
        match question.ok_or_else(foreign)?.kind {
            Kind::End => break,
            Kind::Counted if counted.is_none() => counted = Some(Counted::begin(job)),
            _ => {}
        }
        job.toil();
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
