//! Bytes that subscriptions hold for clients that do not take their frames: of one connection, and of all together. Pure.
//!
//! Who holds enters how much, and takes in no more once either is spent. So what all hold is bounded by the budget, and for each
//! subscription by what it took in last.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A number of bytes, perhaps a part of a greater budget.
#[derive(Debug)]
pub struct Budget {
    most: usize,
    held: AtomicUsize,
    whole: Option<Arc<Budget>>,
}

impl Budget {
    /// Of so many bytes, all of which count for `whole` too.
    pub fn new(most: usize, whole: Option<Arc<Self>>) -> Arc<Self> {
        let held = AtomicUsize::new(0);
        Arc::new(Self { most, held, whole })
    }

    /// Whether nothing more may be held.
    pub fn is_spent(&self) -> bool {
        self.held() >= self.most || self.whole.as_ref().is_some_and(|whole| whole.is_spent())
    }

    /// Bytes held.
    pub fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    fn change(&self, from: usize, to: usize) {
        if to >= from {
            self.held.fetch_add(to - from, Ordering::Relaxed);
        } else {
            self.held.fetch_sub(from - to, Ordering::Relaxed);
        }
        if let Some(whole) = &self.whole {
            whole.change(from, to);
        }
    }
}

/// What one holds of a budget; given back when this is dropped.
#[derive(Debug)]
pub struct Held {
    budget: Arc<Budget>,
    bytes: usize,
}

impl Held {
    /// Nothing yet.
    pub fn new(budget: Arc<Budget>) -> Self {
        Self { budget, bytes: 0 }
    }

    /// So many bytes by now.
    pub fn set(&mut self, bytes: usize) {
        if bytes != self.bytes {
            self.budget.change(self.bytes, bytes);
            self.bytes = bytes;
        }
    }

    /// Whether this one's part of the budget is spent.
    pub fn is_full(&self) -> bool {
        self.budget.held() >= self.budget.most
    }

    /// Whether the budget is spent, by whomever.
    pub fn is_spent(&self) -> bool {
        self.budget.is_spent()
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.set(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_counts_for_the_whole_and_is_given_back() {
        let whole = Budget::new(100, None);
        let (one, two) = (
            Budget::new(60, Some(Arc::clone(&whole))),
            Budget::new(60, Some(Arc::clone(&whole))),
        );
        let (mut a, mut b) = (Held::new(Arc::clone(&one)), Held::new(Arc::clone(&one)));
        let mut c = Held::new(Arc::clone(&two));
        a.set(50);
        assert!(!a.is_spent());
        b.set(10);
        assert!(a.is_spent() && b.is_spent() && !c.is_spent(), "its own part");
        c.set(40);
        assert!(c.is_spent(), "the whole");
        a.set(20);
        assert!(!a.is_spent() && !c.is_spent());
        assert_eq!((one.held(), two.held(), whole.held()), (30, 40, 70));
        drop((a, b, c));
        assert_eq!((one.held(), two.held(), whole.held()), (0, 0, 0));
    }
}
