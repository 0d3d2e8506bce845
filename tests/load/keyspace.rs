//! Keys and values by number. A value follows from its key, so that a reply can be checked without remembering what was
//! stored.

use std::ops::Range;

use crate::distribution::{MAX_SIZE, SIZES, Size};
use crate::random::{Random, mix};

/// Values begin anywhere in so many bytes: few enough to stay in the second-level cache.
const OFFSETS: usize = 64 << 10;
/// The first bytes of a value are its key's hash, so that two keys' values differ although the rest may be shared.
pub const HEAD: usize = 8;
/// The number of a key, in hexadecimal digits.
const DIGITS: usize = 8;
/// memcached's limit.
const MAX_KEY: usize = 250;
const FILL: u8 = b'.';

/// The keys 0 to n, and their values.
#[derive(Debug)]
pub struct Keyspace {
    seed: u64,
    /// Prefix, place for the digits, fill up to [`MAX_KEY`].
    template: Vec<u8>,
    digits: Range<usize>,
    key_sizes: Vec<u32>,
    value_sizes: Vec<u32>,
    /// Random bytes that values are ranges of, behind their heads.
    pad: Vec<u8>,
    /// Values without line ends, for a server that looks for nothing else.
    one_line: bool,
}

/// A value: these bytes, then this range of [`Keyspace::pad`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Value {
    pub head: [u8; HEAD],
    /// How many bytes of the head there are: fewer than [`HEAD`] in a value that is shorter.
    pub head_length: usize,
    pub rest: Range<usize>,
}

impl Value {
    pub fn length(&self) -> usize {
        self.head_length + self.rest.len()
    }
}

/// A key that is being written or compared.
pub struct Key {
    bytes: [u8; MAX_KEY],
    length: usize,
}

impl Key {
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

impl Keyspace {
    /// # Errors
    /// In words, where keys can't have these sizes.
    pub fn new(prefix: &str, key_size: &Size, value_size: &Size, one_line: bool) -> Result<Keyspace, String> {
        let smallest = prefix.len() + DIGITS;
        if smallest > MAX_KEY || prefix.bytes().any(|byte| byte <= b' ' || byte == 0x7f) {
            return Err(format!("prefix {prefix:?}: use at most {} bytes, without white space", MAX_KEY - DIGITS));
        }
        let mut template = prefix.as_bytes().to_vec();
        template.resize(MAX_KEY, FILL);
        let seed = 0x6b65_7973;
        let mut random = Random::new(seed);
        let value_sizes = value_size.quantiles(0, MAX_SIZE);
        let longest = value_sizes.iter().copied().max().unwrap_or_default() as usize;
        let mut pad: Vec<u8> = (0..(OFFSETS + longest).div_ceil(8)).flat_map(|_| random.next().to_le_bytes()).collect();
        if one_line {
            pad.iter_mut().for_each(|byte| *byte = without_line_end(*byte));
        }
        let key_sizes = key_size.quantiles(smallest, MAX_KEY);
        Ok(Keyspace { seed, template, digits: prefix.len()..smallest, key_sizes, value_sizes, pad, one_line })
    }

    pub fn pad(&self) -> &[u8] {
        &self.pad
    }

    pub fn key(&self, id: u32) -> Key {
        let mut key = Key { bytes: [0; MAX_KEY], length: self.key_length(id) };
        self.write_key(id, &mut key.bytes);
        key
    }

    pub fn append_key(&self, id: u32, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&self.template[..self.key_length(id)]);
        self.write_digits(id, &mut out[start..]);
    }

    fn write_key(&self, id: u32, bytes: &mut [u8]) {
        let length = self.key_length(id);
        bytes[..length].copy_from_slice(&self.template[..length]);
        self.write_digits(id, bytes);
    }

    fn write_digits(&self, id: u32, bytes: &mut [u8]) {
        const HEX: &[u8; 16] = b"0123456789abcdef";
        for (place, byte) in bytes[self.digits.clone()].iter_mut().enumerate() {
            *byte = HEX[(id >> (28 - 4 * place)) as usize & 15];
        }
    }

