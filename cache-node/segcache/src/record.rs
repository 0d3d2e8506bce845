//! How an item is written into its segment.
//!
//! ```text
//! record   := head value_length sequence deadline extras key value
//! head     := key_length                       1 byte, 1 to 250: no extras
//!           | 255 extras_bits key_length       3 bytes
//! value_length, sequence := LEB128; the sequence is counted from the segment's base
//! deadline := 0 to 4 bytes little-endian, as many as the segment says; seconds from the segment's base deadline
//! extras   := accessed (4 bytes little-endian, unix seconds) if bit 4, flags (LEB128) if bit 0,
//!             cas (8 bytes little-endian) if bit 1; bits 2 and 3 are the marks stale and won
//! ```
//! What is at its default takes no space. Decoding is total: bytes that are no record give `None`.

use crate::MAX_KEY_LENGTH;

/// The longest header in bytes: head 3, value length 5, sequence 10, deadline 4, accessed 4, flags 5, CAS 8.
pub(crate) const MAX_HEADER: usize = 39;
/// The most that a header and key take beside the value.
pub(crate) const MAX_OVERHEAD: usize = MAX_HEADER + MAX_KEY_LENGTH;
/// A sequence of this many bytes has room for 2^42 writes: the width of a sequence that is only known later.
pub(crate) const WIDE_SEQUENCE: usize = 6;

const EXTRAS: u8 = 255;
const HAS_FLAGS: u8 = 1;
const HAS_CAS: u8 = 2;
const STALE: u8 = 4;
const WON: u8 = 8;
const HAS_ACCESSED: u8 = 16;
pub(crate) const ACCESSED_BYTES: usize = 4;
/// Where the extras' bits stand in a record that has them.
const BITS_AT: usize = 1;

/// What the meta protocol knows of an item beside its value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Marks {
    /// A client has said that the value is out of date.
    pub(crate) stale: bool,
    /// A client was told to renew the item.
    pub(crate) won: bool,
    /// When the item was last used, in unix seconds modulo 2^32; only where that is kept.
    pub(crate) accessed: Option<u32>,
}

impl Marks {
    fn bits(self) -> u8 {
        let bit = |is_set, bit| if is_set { bit } else { 0 };
        bit(self.stale, STALE) | bit(self.won, WON) | bit(self.accessed.is_some(), HAS_ACCESSED)
    }

    /// Changes the marks of a record in place: `record` begins with its head, and its deadline ends at `deadline_end`.
    /// Says whether that is possible: marks that take more room than there is need a new record.
    pub(crate) fn overwrite(self, record: &mut [u8], deadline_end: usize) -> bool {
        let fits = record[0] == EXTRAS && (record[BITS_AT] & HAS_ACCESSED != 0) == self.accessed.is_some();
        if fits {
            record[BITS_AT] = record[BITS_AT] & (HAS_FLAGS | HAS_CAS) | self.bits();
            if let Some(accessed) = self.accessed {
                record[deadline_end..deadline_end + ACCESSED_BYTES].copy_from_slice(&accessed.to_le_bytes());
            }
        }
        fits
    }
}

/// A record's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) key_length: usize,
    pub(crate) value_length: usize,
    /// The write's sequence, from the base of its segment.
    pub(crate) sequence: u64,
    /// The bytes that the sequence takes, at least what it needs; 0 for exactly that.
    pub(crate) sequence_width: usize,
    /// The deadline in seconds from the base deadline of its segment.
    pub(crate) deadline: u32,
    pub(crate) flags: u32,
    /// A CAS that is not the sequence.
    pub(crate) cas: Option<u64>,
    pub(crate) marks: Marks,
}

/// Where the parts of a record lie, in bytes from its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    pub(crate) sequence: usize,
    pub(crate) deadline: usize,
    pub(crate) key: usize,
    pub(crate) value: usize,
    pub(crate) end: usize,
}

impl Header {
    /// The length of the whole record in a segment with `width` bytes of deadline.
    pub(crate) fn record_length(&self, width: usize) -> usize {
        let flags = if self.flags == 0 { 0 } else { leb128_length(u64::from(self.flags)) };
        let cas = if self.cas.is_some() { 8 } else { 0 };
        let accessed = if self.marks.accessed.is_some() { ACCESSED_BYTES } else { 0 };
        let head = if self.bits() == 0 { 1 } else { 3 };
        let sequence = self.sequence_width.max(leb128_length(self.sequence));
        head + leb128_length(self.value_length as u64)
            + sequence
            + width
            + accessed
            + flags
            + cas
            + self.key_length
            + self.value_length
    }

