//! A connection without a socket: bytes in, replies out, by the code that serves the sockets. It is what fuzzing and the
//! tests of the request path talk to.

use std::sync::Arc;

use memcache::{Limits, Protocol};
use segcache::{Cache, Eviction, Settings, SettingsError};

use crate::buffers::{Batch, Budget, Parsed, Pool, Received, Rest, Sent};
use crate::control::Control;
use crate::execute::{self, Context};
use crate::metrics::Metrics;
use crate::storage::Owner;

/// The time at which every conversation takes place: the same words always get the same answers.
const NOW: u64 = 1_800_000_000;
const MEMORY: usize = 8 << 20;
const BUFFERS: usize = 4 << 20;
/// The largest value that can be stored.
const LARGEST_VALUE: usize = 256 << 10;
const PROTOCOL: Protocol = Protocol::Memcached(Limits { max_value: LARGEST_VALUE });

/// One client's connection to a cache of its own.
pub struct Conversation {
    owner: Owner,
    pool: Pool,
    metrics: Arc<Metrics>,
    /// As in a session: at most one of the two holds what is not done yet.
    batch: Option<Box<Batch>>,
    rest: Option<Box<Rest>>,
    replies: Vec<u8>,
    open: bool,
}

/// Why a conversation cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum ConversationError {
    /// The cache cannot be made.
    #[error("the cache of a conversation: {0}")]
    Cache(#[from] SettingsError),
    /// There is no buffer, which a single connection always gets.
    #[error("no buffer is left for a conversation's {wanted}; this is a bug")]
    Buffers {
        /// What it is missing for.
        wanted: &'static str,
    },
    /// The connection broke, which one in memory never does.
    #[error("a conversation broke: {0}")]
    Broken(std::io::Error),
}

impl Conversation {
    /// A conversation with an empty cache.
    ///
    /// # Errors
    /// [`ConversationError::Cache`]
    pub fn new() -> Result<Conversation, ConversationError> {
        let settings = Settings { budget: MEMORY, max_item_size: LARGEST_VALUE, eviction: Eviction::Merge, seed: NOW };
        Ok(Conversation {
            owner: Owner::new(Cache::new(settings, NOW)?, None),
            pool: Pool::new(Budget::new(BUFFERS)),
            metrics: Metrics::new(config::Config::default(), String::new(), 1, Control::default()),
            batch: None,
            rest: None,
            replies: Vec::new(),
            open: true,
        })
    }

    /// Receives one packet and answers what it completes.
    ///
    /// # Errors
    /// [`ConversationError`]; each is a bug.
    pub fn hear(&mut self, mut packet: &[u8]) -> Result<(), ConversationError> {
        while self.open && !packet.is_empty() {
            let mut batch = self.batch()?;
            match self.owner.receive(&mut batch, PROTOCOL, &mut packet) {
                Received::Bytes { .. } | Received::Nothing => {}
                Received::End => self.open = false,
                Received::NoMemory => return Err(ConversationError::Buffers { wanted: "input" }),
                Received::Broken(error) => return Err(ConversationError::Broken(error)),
            }
            self.answer(&mut batch)?;
            self.keep(batch);
        }
        Ok(())
    }

    /// All replies so far.
    #[must_use]
    pub fn replies(&self) -> &[u8] {
        &self.replies
    }

