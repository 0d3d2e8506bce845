//! Every operation that writes a record.

use crate::bucket::{NEVER, bucket_of, deadline_width, shortest_ttl, spread};
use crate::cache::{Cache, Found, Place};
use crate::frequency;
use crate::hash::KeyHash;
use crate::index::Slot;
use crate::number::{self, Text};
use crate::record::{Header, MAX_HEADER, Marks, leb128_length, put_leb128};
use crate::segment::{Location, NONE, State};
use crate::{ArithmeticError, Deadline, Item, MAX_KEY_LENGTH, Mode, NewItem, Outcome, StoreError};

/// Rounds of making room, after which a write gives up. The second always finds the room that the first made.
const MOST_ROUNDS: usize = 4;

/// While more than one segment in so many is free, every TTL bucket has an open one of its own.
const PLENTY: u32 = 4;

/// A piece of a value: bytes from outside, or those of a record.
#[derive(Clone, Copy)]
pub(crate) enum Piece<'a> {
    Bytes(&'a [u8]),
    /// `length` bytes, `within` bytes from the start of the record.
    Stored {
        location: Location,
        within: usize,
        length: usize,
    },
    Spaces(usize),
    /// Bytes that will be filled in later.
    Unwritten(usize),
}

impl Piece<'_> {
    pub(crate) fn len(&self) -> usize {
        match self {
            Piece::Bytes(bytes) => bytes.len(),
            Piece::Stored { length, .. } | Piece::Spaces(length) | Piece::Unwritten(length) => *length,
        }
    }
}

pub(crate) const NOTHING: Piece<'static> = Piece::Bytes(&[]);

/// A record that is about to be written, but for its key.
#[derive(Clone, Copy)]
pub(crate) struct Draft<'a> {
    /// The value's pieces, in order.
    pub(crate) value: [Piece<'a>; 2],
    pub(crate) flags: u32,
    pub(crate) cas: Option<u64>,
    pub(crate) deadline: Deadline,
    /// Whether the item counts as read already.
    pub(crate) hit: bool,
    pub(crate) marks: Marks,
}

impl Draft<'_> {
    pub(crate) fn value_length(&self) -> usize {
        self.value.iter().map(Piece::len).sum()
    }

    /// Whether the value can be counted up and down.
    pub(crate) fn is_number(&self) -> bool {
        matches!(self.value[0], Piece::Bytes(bytes) if number::parse(bytes).is_some())
    }
}

/// What was found under a key that is about to be written.
#[derive(Clone, Copy)]
pub(crate) struct Old {
    pub(crate) slot: Slot,
    pub(crate) length: u32,
    pub(crate) value: Piece<'static>,
    pub(crate) flags: u32,
    pub(crate) cas: u64,
    pub(crate) deadline: Deadline,
    pub(crate) marks: Marks,
    /// Where in the record the deadline stands.
    pub(crate) deadline_at: usize,
}

impl Old {
    /// The item as it is, to be written anew.
    pub(crate) fn draft(&self) -> Draft<'static> {
        let Old { slot, value, flags, cas, deadline, marks, .. } = *self;
        Draft { value: [value, NOTHING], flags, cas: Some(cas), deadline, hit: slot.hit, marks }
    }
}

impl Cache {
    /// Stores an item as `mode` says. All other stores are short for this one.
    ///
    /// # Errors
    /// [`StoreError`]; what was there before is then still there.
    pub fn store(&mut self, mode: Mode, item: &NewItem<'_>) -> Result<Outcome, StoreError> {
        self.store_hashed(mode, self.hash_of(item.key), item)
    }

