//! One budget for the bytes of all connections.

use std::sync::Arc;
use std::sync::atomic::{AtomicIsize, AtomicUsize, Ordering};

/// One part in so many of the budget is for what is more than a usual request needs; it is at least as large as the
/// largest value. Neither part can be used up by what belongs to the other, so neither waits for the other for ever.
const FOR_GROWTH_SHARE: usize = 2;
/// The node's budget for the buffers of all connections.
#[derive(Debug)]
pub struct Budget {
    /// For fresh batches and rests.
    pub(super) usual: Part,
    /// For what batches grow by.
    pub(super) growth: Part,
    waiting: AtomicIsize,
}

#[derive(Debug)]
pub(super) struct Part {
    limit: usize,
    used: AtomicUsize,
}

impl Part {
    fn new(limit: usize) -> Part {
        Part { limit, used: AtomicUsize::new(0) }
    }

    /// Takes `bytes`; takes nothing and says no where they are not left.
    pub(super) fn take(&self, bytes: usize) -> bool {
        let take = |used: usize| used.checked_add(bytes).filter(|sum| *sum <= self.limit);
        self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
    }

    pub(super) fn give_back(&self, bytes: usize) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl Budget {
    /// A budget of `limit` bytes.
    #[must_use]
    pub fn new(limit: usize) -> Arc<Budget> {
        let growth = limit / FOR_GROWTH_SHARE;
        Arc::new(Budget { usual: Part::new(limit - growth), growth: Part::new(growth), waiting: AtomicIsize::new(0) })
    }

    /// The budget in bytes.
    #[must_use]
    pub fn limit(&self) -> usize {
        self.usual.limit + self.growth.limit
    }

    /// Bytes that are taken now.
    #[must_use]
    pub fn used(&self) -> usize {
        self.usual.used.load(Ordering::Relaxed) + self.growth.used.load(Ordering::Relaxed)
    }

    /// Whether `bytes` are left for what connections hold beside their batches.
    #[must_use]
    pub fn has_room(&self, bytes: usize) -> bool {
        self.usual.used.load(Ordering::Relaxed).saturating_add(bytes) <= self.usual.limit
    }

    /// Takes `bytes` for what a connection holds beside its batch; takes nothing and says no where they are not left.
    pub fn take(&self, bytes: usize) -> bool {
        self.usual.take(bytes)
    }

    /// Counts `bytes` that a connection holds already, whether they are left or not.
    pub fn take_anyway(&self, bytes: usize) {
        self.usual.used.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Gives back what was taken for a connection.
    pub fn give_back(&self, bytes: usize) {
        self.usual.give_back(bytes);
    }

    /// Sessions that wait for memory now, on all workers.
    #[must_use]
    pub fn waiting(&self) -> isize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Counts `change` more sessions as waiting.
    pub fn count_waiting(&self, change: isize) {
        self.waiting.fetch_add(change, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::Budget;
    use crate::buffers::{FRESH, Pool};

    #[test]
    fn those_that_ask_for_little_and_those_that_ask_for_much_do_not_use_up_each_others_part() {
        let budget = Budget::new(2 << 20);
        let mut pool = Pool::new(budget.clone());
        let held: Vec<_> = std::iter::from_fn(|| pool.take()).collect();
        assert!(held.len() * FRESH > (1 << 20) - FRESH);
        assert!(budget.growth.take(1 << 20), "a value of half the budget still has room");
        assert!(!budget.growth.take(1));
        drop(held);
        assert!(pool.take().is_some());
        assert_eq!(budget.used(), 1 << 20);
    }

    #[test]
    fn what_is_released_leaves_a_batch_to_go_on_with() {
        let budget = Budget::new(2 << 20);
        let mut pool = Pool::new(budget.clone());
        let held: Vec<_> = std::iter::from_fn(|| pool.take()).take(5).collect();
        held.into_iter().for_each(|batch| pool.give_back(batch));
        assert_eq!(budget.used(), 5 * FRESH);
        pool.release();
        assert_eq!(budget.used(), FRESH);
    }
}
