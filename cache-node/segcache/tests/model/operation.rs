//! What is done to a cache and to its model.

#[derive(Clone, Debug)]
pub enum Operation {
    Get(u16),
    Peek(u16),
    Store {
        mode: Kind,
        key: u16,
        length: usize,
        flags: u32,
        ttl: Option<i64>,
        cas: Option<u64>,
    },
    Reserve {
        mode: Kind,
        key: u16,
        length: usize,
        ttl: Option<i64>,
        commit: bool,
        between: u16,
    },
    Number {
        key: u16,
        text: String,
        ttl: Option<i64>,
    },
    Count {
        key: u16,
        delta: u64,
        up: bool,
    },
    Touch {
        key: u16,
        ttl: Option<i64>,
        get: bool,
    },
    Delete(u16),
    /// With another time to live, and a CAS of the client's own.
    MarkStale {
        key: u16,
        ttl: Option<Option<i64>>,
        cas: Option<u64>,
    },
    Vivify {
        key: u16,
        ttl: Option<i64>,
    },
    Win(u16),
    KeepAccess(u16),
    Flush(Option<u64>),
    Advance(u64),
    Fill {
        first: u16,
        count: u16,
        length: usize,
        ttl: Option<i64>,
    },
    Maintain,
    /// The process ends, cleanly or not, and another one opens the volume.
    Reopen {
        clean: bool,
    },
}

#[derive(Clone, Copy, Debug)]
pub enum Kind {
    Set,
    Add,
    Replace,
    Append,
    Prepend,
    /// With the CAS that is there, or with a wrong one.
    Cas(bool),
    /// With the CAS that is there, or the next lower or higher one.
    CasOrStale(i64),
}

impl Operation {
    /// The operation with its key among the first `keys`.
    pub fn folded(mut self, keys: u16) -> Operation {
        match &mut self {
            Operation::Get(key)
            | Operation::Peek(key)
            | Operation::Store { key, .. }
            | Operation::Reserve { key, .. }
            | Operation::Number { key, .. }
            | Operation::Count { key, .. }
            | Operation::Touch { key, .. }
            | Operation::MarkStale { key, .. }
            | Operation::Vivify { key, .. }
            | Operation::Win(key)
            | Operation::KeepAccess(key)
            | Operation::Delete(key) => *key %= keys,
            Operation::Fill { .. }
            | Operation::Flush(_)
            | Operation::Advance(_)
            | Operation::Maintain
            | Operation::Reopen { .. } => (),
        }
        self
    }
}
