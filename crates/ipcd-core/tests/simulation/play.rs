//! The phases of a simulation: storms of random steps, hushes in which everything arrives but some
//! peers do not read, and a calm at the end, after which nothing may be left undone.

use crate::acts::CLIENTS;
use crate::client::At;
use crate::world::World;

/// Rounds until everything must have arrived.
const ROUNDS: usize = 3000;

/// Plays a seed, and returns the number of delivered messages.
pub(crate) fn play(seed: u64) -> u64 {
    let mut world = World::new(seed);
    (0..CLIENTS / 2).for_each(|_| world.arrive());
    world.settle_down(true);
    for _ in 0..2 {
        world.storm(400);
        world.settle_down(false);
        world.check_waits();
        world.probe_full();
        if !world.is_peaceful && world.rng.percent(20) {
            world.settle_down(false);
            world.probe_flood();
        }
        if world.rng.percent(50) {
            world.calm();
        }
    }
    world.storm(100);
    world.calm();
    world.probe_free();
    world.calm();
    world.answer();
    world.calm();
    world.forget();
    world.ledger.deliveries
}

impl World {
    fn storm(&mut self, steps: usize) {
        // Without deaths, send queues fill up completely.
        let deaths = if self.is_peaceful { 0 } else { self.rng.pick(&[0, 1, 3, 6]) };
        for _ in 0..steps {
            self.step += 1;
            let slot = self.rng.below(self.slots());
            let other = self.rng.below(self.slots());
            let (link, inbox) = self.deafness[slot];
            match self.rng.below(100) {
                0..8 => self.supervise(),
                8..20 if self.rng.percent(link) => {}
                8..20 => self.hear_link(slot),
                20..35 if self.rng.percent(inbox) => {}
                20..35 => self.hear_other(slot, other),
                35..45 => self.forward(slot, other),
                45..49 => self.obey(slot),
                49..50 => self.leave_place(slot),
                50..52 => self.tick(),
                52..55 => self.arrive(),
                55..65 => self.with_someone(|world, index| {
                    if !world.clients[index].is_stalled {
                        world.read(index, false);
                    }
                }),
                65..99 if self.rng.percent(100 - deaths) => self.with_someone(Self::act),
                65..99 => self.kill(slot),
                _ if self.is_peaceful => {}
                _ => self.with_someone(Self::leave),
            }
        }
    }

    /// Lets everything arrive, with all workers alive; with `all`, stalled peers read, too.
    pub(crate) fn settle_down(&mut self, all: bool) {
        for _ in 0..ROUNDS {
            if self.is_settled(all) {
                self.arrived();
                return;
            }
            self.round(all);
        }
        panic!("no end after {ROUNDS} rounds");
    }

    fn arrived(&mut self) {
        self.ledger.outcomes.arrived(self.now);
        for client in self.clients.iter().filter(|client| client.home.is_some()) {
            self.ledger.known.entry(client.index).or_insert(self.step);
        }
        if std::mem::take(&mut self.ledger.is_killed) {
            self.ledger.last_kill = Some(self.step);
        }
    }

    fn round(&mut self, all: bool) {
        let slots = self.slots();
        let mut order: Vec<usize> = (0..slots).collect();
        self.rng.shuffle(&mut order);
        self.step += 1;
        self.supervise();
        for slot in order.iter().copied() {
            self.step += 1;
            (0..self.rng.below(4)).for_each(|_| self.hear_link(slot));
            for other in 0..slots {
                self.forward(slot, other);
                (0..self.rng.below(4)).for_each(|_| self.hear_other(slot, other));
            }
            self.obey(slot);
            self.leave_place(slot);
        }
        for index in 0..self.clients.len() {
            self.step += 1;
            self.offer(index);
            if all || !self.clients[index].is_stalled {
                self.read(index, true);
            }
        }
    }

    fn is_settled(&self, all: bool) -> bool {
        let is_settled = |index: usize| {
            let client = &self.clients[index];
            let is_read = !client.wants_write && !client.is_closing;
            client.at == At::Gone
                || (client.is_here()
                    && (client.is_waiting || client.unsent.is_empty())
                    && (is_read || (client.is_stalled && !all)))
        };
        self.sup.is_quiet(all) && (0..self.clients.len()).all(is_settled)
    }
}
