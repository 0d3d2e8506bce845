//! What a client can ask for.

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
    /// `verbosity`, which changes nothing here: the log's level is the node's business.
    Verbosity {
        /// Whether to stay silent.
        noreply: bool,
    },
    /// `version`.
    Version,
    /// `stats`.
    Stats {
        /// What of; empty for the general statistics.
        of: Span,
    },
    /// `mn`, the meta command that does nothing.
    MetaNoop,
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
    /// `shutdown`, which would let a client stop the node.
    ShutdownDisabled,
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
            Rejection::ShutdownDisabled => b"ERROR: shutdown not enabled\r\n",
        }
    }
}
