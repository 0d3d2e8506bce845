//! Large values: room is made first, the value comes bit by bit, and only then the item can be seen.

use crate::cache::Cache;
use crate::record::{MAX_OVERHEAD, Marks, WIDE_SEQUENCE, put_leb128};
use crate::segment::Location;
use crate::store::{Draft, NOTHING, Piece, refusal};
use crate::{Deadline, MAX_KEY_LENGTH, Mode, NewItem, Outcome, StoreError};

/// Values that may be received at once.
pub(crate) const MOST_RESERVATIONS: usize = 64;
/// Of the segments, at most one in so many is pinned.
const PINNED_SHARE: usize = 4;

/// Room for a value that is being received. It must be given back with [`Cache::commit`] or [`Cache::abort`]: until
/// then it pins its segment.
#[must_use = "a reservation pins memory until it is committed or aborted"]
#[derive(Debug)]
pub struct Reservation {
    location: Location,
    record_length: u32,
    /// Where in the record the sequence and the value stand.
    sequence_at: usize,
    value_at: usize,
    length: usize,
    filled: usize,
    key_length: usize,
    flags: u32,
    deadline: Deadline,
    cas: Option<u64>,
}

impl Reservation {
    /// The length of the whole value.
    #[must_use]
    pub fn length(&self) -> usize {
        self.length
    }

    /// The bytes of the value that have not been filled in yet.
    #[must_use]
    pub fn missing(&self) -> usize {
        self.length - self.filled
    }
}

impl Cache {
    /// Makes room for a value of `value_length` bytes that will be received bit by bit; nothing can be seen of it
    /// until [`Cache::commit`]. [`NewItem::value`] is not looked at.
    ///
    /// # Errors
    /// [`StoreError`]: too large, no memory, or too many reservations at once.
    pub fn reserve(&mut self, item: &NewItem<'_>, value_length: usize) -> Result<Reservation, StoreError> {
        self.check_lengths(item.key, value_length)?;
        let limit = MOST_RESERVATIONS.min(self.segments.count() as usize / PINNED_SHARE).max(1);
        if self.totals.reservations >= limit {
            return Err(StoreError::TooManyReservations { limit });
        }
        let NewItem { key, value: _, flags, deadline, cas } = *item;
        // A record needs some deadline, also one that will never be served.
        let written = if deadline.is_past(self.now) { Deadline::At(self.now) } else { deadline };
        let value = [Piece::Unwritten(value_length), NOTHING];
        let draft = Draft { value, flags, cas, deadline: written, hit: false, marks: Marks::default() };
        self.work_for_write(value_length);
        let segment = self.room(written, (MAX_OVERHEAD + value_length) as u32)?.segment;
        let header = self.header(segment, key, &draft, self.sequence, WIDE_SEQUENCE);
        let (location, record_length) = self.write_record(segment, &header, key, &draft.value);
        let layout = self.segments.record(location).map(|record| record.layout);
        let (sequence_at, value_at) = layout.map_or((0, 0), |layout| (layout.sequence, layout.value));
        self.segments.get_mut(segment).pins += 1;
        self.totals.reservations += 1;
        self.note_deadline(segment, written);
        Ok(Reservation {
            location,
            record_length,
            sequence_at,
            value_at,
            length: value_length,
            filled: 0,
            key_length: key.len(),
            flags,
            deadline,
            cas,
        })
    }

    /// The part of the reservation's value that has not been filled in yet; [`Cache::filled`] says how much was
    /// written to it.
    pub fn unfilled<'a>(&'a mut self, reservation: &'a mut Reservation) -> &'a mut [u8] {
        let at = reservation.value_at + reservation.filled;
        self.segments.part_mut(reservation.location, at, reservation.missing())
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
        let key = self.segments.part(
            reservation.location,
            reservation.value_at - reservation.key_length,
            reservation.key_length,
        );
        let mut copy = [0; MAX_KEY_LENGTH];
        copy[..key.len()].copy_from_slice(key);
        let key = &copy[..reservation.key_length];
        // Until the end of this the segment stays pinned, so that nothing moves the reserved bytes.
        let (result, kept) = if reservation.missing() > 0 {
            (Err(StoreError::Unfilled { missing: reservation.missing() }), false)
        } else if matches!(mode, Mode::Append | Mode::Prepend | Mode::CasOrStale(_)) {
            let Reservation { location, value_at: within, length, flags, deadline, cas, .. } = reservation;
            let item = NewItem { key, value: &[], flags, deadline, cas };
            (
                self.store_value(
                    mode,
                    self.hash_of(key),
                    &item,
                    Piece::Stored { location, within, length },
                    Marks::default(),
                ),
                false,
            )
        } else {
            self.commit_in_place(&reservation, key, mode)
        };
        self.unpin(&reservation, kept);
        result
    }

    /// Gives a reservation back; nothing of it is stored.
    pub fn abort(&mut self, reservation: Reservation) {
        self.unpin(&reservation, false);
    }

    /// Makes the reserved record the item under its key; says also whether the record is in use now.
    fn commit_in_place(
        &mut self,
        reservation: &Reservation,
        key: &[u8],
        mode: Mode,
    ) -> (Result<Outcome, StoreError>, bool) {
        let Reservation { location, record_length, sequence_at, deadline, cas, .. } = *reservation;
        let hash = self.hasher.hash(key);
        let old = self.old(hash, key);
        if let Some(outcome) = refusal(mode, old.as_ref()) {
            return (Ok(outcome), false);
        }
        if deadline.is_past(self.now) {
            return (Ok(self.store_expired(old.as_ref(), cas)), false);
        }
        self.sequence += 1;
        let sequence = self.sequence - self.segments.get(location.segment).base_sequence;
        let bytes = self.segments.part_mut(location, sequence_at, WIDE_SEQUENCE);
        put_leb128(bytes, 0, sequence, WIDE_SEQUENCE);
        self.segments.enliven(location);
        match self.file(hash, location, record_length, old.map(|old| (old.slot, old.length)), false) {
            Ok(()) => {
                self.stored(location.segment, self.sequence, deadline);
                (Ok(Outcome::Stored { cas: cas.unwrap_or(self.sequence) }), true)
            }
            Err(error) => (Err(error), false),
        }
    }

    fn unpin(&mut self, reservation: &Reservation, kept: bool) {
        let Reservation { location, record_length, .. } = *reservation;
        self.totals.reservations -= 1;
        let segment = self.segments.get_mut(location.segment);
        segment.pins -= 1;
        if segment.pins == 0 && segment.base_sequence < self.flushed {
            // A flush had to pass this segment by.
            self.maintenance.sweep_flushed();
        }
        if !kept {
            self.segments.take_back(location, record_length);
        }
        self.free_if_dead(location.segment);
    }
}