    /// Whether a header of the same length has the same parts in the same places. Of two such, any mixture of bytes says
    /// where the record ends, so one may be written over the other, and a write that is torn costs no other record.
    pub(crate) fn is_laid_out_as(&self, other: &Header) -> bool {
        let parts = |header: &Header| (header.bits() == 0, header.bits() & (HAS_FLAGS | HAS_CAS | HAS_ACCESSED));
        parts(self) == parts(other)
    }

    fn bits(&self) -> u8 {
        let flags = if self.flags == 0 { 0 } else { HAS_FLAGS };
        let cas = if self.cas.is_some() { HAS_CAS } else { 0 };
        flags | cas | self.marks.bits()
    }

    /// Writes the header to the start of `out`; returns its length. `out` has room for [`MAX_HEADER`] bytes.
    pub(crate) fn encode(&self, width: usize, out: &mut [u8; MAX_HEADER]) -> usize {
        let mut at = 0;
        let bits = self.bits();
        if bits != 0 {
            out[0] = EXTRAS;
            out[BITS_AT] = bits;
            at = 2;
        }
        out[at] = self.key_length as u8;
        at = put_leb128(out, at + 1, self.value_length as u64, 0);
        at = put_leb128(out, at, self.sequence, self.sequence_width);
        out[at..at + width].copy_from_slice(&self.deadline.to_le_bytes()[..width]);
        at += width;
        if let Some(accessed) = self.marks.accessed {
            out[at..at + ACCESSED_BYTES].copy_from_slice(&accessed.to_le_bytes());
            at += ACCESSED_BYTES;
        }
        if self.flags != 0 {
            at = put_leb128(out, at, u64::from(self.flags), 0);
        }
        if let Some(cas) = self.cas {
            out[at..at + 8].copy_from_slice(&cas.to_le_bytes());
            at += 8;
        }
        at
    }

    /// Reads the record at the start of `bytes`.
    #[inline]
    pub(crate) fn decode(bytes: &[u8], width: usize) -> Option<(Header, Layout)> {
        let (mut head, mut at, mut bits) = (*bytes.first()?, 1, 0);
        if head == EXTRAS {
            (bits, head, at) = (*bytes.get(BITS_AT)?, *bytes.get(2)?, 3);
        }
        if head == 0 || usize::from(head) > MAX_KEY_LENGTH {
            return None;
        }
        let value_length = get_leb128(bytes, &mut at)?;
        let sequence_at = at;
        let sequence = get_leb128(bytes, &mut at)?;
        let deadline_at = at;
        let mut deadline = [0; 4];
        deadline.get_mut(..width)?.copy_from_slice(bytes.get(at..at + width)?);
        at += width;
        let (mut flags, mut cas) = (0, None);
        let mut marks = Marks { stale: bits & STALE != 0, won: bits & WON != 0, accessed: None };
        if bits & HAS_ACCESSED != 0 {
            marks.accessed = Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?));
            at += ACCESSED_BYTES;
        }
        if bits & HAS_FLAGS != 0 {
            flags = u32::try_from(get_leb128(bytes, &mut at)?).ok()?;
        }
        if bits & HAS_CAS != 0 {
            cas = Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?));
            at += 8;
        }
        let key_length = usize::from(head);
        let value = at + key_length;
        let end = value.checked_add(usize::try_from(value_length).ok()?).filter(|end| *end <= bytes.len())?;
        Some((
            Header {
                key_length,
                value_length: end - value,
                sequence,
                sequence_width: deadline_at - sequence_at,
                deadline: u32::from_le_bytes(deadline),
                flags,
                cas,
                marks,
            },
            Layout { sequence: sequence_at, deadline: deadline_at, key: at, value, end },
        ))
    }
}

/// The bytes that `value` takes in LEB128.
pub(crate) fn leb128_length(value: u64) -> usize {
    (64 - (value | 1).leading_zeros() as usize).div_ceil(7)
}

