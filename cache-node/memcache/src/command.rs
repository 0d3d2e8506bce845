//! What a client can ask for.

use crate::meta::MetaVerb;
use crate::streams::Streams;

/// A range of the buffer that a command was parsed from. Commands carry ranges instead of slices so that they can cross
/// threads together with their buffer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    start: u32,
    length: u32,
}

impl Span {
    /// The range of `length` bytes from `start`. Both must be under 4 GiB, which the limits of lines and values see to.
    #[must_use]
    pub fn new(start: usize, length: usize) -> Span {
        Span { start: start as u32, length: length as u32 }
    }

    /// The bytes of this range in the `buffer` that the command was parsed from. Another buffer gives other bytes, or
    /// none.
    #[must_use]
    pub fn of(self, buffer: &[u8]) -> &[u8] {
        let start = self.start as usize;
        buffer.get(start..start + self.length as usize).unwrap_or_default()
    }

    /// The offset of the first byte.
    #[must_use]
    pub fn start(self) -> usize {
        self.start as usize
    }

    /// The number of bytes.
    #[must_use]
    pub fn length(self) -> usize {
        self.length as usize
    }
}

/// One request (protocol.txt, "Commands").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// `get` and `gets`.
    Get {
        /// One or more keys with spaces between them; each is known to be of a legal length.
        keys: Span,
        /// `gets`: with the CAS of each item.
        with_cas: bool,
    },
    /// `gat` and `gats`.
    GetAndTouch {
        /// Keys as in [`Command::Get`]; there may be none.
        keys: Span,
        /// `gats`: with the CAS of each item.
        with_cas: bool,
        /// The new expiry time as the client gave it.
        exptime: i64,
    },
    /// `set`, `add`, `replace`, `append`, `prepend` and `cas`, with the whole value.
    Store {
        /// Which of them.
        verb: Verb,
        /// The key.
        key: Span,
        /// The value without its line end.
        value: Span,
        /// The client's flags.
        flags: u32,
        /// The expiry time as the client gave it.
        exptime: i64,
        /// Whether to stay silent.
        noreply: bool,
    },
    /// A store of a value above the limit: it is refused, and a `set` removes what was there, because the client meant
    /// to replace it.
    StoreTooLarge {
        /// Which store.
        verb: Verb,
        /// The key.
        key: Span,
        /// Whether to stay silent.
        noreply: bool,
    },
    /// `delete`.
    Delete {
        /// The key.
        key: Span,
        /// Whether to stay silent.
        noreply: bool,
    },
    /// `incr` and `decr`.
    Count {
        /// The key.
        key: Span,
        /// By how much.
        delta: u64,
        /// `incr`.
        up: bool,
        /// Whether to stay silent.
        noreply: bool,
    },
    /// `touch`.
    Touch {
        /// The key.
        key: Span,
        /// The new expiry time as the client gave it.
        exptime: i64,
        /// Whether to stay silent.
        noreply: bool,
    },
    /// `flush_all`.
    FlushAll {
        /// The delay, or the moment, as the client gave it; at once where it is not above zero.
        delay: i64,
        /// Whether to stay silent.
        noreply: bool,
    },
    /// `verbosity`.
    Verbosity {
        /// How much is to be logged.
        level: u64,
        /// Whether to stay silent.
        noreply: bool,
    },
    /// `cache_memlimit`.
    MemoryLimit {
        /// The memory that the items should have.
        megabytes: u32,
        /// Whether to stay silent.
        noreply: bool,
    },
    /// `shutdown`.
    Shutdown {
        /// Whether it is asked for in a way that there is.
        has_known_mode: bool,
    },
    /// `watch`: the connection is told what happens, and asks for nothing any more.
    Watch {
        /// What it is told of.
        streams: Streams,
    },
    /// `config get cluster`: the nodes of the cluster, as clients with auto discovery ask for them.
    Discover,
    /// `lru_crawler metadump`: what is known of every item, but for the values.
    Dump,
    /// `version`.
    Version,
    /// `stats`.
    Stats {
        /// What of; empty for the general statistics.
        of: Span,
    },
    /// `mg`, `md` and `ma`.
    Meta {
        /// Which of them.
        verb: MetaVerb,
        /// The key as it was sent.
        key: Span,
        /// The flags, which are known to be readable ([`crate::MetaFlags::read`]).
        flags: Span,
    },
    /// `ms`, with the whole value.
    MetaSet {
        /// The key as it was sent.
        key: Span,
        /// The flags, which are known to be readable.
        flags: Span,
        /// The value without its line end.
        value: Span,
    },
    /// An `ms` of a value above the limit.
    MetaSetTooLarge {
        /// The key as it was sent.
        key: Span,
        /// The flags, which are known to be readable.
        flags: Span,
    },
    /// `me`: everything that is known of an item but its value.
    MetaDebug {
        /// The key as it was sent.
        key: Span,
        /// Whether it is in base64.
        binary_key: bool,
    },
    /// `mn`, the meta command that does nothing.
    MetaNoop,
    /// `PING` of the ping protocol.
    Ping,
    /// `quit`: the replies so far, then the end of the connection.
    Quit,
    /// Something that cannot be done, with its answer.
    Reject {
        /// The answer.
        rejection: Rejection,
        /// Whether to stay silent: memcached holds its tongue even about some errors.
        noreply: bool,
    },
}

