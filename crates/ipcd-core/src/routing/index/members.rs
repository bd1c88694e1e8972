//! The members of one filter. Most filters have one. Among thousands, a member is found about as
//! fast.

use std::collections::BTreeMap;

/// Members up to which a linear search is used.
const FEW: usize = 16;

/// A member of a filter.
pub trait IndexMember: Clone + Ord {
    /// The identity of a member within a filter.
    type Key: Clone + std::fmt::Debug + Ord;

    /// Returns the key of this member.
    fn key(&self) -> Self::Key;
}

/// The members of one filter.
#[derive(Clone, Debug)]
pub(super) enum MemberSet<M: IndexMember> {
    One(M),
    Few(Vec<M>),
    Many(BTreeMap<M::Key, M>),
}

impl<M: IndexMember> Default for MemberSet<M> {
    fn default() -> Self {
        Self::Few(Vec::new())
    }
}

impl<M: IndexMember> MemberSet<M> {
    /// Adds a member. It replaces an earlier one with the same key.
    pub(super) fn insert(&mut self, member: M) {
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

    pub(super) fn remove(&mut self, key: &M::Key) -> Option<M> {
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

    pub(super) fn find(&mut self, key: &M::Key) -> Option<&mut M> {
        match self {
            Self::One(one) => Some(one).filter(|one| one.key() == *key),
            Self::Few(few) => few.iter_mut().find(|member| member.key() == *key),
            Self::Many(many) => many.get_mut(key),
        }
    }

    /// Keeps the members for which `stays` is true.
    pub(super) fn retain(&mut self, stays: impl Fn(&M) -> bool) {
        match self {
            Self::One(one) if stays(one) => {}
            Self::One(_) => *self = Self::default(),
            Self::Few(few) => few.retain(stays),
            Self::Many(many) => many.retain(|_, member| stays(member)),
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &M> {
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
