//! Bytes become a cache and operations on it, which must agree with the model of the property test.
#![no_main]

#[path = "../../tests/model/operation.rs"]
mod operation;
#[path = "../../tests/model/pair.rs"]
mod pair;

use arbitrary::{Arbitrary, Error, Result, Unstructured};
use libfuzzer_sys::{Corpus, fuzz_target};
use operation::{Kind, Operation};
use pair::{LARGEST, Pair};
use segcache::Eviction;

/// So many operations make each mechanism run; more of them only make the fuzzer slower.
const MOST_OPERATIONS: usize = 2000;
/// Segments of 64 KiB: little memory, so that it is soon full.
const SEGMENTS: std::ops::RangeInclusive<usize> = 6..=20;

fuzz_target!(|bytes: &[u8]| -> Corpus {
    match run(&mut Unstructured::new(bytes)) {
        // Bytes that end in the middle of an operation are as good as others.
        Ok(()) | Err(Error::NotEnoughData) => Corpus::Keep,
        Err(_) => Corpus::Reject,
    }
});

fn run(bytes: &mut Unstructured<'_>) -> Result<()> {
    let eviction = *bytes.choose(&Eviction::ALL)?;
    let budget = bytes.int_in_range(SEGMENTS)? * (64 << 10);
    let keys = bytes.int_in_range(5..=2000)?;
    let mut pair = Pair::new(eviction, budget, u64::arbitrary(bytes)?);
    for _ in 0..MOST_OPERATIONS {
        if bytes.is_empty() {
            break;
        }
        pair.apply(&operation(bytes)?.folded(keys));
    }
    pair.check_all();
    Ok(())
}

fn operation(bytes: &mut Unstructured<'_>) -> Result<Operation> {
    let choice = bytes.int_in_range(0..=15_u8)?;
    let key = u16::arbitrary(bytes)?;
    Ok(match choice {
        0 => Operation::Get(key),
        1 => Operation::Peek(key),
        2 | 3 => Operation::Store {
            mode: kind(bytes)?,
            key,
            length: length(bytes)?,
            flags: u32::arbitrary(bytes)? >> bytes.int_in_range(0..=31)?,
            ttl: ttl(bytes)?,
            cas: rarely(bytes)?,
        },
        4 => Operation::Reserve {
            mode: kind(bytes)?,
            key,
            length: length(bytes)?,
            ttl: ttl(bytes)?,
            commit: bool::arbitrary(bytes)?,
            between: key.wrapping_add(bytes.int_in_range(0..=2)?),
        },
        5 => Operation::Number { key, text: text(bytes)?, ttl: ttl(bytes)? },
        6 => Operation::Count { key, delta: u64::arbitrary(bytes)?, up: bool::arbitrary(bytes)? },
        7 => Operation::Touch { key, ttl: ttl(bytes)?, get: bool::arbitrary(bytes)? },
        8 => Operation::Delete(key),
        9 => {
            let ttl = if bool::arbitrary(bytes)? { Some(ttl(bytes)?) } else { None };
            Operation::MarkStale { key, ttl, cas: rarely(bytes)? }
        }
        10 => Operation::Vivify { key, ttl: ttl(bytes)? },
        11 => Operation::Win(key),
        12 => Operation::KeepAccess(key),
        13 => match bytes.int_in_range(0..=9_u8)? {
            0 => Operation::Flush(None),
            1 => Operation::Flush(Some(bytes.int_in_range(0..=20)?)),
            _ => Operation::Advance(seconds(bytes)?),
        },
        14 => Operation::Fill {
            first: key % 2000,
            count: bytes.int_in_range(0..=300)?,
            length: bytes.int_in_range(0..=100)?,
            ttl: ttl(bytes)?,
        },
        _ => Operation::Maintain,
    })
}

fn kind(bytes: &mut Unstructured<'_>) -> Result<Kind> {
    Ok(match bytes.int_in_range(0..=8_u8)? {
        0..=2 => Kind::Set,
        3 => Kind::Add,
        4 => Kind::Replace,
        5 => Kind::Append,
        6 => Kind::Prepend,
        7 => Kind::Cas(bool::arbitrary(bytes)?),
        _ => Kind::CasOrStale(bytes.int_in_range(-1..=1)?),
    })
}

/// Mostly short values, and some up to the limit and above.
fn length(bytes: &mut Unstructured<'_>) -> Result<usize> {
    if bool::arbitrary(bytes)? { bytes.int_in_range(0..=200) } else { bytes.int_in_range(0..=LARGEST + 1) }
}

fn ttl(bytes: &mut Unstructured<'_>) -> Result<Option<i64>> {
    Ok(match bytes.int_in_range(0..=4_u8)? {
        0 => None,
        1 => Some(-1),
        2 => Some(bytes.int_in_range(0..=100)?),
        3 => Some(bytes.int_in_range(0..=5000)?),
        _ => Some(bytes.int_in_range(0..=10_000_000)?),
    })
}

fn seconds(bytes: &mut Unstructured<'_>) -> Result<u64> {
    let most = *bytes.choose(&[5, 200, 100_000])?;
    bytes.int_in_range(0..=most)
}

fn rarely(bytes: &mut Unstructured<'_>) -> Result<Option<u64>> {
    if bytes.ratio(1, 10)? { u64::arbitrary(bytes).map(Some) } else { Ok(None) }
}

/// Numbers as clients store them, and what is none.
fn text(bytes: &mut Unstructured<'_>) -> Result<String> {
    if bool::arbitrary(bytes)? {
        return Ok(u64::arbitrary(bytes)?.to_string());
    }
    let texts = ["007", "5   ", "18446744073709551615", "nine", "99"];
    bytes.choose(&texts).map(|text| (*text).to_owned()).map_err(|_| Error::NotEnoughData)
}
