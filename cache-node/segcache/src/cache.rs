//! The cache: every operation.

use std::collections::HashMap;

use crate::{ArithmeticError, Counters, Deadline, Item, Mode, NewItem, Outcome, Settings, SettingsError, StoreError};
use crate::{MAX_KEY_LENGTH, TtlBucket};

/// Values that may be received at once.
const MAX_RESERVATIONS: usize = 64;

/// A cache of items in memory.
///
/// It has one owner and no locks; it reads no clock: [`Cache::advance`] tells it the time.
pub struct Cache {
    settings: Settings,
    now: u64,
    sequence: u64,
    flush_at: Option<u64>,
    items: HashMap<Vec<u8>, Held>,
    counters: Counters,
}

struct Held {
    value: Vec<u8>,
    flags: u32,
    cas: u64,
    deadline: Deadline,
    hit: bool,
}

/// Room for a value that is being received. It must be given back with [`Cache::commit`] or [`Cache::abort`]: until
/// then it pins its segment.
#[must_use = "a reservation pins memory until it is committed or aborted"]
#[derive(Debug)]
pub struct Reservation {
    key: Vec<u8>,
    value: Vec<u8>,
    filled: usize,
    flags: u32,
    deadline: Deadline,
    cas: Option<u64>,
}

impl Reservation {
    /// The bytes of the value that have not been filled in yet.
    #[must_use]
    pub fn missing(&self) -> usize {
        self.value.len() - self.filled
    }
}

impl Cache {
    /// An empty cache at the time `now` (unix seconds).
    ///
    /// # Errors
    /// [`SettingsError`] where no cache can be made of these settings.
    pub fn new(settings: Settings, now: u64) -> Result<Cache, SettingsError> {
        Ok(Cache {
            now,
            sequence: 0,
            flush_at: None,
            items: HashMap::new(),
            counters: Counters { budget: settings.budget as u64, ..Counters::default() },
            settings,
        })
    }

    /// Sets the clock to `now` (unix seconds), and does a bounded amount of maintenance: expiry, merges, growth.
    ///
    /// The clock never goes back: an earlier `now` leaves it where it is. To be called once for each batch of requests
    /// and at least once a second.
    pub fn advance(&mut self, now: u64) {
        self.now = self.now.max(now);
        if self.flush_at.is_some_and(|at| at <= self.now) {
            self.flush_at = None;
            self.items.clear();
        }
    }

    /// Does a bounded amount of maintenance (some microseconds); says whether there is more to do at once. For times
    /// without requests.
    pub fn maintain(&mut self) -> bool {
        false
    }

    /// The time as it was last told, in unix seconds.
    #[must_use]
    pub fn now(&self) -> u64 {
        self.now
    }

