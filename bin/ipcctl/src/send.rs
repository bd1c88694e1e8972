//! `ipcctl send`.

use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use ipcd_client::{Backoff, Client, Error, Publication};

use crate::args::{AckLevel, SendArgs};
use crate::body::{MessageBody, header_block};
use crate::context::Context;
use crate::delivery::DeliveryReport;
use crate::exit::{Failure, FailureKind, Outcome};
use crate::target;
use ipcd_transport::deadline_after;

/// Messages, and bytes of them, that are sent with `--reconnect` before a confirmation is waited for.
/// They are kept until then.
const UNCONFIRMED: usize = 1024;
const UNCONFIRMED_BYTES: usize = 1024 * 1024;

pub(crate) fn run(context: &Context, args: &SendArgs) -> Outcome {
    let mut body = MessageBody::of(&args.body)?;
    let headers = header_block(&args.headers)?;
    target::check_wait(&args.subject, args.wait_subs)?;
    if args.reconnect && args.ack != AckLevel::Accepted {
        let why = "--reconnect needs --ack accepted: it sends unconfirmed messages again";
        return Err(Failure::new(FailureKind::Usage, why));
    }
    send(context, args, &mut body, headers)
        .map_err(|failure| failure.during(format_args!("send {}", args.subject)))
}

fn send(context: &Context, args: &SendArgs, body: &mut MessageBody, headers: Vec<u8>) -> Outcome {
    let options = context.options();
    let mut client = context.connect_patiently(&options, args.reconnect)?;
    let subject = target::resolve(&mut client, &args.subject)?;
    let delivery = (args.ack == AckLevel::Delivered).then(DeliveryReport::default);
    target::wait_for_subscriptions(&mut client, &subject, args.wait_subs, options.timeout)?;
    let kept = args.reconnect.then(UnconfirmedQueue::default);
    let mut sender =
        MessageSender { context, client, args, subject, headers, sent: 0, delivery, kept };
    while let Some(payload) = sender.next(body)? {
        // Shared by --count and by the queue of unconfirmed messages.
        let payload = Rc::from(payload);
        for _ in 0..args.count {
            sender.publish(&payload)?;
        }
    }
    sender.end(options.timeout)
}

struct MessageSender<'a> {
    context: &'a Context,
    client: Client,
    args: &'a SendArgs,
    subject: String,
    headers: Vec<u8>,
    sent: u64,
    /// The receipts, with `--ack delivered`.
    delivery: Option<DeliveryReport>,
    /// The messages to send again after a loss, with `--reconnect`.
    kept: Option<UnconfirmedQueue>,
}

/// Payloads that were sent, and that the daemon has not confirmed.
#[derive(Default)]
struct UnconfirmedQueue {
    payloads: VecDeque<Rc<[u8]>>,
    bytes: usize,
}

impl MessageSender<'_> {
    /// The next payload. Sent messages are confirmed before this waits for input: input may not come
    /// for hours, and a restart meanwhile would send them twice.
    fn next(&mut self, body: &mut MessageBody) -> Outcome<Option<Vec<u8>>> {
        loop {
            if self.kept.is_some() && body.waits()? {
                self.confirm()?;
            }
            match body.next(&mut self.client) {
                Err(failure) => self.connect_again(failure)?,
                payload => return payload,
            }
        }
    }

    fn publish(&mut self, payload: &Rc<[u8]>) -> Outcome {
        if let Some(interval) = self.args.interval.filter(|_| self.sent > 0) {
            let next = deadline_after(interval.duration());
            while let Err(error) = self.client.wait_until(next) {
                self.connect_again(error.into())?;
            }
        }
        self.sent += 1;
        let Some(kept) = &mut self.kept else { return self.write(payload) };
        kept.bytes += payload.len();
        // Kept before it is written: a write that fails may have sent it.
        kept.payloads.push_back(Rc::clone(payload));
        let is_much = kept.payloads.len() >= UNCONFIRMED || kept.bytes >= UNCONFIRMED_BYTES;
        if let Err(failure) = self.write(payload) {
            self.connect_again(failure)?;
        }
        if is_much { self.confirm() } else { Ok(()) }
    }

    fn write(&mut self, payload: &[u8]) -> Outcome {
        let message = Publication {
            subject: &self.subject,
            reply: self.args.reply.as_deref().unwrap_or_default(),
            headers: &self.headers,
            payload,
        };
        match &mut self.delivery {
            None => Ok(self.client.publish_message(&message)?),
            Some(delivery) => {
                self.client.publish_tracked(&message)?;
                delivery.sent();
                delivery.take_what_came(&mut self.client)
            }
        }
    }

    /// Waits until the daemon has accepted everything that was sent.
    fn confirm(&mut self) -> Outcome {
        while self.kept.as_ref().is_some_and(|kept| !kept.payloads.is_empty()) {
            match self.client.flush() {
                Ok(()) => self.kept = Some(UnconfirmedQueue::default()),
                // A slow receiver makes publishers wait. That is not a loss.
                Err(Error::TimedOut(_)) if self.client.is_connected() => {}
                Err(error) => self.connect_again(error.into())?,
            }
        }
        Ok(())
    }

    /// Reconnects after a loss, with `--reconnect`, and sends unconfirmed messages again. Receivers get
    /// those twice that the daemon had accepted before the loss.
    fn connect_again(&mut self, why: Failure) -> Outcome {
        let Some(kept) = &self.kept else { return Err(why) };
        if !why.is_temporary() || self.client.is_connected() {
            return Err(why);
        }
        let payloads: Vec<_> = kept.payloads.iter().cloned().collect();
        self.context.remark(&format!("{why}; connecting again"));
        for pause in Backoff::default().pauses() {
            match self.resume(&payloads) {
                Ok(()) => break,
                Err(failure) if failure.is_temporary() => std::thread::sleep(pause),
                Err(failure) => {
                    let count = payloads.len();
                    return Err(failure.during(format_args!("{count} messages are unconfirmed")));
                }
            }
        }
        let count = payloads.len();
        self.context.remark(&match count {
            0 => "connected again".to_owned(),
            _ => {
                format!("connected again; unconfirmed messages that are sent again: {count}")
            }
        });
        Ok(())
    }

    fn resume(&mut self, payloads: &[Rc<[u8]>]) -> Outcome {
        self.client = self.context.connect_patiently(&self.context.options(), true)?;
        // The peer of `@NAME` has another id on a daemon that has started anew.
        self.subject = target::resolve(&mut self.client, &self.args.subject)?;
        payloads.iter().try_for_each(|payload| self.write(payload))
    }

    fn end(&mut self, timeout: Duration) -> Outcome {
        match self.args.ack {
            AckLevel::None => Ok(self.client.push()?),
            AckLevel::Accepted => loop {
                match self.client.flush() {
                    Err(error) => self.connect_again(error.into())?,
                    Ok(()) => return Ok(()),
                }
            },
            AckLevel::Delivered => match &mut self.delivery {
                Some(delivery) => delivery.finish(&mut self.client, timeout),
                None => Ok(()),
            },
        }
    }
}
