//! The members of one filter. Most filters have one. Among thousands, a member is found about as
//! fast.

use std::collections::BTreeMap;

use super::{LocalSubscriber, SubscriberKey};

/// Members up to which a linear search is used.
const FEW: usize = 16;

/// The members of one filter.
#[derive(Clone, Debug)]
pub(super) enum MemberSet {
    One(LocalSubscriber),
    Few(Vec<LocalSubscriber>),
    Many(BTreeMap<SubscriberKey, LocalSubscriber>),
}

impl Default for MemberSet {
    fn default() -> Self {
        Self::Few(Vec::new())
    }
}

impl MemberSet {
    /// Adds a member. It replaces an earlier one with the same key.
    pub(super) fn insert(&mut self, member: LocalSubscriber) {
        let key = member.key();
        if let Some(known) = self.find(&key) {
            *known = member;
            return;
        }
        *self = match std::mem::take(self) {
            Self::Few(few) if few.is_empty() => Self::One(member),
            Self::One(one) => Self::Few(vec![one, member]),
            Self::Few(mut few) if few.len() < FEW => {
                few.push(member);
                Self::Few(few)
            }
            Self::Few(few) => {
                let all = few.into_iter().chain([member]);
                Self::Many(all.map(|member| (member.key(), member)).collect())
            }
            Self::Many(mut many) => {
                many.insert(key, member);
                Self::Many(many)
            }
        };
    }

    pub(super) fn remove(&mut self, key: &SubscriberKey) -> Option<LocalSubscriber> {
        match self {
            Self::One(one) if one.key() != *key => None,
            Self::One(_) => match std::mem::take(self) {
                Self::One(one) => Some(one),
                Self::Few(_) | Self::Many(_) => None,
            },
            Self::Few(few) => {
                let at = few.iter().position(|member| member.key() == *key)?;
                Some(few.remove(at))
            }
            Self::Many(many) => many.remove(key),
        }
    }

    pub(super) fn find(&mut self, key: &SubscriberKey) -> Option<&mut LocalSubscriber> {
        match self {
            Self::One(one) => Some(one).filter(|one| one.key() == *key),
            Self::Few(few) => few.iter_mut().find(|member| member.key() == *key),
            Self::Many(many) => many.get_mut(key),
        }
    }

    /// Keeps the members for which `stays` is true.
    pub(super) fn retain(&mut self, stays: impl Fn(&LocalSubscriber) -> bool) {
        match self {
            Self::One(one) if stays(one) => {}
            Self::One(_) => *self = Self::default(),
            Self::Few(few) => few.retain(stays),
            Self::Many(many) => many.retain(|_, member| stays(member)),
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &LocalSubscriber> {
        let (few, many) = match self {
            Self::One(one) => (std::slice::from_ref(one), None),
            Self::Few(few) => (few.as_slice(), None),
            Self::Many(many) => (&[][..], Some(many)),
        };
        few.iter().chain(many.into_iter().flat_map(BTreeMap::values))
    }

    pub(super) fn is_empty(&self) -> bool {
        match self {
            Self::One(_) => false,
            Self::Few(few) => few.is_empty(),
            Self::Many(many) => many.is_empty(),
        }
    }
}
