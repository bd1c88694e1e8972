//! What comes from other workers, and from the supervisor.

use std::time::Instant;

use ipcd_proto::control::decode as body;
use ipcd_proto::{Address, Decoded, Frame, Header, Kind, decode};

use crate::core::{Core, Output};
use crate::others::{Between, Others, Unconfirmed, Way};
use crate::peer::place_of;
use crate::publish::Sender;
use crate::shared::Change;
use crate::table::{News, Request};
use crate::tracked::Home;

impl Core {
    /// Takes what another worker has sent: whole frames. Messages are delivered even if that life
    /// is over, for they were accepted; news of it is none any more.
    pub fn arrive(&mut self, now: Instant, slot: u32, life: u32, frames: &mut [u8]) {
        let Some(known) = self.life_of(slot) else { return };
        if life > known.max(self.last_life_of(slot)) {
            self.learn(now, &[Change::Life { slot, incarnation: life }]);
        }
        let is_current = self.life_of(slot) == Some(life);
        self.forget_origins(slot, life);
        let mut at = 0;
        while let Ok(Decoded::Frame(frame, length)) = decode(&frames[at..], usize::MAX) {
            at += match frame.header.kind {
                Kind::Message => self.arrive_message(now, slot, &mut frames[at..], length),
                _ => {
                    if let Ok(news) = body(frame.payload) {
                        self.hear(now, slot, news, is_current);
                    }
                    length
                }
            };
        }
        let Some(others) = self.others.as_mut().filter(|_| is_current) else { return };
        let way = &mut others.ways[slot as usize];
        way.consumed += frames.len() as u64;
        // Reported by the quarter, so that publishers never wait for a report that nobody owes.
        if way.consumed - way.reported >= others.window / 4 {
            way.reported = way.consumed;
            let news = Between::Consumed(way.consumed);
            let output = others.tell(slot, &news);
            self.outputs.extend(output);
        }
    }

    /// Delivers the message that begins here, and those behind it that go the same way.
    fn arrive_message(
        &mut self,
        now: Instant,
        slot: u32,
        bytes: &mut [u8],
        length: usize,
    ) -> usize {
        let Ok(Decoded::Frame(Frame { header, subject, .. }, _)) = decode(bytes, length) else {
            return length;
        };
        let address = Address::parse(subject);
        if address.is_none() && header.subscription == 0 && !header.is_tracked() {
            return self.deliver_run(now, bytes, length);
        }
        let frame = &mut bytes[..length];
        let ticket = header.is_tracked().then(|| {
            let way = self.others.as_mut().map(|others| &mut others.ways[slot as usize]);
            let theirs = way.and_then(|way| way.ticket.take());
            let home = theirs.map_or(Home::Nowhere, |ticket| Home::There(slot, ticket));
            self.track(now, home, &header)
        });
        let from = Sender { key: None, id: header.sender };
        if let Some(address) = address {
            self.deliver_direct(now, from, frame, address, ticket);
        } else if header.subscription != 0 {
            self.arrive_for_group(now, frame, header.subscription, ticket);
        } else if let Ok(targets) = self.route(subject_of(frame)) {
            self.deliver_one(now, from, &targets.members, frame, ticket);
        }
        if let Some(ticket) = ticket {
            self.dealt_out(now, ticket);
        }
        length
    }

    /// Forgets the senders of an earlier life there. Not at its end, which is often known before
    /// its last messages are here; but nothing of it comes after what the next one has sent.
    fn forget_origins(&mut self, slot: u32, life: u32) {
        let Some(others) = &mut self.others else { return };
        let heard = &mut others.ways[slot as usize].heard_life;
        if std::mem::replace(heard, life) != life {
            others.origins.retain(|_, (of, _)| *of != slot);
        }
    }

    fn hear(&mut self, now: Instant, slot: u32, news: Between, is_current: bool) {
        let Some(others) = &mut self.others else { return };
        match news {
            // Its own worker knows better than one that has passed on a message of its.
            Between::Origin(origin) if place_of(origin.peer).0 == slot => {
                others.origins.insert(origin.peer, (slot, origin));
            }
            Between::Origin(origin) => {
                others.origins.entry(origin.peer).or_insert((slot, origin));
            }
            Between::Departed(sender) => {
                if others.origins.get(&sender).is_some_and(|(of, _)| *of == slot) {
                    others.origins.remove(&sender);
                }
            }
            _ if !is_current => {}
            Between::Consumed(position) => {
                let way = &mut others.ways[slot as usize];
                way.credited = position.clamp(way.credited, way.sent);
                self.resume_all();
            }
            Between::Level { interest, off } => {
                others.set_level(slot, interest, off);
                if !off {
                    self.resume_all();
                }
            }
            Between::Tracked(ticket) => others.ways[slot as usize].ticket = Some(ticket),
            Between::Concluded(conclusion) => self.concluded_elsewhere(now, slot, &conclusion),
        }
    }

