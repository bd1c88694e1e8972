//! The subscriptions of a client: its own names for them, and the router's numbers.

use std::collections::{HashMap, HashSet};

/// Bytes of a client's name for a subscription. Clients use short numbers.
pub(super) const MAX_SID: usize = 64;

/// The subscriptions of one client.
#[derive(Debug, Default)]
pub(super) struct NatsSubscriptions {
    by_sid: HashMap<Box<[u8]>, u32>,
    /// The client's name of each number, counted from 1.
    sids: Vec<Option<Box<[u8]>>>,
    free: Vec<u32>,
    /// Numbers of subscriptions that end by themselves.
    ending: HashSet<u32>,
}

impl NatsSubscriptions {
    /// Gives a new subscription a number; `None` if the client has one of this name.
    pub(super) fn add(&mut self, sid: &[u8]) -> Option<u32> {
        if self.by_sid.contains_key(sid) {
            return None;
        }
        // Low numbers first: copies for clients with the same number share their bytes.
        let number = self.free.pop().unwrap_or(self.sids.len() as u32 + 1);
        let at = number as usize - 1;
        if at == self.sids.len() {
            self.sids.push(None);
        }
        self.sids[at] = Some(sid.into());
        self.by_sid.insert(sid.into(), number);
        Some(number)
    }

    /// The number of a subscription.
    pub(super) fn number(&self, sid: &[u8]) -> Option<u32> {
        self.by_sid.get(sid).copied()
    }

    /// The client's name of a number.
    #[inline]
    pub(super) fn sid(&self, number: u32) -> Option<&[u8]> {
        self.sids.get((number as usize).checked_sub(1)?)?.as_deref()
    }

    /// The client may use the name again. Messages that are on their way keep it.
    pub(super) fn forget_name(&mut self, sid: &[u8]) {
        self.by_sid.remove(sid);
    }

    /// The subscription ends by itself, after some messages.
    pub(super) fn note_end(&mut self, number: u32) {
        self.ending.insert(number);
    }

    /// The number of a subscription of this name that ends by itself, and perhaps has: only the
    /// router knows. The name is free then.
    pub(super) fn take_ending(&mut self, sid: &[u8]) -> Option<u32> {
        let number = self.number(sid).filter(|number| self.ending.contains(number))?;
        self.forget_name(sid);
        Some(number)
    }

    /// The subscription is over, and its number is free.
    pub(super) fn remove(&mut self, number: u32) {
        self.ending.remove(&number);
        let at = (number as usize).wrapping_sub(1);
        if let Some(sid) = self.sids.get_mut(at).and_then(Option::take) {
            // A new subscription may have the name already.
            if self.by_sid.get(&sid) == Some(&number) {
                self.by_sid.remove(&sid);
            }
            self.free.push(number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_free_once_its_last_message_is_out() {
        let mut known = NatsSubscriptions::default();
        assert_eq!((known.add(b"a"), known.add(b"b"), known.add(b"a")), (Some(1), Some(2), None));
        known.forget_name(b"a");
        assert_eq!((known.number(b"a"), known.sid(1)), (None, Some(&b"a"[..])));
        assert_eq!(known.add(b"a"), Some(3));
        known.remove(1);
        known.remove(1);
        assert_eq!((known.number(b"a"), known.sid(1)), (Some(3), None));
        assert_eq!((known.add(b"c"), known.add(b"d")), (Some(1), Some(4)));
        assert_eq!((known.sid(0), known.sid(9)), (None, None));
        assert_eq!(known.take_ending(b"d"), None);
        known.note_end(4);
        assert_eq!((known.take_ending(b"d"), known.number(b"d")), (Some(4), None));
    }
}
