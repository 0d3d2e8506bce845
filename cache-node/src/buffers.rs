//! Memory for the bytes of connections: one budget for the node, one pool a worker, and the batch that travels.

mod budget;
mod filling;
mod output;

use std::io::{self, ErrorKind, Read, Write};
use std::sync::Arc;

use memcache::{Command, LONGEST_RETRIEVAL, Protocol, Step};
use segcache::{KeyHash, Reservation};

pub use crate::buffers::budget::Budget;
use crate::buffers::filling::Filling;
pub use crate::buffers::output::{Current, Output};
use crate::clock::Instant;
use crate::kind::{Kind, Tally};
use crate::session::SessionId;
use crate::tls::stream::HANDSHAKE_RECORD;
use crate::watch::Ticket;

/// A fresh batch's input: one read takes at most so much.
const INPUT: usize = 16 << 10;
/// A fresh batch's output.
const OUTPUT: usize = 16 << 10;
/// Commands that are parsed before they are executed.
const MOST_COMMANDS: usize = 256;
/// Execution pauses once a batch has so much output, and goes on when the socket has taken it.
pub const OUTPUT_LIMIT: usize = 64 << 10;
/// Batches that a pool keeps with what they have grown to, so that a steady load of large values allocates nothing.
const KEPT_GROWN: usize = 2;
/// Batches that a pool keeps.
const KEPT: usize = 32;
/// The beginning of a request that is kept without a batch around it: lines that came in two packets.
const SHORT_REST: usize = 2 << 10;
/// What such a beginning is counted as beside its bytes.
const REST_OVERHEAD: usize = 64;
/// What a fresh batch is counted as.
const FRESH: usize = INPUT + OUTPUT + size_of::<Batch>() + MOST_COMMANDS * PER_COMMAND;
const PER_COMMAND: usize = size_of::<Command>() + size_of::<u32>() + size_of::<KeyHash>();

/// A worker's batches that no session holds. The one given back last is taken first: its memory is still in the
/// processor's cache.
pub struct Pool {
    #[expect(clippy::vec_box, reason = "sessions, pool and rings pass on the box; the batch itself never moves")]
    free: Vec<Box<Batch>>,
    budget: Arc<Budget>,
}

impl Pool {
    /// An empty pool.
    #[must_use]
    pub fn new(budget: Arc<Budget>) -> Pool {
        Pool { free: Vec::with_capacity(KEPT), budget }
    }

    /// An empty batch; none where the budget is used up.
    pub fn take(&mut self) -> Option<Box<Batch>> {
        if let Some(batch) = self.free.pop() {
            return Some(batch);
        }
        self.budget.usual.take(FRESH).then(|| Box::new(Batch::new(Arc::clone(&self.budget))))
    }

    /// Takes a batch back, whatever is in it.
    pub fn give_back(&mut self, mut batch: Box<Batch>) {
        if self.free.len() >= KEPT {
            return;
        }
        batch.clear();
        if self.free.len() >= KEPT_GROWN {
            batch.shrink();
        }
        self.free.push(batch);
    }

    /// Gives the memory that no session holds back to the budget, for other workers; all but one fresh batch, so that
    /// every worker can always go on.
    pub fn release(&mut self) {
        self.free.truncate(1);
        self.free.iter_mut().for_each(|batch| batch.shrink());
    }
}

/// What one session received, what it asks for, and the replies: everything that execution needs, so that it can cross
/// to the storage thread and back.
pub struct Batch {
    /// Whose batch this is. Slot *and* generation: a reply that comes late must not reach the slot's next connection.
    pub session: SessionId,
    /// When its first bytes were received.
    pub arrived: Instant,
    /// The parsed commands; those before `next` are done.
    commands: Vec<Command>,
    /// Where in the input each command begins.
    starts: Vec<u32>,
    /// The hash of the first key of each command that waits, from the time that it was fetched on.
    hashes: Vec<KeyHash>,
    next: usize,
    /// How many bytes of the next command's keys are done, where it is a retrieval that was interrupted.
    keys_done: usize,
    /// Commands done since the replies were last sent.
    pub executed: Tally,
    input: Input,
    output: Vec<u8>,
    /// How much of the output the socket has taken.
    sent: usize,
    /// The socket did not take all of it at once: from then on the time that passes is the client's.
    waits_for_client: bool,
    /// Bytes that went past the output, from the cache to the socket.
    passed: usize,
    /// The socket took less than it was offered.
    blocked: bool,
    /// A store whose value goes straight into the cache, while it comes.
    filling: Option<Filling>,
    /// The value of the first command, which is in the cache already.
    reserved: Option<Reservation>,
    /// The client asked for the end of the connection.
    pub quit: bool,
    /// The client asked to watch, and may.
    pub watch: Option<Ticket>,
    budget: Arc<Budget>,
    /// What this batch has grown by since it was fresh.
    grown: usize,
}