    fn key_length(&self, id: u32) -> usize {
        self.key_sizes[(self.hash(id) >> 32) as usize % SIZES] as usize
    }

    pub fn value(&self, id: u32) -> Value {
        let hash = self.hash(id);
        let length = self.value_sizes[hash as usize % SIZES] as usize;
        let mut head = hash.to_le_bytes();
        if self.one_line {
            head = head.map(without_line_end);
        }
        let head_length = length.min(HEAD);
        let start = (hash >> 16) as usize % OFFSETS;
        Value { head, head_length, rest: start..start + length - head_length }
    }

    fn hash(&self, id: u32) -> u64 {
        mix(self.seed ^ (u64::from(id) << 20))
    }

    /// Whether `bytes` are what key `id`'s value has at `offset`.
    pub fn matches(&self, value: &Value, offset: usize, bytes: &[u8]) -> bool {
        let (of_head, of_rest) = split_at_head(value, offset, bytes);
        let begin = value.rest.start + offset.max(value.head_length) - value.head_length;
        of_head == &value.head[offset.min(value.head_length)..][..of_head.len()]
            && self.pad.get(begin..begin + of_rest.len()) == Some(of_rest)
    }
}

fn split_at_head<'a>(value: &Value, offset: usize, bytes: &'a [u8]) -> (&'a [u8], &'a [u8]) {
    bytes.split_at(value.head_length.saturating_sub(offset).min(bytes.len()))
}

fn without_line_end(byte: u8) -> u8 {
    if byte == b'\n' { b'N' } else { byte }
}

#[cfg(test)]
mod tests {
    use super::Keyspace;
    use crate::distribution::Size;

    fn keyspace(value: &str) -> Keyspace {
        Keyspace::new("p-", &Size::Fixed(14), &value.parse().unwrap(), false).unwrap()
    }

    fn whole(keyspace: &Keyspace, id: u32) -> Vec<u8> {
        let value = keyspace.value(id);
        [&value.head[..value.head_length], &keyspace.pad()[value.rest]].concat()
    }

    #[test]
    fn keys_have_their_number_and_size() {
        let keyspace = keyspace("100");
        assert_eq!(keyspace.key(0x00ab_cdef).bytes(), b"p-00abcdef....");
        let mut appended = b"get ".to_vec();
        keyspace.append_key(0x00ab_cdef, &mut appended);
        assert_eq!(appended, b"get p-00abcdef....");
    }

    #[test]
    fn values_match_in_any_parts_and_nothing_else_does() {
        for size in ["0", "3", "8", "9", "100", "5000"] {
            let keyspace = keyspace(size);
            for id in 0..20 {
                let (value, bytes) = (keyspace.value(id), whole(&keyspace, id));
                assert_eq!(bytes.len(), size.parse::<usize>().unwrap());
                for cut in [0, 1, 7, 8, 9, bytes.len()].into_iter().filter(|&cut| cut <= bytes.len()) {
                    assert!(keyspace.matches(&value, 0, &bytes[..cut]), "{size} to {cut}");
                    assert!(keyspace.matches(&value, cut, &bytes[cut..]), "{size} from {cut}");
                }
                for at in 0..bytes.len().min(200) {
                    let mut wrong = bytes.clone();
                    wrong[at] ^= 1;
                    assert!(!keyspace.matches(&value, 0, &wrong), "{size} changed at {at}");
                }
            }
        }
    }

    #[test]
    fn values_of_different_keys_differ() {
        let keyspace = keyspace("100");
        let mut values: Vec<_> = (0..10_000).map(|id| whole(&keyspace, id)).collect();
        values.sort();
        values.dedup();
        assert_eq!(values.len(), 10_000);
    }

    #[test]
    fn one_line_values_have_no_line_end() {
        let keyspace = Keyspace::new("", &Size::Fixed(14), &Size::Fixed(300), true).unwrap();
        assert!((0..1000).all(|id| !whole(&keyspace, id).contains(&b'\n')));
    }
}
