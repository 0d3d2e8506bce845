//! Replies to bytes.

/// The one-line replies that carry nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    /// A store was done.
    Stored,
    /// A store's condition did not hold.
    NotStored,
    /// A `cas` found another version.
    Exists,
    /// There is no such key.
    NotFound,
    /// A `delete` was done.
    Deleted,
    /// A `touch` was done.
    Touched,
    /// Done.
    Ok,
    /// A retrieval or a list is over.
    End,
    /// `mn`.
    MetaNoop,
    /// `PING` of the ping protocol.
    Pong,
    /// `stats reset` was done.
    Reset,
    /// An `incr` or `decr` of something that is not a number.
    NotANumber,
    /// A value above the limit.
    TooLarge,
    /// No memory for the item of a store.
    OutOfMemory,
    /// No memory for the item of an `incr` or `decr`.
    OutOfMemoryCounting,
    /// No memory for the item of a `touch` or `gat`.
    OutOfMemoryTouching,
    /// A memory limit that no cache can work with.
    MemoryTooSmall,
    /// A memory limit that cannot be changed to.
    MemoryFixed,
    /// As many connections watch as may.
    TooManyWatchers,
    /// The list of nodes that `config get cluster` answers with cannot be read.
    NoNodes,
    /// The connection limit is reached; the connection ends.
    TooManyConnections,
}

impl Reply {
    /// The reply with its line end.
    #[must_use]
    pub fn text(self) -> &'static [u8] {
        match self {
            Reply::Stored => b"STORED\r\n",
            Reply::NotStored => b"NOT_STORED\r\n",
            Reply::Exists => b"EXISTS\r\n",
            Reply::NotFound => b"NOT_FOUND\r\n",
            Reply::Deleted => b"DELETED\r\n",
            Reply::Touched => b"TOUCHED\r\n",
            Reply::Ok => b"OK\r\n",
            Reply::End => b"END\r\n",
            Reply::MetaNoop => b"MN\r\n",
            Reply::Pong => b"PONG\r\n",
            Reply::Reset => b"RESET\r\n",
            Reply::NotANumber => b"CLIENT_ERROR cannot increment or decrement non-numeric value\r\n",
            Reply::TooLarge => b"SERVER_ERROR object too large for cache\r\n",
            Reply::OutOfMemory => b"SERVER_ERROR out of memory storing object\r\n",
            Reply::OutOfMemoryCounting => b"SERVER_ERROR out of memory\r\n",
            Reply::OutOfMemoryTouching => b"SERVER_ERROR out of memory touching object\r\n",
            Reply::MemoryTooSmall => b"MEMLIMIT_TOO_SMALL cannot set maxbytes to less than 8m\r\n",
            Reply::MemoryFixed => b"MEMLIMIT_ADJUST_FAILED out of bounds or unable to adjust\r\n",
            Reply::TooManyWatchers => b"WATCHER_TOO_MANY log watcher limit reached\r\n",
            Reply::NoNodes => b"SERVER_ERROR the list of nodes cannot be read\r\n",
            Reply::TooManyConnections => b"SERVER_ERROR too many open connections\r\n",
        }
    }
}

/// Writes the line that stands before a value: `VALUE key flags length [cas]`.
pub fn write_value_head(out: &mut Vec<u8>, key: &[u8], flags: u32, length: usize, cas: Option<u64>) {
    out.extend_from_slice(b"VALUE ");
    out.extend_from_slice(key);
    out.push(b' ');
    write_number(out, u64::from(flags));
    out.push(b' ');
    write_number(out, length as u64);
    if let Some(cas) = cas {
        out.push(b' ');
        write_number(out, cas);
    }
    out.extend_from_slice(b"\r\n");
}

/// Writes a number in decimal.
pub fn write_number(out: &mut Vec<u8>, number: u64) {
    // Most numbers on the wire are flags of 0 and short lengths.
    if number < 10 {
        out.push(b'0' + number as u8);
        return;
    }
    const LONGEST: usize = 20;
    let mut digits = [0; LONGEST];
    let (mut at, mut rest) = (LONGEST, number);
    while rest > 0 {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    out.extend_from_slice(&digits[at..]);
}

#[cfg(test)]
mod tests {
    use super::{write_number, write_value_head};

    #[test]
    fn numbers_are_written_in_full() {
        for number in [0, 9, 10, 99, 100, 1_234_567_890, u64::MAX] {
            let mut out = Vec::new();
            write_number(&mut out, number);
            assert_eq!(String::from_utf8(out).unwrap(), number.to_string());
        }
    }

    #[test]
    fn a_value_line_has_a_cas_only_if_asked() {
        let mut out = Vec::new();
        write_value_head(&mut out, b"key", 7, 1024, None);
        write_value_head(&mut out, b"key", 0, 0, Some(u64::MAX));
        assert_eq!(out, b"VALUE key 7 1024\r\nVALUE key 0 0 18446744073709551615\r\n");
    }
}
