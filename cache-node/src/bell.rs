//! Whether a thread sleeps, so that it is woken only then: a wake-up is a system call.

use crate::atomics::{AtomicBool, Ordering};

/// The sleeper says that it sleeps *before* it looks for work a last time; the waker publishes work *before* it looks
/// whether the other sleeps. Both look and say by one swap, and of two swaps one is the later: if that is the waker's, it
/// finds a sleeper and rings; if it is the sleeper's, it acquires what the waker released, and the last look finds the
/// work.
#[derive(Debug, Default)]
pub struct Bell {
    sleeping: AtomicBool,
}

impl Bell {
    /// To be called before the last look for work.
    pub fn before_sleep(&self) {
        self.sleeping.swap(true, Ordering::AcqRel);
    }

    /// To be called when awake again, whatever the reason.
    pub fn awake(&self) {
        self.sleeping.swap(false, Ordering::AcqRel);
    }

    /// To be called after work was published: whether the other must be woken. It says so once for each sleep.
    #[must_use]
    pub fn must_ring(&self) -> bool {
        self.sleeping.swap(false, Ordering::AcqRel)
    }
}
