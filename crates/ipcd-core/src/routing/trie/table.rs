//! The filters of one shape: as many tokens, with or without `>` behind them.
//!
//! Each filter is a row, and each of its tokens is in a column. A column knows the rows of each token
//! and of `*`. A subject matches the rows that every column has for its tokens. A look-up reads a
//! bounded number of words of bits, however the filters were chosen: in a tree of tokens, one subject
//! can have as many ways to the leaves as there are filters.

use std::collections::HashMap;
use std::rc::Rc;

use foldhash::fast::RandomState;

use super::members::{MemberSet, TrieMember};
use super::rows::{RowSet, WORD_BITS, bits_of};

/// The number of `*` in a filter, and of a token in a subject that is in no filter.
pub(super) const ANY: u32 = 0;
pub(super) const UNKNOWN: u32 = u32::MAX;

/// Rows that are always looked at by themselves, and words of bits that take as long as one of those.
const FEW_ROWS: usize = 16;
const ROW_WORDS: usize = 32;
/// Words of bits that are looked at in a part of a step.
const PART_WORDS: usize = 8;
/// Parts of a step that a row by itself takes, a column, and a member that is found: most are not in
/// the processor's cache.
const ROW_PARTS: usize = 4;
const COLUMN_PARTS: usize = 2;
const MEMBER_PARTS: usize = 4;

/// How many tokens a filter has before any `>`, and whether that follows.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) struct FilterShape {
    pub(super) tokens: usize,
    pub(super) has_tail: bool,
}

impl FilterShape {
    /// Whether a filter of this shape can match a subject of so many tokens.
    pub(super) fn takes(self, tokens: usize) -> bool {
        if self.has_tail { self.tokens < tokens } else { self.tokens == tokens }
    }
}

/// All filters of one shape, and their members.
#[derive(Clone, Debug)]
pub(super) struct FilterTable<M: TrieMember> {
    pub(super) shape: FilterShape,
    columns: Vec<FilterColumn>,
    /// Without gaps: the last one moves to where one goes.
    rows: Vec<FilterRow<M>>,
    row_of: HashMap<Rc<[u32]>, u32, RandomState>,
}

#[derive(Clone, Debug)]
struct FilterRow<M: TrieMember> {
    tokens: Rc<[u32]>,
    members: MemberSet<M>,
}

/// The rows of each token at one place of the filters.
#[derive(Clone, Debug, Default)]
struct FilterColumn {
    literal: HashMap<u32, RowSet, RandomState>,
    any: RowSet,
    /// It stands for a token that no filter has here.
    none: RowSet,
}

/// Members that a subject concerns, and the work of finding them.
#[derive(Debug)]
pub(super) struct LookUp<M> {
    pub(super) found: Vec<M>,
    /// Parts of a step, some 12 ns each.
    pub(super) parts: usize,
    /// Rows that have all tokens so far, and those that have the next.
    left: Vec<u64>,
    mask: Vec<u64>,
}