    /// [`Cache::store`] of a key whose hash is known.
    ///
    /// # Errors
    /// As [`Cache::store`].
    pub fn store_hashed(&mut self, mode: Mode, hash: KeyHash, item: &NewItem<'_>) -> Result<Outcome, StoreError> {
        self.check_lengths(item.key, item.value.len())?;
        self.store_value(mode, hash, item, Piece::Bytes(item.value), Marks::default())
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

    /// Writes the item under `key` anew, as `change` says; returns its CAS if it is there.
    pub(crate) fn rewrite(
        &mut self,
        hash: u64,
        key: &[u8],
        length: usize,
        change: impl Fn(&Old) -> Draft<'static>,
    ) -> Result<Option<u64>, StoreError> {
        let outcome = self.write_as(hash, key, length, |old| {
            old.map_or(Decision::Stop(Outcome::NotStored), |old| Decision::Write(change(old)))
        })?;
        Ok(if let Outcome::Stored { cas } = outcome { Some(cas) } else { None })
    }

    pub(crate) fn check_lengths(&self, key: &[u8], value: usize) -> Result<(), StoreError> {
        if key.is_empty() || key.len() > MAX_KEY_LENGTH {
            return Err(StoreError::KeyLength { length: key.len() });
        }
        if value > self.max_item_size {
            return Err(StoreError::TooLarge { size: value, limit: self.max_item_size });
        }
        Ok(())
    }

    /// Stores `value` under the key of `item` as `mode` says.
    pub(crate) fn store_value(
        &mut self,
        mode: Mode,
        hash: KeyHash,
        item: &NewItem<'_>,
        value: Piece<'_>,
        marks: Marks,
    ) -> Result<Outcome, StoreError> {
        let limit = self.max_item_size;
        let NewItem { flags, cas, deadline, .. } = *item;
        let new = Draft { value: [value, NOTHING], flags, cas, deadline, hit: false, marks };
        self.write_as(hash.0, item.key, value.len(), |old| {
            if let Some(outcome) = refusal(mode, old) {
                return Decision::Stop(outcome);
            }
            if let (Mode::CasOrStale(expected), Some(old)) = (mode, old)
                && old.cas != expected
            {
                let marks = Marks { stale: true, won: old.marks.won, accessed: None };
                return Decision::Write(Draft { deadline: old.deadline, marks, ..new });
            }
            let (Mode::Append | Mode::Prepend, Some(old)) = (mode, old) else { return Decision::Write(new) };
            let size = old.value.len() + value.len();
            if size > limit {
                return Decision::Refuse(StoreError::TooLarge { size, limit });
            }
            let value = if mode == Mode::Append { [old.value, value] } else { [value, old.value] };
            Decision::Write(Draft { value, flags: old.flags, deadline: old.deadline, ..new })
        })
    }

    fn count(&mut self, key: &[u8], change: impl Fn(u64) -> u64) -> Result<u64, ArithmeticError> {
        let hash = self.hasher.hash(key);
        let Found { slot, record } = self.live(hash, key).ok_or(ArithmeticError::NotFound)?;
        let (header, layout) = (record.header, record.layout);
        let number = number::parse(record.value()).map(change).ok_or(ArithmeticError::NotANumber)?;
        let text = Text::new(number);
        let (digits, length) = (text.digits(), header.value_length);
        let sequence = self.sequence + 1 - self.segments.get(slot.location.segment).base_sequence;
        let width = header.sequence_width;
        let busy = self.segments.get(slot.location.segment).state == State::Busy;
        if digits.len() <= length && header.cas.is_none() && leb128_length(sequence) <= width && !busy {
            // A counter that is counted all day does not fill segments with its past.
            self.sequence += 1;
            self.totals.stored += 1;
            put_leb128(self.segments.part_mut(slot.location, layout.sequence, width), 0, sequence, width);
            let value = self.segments.part_mut(slot.location, layout.value, length);
            value[..digits.len()].copy_from_slice(digits);
            value[digits.len()..].fill(b' ');
            self.segments.enliven(slot.location);
            self.segments.get_mut(slot.location.segment).last_sequence = self.sequence;
            self.note_read(slot, slot.hit);
            return Ok(number);
        }
        let padding = length.saturating_sub(digits.len());
        let outcome = self.write_as(hash, key, length, |old| match old {
            None => Decision::Stop(Outcome::NotFound),
            Some(old) => Decision::Write(Draft {
                value: [Piece::Bytes(digits), Piece::Spaces(padding)],
                cas: None,
                ..old.draft()
            }),
        })?;
        if outcome == Outcome::NotFound { Err(ArithmeticError::NotFound) } else { Ok(number) }
    }

    /// The live item under `key`, as a write needs it.
    pub(crate) fn old(&mut self, hash: u64, key: &[u8]) -> Option<Old> {
        let place = self.live_place(hash, key)?;
        let Place { slot, header, layout } = place;
        let value = Piece::Stored { location: slot.location, within: layout.value, length: header.value_length };
        let Item { flags, cas, deadline, .. } = self.item_of(slot, &self.record_of(&place));
        let length = layout.end as u32;
        Some(Old { slot, length, value, flags, cas, deadline, marks: header.marks, deadline_at: layout.deadline })
    }

    /// Writes what `decide` wants, seeing what is there under the key. It is asked again if making room has moved or
    /// evicted what was there. `length` is about that of what will be written.
    fn write_as<'a>(
        &mut self,
        hash: u64,
        key: &[u8],
        length: usize,
        decide: impl Fn(Option<&Old>) -> Decision<'a>,
    ) -> Result<Outcome, StoreError> {
        self.work_for_write(length);
        let mut size = 0;
        for _ in 0..MOST_ROUNDS {
            let old = self.old(hash, key);
            let draft = match decide(old.as_ref()) {
                Decision::Write(draft) => draft,
                Decision::Stop(outcome) => return Ok(outcome),
                Decision::Refuse(error) => return Err(error),
            };
            if draft.deadline.is_past(self.now) {
                return Ok(self.store_expired(old.as_ref(), draft.cas));
            }
            if let Some(outcome) = old.as_ref().and_then(|old| self.overwrite(key, old, &draft)) {
                return Ok(outcome);
            }
            size = key.len() + draft.value_length() + MAX_HEADER;
            let room = self.room(draft.deadline, size as u32)?;
            if !room.disturbed {
                return self.write(room.segment, hash, key, old.as_ref(), &draft);
            }
        }
        Err(StoreError::OutOfMemory { size })
    }