/// The bytes that were received: `parsed..filled` are not parsed yet, what lies before belongs to the commands.
struct Input {
    /// All of it is initialised, so that the socket can read into it.
    bytes: Vec<u8>,
    parsed: usize,
    filled: usize,
    /// Bytes from `parsed` on that are known to hold no line end.
    scanned: usize,
    /// The length that what begins at `parsed` must have before it is worth parsing again.
    needed: usize,
    /// Bytes to come that are to be dropped: the value of a store that was refused.
    skip: usize,
}

/// Requests, or the beginning of one, that are kept while the rest of it is on its way or while there is no memory to go
/// on: a thousand sessions that are all in the middle of a line need no more memory than their lines.
pub struct Rest {
    bytes: Box<[u8]>,
    skip: usize,
    /// As in [`Batch`], for the first of the requests.
    keys_done: usize,
    arrived: Instant,
    budget: Arc<Budget>,
}

impl Drop for Rest {
    fn drop(&mut self) {
        self.budget.usual.give_back(self.bytes.len() + REST_OVERHEAD);
    }
}

/// What came of parsing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// There are commands to execute.
    Some,
    /// More bytes are needed.
    None,
    /// A line that does not end; there may be commands before it.
    TooLong,
}

/// What came of reading from a socket.
#[derive(Debug)]
pub enum Received {
    /// Bytes; where `drained`, all that there were.
    Bytes {
        /// How many.
        count: usize,
        /// The read was short, so the socket is empty, and readiness will be reported anew.
        drained: bool,
    },
    /// Nothing for now.
    Nothing,
    /// The client has sent its last byte.
    End,
    /// The input must grow, and the budget is used up.
    NoMemory,
    /// The connection is broken.
    Broken(io::Error),
}

/// What came of writing to a socket.
#[derive(Debug)]
pub enum Sent {
    /// All that there was.
    All,
    /// The socket takes no more for now.
    Blocked,
    /// The connection is broken.
    Broken(io::Error),
}

impl Batch {
    fn new(budget: Arc<Budget>) -> Batch {
        Batch {
            session: SessionId::default(),
            arrived: Instant::default(),
            commands: Vec::with_capacity(MOST_COMMANDS),
            starts: Vec::with_capacity(MOST_COMMANDS),
            hashes: Vec::with_capacity(MOST_COMMANDS),
            next: 0,
            keys_done: 0,
            executed: Tally::default(),
            input: Input { bytes: vec![0; INPUT], parsed: 0, filled: 0, scanned: 0, needed: 1, skip: 0 },
            output: Vec::with_capacity(OUTPUT),
            sent: 0,
            waits_for_client: false,
            passed: 0,
            blocked: false,
            filling: None,
            reserved: None,
            quit: false,
            watch: None,
            budget,
            grown: 0,
        }
    }

