//! The members of one filter. Most filters have one; a filter that thousands have is asked for any of
//! them as fast.

use std::collections::BTreeMap;

/// Members up to which they are looked through one by one.
const FEW: usize = 16;

/// What a filter has as members.
pub trait TrieMember: Clone + Ord {
    /// Tells the members of a filter apart.
    type Key: Clone + std::fmt::Debug + Ord;

    /// This one's.
    fn key(&self) -> Self::Key;
}

/// The members of one filter.
#[derive(Clone, Debug)]
pub(super) enum MemberSet<M: TrieMember> {
    Few(Vec<M>),
    Many(BTreeMap<M::Key, M>),
}

impl<M: TrieMember> Default for MemberSet<M> {
    fn default() -> Self {
        Self::Few(Vec::new())
    }
}

impl<M: TrieMember> MemberSet<M> {
    /// Adds a member; returns the one whose place it takes.
    pub(super) fn insert(&mut self, member: M) -> Option<M> {
        let key = member.key();
        if let Some(known) = self.find(&key) {
            return Some(std::mem::replace(known, member));
        }
        match self {
            Self::Few(few) if few.len() < FEW => few.push(member),
            Self::Few(few) => {
                let all = std::mem::take(few).into_iter().chain([member]);
                *self = Self::Many(all.map(|member| (member.key(), member)).collect());
            }
            Self::Many(many) => drop(many.insert(key, member)),
        }
        None
    }

    pub(super) fn remove(&mut self, key: &M::Key) -> Option<M> {
        match self {
            Self::Few(few) => {
                let at = few.iter().position(|member| member.key() == *key)?;
                Some(few.remove(at))
            }
            Self::Many(many) => many.remove(key),
        }
    }

    pub(super) fn find(&mut self, key: &M::Key) -> Option<&mut M> {
        match self {
            Self::Few(few) => few.iter_mut().find(|member| member.key() == *key),
            Self::Many(many) => many.get_mut(key),
        }
    }

    /// Keeps some; says how many have gone.
    pub(super) fn retain(&mut self, stays: impl Fn(&M) -> bool) -> usize {
        let before = self.len();
        match self {
            Self::Few(few) => few.retain(stays),
            Self::Many(many) => many.retain(|_, member| stays(member)),
        }
        before - self.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &M> {
        let (few, many) = match self {
            Self::Few(few) => (Some(few), None),
            Self::Many(many) => (None, Some(many)),
        };
        few.into_iter().flatten().chain(many.into_iter().flat_map(BTreeMap::values))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn len(&self) -> usize {
        match self {
            Self::Few(few) => few.len(),
            Self::Many(many) => many.len(),
        }
    }
}
