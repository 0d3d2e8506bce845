//! What `watch` can ask to be told of.

/// A set of streams of events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Streams(u8);

impl Streams {
    /// How many streams there are.
    pub const COUNT: usize = 5;
    /// Keys that are looked up; the one stream for those who name none, as in memcached.
    pub const FETCHERS: Streams = Streams(1);
    /// Stores.
    pub const MUTATIONS: Streams = Streams(2);
    /// Items that are dropped to make room.
    pub const EVICTIONS: Streams = Streams(4);
    /// Connections that come and go.
    pub const CONNECTIONS: Streams = Streams(8);
    /// Requests that take longer than they should.
    pub const SLOW: Streams = Streams(16);

    /// The streams with this name.
    #[must_use]
    pub fn named(name: &[u8]) -> Option<Streams> {
        match name {
            b"fetchers" => Some(Streams::FETCHERS),
            b"mutations" => Some(Streams::MUTATIONS),
            b"evictions" => Some(Streams::EVICTIONS),
            b"connevents" => Some(Streams::CONNECTIONS),
            b"slowcmds" => Some(Streams::SLOW),
            _ => None,
        }
    }

    /// These and the others.
    #[must_use]
    pub const fn and(self, others: Streams) -> Streams {
        Streams(self.0 | others.0)
    }

    /// Whether one of the others is among these.
    #[must_use]
    pub const fn has(self, others: Streams) -> bool {
        self.0 & others.0 != 0
    }

    /// The number of each stream in the set, below [`Streams::COUNT`].
    pub fn indices(self) -> impl Iterator<Item = usize> {
        (0..Streams::COUNT).filter(move |index| self.0 & (1 << index) != 0)
    }
}
