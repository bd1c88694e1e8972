//! A queue that most owners never use. Until then it takes only a pointer.

use std::collections::VecDeque;

/// A queue. It keeps its memory until [`LazyQueue::clear`].
#[derive(Debug)]
#[expect(clippy::box_collection, reason = "most owners have none, and a pointer is less")]
pub(crate) struct LazyQueue<T>(Option<Box<VecDeque<T>>>);

impl<T> LazyQueue<T> {
    pub(crate) fn is_empty(&self) -> bool {
        self.front().is_none()
    }

    pub(crate) fn front(&self) -> Option<&T> {
        self.0.as_ref()?.front()
    }

    pub(crate) fn front_mut(&mut self) -> Option<&mut T> {
        self.0.as_mut()?.front_mut()
    }

    pub(crate) fn back(&self) -> Option<&T> {
        self.0.as_ref()?.back()
    }

    pub(crate) fn back_mut(&mut self) -> Option<&mut T> {
        self.0.as_mut()?.back_mut()
    }

    pub(crate) fn push_back(&mut self, item: T) {
        self.0.get_or_insert_default().push_back(item);
    }

    pub(crate) fn pop_front(&mut self) -> Option<T> {
        self.0.as_mut()?.pop_front()
    }

    pub(crate) fn pop_front_if(&mut self, may_go: impl FnOnce(&T) -> bool) -> Option<T> {
        self.0.as_mut()?.pop_front_if(|item| may_go(item))
    }

    pub(crate) fn pop_back_if(&mut self, may_go: impl FnOnce(&T) -> bool) -> Option<T> {
        self.0.as_mut()?.pop_back_if(|item| may_go(item))
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.0.iter().flat_map(|queue| queue.iter())
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.0.iter_mut().flat_map(|queue| queue.iter_mut())
    }

    /// Removes and returns the items from the first on for which `goes` is true.
    pub(crate) fn split_off(&mut self, goes: impl Fn(&T) -> bool) -> VecDeque<T> {
        let Some(queue) = &mut self.0 else { return VecDeque::new() };
        let stay = queue.iter().position(goes).unwrap_or(queue.len());
        queue.split_off(stay)
    }

    /// Removes and returns all items, and frees the memory.
    pub(crate) fn take(&mut self) -> impl Iterator<Item = T> + use<T> {
        self.0.take().into_iter().flat_map(|queue| *queue)
    }

    /// Removes all items, and frees the memory if it is for more than this many items.
    pub(crate) fn keep_memory(&mut self, items: usize) {
        if self.0.as_ref().is_some_and(|queue| queue.capacity() > items) {
            self.clear();
        }
    }

    /// Removes all items, and frees the memory.
    pub(crate) fn clear(&mut self) {
        self.0 = None;
    }
}

impl<T> Default for LazyQueue<T> {
    fn default() -> Self {
        Self(None)
    }
}
