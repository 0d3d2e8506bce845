//! The parser as its users see it: bytes in, steps out, whole or in pieces.

#![expect(clippy::panic, clippy::unwrap_used, reason = "these are the helpers of tests")]

use memcache::{Command, LONGEST_LINE, LONGEST_RETRIEVAL, Limits, Rejection, Span, Step, Verb, parse};
use proptest::collection::vec;
use proptest::prelude::{Strategy, any};
use proptest::{prop_oneof, proptest};

const LIMITS: Limits = Limits { max_value: 1000 };

/// The one command that `input` is.
fn command(input: &[u8]) -> Command {
    match parse(input, 0, 0, LIMITS) {
        Step::Command { command, next } if next == input.len() => command,
        step => panic!("{}: {step:?}", input.escape_ascii()),
    }
}

fn span(input: &[u8], part: &str) -> Span {
    let text = String::from_utf8_lossy(input);
    Span::new(text.find(part).unwrap(), part.len())
}

#[test]
fn a_store_has_all_its_parts() {
    let input = b"set key 7 -1 5 noreply\r\nvalue\r\n";
    let (key, value) = (span(input, "key"), span(input, "value"));
    assert_eq!(command(input), Command::Store { verb: Verb::Set, key, value, flags: 7, exptime: -1, noreply: true });
    assert_eq!((key.of(input), value.of(input)), (&b"key"[..], &b"value"[..]));
    let input = b"cas key 0 0 0 18446744073709551615\r\n\r\n";
    assert!(matches!(command(input), Command::Store { verb: Verb::Cas(u64::MAX), noreply: false, .. }));
}

#[test]
fn ranges_are_of_the_whole_input() {
    let input = b"get one\r\nget two\r\n";
    let Step::Command { next, .. } = parse(input, 0, 0, LIMITS) else { panic!("no command") };
    let Step::Command { command: Command::Get { keys, .. }, .. } = parse(input, next, 0, LIMITS) else {
        panic!("no second command")
    };
    assert_eq!(keys.of(input), b"two");
}

#[test]
fn keys_keep_what_lies_between_them() {
    let input = b"gets  a   bb  \r\n";
    assert_eq!(command(input), Command::Get { keys: span(input, "a   bb"), with_cas: true });
}

#[test]
fn an_unfinished_request_says_how_much_it_needs() {
    for (input, needed, scanned) in [
        (&b""[..], 1, 0),
        (b"get", 4, 3),
        (b"set k 0 0 10\r\n", 26, 0),
        (b"set k 0 0 10\r\n0123456789\r", 26, 0),
        (b"set k 0 0 10\n", 25, 0),
    ] {
        let step = parse(input, 0, 0, LIMITS);
        assert_eq!(step, Step::Partial { needed, scanned }, "{}", input.escape_ascii());
    }
}

#[test]
fn a_value_above_the_limit_is_refused_before_it_has_come() {
    let input = b"set k 0 0 1001\r\n";
    let key = span(input, "k");
    assert_eq!(
        parse(input, 0, 0, LIMITS),
        Step::Command {
            command: Command::StoreTooLarge { verb: Verb::Set, key, noreply: false },
            next: input.len() + 1003
        }
    );
}

#[test]
fn lines_without_an_end_are_given_up_on() {
    let longest = vec![b'x'; LONGEST_LINE];
    assert!(matches!(parse(&longest, 0, 0, LIMITS), Step::Partial { .. }));
    assert_eq!(parse(&vec![b'x'; LONGEST_LINE + 1], 0, 0, LIMITS), Step::TooLong);
    let retrieval = |length: usize| [b"get ".to_vec(), vec![b'x'; length - 4]].concat();
    assert!(matches!(parse(&retrieval(LONGEST_RETRIEVAL), 0, 0, LIMITS), Step::Partial { .. }));
    assert_eq!(parse(&retrieval(LONGEST_RETRIEVAL + 1), 0, 0, LIMITS), Step::TooLong);
}

#[test]
fn what_cannot_be_understood_is_rejected_in_memcacheds_words() {
    for (input, rejection, noreply) in [
        (&b"nonsense\r\n"[..], Rejection::Unknown, false),
        (b"get\r\n", Rejection::Unknown, false),
        (b"set k 0 0\r\n", Rejection::Unknown, false),
        (b"set k 0 0 x noreply\r\n", Rejection::BadLine, true),
        (b"set k 0 0 -1\r\n", Rejection::BadLine, false),
        (b"set k 0 0 1\r\nabc", Rejection::BadChunk, false),
        (b"incr k x\r\n", Rejection::BadDelta, false),
        (b"touch k noreply\r\n", Rejection::BadExptime, true),
        (b"delete k 1\r\n", Rejection::BadDelete, false),
        (b"flush_all x\r\n", Rejection::BadExptime, false),
        (b"\r\n", Rejection::Unknown, false),
    ] {
        assert_eq!(command(input), Command::Reject { rejection, noreply }, "{}", input.escape_ascii());
    }
}