impl Command {
    /// Whether what follows it may not be looked at before it is done, because the connection may have another use then.
    #[must_use]
    pub fn ends_pipeline(&self) -> bool {
        matches!(self, Command::Quit | Command::Shutdown { .. } | Command::Watch { .. })
    }

    /// The first key that it names, as it was sent, where its ranges are of `input`.
    #[must_use]
    pub fn first_key<'a>(&self, input: &'a [u8]) -> Option<&'a [u8]> {
        match self {
            Command::Get { keys, .. } | Command::GetAndTouch { keys, .. } => {
                let keys = keys.of(input);
                let end = memchr::memchr(b' ', keys).unwrap_or(keys.len());
                Some(&keys[..end])
            }
            Command::Store { key, .. }
            | Command::StoreTooLarge { key, .. }
            | Command::Delete { key, .. }
            | Command::Count { key, .. }
            | Command::Meta { key, .. }
            | Command::MetaSet { key, .. }
            | Command::Touch { key, .. } => Some(key.of(input)),
            _ => None,
        }
    }
}

/// The way in which an item is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Always.
    Set,
    /// Only if the key is not there.
    Add,
    /// Only if the key is there.
    Replace,
    /// Behind what is there.
    Append,
    /// Before what is there.
    Prepend,
    /// Only if the item has this CAS.
    Cas(u64),
}

/// Why a request cannot be done, in memcached's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rejection {
    /// No such command, or not with so many arguments.
    Unknown,
    /// An argument that cannot be read.
    BadLine,
    /// A `delete` with arguments that it does not have.
    BadDelete,
    /// The expiry time of a `touch`, `gat` or `flush_all` that cannot be read.
    BadExptime,
    /// The delta of an `incr` or `decr` that cannot be read.
    BadDelta,
    /// A value that does not end in a line end.
    BadChunk,
    /// A meta flag that is unknown.
    InvalidFlag,
    /// A meta flag that is there twice, or that is no character at all.
    DuplicateFlag,
    /// Something about the flags of an `md` or `ma`.
    BadFlags,
    /// A meta flag's token that cannot be read.
    BadToken,
    /// A key that is not the base64 that it is said to be.
    BadEncoding,
    /// A mode that is not one character.
    BadMode,
    /// A mode that `ms` does not have.
    BadSetMode,
    /// A mode that `ma` does not have.
    BadCountMode,
    /// The initial number of an `ma` that cannot be read.
    BadInitial,
    /// The delta of an `ma` that cannot be read.
    BadMetaDelta,
    /// An opaque token that is too long.
    OpaqueTooLong,
    /// An `mg` with too many flags.
    TooManyGetFlags,
    /// Another meta command with too many flags.
    TooManyFlags,
    /// A `shutdown` where clients may not stop the node.
    ShutdownDisabled,
    /// A `shutdown` in a mode that there is not.
    BadShutdown,
}

impl Rejection {
    /// The answer with its line end.
    #[must_use]
    pub fn text(self) -> &'static [u8] {
        match self {
            Rejection::Unknown => b"ERROR\r\n",
            Rejection::BadLine => b"CLIENT_ERROR bad command line format\r\n",
            Rejection::BadDelete => b"CLIENT_ERROR bad command line format.  Usage: delete <key> [noreply]\r\n",
            Rejection::BadExptime => b"CLIENT_ERROR invalid exptime argument\r\n",
            Rejection::BadDelta => b"CLIENT_ERROR invalid numeric delta argument\r\n",
            Rejection::BadChunk => b"CLIENT_ERROR bad data chunk\r\n",
            Rejection::InvalidFlag => b"CLIENT_ERROR invalid flag\r\n",
            Rejection::DuplicateFlag => b"CLIENT_ERROR duplicate flag\r\n",
            Rejection::BadFlags => b"CLIENT_ERROR invalid or duplicate flag\r\n",
            Rejection::BadToken => b"CLIENT_ERROR bad token in command line format\r\n",
            Rejection::BadEncoding => b"CLIENT_ERROR error decoding key\r\n",
            Rejection::BadMode => b"CLIENT_ERROR incorrect length for M token\r\n",
            Rejection::BadSetMode => b"CLIENT_ERROR invalid mode for ms M token\r\n",
            Rejection::BadCountMode => b"CLIENT_ERROR invalid mode for ma M token\r\n",
            Rejection::BadInitial => b"CLIENT_ERROR invalid numeric initial value\r\n",
            Rejection::BadMetaDelta => b"CLIENT_ERROR invalid numeric delta value\r\n",
            Rejection::OpaqueTooLong => b"CLIENT_ERROR opaque token too long\r\n",
            Rejection::TooManyGetFlags => b"CLIENT_ERROR options flags are too long\r\n",
            Rejection::TooManyFlags => b"CLIENT_ERROR options flags too long\r\n",
            Rejection::ShutdownDisabled => b"ERROR: shutdown not enabled\r\n",
            Rejection::BadShutdown => b"CLIENT_ERROR invalid shutdown mode\r\n",
        }
    }
}
