//! `ipcctl send`.

use std::time::{Duration, Instant};

use ipcd_client::{Client, Publication};

use crate::args::{Ack, SendArgs};
use crate::body::{Body, header_block};
use crate::context::Context;
use crate::delivery::Delivery;
use crate::exit::Outcome;
use crate::target;

pub(crate) fn run(context: &Context, args: &SendArgs) -> Outcome {
    let mut body = Body::of(&args.body)?;
    let headers = header_block(&args.headers)?;
    target::check_wait(&args.subject, args.wait_subs)?;
    send(context, args, &mut body, headers)
        .map_err(|failure| failure.during(format_args!("send {}", args.subject)))
}

fn send(context: &Context, args: &SendArgs, body: &mut Body, headers: Vec<u8>) -> Outcome {
    let timeout = context.options().timeout;
    let mut client = context.connect()?;
    let subject = target::resolve(&mut client, &args.subject)?;
    let delivery = (args.ack == Ack::Delivered).then(Delivery::default);
    target::wait_for_subscriptions(&mut client, &subject, args.wait_subs, timeout)?;
    let mut sender = Sender { client, args, subject, headers, sent: 0, delivery };
    while let Some(payload) = body.next(&mut sender.client)? {
        for _ in 0..args.count {
            sender.publish(&payload)?;
        }
    }
    sender.end(timeout)
}

struct Sender<'a> {
    client: Client,
    args: &'a SendArgs,
    subject: String,
    headers: Vec<u8>,
    sent: u64,
    /// What became of messages, if that is asked.
    delivery: Option<Delivery>,
}

impl Sender<'_> {
    fn publish(&mut self, payload: &[u8]) -> Outcome {
        if let Some(interval) = self.args.interval.filter(|_| self.sent > 0) {
            self.client.wait_until(Instant::now() + interval.duration())?;
        }
        let message = Publication {
            subject: &self.subject,
            reply: self.args.reply.as_deref().unwrap_or_default(),
            headers: &self.headers,
            payload,
        };
        self.sent += 1;
        match &mut self.delivery {
            None => Ok(self.client.publish_message(&message)?),
            Some(delivery) => {
                self.client.publish_tracked(&message)?;
                delivery.sent();
                delivery.take_what_came(&mut self.client)
            }
        }
    }

    fn end(&mut self, timeout: Duration) -> Outcome {
        match self.args.ack {
            Ack::None => Ok(self.client.push()?),
            Ack::Accepted => Ok(self.client.flush()?),
            Ack::Delivered => match &mut self.delivery {
                Some(delivery) => delivery.finish(&mut self.client, timeout),
                None => Ok(()),
            },
        }
    }
}