    /// Whether the session can do without this batch: nothing is received, asked or answered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.input.is_empty() && !self.has_commands() && !self.has_output()
    }

    /// Whether a reply waits for the socket.
    #[must_use]
    pub fn has_output(&self) -> bool {
        self.sent < self.output.len()
    }

    /// Whether a command waits for its execution.
    #[must_use]
    pub fn has_commands(&self) -> bool {
        self.next < self.commands.len()
    }

    /// Reads once from `stream`.
    pub fn receive(&mut self, stream: &mut impl Read) -> Received {
        debug_assert!(!self.has_commands(), "commands point into the input");
        self.input.make_contiguous();
        if !self.grow_input() {
            return Received::NoMemory;
        }
        let room = self.input.bytes.len() - self.input.filled;
        match stream.read(&mut self.input.bytes[self.input.filled..]) {
            Ok(0) => Received::End,
            Ok(count) => {
                self.input.add(count);
                self.waits_for_client = false;
                Received::Bytes { count, drained: count < room }
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Received::Nothing,
            Err(error) if error.kind() == ErrorKind::Interrupted => Received::Bytes { count: 0, drained: false },
            // A TLS stream must keep the beginnings of records.
            Err(error) if error.kind() == ErrorKind::OutOfMemory => Received::NoMemory,
            Err(error) => Received::Broken(error),
        }
    }

    /// Whether the input begins as a TLS handshake does, which no command does.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        self.input.bytes[..self.input.filled].first() == Some(&HANDSHAKE_RECORD)
    }

    /// Makes the input as large as the command that it begins with needs; says no where the budget does not allow it.
    fn grow_input(&mut self) -> bool {
        let Input { bytes, needed, filled, .. } = &mut self.input;
        if *needed <= bytes.len() {
            return true;
        }
        // A line has no known length: twice what there is, so that its bytes are not moved for each read, but not more
        // than a line may have, or a small budget could never give it.
        let is_line = *needed == *filled + 1;
        let wanted = if is_line { (*needed * 2).min(LONGEST_RETRIEVAL + 1).max(*needed) } else { *needed };
        let missing = wanted - bytes.len();
        if !self.budget.growth.take(missing) {
            return false;
        }
        self.grown += missing;
        // Not `resize`: fresh zeroed pages of the system are free, and only what was received is moved.
        let mut larger = vec![0; wanted];
        larger[..*filled].copy_from_slice(&bytes[..*filled]);
        *bytes = larger;
        true
    }

    /// Parses what was received, up to a limit of commands.
    pub fn parse(&mut self, protocol: Protocol) -> Parsed {
        if !self.has_commands() {
            self.commands.clear();
            self.starts.clear();
            self.hashes.clear();
            self.next = 0;
        }
        // It waits because execution has paused before it; what follows it still is not to be looked at.
        if self.commands.last().is_some_and(Command::ends_pipeline) {
            return Parsed::Some;
        }
        if !self.finish_filling() {
            return Parsed::None;
        }
        let input = &mut self.input;
        while self.commands.len() < MOST_COMMANDS && input.filled - input.parsed >= input.needed {
            match protocol.parse(&input.bytes[..input.filled], input.parsed, input.scanned) {
                Step::Command { command, next } => {
                    self.commands.push(command);
                    self.starts.push(input.parsed as u32);
                    input.skip = next.saturating_sub(input.filled);
                    input.parsed = next.min(input.filled);
                    (input.scanned, input.needed) = (0, 1);
                    if command.ends_pipeline() {
                        break;
                    }
                }
                Step::Partial { needed, scanned } => (input.needed, input.scanned) = (needed, scanned),
                // What came before it is done first; the next look finds it again.
                Step::TooLong if self.commands.is_empty() => return Parsed::TooLong,
                Step::TooLong => break,
            }
        }
        if self.has_commands() { Parsed::Some } else { Parsed::None }
    }

    /// The next command, with the bytes that its ranges are of, and the output that its reply goes to.
    pub fn current<'a>(&'a mut self, wire: Option<&'a mut dyn Write>) -> Option<Current<'a>> {
        let command = *self.commands.get(self.next)?;
        Some(Current {
            command,
            hash: self.hashes.get(self.next).copied(),
            input: &self.input.bytes,
            keys_done: &mut self.keys_done,
            quit: &mut self.quit,
            watch: &mut self.watch,
            reserved: &mut self.reserved,
            output: Output {
                bytes: &mut self.output,
                sent: &mut self.sent,
                passed: &mut self.passed,
                blocked: &mut self.blocked,
                wire,
                budget: &self.budget,
                grown: &mut self.grown,
            },
        })
    }

    /// Whether there are several commands whose keys were not fetched yet: of one alone there is nothing to be done in
    /// the meantime.
    #[must_use]
    pub fn is_worth_prefetching(&self) -> bool {
        self.commands.len() > self.hashes.len().max(self.next) + 1
    }

    /// Has the hash of each command's first key made by `hash_of`, which gets the command and the bytes that its ranges
    /// are of.
    pub fn note_hashes(&mut self, hash_of: impl Fn(&Command, &[u8]) -> KeyHash) {
        let (from, bytes) = (self.hashes.len(), &self.input.bytes);
        self.hashes.extend(self.commands[from..].iter().map(|command| hash_of(command, bytes)));
    }

    /// The hashes of those commands that wait.
    #[must_use]
    pub fn waiting_hashes(&self) -> &[KeyHash] {
        self.hashes.get(self.next..).unwrap_or_default()
    }

    /// Counts the current command as done.
    pub fn finish_command(&mut self) {
        if let Some(command) = self.commands.get(self.next) {
            self.executed.add(Kind::of(command, &self.input.bytes));
        }
        self.next += 1;
        self.keys_done = 0;
    }

    /// What was done since the replies were last sent, as long as that is not for the client to end.
    #[must_use]
    pub fn done(&self) -> Option<Done<'_>> {
        let count = self.executed.count();
        let first = self.commands.get(self.next.checked_sub(usize::try_from(count).ok()?)?)?;
        let input = &self.input.bytes;
        let (kind, key) = (Kind::of(first, input), first.first_key(input).unwrap_or_default());
        (count > 0 && !self.waits_for_client).then_some(Done { kind, key, count, arrived: self.arrived })
    }

    /// Whether execution must pause until the socket has taken what there is.
    #[must_use]
    pub fn is_output_full(&self) -> bool {
        self.output.len() + self.passed >= OUTPUT_LIMIT
    }

    /// Writes the output to `stream`, as much as it takes.
    pub fn send(&mut self, stream: &mut impl Write) -> Sent {
        while self.sent < self.output.len() {
            match stream.write(&self.output[self.sent..]) {
                Ok(0) => return Sent::Broken(ErrorKind::WriteZero.into()),
                Ok(count) if count < self.output.len() - self.sent => {
                    // The socket is full, and will say so when it no longer is.
                    self.sent += count;
                    self.waits_for_client = true;
                    return Sent::Blocked;
                }
                Ok(count) => self.sent += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.waits_for_client = true;
                    return Sent::Blocked;
                }
                Err(error) => return Sent::Broken(error),
            }
        }
        self.output.clear();
        (self.sent, self.blocked) = (0, false);
        Sent::All
    }

    /// What this batch still has to do, where that is nothing but short requests or the beginning of one.
    pub fn rest(&self) -> Option<Box<Rest>> {
        let Input { bytes, parsed, filled, skip, .. } = &self.input;
        let from = self.starts.get(self.next).map_or(*parsed, |start| *start as usize);
        let bytes = &bytes[from..*filled];
        let longest = if self.has_commands() { INPUT } else { SHORT_REST };
        if self.has_output()
            || self.holds_reservation()
            || self.quit
            || self.watch.is_some()
            || bytes.len() > longest
            || !self.budget.usual.take(bytes.len() + REST_OVERHEAD)
        {
            return None;
        }
        let Batch { keys_done, budget, arrived, .. } = self;
        let (keys_done, arrived, budget) = (*keys_done, *arrived, Arc::clone(budget));
        Some(Box::new(Rest { bytes: bytes.into(), skip: *skip, keys_done, arrived, budget }))
    }

    /// Goes on where [`Batch::rest`] left off; to be called on an empty batch.
    pub fn resume(&mut self, rest: &Rest) {
        let Rest { bytes, skip, keys_done, arrived, budget: _ } = rest;
        self.input.reset();
        self.input.bytes[..bytes.len()].copy_from_slice(bytes);
        self.input.filled = bytes.len();
        self.input.skip = *skip;
        self.keys_done = *keys_done;
        self.arrived = *arrived;
    }

    /// Whether it holds more than a fresh batch, which others may wait for.
    #[must_use]
    pub fn has_grown(&self) -> bool {
        self.grown > 0
    }

    /// Bytes of output that the socket has not taken yet.
    #[must_use]
    pub fn unsent(&self) -> usize {
        self.output.len() - self.sent
    }

    fn clear(&mut self) {
        self.commands.clear();
        self.starts.clear();
        self.hashes.clear();
        (self.next, self.keys_done) = (0, 0);
        self.executed = Tally::default();
        self.input.reset();
        self.output.clear();
        debug_assert!(!self.holds_reservation(), "it pins memory of the cache");
        (self.sent, self.passed, self.blocked) = (0, 0, false);
        self.waits_for_client = false;
        self.quit = false;
        self.watch = None;
    }

    /// Gives back what the batch has grown by.
    fn shrink(&mut self) {
        if self.grown > 0 {
            self.input.bytes = vec![0; INPUT];
            self.output = Vec::with_capacity(OUTPUT);
            self.budget.growth.give_back(self.grown);
            self.grown = 0;
        }
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        self.budget.usual.give_back(FRESH);
        self.budget.growth.give_back(self.grown);
    }
}

impl Input {
    fn is_empty(&self) -> bool {
        self.parsed == self.filled && self.skip == 0
    }

    fn reset(&mut self) {
        (self.parsed, self.filled, self.scanned, self.needed, self.skip) = (0, 0, 0, 1, 0);
    }

    /// Moves what is not parsed to the front, where it is not there and not at the end either.
    fn make_contiguous(&mut self) {
        if self.parsed > 0 {
            self.bytes.copy_within(self.parsed..self.filled, 0);
            self.filled -= self.parsed;
            self.parsed = 0;
        }
    }

    /// Counts `count` bytes behind the filled ones as received, without those that are to be skipped.
    fn add(&mut self, count: usize) {
        let skipped = count.min(self.skip);
        if skipped > 0 {
            self.skip -= skipped;
            self.bytes.copy_within(self.filled + skipped..self.filled + count, self.filled);
        }
        self.filled += count - skipped;
    }
}

/// Commands that were done together.
pub struct Done<'a> {
    /// The kind of the first.
    pub kind: Kind,
    /// Its key, or the first of them; empty where it has none.
    pub key: &'a [u8],
    /// How many commands.
    pub count: u64,
    /// When the last of their bytes was received.
    pub arrived: Instant,
}
