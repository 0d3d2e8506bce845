//! Kinds of requests, by which the node counts.

use memcache::{Command, MetaVerb, Verb};

/// What a request is counted as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Kind {
    /// `get` and `gets`.
    Get,
    /// `gat` and `gats`.
    GetAndTouch,
    /// `set`.
    Set,
    /// `add`.
    Add,
    /// `replace`.
    Replace,
    /// `append`.
    Append,
    /// `prepend`.
    Prepend,
    /// `cas`.
    Cas,
    /// `delete`.
    Delete,
    /// `incr`.
    Increment,
    /// `decr`.
    Decrement,
    /// `touch`.
    Touch,
    /// `flush_all`.
    Flush,
    /// What touches no item: `version`, `stats`, `verbosity`, `mn`, `quit`.
    Service,
    /// What could not be understood.
    Invalid,
}

/// Every kind with its label.
pub const KINDS: [(Kind, &str); 15] = [
    (Kind::Get, "get"),
    (Kind::GetAndTouch, "gat"),
    (Kind::Set, "set"),
    (Kind::Add, "add"),
    (Kind::Replace, "replace"),
    (Kind::Append, "append"),
    (Kind::Prepend, "prepend"),
    (Kind::Cas, "cas"),
    (Kind::Delete, "delete"),
    (Kind::Increment, "incr"),
    (Kind::Decrement, "decr"),
    (Kind::Touch, "touch"),
    (Kind::Flush, "flush_all"),
    (Kind::Service, "service"),
    (Kind::Invalid, "invalid"),
];

impl Kind {
    /// The kind of a command whose ranges are of `input`.
    #[must_use]
    pub fn of(command: &Command, input: &[u8]) -> Kind {
        match command {
            Command::Get { .. } | Command::Meta { verb: MetaVerb::Get, .. } => Kind::Get,
            Command::GetAndTouch { .. } => Kind::GetAndTouch,
            Command::Store { verb, .. } | Command::StoreTooLarge { verb, .. } => Kind::of_store(*verb),
            Command::MetaSet { flags, .. } | Command::MetaSetTooLarge { flags, .. } => {
                Kind::of_meta_set(flags.of(input))
            }
            // It has a command of its own.
            Command::Meta { verb: MetaVerb::Set, .. } => Kind::Set,
            Command::Delete { .. } | Command::Meta { verb: MetaVerb::Delete, .. } => Kind::Delete,
            Command::Count { up: true, .. } => Kind::Increment,
            Command::Count { up: false, .. } => Kind::Decrement,
            Command::Meta { verb: MetaVerb::Arithmetic, flags, .. } => match flag(flags.of(input), b'M') {
                Some([b'D' | b'd' | b'-', ..]) => Kind::Decrement,
                _ => Kind::Increment,
            },
            Command::Touch { .. } => Kind::Touch,
            Command::FlushAll { .. } => Kind::Flush,
            Command::Verbosity { .. }
            | Command::Version
            | Command::Stats { .. }
            | Command::MetaDebug { .. }
            | Command::MetaNoop
            | Command::MemoryLimit { .. }
            | Command::Shutdown { .. }
            | Command::Watch { .. }
            | Command::Discover
            | Command::Dump
            | Command::Ping
            | Command::Quit => Kind::Service,
            Command::Reject { .. } => Kind::Invalid,
        }
    }

    /// The kind of a store.
    #[must_use]
    pub fn of_store(verb: Verb) -> Kind {
        match verb {
            Verb::Set => Kind::Set,
            Verb::Add => Kind::Add,
            Verb::Replace => Kind::Replace,
            Verb::Append => Kind::Append,
            Verb::Prepend => Kind::Prepend,
            Verb::Cas(_) => Kind::Cas,
        }
    }

    /// An `ms` is what its mode makes it.
    fn of_meta_set(flags: &[u8]) -> Kind {
        match (flag(flags, b'M').and_then(|mode| mode.first()), flag(flags, b'C')) {
            (Some(b'E' | b'e'), _) => Kind::Add,
            (Some(b'A' | b'a'), _) => Kind::Append,
            (Some(b'P' | b'p'), _) => Kind::Prepend,
            (_, Some(_)) => Kind::Cas,
            (Some(b'R' | b'r'), None) => Kind::Replace,
            _ => Kind::Set,
        }
    }
}

/// What stands behind the flag of this letter.
fn flag(flags: &[u8], letter: u8) -> Option<&[u8]> {
    flags.split(|byte| *byte == b' ').find_map(|word| word.strip_prefix(&[letter]))
}

/// Requests by kind, of a batch that has few kinds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    counts: [u32; KINDS.len()],
    /// One bit for each kind of which there are any, so that nobody looks at fifteen zeros.
    seen: u32,
}

impl Tally {
    /// Counts a request.
    pub fn add(&mut self, kind: Kind) {
        self.counts[kind as usize] += 1;
        self.seen |= 1 << kind as usize;
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.seen == 0
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.iter().map(|count| u64::from(*count)).sum()
    }

    /// Takes out what was counted.
    pub fn take(&mut self) -> impl Iterator<Item = (Kind, u32)> {
        std::iter::from_fn(move || {
            let index = self.seen.trailing_zeros() as usize;
            let (kind, _) = KINDS.get(index)?;
            self.seen &= self.seen - 1;
            Some((*kind, std::mem::take(&mut self.counts[index])))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{KINDS, Kind, Tally};
    use memcache::{Limits, Step, parse};

    #[test]
    fn kinds_stand_in_their_own_order() {
        for (index, (kind, _)) in KINDS.iter().enumerate() {
            assert_eq!(*kind as usize, index);
        }
    }

    #[test]
    fn a_tally_gives_back_what_it_was_given() {
        let mut tally = Tally::default();
        assert_eq!(tally.take().count(), 0);
        for kind in [Kind::Get, Kind::Invalid, Kind::Get, Kind::Set] {
            tally.add(kind);
        }
        assert!(!tally.is_empty());
        assert_eq!(tally.count(), 4);
        assert_eq!(tally.take().collect::<Vec<_>>(), [(Kind::Get, 2), (Kind::Set, 1), (Kind::Invalid, 1)]);
        assert_eq!(tally, Tally::default());
    }

    #[test]
    fn meta_commands_are_what_their_flags_make_them() {
        for (line, kind) in [
            ("mg a v", Kind::Get),
            ("md a OM", Kind::Delete),
            ("ms a 1", Kind::Set),
            ("ms a 1 MS", Kind::Set),
            ("ms a 1 OMA F5", Kind::Set),
            ("ms a 1 MA", Kind::Append),
            ("ms a 1 c MP", Kind::Prepend),
            ("ms a 1 ME", Kind::Add),
            ("ms a 1 MR", Kind::Replace),
            ("ms a 1 C5 MR", Kind::Cas),
            ("ma a", Kind::Increment),
            ("ma a N0 MD", Kind::Decrement),
            ("me a", Kind::Service),
            ("mn", Kind::Service),
            ("mg", Kind::Invalid),
        ] {
            let input = format!("{line}\r\nv\r\n");
            let Step::Command { command, .. } = parse(input.as_bytes(), 0, 0, Limits { max_value: 10 }) else {
                panic!("{line} is no command")
            };
            assert_eq!(Kind::of(&command, input.as_bytes()), kind, "{line}");
        }
    }
}
