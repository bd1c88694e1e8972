//! The receipts of `send --ack delivered`.

use std::time::{Duration, Instant};

use ipcd_client::{Client, Event, Receipt};

use crate::exit::{Failure, FailureKind, Outcome};
use crate::news::why_dropped;
use ipcd_transport::deadline_after;

#[derive(Default)]
pub(crate) struct DeliveryReport {
    sent: u64,
    concluded: u64,
    /// Messages without a receiver.
    unreceived: u64,
    copies: Receipt,
}

impl DeliveryReport {
    pub(crate) fn sent(&mut self) {
        self.sent += 1;
    }

    /// Takes the receipts that have already come.
    pub(crate) fn take_what_came(&mut self, client: &mut Client) -> Outcome {
        while client.has_event() {
            if let Some(event) = client.next_event(Some(Instant::now()))? {
                self.take(event)?;
            }
        }
        Ok(())
    }

    /// Waits for all receipts. Fails when none comes for `timeout`.
    pub(crate) fn finish(&mut self, client: &mut Client, timeout: Duration) -> Outcome {
        while self.concluded < self.sent {
            match client.next_event(Some(deadline_after(timeout)))? {
                Some(event) => self.take(event)?,
                None => {
                    let (left, sent) = (self.sent - self.concluded, self.sent);
                    let why =
                        format!("no receipt for {left} of {sent} messages in time (see --timeout)");
                    return Err(Failure::new(FailureKind::Timeout, why));
                }
            }
        }
        self.outcome()
    }

    fn take(&mut self, event: Event) -> Outcome {
        if let Event::Outcome { outcome, .. } = event {
            self.note(&outcome?);
        }
        Ok(())
    }

    fn note(&mut self, receipt: &Receipt) {
        self.concluded += 1;
        self.unreceived += u64::from(*receipt == Receipt::default());
        self.copies.add(receipt);
    }

    fn outcome(&self) -> Outcome {
        let Receipt { delivered, dropped } = &self.copies;
        // A dropped copy is worse than a missing receiver: a receiver that counts on it has a gap.
        if !dropped.is_empty() {
            let all = delivered + self.copies.dropped();
            let why: Vec<_> = dropped
                .iter()
                .map(|(reason, count)| format!("{count} because {}", why_dropped(*reason)))
                .collect();
            let (count, why) = (self.copies.dropped(), why.join(", "));
            return Err(Failure::new(
                FailureKind::Dropped,
                format!("{count} of {all} copies were dropped: {why}"),
            ));
        }
        if self.unreceived > 0 {
            let (none, sent) = (self.unreceived, self.sent);
            let why = format!("{none} of {sent} messages had no receiver (see --wait-subs)");
            return Err(Failure::new(FailureKind::NoReceiver, why));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use ipcd_client::DropReason;

    use super::*;

    fn outcome(receipts: &[(u64, &[(DropReason, u64)])]) -> Outcome {
        let mut delivery = DeliveryReport::default();
        for &(delivered, dropped) in receipts {
            delivery.sent();
            delivery.note(&Receipt { delivered, dropped: dropped.to_vec() });
        }
        delivery.outcome()
    }

    #[test]
    fn a_dropped_copy_counts_more_than_a_missing_receiver() {
        assert!(outcome(&[]).is_ok());
        assert!(outcome(&[(1, &[]), (7, &[])]).is_ok());
        let none = outcome(&[(1, &[]), (0, &[])]).unwrap_err();
        assert_eq!(none.status(), 5);
        assert_eq!(none.to_string(), "1 of 2 messages had no receiver (see --wait-subs)");
        let dropped = [(DropReason::Newest, 2), (DropReason::Departed, 1)];
        let dropped =
            outcome(&[(1, &dropped), (0, &[]), (3, &[(DropReason::Newest, 1)])]).unwrap_err();
        assert_eq!(dropped.status(), 7);
        assert_eq!(
            dropped.to_string(),
            "4 of 8 copies were dropped: 3 because a send queue was full (drop-newest), 1 because a \
             receiver disconnected"
        );
    }
}
