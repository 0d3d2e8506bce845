//! Replies on their way out. Large values are sent from where they lie.

use std::io::{IoSlice, Write};

use memcache::Command;
use segcache::{KeyHash, Reservation};

use super::{Batch, Budget};
use crate::watch::Ticket;

/// Values above this are sent straight from their segment, where the worker has the cache; for smaller ones a copy costs
/// less than a call of the system.
const PASSED_VALUE: usize = 16 << 10;

/// A command that is to be executed now.
pub struct Current<'a> {
    /// The command.
    pub command: Command,
    /// The hash of its first key, where it was computed before.
    pub hash: Option<KeyHash>,
    /// What its ranges are of.
    pub input: &'a [u8],
    /// How many bytes of its keys are done.
    pub keys_done: &'a mut usize,
    /// Whether the connection is to end.
    pub quit: &'a mut bool,
    /// Whether the connection is to watch.
    pub watch: &'a mut Option<Ticket>,
    /// Its value, where that is in the cache already.
    pub reserved: &'a mut Option<Reservation>,
    /// Where its reply goes.
    pub output: Output<'a>,
}

/// Replies, within the budget.
pub struct Output<'a> {
    pub(super) bytes: &'a mut Vec<u8>,
    pub(super) sent: &'a mut usize,
    pub(super) passed: &'a mut usize,
    pub(super) blocked: &'a mut bool,
    /// The socket, where large values may be passed to it.
    pub(super) wire: Option<&'a mut dyn Write>,
    pub(super) budget: &'a Budget,
    pub(super) grown: &'a mut usize,
}

impl Output<'_> {
    /// The bytes, for replies of at most `length` bytes; none where the budget is used up, and then the batch is to be
    /// sent first. A batch without output has room for short replies whatever the budget is.
    pub fn room(&mut self, length: usize) -> Option<&mut Vec<u8>> {
        let wanted = self.bytes.len() + length;
        if wanted > self.bytes.capacity() {
            // Twice as much where there is that much, so that many short replies do not move each other.
            let held = self.bytes.capacity();
            let grow = |capacity: &usize| self.budget.growth.take(*capacity - held);
            let capacity = [wanted.max(2 * held), wanted].into_iter().find(grow)?;
            *self.grown += capacity - held;
            self.bytes.reserve_exact(capacity - self.bytes.len());
        }
        Some(self.bytes)
    }

    /// The same output, lent to someone else.
    pub fn again(&mut self) -> Output<'_> {
        let wire = self.wire.as_mut().map(|wire| &mut **wire as &mut dyn Write);
        Output {
            bytes: self.bytes,
            sent: self.sent,
            passed: self.passed,
            blocked: self.blocked,
            wire,
            budget: self.budget,
            grown: self.grown,
        }
    }

    /// What was written behind the first `length` bytes.
    #[must_use]
    pub fn behind(&self, length: usize) -> &[u8] {
        self.bytes.get(length..).unwrap_or_default()
    }

    /// Takes back what was written behind the first `length` bytes.
    pub fn truncate(&mut self, length: usize) {
        self.bytes.truncate(length);
    }

    /// How many bytes there are.
    #[must_use]
    pub fn length(&self) -> usize {
        self.bytes.len()
    }

    /// Puts a value and what ends its reply behind what there is, for which [`Output::room`] was found. A large one is
    /// sent at once, together with all before it and with its end, as far as the socket takes it; only the rest is
    /// copied.
    pub fn put_value(&mut self, value: &[u8], end: &[u8]) {
        if value.len() > PASSED_VALUE && !*self.blocked {
            self.pass(value, end);
        } else {
            self.bytes.extend_from_slice(value);
            self.bytes.extend_from_slice(end);
        }
    }

    fn pass(&mut self, value: &[u8], end: &[u8]) {
        let before = &self.bytes[*self.sent..];
        let (head, all) = (before.len(), before.len() + value.len() + end.len());
        let slices = [IoSlice::new(before), IoSlice::new(value), IoSlice::new(end)];
        // An error is found again by whoever sends the rest.
        let taken = self.wire.as_mut().and_then(|wire| wire.write_vectored(&slices).ok()).unwrap_or(0);
        *self.passed += taken;
        *self.blocked = taken < all;
        if taken < head {
            *self.sent += taken;
        } else {
            self.bytes.clear();
            *self.sent = 0;
        }
        let of_value = taken.saturating_sub(head).min(value.len());
        let of_end = taken.saturating_sub(head + value.len());
        self.bytes.extend_from_slice(&value[of_value..]);
        self.bytes.extend_from_slice(&end[of_end..]);
    }
}

impl Batch {
    /// How many bytes were passed to the socket since the last call.
    pub fn take_passed(&mut self) -> usize {
        std::mem::take(&mut self.passed)
    }
}