/// Writes `value` at `at` in at least `width` bytes; returns the place behind it.
pub(crate) fn put_leb128(out: &mut [u8], mut at: usize, mut value: u64, width: usize) -> usize {
    let last = at + width.max(leb128_length(value)) - 1;
    while at < last {
        out[at] = value as u8 | 0x80;
        value >>= 7;
        at += 1;
    }
    out[at] = value as u8 & 0x7f;
    at + 1
}

#[inline]
fn get_leb128(bytes: &[u8], at: &mut usize) -> Option<u64> {
    let (mut value, mut shift) = (0, 0);
    loop {
        let byte = *bytes.get(*at)?;
        *at += 1;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
        shift += 7;
        if shift > 63 {
            return None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Header, MAX_HEADER, Marks, WIDE_SEQUENCE};
    use proptest::prelude::{Strategy, any, prop_assert, prop_assert_eq, proptest};

    fn marks() -> impl Strategy<Value = Marks> {
        any::<(bool, bool, Option<u32>)>().prop_map(|(stale, won, accessed)| Marks { stale, won, accessed })
    }

    fn headers() -> impl Strategy<Value = Header> {
        let numbers = any::<(u64, u32, u32, Option<u64>)>();
        (1_usize..=250, 0_usize..70_000, numbers, marks()).prop_map(
            |(key_length, value_length, (sequence, deadline, flags, cas), marks)| Header {
                key_length,
                value_length,
                sequence: sequence >> (flags % 64),
                sequence_width: 0,
                deadline,
                flags: flags >> (deadline % 33).min(31),
                cas,
                marks,
            },
        )
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(header in headers(), width in 0_usize..=4, wide: bool) {
            let mut header = header;
            if wide {
                header.sequence &= (1 << 42) - 1;
                header.sequence_width = WIDE_SEQUENCE;
            }
            if width < 4 {
                header.deadline &= (1 << (8 * width)) - 1;
            }
            let mut bytes = vec![0; MAX_HEADER];
            let length = header.encode(width, bytes.first_chunk_mut().unwrap());
            bytes.resize(length + header.key_length + header.value_length, 0);
            prop_assert_eq!(header.record_length(width), bytes.len());
            let (decoded, layout) = Header::decode(&bytes, width).unwrap();
            prop_assert_eq!(Header { sequence_width: header.sequence_width, ..decoded }, header);
            prop_assert_eq!(layout.end, bytes.len());
            prop_assert!(Header::decode(&bytes[..bytes.len() - 1], width).is_none());
        }

        #[test]
        fn marks_change_in_place_where_they_take_the_same_room(header in headers(), marks in marks(), width in 0_usize..=3) {
            let header = Header { deadline: header.deadline & 0xff, ..header };
            let mut bytes = vec![0; MAX_HEADER];
            let length = header.encode(width, bytes.first_chunk_mut().unwrap());
            bytes.resize(length + header.key_length + header.value_length, 0);
            let (before, layout) = Header::decode(&bytes, width).unwrap();
            let changed = marks.overwrite(&mut bytes, layout.deadline + width);
            let (after, _) = Header::decode(&bytes, width).unwrap();
            prop_assert_eq!(after, if changed { Header { marks, ..before } } else { before });
            let has_extras = header.record_length(width) > Header { marks: Marks::default(), flags: 0, cas: None, ..header }.record_length(width);
            prop_assert_eq!(changed, has_extras && header.marks.accessed.is_some() == marks.accessed.is_some());
        }

        #[test]
        fn any_bytes_decode_to_something_within_them(bytes: Vec<u8>, width in 0_usize..=4) {
            if let Some((header, layout)) = Header::decode(&bytes, width) {
                prop_assert!(layout.end <= bytes.len());
                prop_assert_eq!(layout.end - layout.value, header.value_length);
            }
        }
    }

    #[test]
    fn a_small_item_costs_a_few_bytes() {
        let header = Header {
            key_length: 14,
            value_length: 32,
            sequence: 20_000,
            sequence_width: 0,
            deadline: 60,
            flags: 0,
            cas: None,
            marks: Marks::default(),
        };
        assert_eq!(header.record_length(2) - 46, 7);
        assert_eq!(Header { flags: 1, ..header }.record_length(2) - 46, 10);
        assert_eq!(Header { cas: Some(1), ..header }.record_length(2) - 46, 17);
        let stale = Marks { stale: true, ..Marks::default() };
        assert_eq!(Header { marks: stale, ..header }.record_length(2) - 46, 9);
    }
}