    /// Whether the server would still read.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.open
    }

    fn batch(&mut self) -> Result<Box<Batch>, ConversationError> {
        let batch = self.batch.take().or_else(|| self.pool.take());
        let mut batch = batch.ok_or(ConversationError::Buffers { wanted: "next packet" })?;
        if let Some(rest) = self.rest.take() {
            batch.resume(&rest);
        }
        Ok(batch)
    }

    fn answer(&mut self, batch: &mut Batch) -> Result<(), ConversationError> {
        let context = Context { counters: &self.metrics.threads()[0], metrics: &self.metrics };
        loop {
            match batch.parse(PROTOCOL) {
                Parsed::Some => {}
                Parsed::None => return Ok(()),
                Parsed::TooLong => {
                    self.open = false;
                    return Ok(());
                }
            }
            execute::prefetch_keys(batch, self.owner.cache());
            execute::prefetch_items(batch, self.owner.cache());
            execute::execute(batch, self.owner.cache(), context);
            if !batch.has_output() && batch.has_commands() {
                return Err(ConversationError::Buffers { wanted: "output" });
            }
            match batch.send(&mut self.replies) {
                Sent::All | Sent::Blocked => {}
                Sent::Broken(error) => return Err(ConversationError::Broken(error)),
            }
            // Who watches is not served here any more.
            if batch.quit || batch.watch.is_some() {
                self.open = false;
                return Ok(());
            }
        }
    }

    /// As between two events of a session: buffers are held only while there is something in them.
    fn keep(&mut self, mut batch: Box<Batch>) {
        if batch.is_empty() || !self.open {
            batch.abandon(self.owner.cache());
            self.pool.give_back(batch);
            return;
        }
        self.rest = batch.rest();
        if self.rest.is_some() {
            self.pool.give_back(batch);
        } else {
            self.batch = Some(batch);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Conversation;

    fn replies(pieces: &[&[u8]]) -> Vec<u8> {
        let mut conversation = Conversation::new().unwrap();
        for piece in pieces {
            conversation.hear(piece).unwrap();
        }
        conversation.replies().to_vec()
    }

    fn talks() -> Vec<Vec<u8>> {
        let large = [&b"set large 0 0 3000\r\n"[..], &[b'x'; 3000], b"\r\nget large none large\r\n"].concat();
        vec![
            b"set a 5 0 5\r\nvalue\r\ngets a b\r\nincr a 1\r\nset n 0 0 1\r\n9\r\nincr n 1\r\ndecr n 100\r\n".to_vec(),
            b"add a 0 0 1 noreply\r\n1\r\nappend a 0 0 1\r\n2\r\nprepend a 0 0 1\r\n0\r\ngat 100 a\r\nquit\r\nget a\r\n".to_vec(),
            b"ms a 3 T0 c k\r\nabc\r\nmg a v t k Oq\r\nmd a q\r\nma a N0 J5 v\r\nme a\r\nmn\r\n".to_vec(),
            b"set a 0 0 3\r\nabcd\r\nnonsense\r\n\r\nset a 0 0 x\r\nget\r\ndelete a 0\r\ntouch a 1\r\n".to_vec(),
            b"set big 0 0 300000\r\nthat is all of it\r\n".to_vec(),
            large,
        ]
    }

    #[test]
    fn replies_do_not_depend_on_where_the_bytes_are_split() {
        for talk in talks() {
            let whole = replies(&[&talk]);
            let bytes: Vec<&[u8]> = talk.chunks(1).collect();
            assert_eq!(replies(&bytes).escape_ascii().to_string(), whole.escape_ascii().to_string());
            for at in (1..talk.len()).filter(|at| at % 7 == 0 || talk.len() < 200) {
                let (first, second) = talk.split_at(at);
                assert_eq!(replies(&[first, second]), whole, "{} split at {at}", talk.escape_ascii());
            }
        }
    }

    #[test]
    fn a_conversation_ends_as_a_connection_does() {
        let mut conversation = Conversation::new().unwrap();
        conversation.hear(b"version\r\nquit\r\nversion\r\n").unwrap();
        assert_eq!(conversation.replies(), concat!("VERSION ", version!(), "\r\n").as_bytes());
        assert!(!conversation.is_open());
        let mut conversation = Conversation::new().unwrap();
        conversation.hear(&[b'x'; 5000]).unwrap();
        assert!(!conversation.is_open() && conversation.replies().is_empty());
    }

    #[test]
    fn nothing_is_done_behind_a_quit_that_had_to_wait() {
        let mut conversation = Conversation::new().unwrap();
        let large = [&b"set l 0 0 40000\r\n"[..], &[b'l'; 40_000], b"\r\n"].concat();
        conversation.hear(&large).unwrap();
        // So much output that execution pauses.
        conversation.hear(b"get l l l l l\r\nquit\r\nversion\r\nquit\r\n").unwrap();
        assert!(conversation.replies().ends_with(b"END\r\n") && !conversation.is_open());
    }
}