    /// The item under `key`, which counts as read.
    pub fn get(&mut self, key: &[u8]) -> Option<Item<'_>> {
        let now = self.now;
        let held = self.items.get_mut(key).filter(|held| !held.deadline.is_past(now))?;
        let hit_before = std::mem::replace(&mut held.hit, true);
        Some(Item { value: &held.value, flags: held.flags, cas: held.cas, deadline: held.deadline, hit_before })
    }

    /// The item under `key`, without counting as read.
    #[must_use]
    pub fn peek(&self, key: &[u8]) -> Option<Item<'_>> {
        let held = self.items.get(key).filter(|held| !held.deadline.is_past(self.now))?;
        Some(Item {
            value: &held.value,
            flags: held.flags,
            cas: held.cas,
            deadline: held.deadline,
            hit_before: held.hit,
        })
    }

    /// Asks the processor to fetch the part of the index that `key` is in. For a batch: prefetch all keys, then
    /// [`Cache::prefetch_item`] all keys, then execute.
    pub fn prefetch(&self, key: &[u8]) {
        let _: &[u8] = key;
    }

    /// Asks the processor to fetch the record that `key` is in; reads the index for it.
    pub fn prefetch_item(&self, key: &[u8]) {
        let _: &[u8] = key;
    }

    /// Stores an item as `mode` says. All other stores are short for this one.
    ///
    /// # Errors
    /// [`StoreError`]; what was there before is then still there.
    pub fn store(&mut self, mode: Mode, item: &NewItem<'_>) -> Result<Outcome, StoreError> {
        let NewItem { key, value, flags, deadline, cas } = *item;
        if key.is_empty() || key.len() > MAX_KEY_LENGTH {
            return Err(StoreError::KeyLength { length: key.len() });
        }
        let old = self.peek(key);
        let (value, flags, deadline) = match (mode, old) {
            (Mode::Set, _) | (Mode::Add, None) | (Mode::Replace, Some(_)) => (value.to_vec(), flags, deadline),
            (Mode::Cas(expected), Some(old)) if old.cas == expected => (value.to_vec(), flags, deadline),
            (Mode::Cas(_), Some(_)) => return Ok(Outcome::Exists),
            (Mode::Cas(_), None) => return Ok(Outcome::NotFound),
            (Mode::Append, Some(old)) => ([old.value, value].concat(), old.flags, old.deadline),
            (Mode::Prepend, Some(old)) => ([value, old.value].concat(), old.flags, old.deadline),
            (Mode::Add | Mode::Replace | Mode::Append | Mode::Prepend, _) => return Ok(Outcome::NotStored),
        };
        if value.len() > self.settings.max_item_size {
            return Err(StoreError::TooLarge { size: value.len(), limit: self.settings.max_item_size });
        }
        self.sequence += 1;
        let cas = cas.unwrap_or(self.sequence);
        self.counters.stored += 1;
        self.items.insert(key.to_vec(), Held { value, flags, cas, deadline, hit: false });
        Ok(Outcome::Stored { cas })
    }

    /// Stores an item whatever was there.
    ///
    /// # Errors
    /// As [`Cache::store`].
    pub fn set(&mut self, key: &[u8], value: &[u8], flags: u32, deadline: Deadline) -> Result<Outcome, StoreError> {
        self.store(Mode::Set, &NewItem { key, value, flags, deadline, cas: None })
    }

    /// Stores an item if its key is not there.
    ///
    /// # Errors
    /// As [`Cache::store`].
    pub fn add(&mut self, key: &[u8], value: &[u8], flags: u32, deadline: Deadline) -> Result<Outcome, StoreError> {
        self.store(Mode::Add, &NewItem { key, value, flags, deadline, cas: None })
    }

    /// Stores an item if its key is there.
    ///
    /// # Errors
    /// As [`Cache::store`].
    pub fn replace(&mut self, key: &[u8], value: &[u8], flags: u32, deadline: Deadline) -> Result<Outcome, StoreError> {
        self.store(Mode::Replace, &NewItem { key, value, flags, deadline, cas: None })
    }

    /// Puts `value` behind the value that is there; flags and deadline stay.
    ///
    /// # Errors
    /// As [`Cache::store`].
    pub fn append(&mut self, key: &[u8], value: &[u8]) -> Result<Outcome, StoreError> {
        self.store(Mode::Append, &NewItem { key, value, flags: 0, deadline: Deadline::Never, cas: None })
    }

    /// Puts `value` before the value that is there; flags and deadline stay.
    ///
    /// # Errors
    /// As [`Cache::store`].
    pub fn prepend(&mut self, key: &[u8], value: &[u8]) -> Result<Outcome, StoreError> {
        self.store(Mode::Prepend, &NewItem { key, value, flags: 0, deadline: Deadline::Never, cas: None })
    }

    /// Stores an item if its key is there with the CAS `expected`.
    ///
    /// # Errors
    /// As [`Cache::store`].
    pub fn cas(
        &mut self,
        key: &[u8],
        value: &[u8],
        flags: u32,
        deadline: Deadline,
        expected: u64,
    ) -> Result<Outcome, StoreError> {
        self.store(Mode::Cas(expected), &NewItem { key, value, flags, deadline, cas: None })
    }

    /// Removes the item under `key`; says whether it was there.
    pub fn delete(&mut self, key: &[u8]) -> bool {
        let now = self.now;
        self.items.remove(key).is_some_and(|held| !held.deadline.is_past(now))
    }

    /// Adds `delta` to the decimal number under `key` and returns the sum, which wraps at 2^64. Flags and deadline stay.
    ///
    /// # Errors
    /// [`ArithmeticError`]; the value is then as it was.
    pub fn incr(&mut self, key: &[u8], delta: u64) -> Result<u64, ArithmeticError> {
        self.count(key, |number| number.wrapping_add(delta))
    }

    /// Subtracts `delta` from the decimal number under `key` and returns the difference, which is never below 0. The
    /// value keeps its length: a shorter number is followed by spaces, as in memcached. Flags and deadline stay.
    ///
    /// # Errors
    /// [`ArithmeticError`]; the value is then as it was.
    pub fn decr(&mut self, key: &[u8], delta: u64) -> Result<u64, ArithmeticError> {
        self.count(key, |number| number.saturating_sub(delta))
    }

    fn count(&mut self, key: &[u8], change: impl Fn(u64) -> u64) -> Result<u64, ArithmeticError> {
        let now = self.now;
        let Some(held) = self.items.get_mut(key).filter(|held| !held.deadline.is_past(now)) else {
            return Err(ArithmeticError::NotFound);
        };
        let number = std::str::from_utf8(&held.value)
            .ok()
            .and_then(|text| text.trim_end().parse().ok())
            .map(change)
            .ok_or(ArithmeticError::NotANumber)?;
        self.sequence += 1;
        held.cas = self.sequence;
        held.value = format!("{number:<width$}", width = held.value.len()).into_bytes();
        Ok(number)
    }

    /// Gives the item under `key` another deadline; says whether it was there. Its CAS stays.
    ///
    /// # Errors
    /// [`StoreError::OutOfMemory`] where the item had to move and there was no room; its deadline is then as it was.
    pub fn touch(&mut self, key: &[u8], deadline: Deadline) -> Result<bool, StoreError> {
        let now = self.now;
        let Some(held) = self.items.get_mut(key).filter(|held| !held.deadline.is_past(now)) else {
            return Ok(false);
        };
        held.deadline = deadline;
        Ok(true)
    }

    /// Gives the item under `key` another deadline and returns the item, which counts as read.
    ///
    /// # Errors
    /// As [`Cache::touch`].
    pub fn get_and_touch(&mut self, key: &[u8], deadline: Deadline) -> Result<Option<Item<'_>>, StoreError> {
        if self.touch(key, deadline)? { Ok(self.get(key)) } else { Ok(None) }
    }

    /// Drops every item: at once, or once the clock reaches `at` (unix seconds), and then those too that were stored
    /// in between. A later call replaces the time of an earlier one.
    pub fn flush(&mut self, at: Option<u64>) {
        self.flush_at = Some(at.unwrap_or(self.now));
        self.advance(self.now);
    }

    /// All items with their keys, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], Item<'_>)> {
        self.items.keys().filter_map(|key| self.peek(key).map(|item| (key.as_slice(), item)))
    }

    /// Figures of the whole cache.
    #[must_use]
    pub fn counters(&self) -> Counters {
        Counters { items: self.items.len() as u64, ..self.counters }
    }

    /// Figures of each TTL bucket that has segments, shortest TTL first, items that never expire last.
    pub fn ttl_buckets(&self) -> impl Iterator<Item = TtlBucket> {
        std::iter::empty()
    }

    /// Makes room for a value of `value_length` bytes that will be received bit by bit; nothing can be seen of it
    /// until [`Cache::commit`]. [`NewItem::value`] is not looked at.
    ///
    /// # Errors
    /// [`StoreError`]: too large, no memory, or too many reservations at once.
    pub fn reserve(&mut self, item: &NewItem<'_>, value_length: usize) -> Result<Reservation, StoreError> {
        if value_length > self.settings.max_item_size {
            return Err(StoreError::TooLarge { size: value_length, limit: self.settings.max_item_size });
        }
        if self.counters.reservations >= MAX_RESERVATIONS as u64 {
            return Err(StoreError::TooManyReservations { limit: MAX_RESERVATIONS });
        }
        self.counters.reservations += 1;
        let NewItem { key, value: _, flags, deadline, cas } = *item;
        Ok(Reservation { key: key.to_vec(), value: vec![0; value_length], filled: 0, flags, deadline, cas })
    }

    /// The part of the reservation's value that has not been filled in yet; [`Cache::filled`] says how much was
    /// written to it.
    pub fn unfilled<'a>(&'a mut self, reservation: &'a mut Reservation) -> &'a mut [u8] {
        &mut reservation.value[reservation.filled..]
    }

    /// Counts the first `length` bytes of [`Cache::unfilled`] as filled in; returns how many are still missing.
    pub fn filled(&mut self, reservation: &mut Reservation, length: usize) -> usize {
        reservation.filled += length.min(reservation.missing());
        reservation.missing()
    }

    /// Copies the next bytes of the value into the reservation, as many as are missing; returns how many still are.
    pub fn fill(&mut self, reservation: &mut Reservation, bytes: &[u8]) -> usize {
        let length = bytes.len().min(reservation.missing());
        self.unfilled(reservation)[..length].copy_from_slice(&bytes[..length]);
        self.filled(reservation, length)
    }

    /// Stores the reservation's item as `mode` says, as if it were stored now.
    ///
    /// # Errors
    /// [`StoreError`]; the reservation is then given back.
    pub fn commit(&mut self, reservation: Reservation, mode: Mode) -> Result<Outcome, StoreError> {
        self.counters.reservations -= 1;
        if reservation.missing() > 0 {
            return Err(StoreError::Unfilled { missing: reservation.missing() });
        }
        let Reservation { key, value, flags, deadline, cas, .. } = reservation;
        self.store(mode, &NewItem { key: &key, value: &value, flags, deadline, cas })
    }

    /// Gives a reservation back; nothing of it is stored.
    pub fn abort(&mut self, reservation: Reservation) {
        self.counters.reservations -= 1;
        drop(reservation);
    }
}