/// Everything that is found in `input` when it arrives in pieces that end at `cuts`, as the node would find it; ranges are
/// replaced by their bytes, because they depend on where a piece begins.
fn in_pieces(input: &[u8], cuts: &[usize]) -> (Vec<String>, bool) {
    let (mut found, mut buffer, mut skip) = (Vec::new(), Vec::new(), 0_usize);
    let mut ends: Vec<usize> = cuts.iter().map(|cut| cut % (input.len() + 1)).chain([input.len()]).collect();
    ends.sort_unstable();
    let (mut begin, mut needed, mut scanned) = (0, 1, 0);
    for end in ends {
        let skipped = skip.min(end - begin);
        skip -= skipped;
        buffer.extend_from_slice(&input[begin + skipped..end]);
        begin = end;
        let mut at = 0;
        while buffer.len() - at >= needed {
            match parse(&buffer, at, scanned, LIMITS) {
                Step::Command { command, next } => {
                    found.push(describe(command, &buffer));
                    skip = next.saturating_sub(buffer.len());
                    at = next.min(buffer.len());
                    (needed, scanned) = (1, 0);
                }
                Step::Partial { needed: n, scanned: s } => (needed, scanned) = (n, s),
                Step::TooLong => return (found, true),
            }
        }
        buffer.drain(..at);
    }
    (found, false)
}

fn describe(command: Command, buffer: &[u8]) -> String {
    let text = |span: Span| span.of(buffer).escape_ascii().to_string();
    match command {
        Command::Get { keys, with_cas } => format!("get {} {with_cas}", text(keys)),
        Command::GetAndTouch { keys, with_cas, exptime } => format!("gat {} {with_cas} {exptime}", text(keys)),
        Command::Store { verb, key, value, flags, exptime, noreply } => {
            format!("{verb:?} {} {} {flags} {exptime} {noreply}", text(key), text(value))
        }
        Command::StoreTooLarge { verb, key, noreply } => format!("large {verb:?} {} {noreply}", text(key)),
        Command::Delete { key, noreply } => format!("delete {} {noreply}", text(key)),
        Command::Count { key, delta, up, noreply } => format!("count {} {delta} {up} {noreply}", text(key)),
        Command::Touch { key, exptime, noreply } => format!("touch {} {exptime} {noreply}", text(key)),
        Command::Stats { of } => format!("stats {}", text(of)),
        other => format!("{other:?}"),
    }
}

/// Requests and what looks like them.
fn requests() -> impl Strategy<Value = Vec<u8>> {
    let line = prop_oneof![
        "(get|gets|gat 0|delete|incr|touch) k[0-9]{0,3}( [a-z0-9]{1,3}){0,2}( noreply)?\r?\n",
        "(stats|version|verbosity 1|flush_all|quit|mn|nonsense)( [a-z0-9]{1,3})?\r\n",
        "[ -~]{0,40}\r\n",
    ];
    let line = line.prop_map(String::into_bytes);
    let verb = "(set|add|replace|append|prepend)";
    let store = (verb, vec(any::<u8>(), 0..30), 0..20_usize).prop_map(|(verb, value, odd)| {
        let length = if odd == 0 { value.len() + 1 } else { value.len() };
        [format!("{verb} key 1 2 {length}\r\n").as_bytes(), &value, b"\r\n"].concat()
    });
    let large = (1001..1200_usize)
        .prop_map(|length| [format!("set key 1 2 {length}\r\n").as_bytes(), &vec![b'x'; length], b"\r\n"].concat());
    let one = prop_oneof![4 => line, 4 => store, 1 => large, 1 => vec(any::<u8>(), 0..50)];
    vec(one, 0..8).prop_map(|requests| requests.concat())
}

proptest! {
    #[test]
    fn pieces_are_read_as_the_whole(input in requests(), cuts in vec(any::<usize>(), 0..12)) {
        assert_eq!(in_pieces(&input, &cuts), in_pieces(&input, &[]));
    }

    #[test]
    fn any_bytes_give_a_step_that_goes_on(input in vec(any::<u8>(), 0..3000), start in 0..100_usize) {
        match parse(&input, start, 0, LIMITS) {
            Step::Command { next, .. } => assert!(next > start),
            Step::Partial { needed, scanned } => {
                let length = input.len().saturating_sub(start);
                assert!(needed > length && scanned <= length);
            }
            Step::TooLong => assert!(input.len() - start > LONGEST_LINE),
        }
    }
}

#[test]
fn requests_are_read_at_every_cut() {
    let input = b"set k 0 0 5\r\nva\r\nl\r\nget k\r\nset l 0 0 1001\r\n".to_vec();
    let input = [input, vec![b'x'; 1001], b"\r\nincr k 1 noreply\r\nnonsense\r\n\r\nget a b c\r\n".to_vec()].concat();
    let whole = in_pieces(&input, &[]);
    assert_eq!(whole.0.len(), 7, "{whole:?}");
    for cut in 0..input.len() {
        assert_eq!(in_pieces(&input, &[cut]), whole, "cut at {cut}");
    }
}