impl<M: TrieMember> FilterTable<M> {
    pub(super) fn new(shape: FilterShape) -> Self {
        let columns = vec![FilterColumn::default(); shape.tokens];
        Self { shape, columns, rows: Vec::new(), row_of: HashMap::default() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Adds a member, in place of an earlier one with its key; says whether the filter is new.
    pub(super) fn add(&mut self, tokens: &[u32], member: M) -> bool {
        if let Some(row) = self.row_of.get(tokens) {
            self.rows[*row as usize].members.insert(member);
            return false;
        }
        let (row, tokens) = (self.rows.len() as u32, Rc::<[u32]>::from(tokens));
        let words = (self.rows.len() + 1).div_ceil(WORD_BITS);
        for (column, token) in self.columns.iter_mut().zip(&*tokens) {
            column.insert(*token, row, words);
        }
        self.row_of.insert(Rc::clone(&tokens), row);
        let mut members = MemberSet::default();
        members.insert(member);
        self.rows.push(FilterRow { tokens, members });
        true
    }

    /// A filter's members.
    pub(super) fn members(&mut self, tokens: &[u32]) -> Option<&mut MemberSet<M>> {
        self.row_of.get(tokens).map(|row| &mut self.rows[*row as usize].members)
    }

    /// Forgets a filter that has no members; says whether it was one.
    pub(super) fn forget(&mut self, tokens: &[u32]) -> bool {
        let row = self.row_of.get(tokens).copied();
        let row = row.filter(|row| self.rows[*row as usize].members.is_empty());
        row.inspect(|row| self.drop_row(*row)).is_some()
    }

    /// Removes members of all filters, and says which filters have none any more.
    pub(super) fn remove_all(&mut self, is_gone: &impl Fn(&M) -> bool, gone: &mut Vec<Rc<[u32]>>) {
        for row in (0..self.rows.len()).rev() {
            let FilterRow { tokens, members } = &mut self.rows[row];
            members.retain(|member| !is_gone(member));
            if members.is_empty() {
                gone.push(Rc::clone(tokens));
                self.drop_row(row as u32);
            }
        }
    }

    /// Finds the members of the filters that match the beginning of a subject.
    pub(super) fn look_up(&self, subject: &[u32], look_up: &mut LookUp<M>) {
        let sets = || self.columns.iter().zip(subject).map(|(column, token)| column.rows(*token));
        let (mut rarest, mut fewest) = (None, usize::MAX);
        for (literal, any) in sets() {
            look_up.parts += COLUMN_PARTS;
            let count = literal.len() + any.len();
            if count == 0 {
                return;
            }
            if count < fewest {
                (rarest, fewest) = (Some((literal, any)), count);
            }
        }
        let Some((literal, any)) = rarest else {
            // Without a token there is one filter at the most, which is `>`.
            return self.rows.iter().for_each(|row| look_up.find(&row.members));
        };
        let words = self.rows.len().div_ceil(WORD_BITS);
        if fewest > FEW_ROWS + words * self.columns.len() / ROW_WORDS {
            return self.look_up_by_bits(sets(), look_up);
        }
        look_up.parts += fewest * ROW_PARTS;
        for row in literal.iter().chain(any.iter()).map(|row| &self.rows[row]) {
            let mut pairs = row.tokens.iter().zip(subject);
            if pairs.all(|(own, token)| *own == ANY || own == token) {
                look_up.find(&row.members);
            }
        }
    }

    fn look_up_by_bits<'a>(
        &self,
        sets: impl Iterator<Item = (&'a RowSet, &'a RowSet)>,
        look_up: &mut LookUp<M>,
    ) {
        let words = self.rows.len().div_ceil(WORD_BITS);
        let LookUp { left, mask, .. } = look_up;
        left.clear();
        left.resize(words, u64::MAX);
        mask.resize(words, 0);
        for (literal, any) in sets {
            look_up.parts += 1 + words / PART_WORDS;
            mask.fill(0);
            any.add_to(mask);
            literal.add_to(mask);
            let mut some = 0;
            for (left, mask) in left.iter_mut().zip(&*mask) {
                *left &= mask;
                some |= *left;
            }
            if some == 0 {
                return;
            }
        }
        let left = std::mem::take(left);
        bits_of(&left).for_each(|row| look_up.find(&self.rows[row].members));
        look_up.left = left;
    }

    /// Removes a row, and gives its number to the last one.
    fn drop_row(&mut self, row: u32) {
        let gone = self.rows.swap_remove(row as usize).tokens;
        self.row_of.remove(&gone);
        let (last, words) = (self.rows.len() as u32, self.rows.len().div_ceil(WORD_BITS));
        match self.rows.get(row as usize) {
            None => {
                let places = self.columns.iter_mut().zip(&*gone);
                places.for_each(|(column, token)| column.remove(*token, row));
            }
            Some(FilterRow { tokens: moved, .. }) => {
                self.row_of.insert(Rc::clone(moved), row);
                for ((column, old), new) in self.columns.iter_mut().zip(&*gone).zip(&**moved) {
                    column.remove(*new, last);
                    if old != new {
                        column.remove(*old, row);
                        column.insert(*new, row, words);
                    }
                }
            }
        }
        if self.rows.len() < self.rows.capacity() / 4 {
            self.shrink();
        }
    }

    /// Gives memory back that many filters have taken which have gone.
    fn shrink(&mut self) {
        let few = 2 * self.rows.len();
        self.rows.shrink_to(few);
        self.row_of.shrink_to(few);
        self.columns.iter_mut().for_each(|column| column.literal.shrink_to(few));
    }
}

impl FilterColumn {
    /// Rows that have this token here, and those that have `*`.
    fn rows(&self, token: u32) -> (&RowSet, &RowSet) {
        (self.literal.get(&token).unwrap_or(&self.none), &self.any)
    }

    fn insert(&mut self, token: u32, row: u32, words: usize) {
        let set = match token {
            ANY => &mut self.any,
            token => self.literal.entry(token).or_default(),
        };
        set.insert(row, words);
    }

    fn remove(&mut self, token: u32, row: u32) {
        if token == ANY {
            return self.any.remove(row);
        }
        if let Some(set) = self.literal.get_mut(&token) {
            set.remove(row);
            if set.is_empty() {
                self.literal.remove(&token);
            }
        }
    }
}

impl<M: TrieMember> LookUp<M> {
    fn find(&mut self, members: &MemberSet<M>) {
        let before = self.found.len();
        self.found.extend(members.iter().cloned());
        self.parts += (self.found.len() - before) * MEMBER_PARTS;
    }
}

impl<M> Default for LookUp<M> {
    fn default() -> Self {
        Self { found: Vec::new(), parts: 0, left: Vec::new(), mask: Vec::new() }
    }
}
