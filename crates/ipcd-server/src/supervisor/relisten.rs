//! The difference between the listeners that there are and those that are wanted, and putting it in
//! force: all of it or nothing.

use ipcd_transport::Transport;
use tracing::{error, info};

use super::Supervisor;
use super::listening::{Listening, bind, bind_those, find};
use crate::Error;
use crate::activation::Wanted;
use crate::config::Config;
use crate::link::ToWorker;
use crate::listen::Listen;

/// What has to be done about listeners.
#[derive(Debug, Default)]
pub(super) struct Difference {
    /// Those that are where they are wanted, with other options; by their numbers.
    changed: Vec<(usize, Wanted)>,
    added: Vec<Wanted>,
    /// Those that are wanted no more, by their numbers.
    gone: Vec<usize>,
}

impl Difference {
    pub(super) fn between(open: &[Listening], wanted: Vec<Wanted>) -> Self {
        let mut left: Vec<&Listening> = open.iter().collect();
        let mut take = |fits: &dyn Fn(&Listening) -> bool| {
            left.iter().position(|open| fits(open)).map(|at| left.remove(at).number)
        };
        // Those that are the same first, for two may be at one address: port 0.
        let other: Vec<_> =
            wanted.into_iter().filter(|wanted| take(&|open| open.is(wanted)).is_none()).collect();
        let mut difference = Self::default();
        for wanted in other {
            match take(&|open| open.is_at(&wanted)) {
                Some(number) => difference.changed.push((number, wanted)),
                None => difference.added.push(wanted),
            }
        }
        difference.gone = left.into_iter().map(|open| open.number).collect();
        difference
    }
}

impl Supervisor {
    /// Makes the difference, and then does what may fail, too; if that does, all is as it was.
    pub(super) fn relisten<T>(
        &mut self,
        config: &Config,
        difference: Difference,
        then: impl FnOnce(&[Listening]) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let Difference { changed, added, gone } = difference;
        let mut opened = bind_those(config, added.iter(), self.next_number, &self.sockets)?;
        self.next_number += opened.len();
        let mut before = Vec::new();
        let outcome = self.change_all(&changed, &mut before);
        let is_gone = |open: &mut Listening| gone.contains(&open.number);
        let mut goes: Vec<Listening> = self.listeners.extract_if(.., is_gone).collect();
        let numbers: Vec<usize> = opened.iter().map(|open| open.number).collect();
        self.listeners.append(&mut opened);
        let outcome = outcome.and_then(|()| then(&self.listeners));
        if outcome.is_ok() {
            goes.into_iter().for_each(|open| self.close(&open));
            return outcome;
        }
        self.listeners.retain(|open| !numbers.contains(&open.number));
        self.listeners.append(&mut goes);
        for (number, was) in before.into_iter().rev() {
            if let Err(error) = self.change(number, &was) {
                error!(endpoint = %was.listen.endpoint, %error, "cannot be as it was");
            }
        }
        outcome
    }

    /// Changes these, and notes under which numbers and what they were before.
    fn change_all(
        &mut self,
        changed: &[(usize, Wanted)],
        before: &mut Vec<(usize, Wanted)>,
    ) -> Result<(), Error> {
        for (number, wanted) in changed {
            let was = find(&mut self.listeners, *number).map(|open| open.wanted());
            let number = self.change(*number, wanted)?;
            before.extend(was.map(|was| (number, was)));
        }
        Ok(())
    }

    fn close(&self, open: &Listening) {
        info!(endpoint = %open.listener.local(), "listening no more");
        self.disarm(open);
    }

    /// It may be open elsewhere, too, and would not leave the set by itself.
    fn disarm(&self, open: &Listening) {
        if open.armed {
            let _ = self.epoll.delete(open.listener.fd());
        }
    }

    /// Gives a listener other options. It stays open if it can; the number that it has then.
    fn change(&mut self, number: usize, wanted: &Wanted) -> Result<usize, Error> {
        let Some(open) = find(&mut self.listeners, number) else { return Ok(number) };
        let (at, is_bare) =
            (opens_as(&wanted.listen, open.transport)?, wanted.listen.dialect.is_some());
        let opened_as = opens_as(&open.asked, open.transport)?;
        let is_alike = (&at, is_bare) == (&opened_as, open.asked.dialect.is_some());
        if is_alike || (open.socket.is_none() && open.listener.adapt(&at, is_bare)?) {
            let (endpoint, codec) = (open.listener.local(), wanted.listen.codec());
            info!(%endpoint, %codec, name = wanted.listen.name, "listening with other options");
            open.asked = wanted.listen.clone();
            return Ok(number);
        }
        self.reopen(number, wanted)
    }

    /// Opens a listener anew. Who waits at it comes in before.
    fn reopen(&mut self, number: usize, wanted: &Wanted) -> Result<usize, Error> {
        self.accept(number);
        let Some(at) = self.listeners.iter().position(|open| open.number == number) else {
            return Ok(number);
        };
        let mut old = self.listeners.remove(at);
        old.listener.clear_place();
        self.disarm(&old);
        let (was, real) = (old.wanted(), old.listener.local().clone());
        // A peer that stands for all would stay with what was opened before.
        let (number, was_number) = match old.listener.has_one_peer() {
            true => (self.take_number(), number),
            false => (number, number),
        };
        drop(old);
        let opened = match bind(&where_it_was(wanted, real.address()), number, &self.sockets) {
            Ok(open) => Ok(Listening { asked: wanted.listen.clone(), ..open }),
            Err(error) => {
                match bind(&where_it_was(&was, real.address()), was_number, &self.sockets) {
                    Ok(open) => {
                        self.listeners.insert(at, Listening { asked: was.listen, ..open });
                    }
                    Err(error) => error!(endpoint = %real, %error, "listening no more"),
                }
                Err(error)
            }
        };
        self.listeners.insert(at, opened?);
        if number != was_number {
            let told = self.admission.of_listener(was_number);
            self.tell(told.into_iter().map(|(slot, peer)| (slot, ToWorker::LetGo(peer))).collect());
        }
        Ok(number)
    }
}

/// The endpoint to open, which says the way that bare bytes go where the transport has to know it.
fn opens_as(listen: &Listen, transport: &dyn Transport) -> Result<ipcd_transport::Endpoint, Error> {
    match &listen.dialect {
        Some(dialect) => {
            Ok(transport.raw_at(&listen.endpoint)?.check_raw(&listen.endpoint, dialect.flow())?)
        }
        None => Ok(listen.endpoint.clone()),
    }
}

/// The same at the address that a listener really had, whose port may have been the kernel's choice.
fn where_it_was(wanted: &Wanted, address: &str) -> Wanted {
    let endpoint = wanted.listen.endpoint.with_address(address);
    Wanted { listen: Listen { endpoint, ..wanted.listen.clone() }, socket: wanted.socket }
}
