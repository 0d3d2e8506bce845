//! The parser on arbitrary bytes: every input gives steps, and what is read does not depend on how much of it was there
//! at the first look.
#![no_main]

use libfuzzer_sys::fuzz_target;
use memcache::{Limits, Step, parse};

const LIMITS: Limits = Limits { max_value: 1024 };

fuzz_target!(|data: &[u8]| {
    let Some((&cut, input)) = data.split_first() else { return };
    let mut start = 0;
    while start < input.len() {
        let whole = parse(input, start, 0, LIMITS);
        let seen = usize::from(cut) % (input.len() - start);
        look_twice(input, start, seen, whole);
        match whole {
            Step::Command { command, next } => {
                assert!(next > start, "no progress at {start}");
                assert!(command.first_key(input).is_none_or(|key| !key.contains(&b' ') && !key.contains(&b'\n')));
                start = next;
            }
            Step::Partial { needed, scanned } => {
                assert!(needed > input.len() - start && scanned <= input.len() - start);
                return;
            }
            Step::TooLong => return,
        }
    }
});

/// The first `seen` bytes alone, and then all of them with what the first look has found.
fn look_twice(input: &[u8], start: usize, seen: usize, whole: Step) {
    match parse(&input[..start + seen], start, 0, LIMITS) {
        Step::Partial { needed, scanned } => {
            assert!(needed > seen && scanned <= seen);
            assert_eq!(parse(input, start, scanned, LIMITS), whole);
            if let Step::Command { next, .. } = whole {
                assert!(start + needed <= next, "{needed} bytes are waited for, and {} are enough", next - start);
            }
        }
        // The line end came too late, but with the rest of the bytes it may be there.
        Step::TooLong => {}
        step => assert_eq!(step, whole),
    }
}