    /// Stores an item that is over already: all that is left to do is to forget the one before.
    pub(crate) fn store_expired(&mut self, old: Option<&Old>, cas: Option<u64>) -> Outcome {
        if let Some(old) = old {
            self.totals.expired += 1;
            self.drop_item(old.slot, old.length);
        }
        self.sequence += 1;
        Outcome::Stored { cas: cas.unwrap_or(self.sequence) }
    }

    /// Writes a record to a segment that has room for it, and files it.
    fn write(
        &mut self,
        segment: u32,
        hash: u64,
        key: &[u8],
        old: Option<&Old>,
        draft: &Draft<'_>,
    ) -> Result<Outcome, StoreError> {
        self.sequence += 1;
        let width = self.sequence_width(segment, draft, old);
        let header = self.header(segment, key, draft, self.sequence, width);
        let (location, length) = self.write_record(segment, &header, key, &draft.value);
        self.segments.enliven(location);
        self.file(hash, location, length, old.map(|old| (old.slot, old.length)), draft.hit)?;
        self.stored(segment, self.sequence, draft.deadline);
        Ok(Outcome::Stored { cas: draft.cas.unwrap_or(self.sequence) })
    }

    /// Notes in the segment's figures what was written to it.
    pub(crate) fn stored(&mut self, segment: u32, sequence: u64, deadline: Deadline) {
        self.totals.stored += 1;
        let figures = self.segments.get_mut(segment);
        figures.last_sequence = figures.last_sequence.max(sequence);
        self.note_deadline(segment, deadline);
    }

    pub(crate) fn note_deadline(&mut self, segment: u32, deadline: Deadline) {
        let segment = self.segments.get_mut(segment);
        if let Deadline::At(last) = deadline {
            segment.last_deadline = segment.last_deadline.max(last);
        }
    }

