//! The filters of one shape: with the same number of tokens, and with or without `>` at the end.
//!
//! Each filter is a row, and each token is in a column. A column knows the rows with each token,
//! and those with `*`. A subject matches the rows that every column has for the subject's token. A
//! lookup reads a bounded number of words, no matter how the filters were chosen. In a tree of
//! tokens, one subject can have as many paths to leaves as there are filters.

use std::collections::HashMap;
use std::rc::Rc;

use foldhash::fast::RandomState;

use super::LocalSubscriber;
use super::members::MemberSet;
use super::rows::{RowSet, WORD_BITS, bits_of};

/// The number of `*` in a filter, and the number of a subject's token that occurs in no filter.
pub(super) const ANY: u32 = 0;
pub(super) const UNKNOWN: u32 = u32::MAX;

/// The number of rows that are always compared one by one, and the words of bits that take as long
/// as one of these rows.
const FEW_ROWS: usize = 16;
const ROW_WORDS: usize = 32;
/// Words of bits that are read in a quarter of a step.
const PART_WORDS: usize = 8;
/// Quarters of a step for comparing a row, for a column, and for a found member. Most of these are
/// not in the processor's caches.
const ROW_PARTS: usize = 4;
const COLUMN_PARTS: usize = 2;
const MEMBER_PARTS: usize = 4;

/// The number of a filter's tokens before any `>`, and whether `>` follows.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) struct FilterShape {
    pub(super) tokens: usize,
    pub(super) has_tail: bool,
}

impl FilterShape {
    /// Whether a filter of this shape can match a subject of this many tokens.
    pub(super) fn takes(self, tokens: usize) -> bool {
        if self.has_tail { self.tokens < tokens } else { self.tokens == tokens }
    }
}

/// All filters of one shape, and their members.
#[derive(Clone, Debug)]
pub(super) struct FilterTable {
    pub(super) shape: FilterShape,
    columns: Vec<FilterColumn>,
    /// Without gaps: the last row moves to the place of a removed one.
    rows: Vec<FilterRow>,
    row_of: HashMap<Rc<[u32]>, u32, RandomState>,
}

#[derive(Clone, Debug)]
struct FilterRow {
    tokens: Rc<[u32]>,
    members: MemberSet,
}

/// The rows of each token at one position of the filters.
#[derive(Clone, Debug, Default)]
struct FilterColumn {
    literal: HashMap<u32, RowSet, RandomState>,
    any: RowSet,
    /// Always empty: the set for tokens that no filter has here.
    none: RowSet,
}

/// The members that a lookup has found, and its work.
#[derive(Debug, Default)]
pub(super) struct LookUp {
    pub(super) found: Vec<LocalSubscriber>,
    /// Quarters of a step, some 12 ns each.
    pub(super) parts: usize,
    /// The rows that match all tokens so far, and those that match the next.
    left: Vec<u64>,
    mask: Vec<u64>,
}

impl FilterTable {
    pub(super) fn new(shape: FilterShape) -> Self {
        let columns = vec![FilterColumn::default(); shape.tokens];
        Self { shape, columns, rows: Vec::new(), row_of: HashMap::default() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Adds a member, which replaces an earlier one with the same key. Returns whether the filter
    /// is new.
    pub(super) fn add(&mut self, tokens: &[u32], member: LocalSubscriber) -> bool {
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

    /// Returns the members of a filter.
    pub(super) fn members(&mut self, tokens: &[u32]) -> Option<&mut MemberSet> {
        self.row_of.get(tokens).map(|row| &mut self.rows[*row as usize].members)
    }

    /// Removes a filter without members. Returns whether there was one.
    pub(super) fn forget(&mut self, tokens: &[u32]) -> bool {
        let row = self.row_of.get(tokens).copied();
        let row = row.filter(|row| self.rows[*row as usize].members.is_empty());
        row.inspect(|row| self.drop_row(*row)).is_some()
    }

    /// Removes members of all filters, and collects the filters that have none left.
    pub(super) fn remove_all(
        &mut self,
        is_gone: &impl Fn(&LocalSubscriber) -> bool,
        gone: &mut Vec<Rc<[u32]>>,
    ) {
        // From the end, because a removal moves the last row.
        for row in (0..self.rows.len()).rev() {
            let FilterRow { tokens, members } = &mut self.rows[row];
            members.retain(|member| !is_gone(member));
            if members.is_empty() {
                gone.push(Rc::clone(tokens));
                self.drop_row(row as u32);
            }
        }
    }

    /// Finds the members of the filters that match a subject, or the beginning of it for filters
    /// with `>`.
    pub(super) fn look_up(&self, subject: &[u32], look_up: &mut LookUp) {
        let sets = || self.columns.iter().zip(subject).map(|(column, token)| column.rows(*token));
        let (mut rarest, mut fewest) = (None, usize::MAX);
        for (literal, any) in sets() {
            look_up.parts += COLUMN_PARTS;
            let count = literal.len() + any.len();
            // No filter has this token here, so nothing can match.
            if count == 0 {
                return;
            }
            if count < fewest {
                (rarest, fewest) = (Some((literal, any)), count);
            }
        }
        let Some((literal, any)) = rarest else {
            // Only `>` has no tokens before the tail, so that there is at most one such filter.
            return self.rows.iter().for_each(|row| look_up.find(&row.members));
        };
        let words = self.rows.len().div_ceil(WORD_BITS);
        // Comparing the rows of the rarest token is faster, unless there are many of them.
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
        look_up: &mut LookUp,
    ) {
        let words = self.rows.len().div_ceil(WORD_BITS);
        let LookUp { left, mask, .. } = look_up;
        left.clear();
        // All rows match until a column excludes them.
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
            // No row is left for the other columns.
            if some == 0 {
                return;
            }
        }
        // Taken out, because `find` needs the whole lookup, and put back for the next table.
        let left = std::mem::take(left);
        bits_of(&left).for_each(|row| look_up.find(&self.rows[row].members));
        look_up.left = left;
    }

    /// Removes a row, and moves the last row to its place.
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
                    // With equal tokens, the row's number is in the right set already.
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

    /// Frees the memory of filters that have gone, if it is much.
    fn shrink(&mut self) {
        let few = 2 * self.rows.len();
        self.rows.shrink_to(few);
        self.row_of.shrink_to(few);
        self.columns.iter_mut().for_each(|column| column.literal.shrink_to(few));
    }
}

impl FilterColumn {
    /// Returns the rows with this token here, and those with `*`.
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

impl LookUp {
    fn find(&mut self, members: &MemberSet) {
        let before = self.found.len();
        self.found.extend(members.iter().cloned());
        self.parts += (self.found.len() - before) * MEMBER_PARTS;
    }
}
