//! The number of lines that each source may cause, so that no peer fills the disk through the log.

use std::collections::HashMap;
use std::time::{Duration, Instant};

/// Lines that a source may cause at once.
const BURST: u32 = 200;
/// And one more in each of these.
const EACH: Duration = Duration::from_millis(50);
/// Suppressed lines are counted for so long before the count is told.
const REPORT_AFTER: Duration = Duration::from_secs(1);
/// Sources that have a quota of their own. All others share one.
const SOURCES: usize = 1024;
const OTHERS: &str = "others";

/// The lines that each source has left.
#[derive(Debug, Default)]
pub struct LogQuotas {
    quotas: HashMap<String, SourceQuota>,
    report_at: Option<Instant>,
}

#[derive(Debug)]
struct SourceQuota {
    /// The time at which all of it is there again.
    full_at: Instant,
    /// Lines that were not written and that were not told yet.
    suppressed: u64,
}

impl LogQuotas {
    /// Whether a source may cause one more line; if not, the line is counted.
    pub fn allows(&mut self, source: &str, now: Instant) -> bool {
        let key = self.key_for(source, now);
        let quota = self.quotas.entry(key).or_insert(SourceQuota { full_at: now, suppressed: 0 });
        let full_at = quota.full_at.max(now) + EACH;
        let is_allowed = full_at <= now + BURST * EACH;
        match is_allowed {
            true => quota.full_at = full_at,
            false => {
                quota.suppressed += 1;
                self.report_at.get_or_insert(now + REPORT_AFTER);
            }
        }
        is_allowed
    }

    /// The time from which [`LogQuotas::report`] has something to tell.
    pub fn next(&self) -> Option<Instant> {
        self.report_at
    }

    /// The lines that were suppressed since the last report, by source.
    pub fn report(&mut self, now: Instant) -> Vec<(String, u64)> {
        if self.report_at.take_if(|at| *at <= now).is_none() {
            return Vec::new();
        }
        let suppressed = self.quotas.iter_mut().filter(|(_, quota)| quota.suppressed > 0);
        let told = |(source, quota): (&String, &mut SourceQuota)| {
            (source.clone(), std::mem::take(&mut quota.suppressed))
        };
        let mut report: Vec<_> = suppressed.map(told).collect();
        report.sort_unstable();
        report
    }

    fn key_for(&mut self, source: &str, now: Instant) -> String {
        if !self.quotas.contains_key(source) && self.quotas.len() >= SOURCES {
            self.quotas.retain(|_, quota| quota.full_at > now || quota.suppressed > 0);
            if self.quotas.len() >= SOURCES {
                return OTHERS.to_owned();
            }
        }
        source.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_that_floods_the_log_is_counted_and_others_are_heard() {
        let (mut quotas, now) = (LogQuotas::default(), Instant::now());
        let written = (0..1000).filter(|_| quotas.allows("user 7", now)).count();
        assert_eq!(written, BURST as usize);
        assert!(quotas.allows("user 8", now));
        assert_eq!(quotas.report(now), []);
        let later = quotas.next().unwrap();
        assert_eq!(quotas.report(later), [("user 7".into(), 800)]);
        assert_eq!((quotas.next(), quotas.report(later)), (None, vec![]));
        assert!(quotas.allows("user 7", later));
    }

    #[test]
    fn any_number_of_sources_takes_bounded_memory_and_a_bounded_number_of_lines() {
        let (mut quotas, now) = (LogQuotas::default(), Instant::now());
        let sources = (0..100_000).map(|number| format!("network {number}"));
        let written = sources.filter(|source| quotas.allows(source, now)).count();
        assert_eq!(written, SOURCES + BURST as usize);
        assert!(quotas.quotas.len() <= SOURCES + 1);
        let later = now + Duration::from_secs(60);
        assert_eq!(quotas.report(later), [(OTHERS.into(), 100_000 - written as u64)]);
        assert!(quotas.allows("network 200000", later));
    }
}