    pub(crate) fn header(
        &self,
        id: u32,
        key: &[u8],
        draft: &Draft<'_>,
        sequence: u64,
        sequence_width: usize,
    ) -> Header {
        let segment = self.segments.get(id);
        let deadline = match draft.deadline {
            Deadline::At(last) if segment.width > 0 => last.saturating_sub(segment.base_deadline) as u32,
            _ => 0,
        };
        Header {
            key_length: key.len(),
            value_length: draft.value_length(),
            sequence: sequence - segment.base_sequence,
            sequence_width,
            deadline,
            flags: draft.flags,
            cas: draft.cas,
            marks: draft.marks,
        }
    }

    pub(crate) fn write_record(
        &mut self,
        id: u32,
        header: &Header,
        key: &[u8],
        value: &[Piece<'_>],
    ) -> (Location, u32) {
        let width = usize::from(self.segments.get(id).width);
        let mut head = [0; MAX_HEADER];
        let head_length = header.encode(width, &mut head);
        let length = (head_length + key.len() + header.value_length) as u32;
        let (location, out) = self.segments.append(id, length);
        let (out_head, rest) = out.split_at_mut(head_length);
        out_head.copy_from_slice(&head[..head_length]);
        rest[..key.len()].copy_from_slice(key);
        self.put_pieces(location, head_length + key.len(), value);
        (location, length)
    }

    /// Puts the pieces of a value into a record, from `at` bytes behind its start on.
    pub(crate) fn put_pieces(&mut self, location: Location, mut at: usize, value: &[Piece<'_>]) {
        for piece in value {
            match *piece {
                Piece::Bytes(bytes) => self.segments.part_mut(location, at, bytes.len()).copy_from_slice(bytes),
                Piece::Stored { location: from, within, length } => {
                    self.segments.copy((from, within), (location, at), length);
                }
                Piece::Spaces(length) => self.segments.part_mut(location, at, length).fill(b' '),
                Piece::Unwritten(_) => (),
            }
            at += piece.len();
        }
    }

    /// Points the index to a new record, in place of the old one if there is one.
    ///
    /// # Errors
    /// [`StoreError::OutOfMemory`]: the index has no room and nothing may be evicted; the record is taken back.
    pub(crate) fn file(
        &mut self,
        hash: u64,
        location: Location,
        length: u32,
        old: Option<(Slot, u32)>,
        hit: bool,
    ) -> Result<(), StoreError> {
        let segment = self.segments.get_mut(location.segment);
        segment.live_items += 1;
        segment.live_bytes += length;
        let aligned = self.segments.aligned(length);
        self.segments.get_mut(location.segment).live_bytes += aligned - length;
        self.totals.items += 1;
        self.totals.item_bytes += u64::from(length);
        if let Some((slot, old_length)) = old {
            let frequency = slot.frequency.max(frequency::fresh(self.eviction, false));
            self.index.relocate(slot, location, frequency, hit);
            self.uncount(slot.location, old_length);
        } else if !self.insert(hash, location) {
            self.uncount(location, length);
            self.segments.take_back(location, length);
            return Err(StoreError::OutOfMemory { size: length as usize });
        }
        Ok(())
    }

    /// An open segment that takes a record of up to `length` bytes with this deadline.
    ///
    /// # Errors
    /// [`StoreError::OutOfMemory`]
    pub(crate) fn room(&mut self, deadline: Deadline, length: u32) -> Result<Room, StoreError> {
        let out_of_memory = StoreError::OutOfMemory { size: length as usize };
        let bucket = self.bucket_for(deadline);
        let open = self.buckets.get(bucket).open;
        if open != NONE && self.takes(open, bucket, deadline, length) {
            return Ok(Room { segment: open, disturbed: false });
        }
        let plenty = self.segments.free_count() > self.segments.count() / PLENTY;
        if open == NONE && !plenty && self.buckets.open_count() >= self.maintenance.most_open {
            if let Some(segment) = self.neighbour(bucket, deadline, length) {
                return Ok(Room { segment, disturbed: false });
            }
            self.seal_oldest();
        }
        self.seal(bucket);
        let disturbed = self.ensure_free();
        let segment = self.segments.take().ok_or(out_of_memory)?;
        let base_sequence = self.sequence;
        let fresh = self.segments.get_mut(segment);
        fresh.base_sequence = base_sequence;
        fresh.width = deadline_width(bucket);
        fresh.base_deadline = if bucket == NEVER { 0 } else { self.now + u64::from(shortest_ttl(bucket)) };
        fresh.last_deadline = fresh.base_deadline;
        self.buckets.push_open(&mut self.segments, bucket, segment);
        self.segments.begin_life(segment, self.now);
        Ok(Room { segment, disturbed })
    }

    fn bucket_for(&self, deadline: Deadline) -> u16 {
        match deadline {
            Deadline::Never => NEVER,
            // A TTL of more than 136 years is for ever.
            Deadline::At(last) => u32::try_from(last.saturating_sub(self.now)).map_or(NEVER, bucket_of),
        }
    }

    /// Whether an open segment takes a record of its own bucket.
    fn takes(&self, id: u32, bucket: u16, deadline: Deadline, length: u32) -> bool {
        let segment = self.segments.get(id);
        if !self.segments.has_room(id, length) {
            return false;
        }
        let Deadline::At(last) = deadline else { return true };
        if segment.width == 0 {
            return true;
        }
        // When memory is short, a segment is filled before it is sealed, even if its first items then wait longer for
        // their memory to come back.
        let short = self.segments.free_count() <= self.maintenance.free_ahead;
        let sparse = segment.written < self.segments.size() / 2;
        let within_spread = last <= segment.base_deadline + u64::from(spread(bucket));
        segment.base_deadline <= last && last <= segment.farthest_deadline() && (within_spread || short && sparse)
    }

    /// The open segment of the nearest bucket that can take the record.
    fn neighbour(&self, bucket: u16, deadline: Deadline, length: u32) -> Option<u32> {
        let Deadline::At(last) = deadline else { return None };
        self.buckets
            .open()
            .filter(|id| {
                let segment = self.segments.get(*id);
                segment.width > 0
                    && (segment.base_deadline..=segment.farthest_deadline()).contains(&last)
                    && self.segments.has_room(*id, length)
            })
            .min_by_key(|id| self.segments.get(*id).bucket.abs_diff(bucket))
    }

    fn seal_oldest(&mut self) {
        let oldest = self.buckets.open().min_by_key(|id| self.segments.get(*id).created);
        if let Some(id) = oldest {
            self.seal(self.segments.get(id).bucket);
        }
    }

    /// Seals a bucket's open segment, if it has one.
    pub(crate) fn seal(&mut self, bucket: u16) {
        let open = self.buckets.get(bucket).open;
        if open != NONE {
            self.buckets.seal(&mut self.segments, bucket);
            self.free_if_dead(open);
        }
    }
}

/// How a store ends whose condition does not hold, given what is there.
pub(crate) fn refusal(mode: Mode, old: Option<&Old>) -> Option<Outcome> {
    match (mode, old) {
        (Mode::Set, _) | (Mode::Add, None) | (Mode::Replace | Mode::Append | Mode::Prepend, Some(_)) => None,
        (Mode::Cas(expected), Some(old)) => (old.cas != expected).then_some(Outcome::Exists),
        (Mode::CasOrStale(expected), Some(old)) => (old.cas < expected).then_some(Outcome::Exists),
        (Mode::Cas(_) | Mode::CasOrStale(_), None) => Some(Outcome::NotFound),
        (Mode::Add, Some(_)) | (Mode::Replace | Mode::Append | Mode::Prepend, None) => Some(Outcome::NotStored),
    }
}

/// What a write does, seeing what is there.
enum Decision<'a> {
    Write(Draft<'a>),
    Stop(Outcome),
    Refuse(StoreError),
}

/// Where a record can be written.
pub(crate) struct Room {
    pub(crate) segment: u32,
    /// Items may have been moved or evicted to make the room.
    pub(crate) disturbed: bool,
}