    /// Takes news of the supervisor's.
    pub fn hear_news(&mut self, now: Instant, news: News) {
        let (slot, life) = (self.config.slot, self.config.incarnation);
        match news {
            News::Changes { epoch, changes } => {
                let Some(others) = &mut self.others else { return };
                // What was told before this worker was born, it has inherited.
                if epoch > others.shared.epoch {
                    others.shared.epoch = epoch;
                    self.learn(now, &changes);
                }
                self.outputs.push_back(Output::Tell(Request::Seen(epoch)));
            }
            News::Confirmed { to, ticket } if to == life => self.confirmed(now, ticket),
            News::Named { to, key, peer, name, granted } if to == life => {
                if self.is_waiting_for_name(key, peer) {
                    self.named(now, key, granted);
                } else if granted {
                    // The peer has gone meanwhile, and nobody else will give its name back.
                    self.release_name(name);
                }
            }
            News::Question { asker, query } => self.answer_question(now, asker, &query),
            News::Answer { asker, part, last } if (asker.slot, asker.life) == (slot, life) => {
                self.reported(now, asker.ticket, part, last);
            }
            // What was meant for the worker that lived here before.
            _ => {}
        }
    }

    /// Learns what has changed elsewhere.
    fn learn(&mut self, now: Instant, changes: &[Change]) {
        let Some(others) = &mut self.others else { return };
        let (mut reborn, mut over) = (Vec::new(), Vec::new());
        for change in changes {
            if others.is_stale(change) {
                continue;
            }
            let life = match *change {
                Change::Life { slot, incarnation } => Some((slot, incarnation)),
                Change::Died { slot, .. } => Some((slot, 0)),
                Change::Interested { .. } | Change::Uninterested { .. } | Change::Spent { .. } => {
                    None
                }
            };
            if let Some((slot, incarnation)) = life
                && slot != others.own_slot
                && others.shared.lives.get(slot as usize) != Some(&incarnation)
            {
                let way = &mut others.ways[slot as usize];
                let last_life = way.last_life.max(incarnation);
                *way = Way { last_life, heard_life: way.heard_life, ..Way::default() };
                others.off.retain(|(of, _)| *of != slot);
                reborn.extend((incarnation > 0).then_some(slot));
                over.push(slot);
                self.peers.iter_mut().for_each(|(_, peer)| peer.introduced.retain(|s| *s != slot));
            }
            let off = &others.off;
            others.shared.apply(change, |slot, interest| off.contains(&(slot, interest.clone())));
        }
        over.into_iter().for_each(|slot| self.bury_tracked(now, slot));
        for slot in reborn {
            self.tell_levels(slot);
        }
        if changes.iter().any(Change::is_about_charges) {
            self.update_charges();
        }
        self.resume_all();
        self.resume_group_waiters();
    }

    /// All workers know of the interests up to this ticket.
    fn confirmed(&mut self, now: Instant, ticket: u64) {
        let Some(others) = &mut self.others else { return };
        others.confirmed = others.confirmed.max(ticket);
        let known: Vec<_> =
            others.unconfirmed.extract_if(.., |waiting| waiting.ticket <= ticket).collect();
        for Unconfirmed { key, peer, correlation, .. } in known {
            if self.peers.get(key.0 as usize).is_some_and(|found| found.origin.peer == peer) {
                self.send(now, key, Header::new(Kind::Ack, correlation), &[]);
            }
        }
    }

    fn resume_all(&mut self) {
        let Some(others) = &mut self.others else { return };
        let waiters = std::mem::take(&mut others.waiters);
        self.resume(waiters);
    }
}

impl Others {
    /// Whether a change is of a life that is known to be over: news of the next one may come
    /// earlier, from the worker itself or by inheritance.
    fn is_stale(&self, change: &Change) -> bool {
        let known = |slot: u32| self.shared.lives.get(slot as usize).copied().unwrap_or(0);
        match *change {
            Change::Life { slot, incarnation } => {
                let last = self.ways.get(slot as usize).map_or(0, |way| way.last_life);
                incarnation < known(slot).max(last)
            }
            Change::Died { slot, incarnation } => known(slot) != incarnation,
            Change::Interested { .. } | Change::Uninterested { .. } | Change::Spent { .. } => false,
        }
    }
}

/// The subject of a whole frame.
fn subject_of(frame: &[u8]) -> &[u8] {
    match decode(frame, usize::MAX) {
        Ok(Decoded::Frame(Frame { subject, .. }, _)) => subject,
        _ => &[],
    }
}
