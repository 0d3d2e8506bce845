//! Memory for the bytes of connections: one budget for the node, one pool a worker, and the batch that travels.

use std::io::{self, ErrorKind, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicIsize, AtomicUsize, Ordering};

use memcache::{Command, LONGEST_RETRIEVAL, Limits, Step};

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
/// One part in so many of the budget is left for sessions that ask for little, whatever those that ask for much hold.
const FOR_SMALL_SHARE: usize = 4;
/// What a fresh batch is counted as.
const FRESH: usize = INPUT + OUTPUT + size_of::<Batch>() + MOST_COMMANDS * (size_of::<Command>() + size_of::<u32>());

/// The node's budget for the buffers of all connections.
#[derive(Debug)]
pub struct Budget {
    limit: usize,
    used: AtomicUsize,
    waiting: AtomicIsize,
}

impl Budget {
    /// A budget of `limit` bytes.
    #[must_use]
    pub fn new(limit: usize) -> Arc<Budget> {
        Arc::new(Budget { limit, used: AtomicUsize::new(0), waiting: AtomicIsize::new(0) })
    }

    /// The budget in bytes.
    #[must_use]
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Bytes that are taken now.
    #[must_use]
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// Sessions that wait for memory now, on all workers.
    #[must_use]
    pub fn waiting(&self) -> isize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Counts `change` more sessions as waiting.
    pub fn count_waiting(&self, change: isize) {
        self.waiting.fetch_add(change, Ordering::Relaxed);
    }

    /// Whether `bytes` are left.
    #[must_use]
    pub fn has_room(&self, bytes: usize) -> bool {
        self.used().saturating_add(bytes) <= self.limit
    }

    /// Counts `bytes` that are taken already, whether they are left or not.
    pub fn take_anyway(&self, bytes: usize) {
        self.used.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Takes `bytes` from the budget; takes nothing and says no where they are not left.
    pub fn take(&self, bytes: usize) -> bool {
        self.take_up_to(self.limit, bytes)
    }

    /// As [`Budget::take`], for what is more than a usual request needs.
    fn take_for_growth(&self, bytes: usize) -> bool {
        self.take_up_to(self.limit - self.limit / FOR_SMALL_SHARE, bytes)
    }

    fn take_up_to(&self, limit: usize, bytes: usize) -> bool {
        let take = |used: usize| used.checked_add(bytes).filter(|sum| *sum <= limit);
        self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
    }

    /// Gives back what was taken.
    pub fn give_back(&self, bytes: usize) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
    }
}

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
        self.budget.take(FRESH).then(|| Box::new(Batch::new(Arc::clone(&self.budget))))
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

    /// Gives the memory that no session holds back to the budget, for other workers.
    pub fn release(&mut self) {
        self.free.clear();
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
    next: usize,
    /// How many bytes of the next command's keys are done, where it is a retrieval that was interrupted.
    keys_done: usize,
    /// Commands done since the replies were last sent.
    pub executed: Tally,
    input: Input,
    output: Vec<u8>,
    /// How much of the output the socket has taken.
    sent: usize,
    /// The client asked for the end of the connection.
    pub quit: bool,
    /// The client asked to watch, and may.
    pub watch: Option<Ticket>,
    budget: Arc<Budget>,
    /// What this batch has taken from the budget.
    counted: usize,
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
        self.budget.give_back(self.bytes.len() + REST_OVERHEAD);
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
            next: 0,
            keys_done: 0,
            executed: Tally::default(),
            input: Input { bytes: vec![0; INPUT], parsed: 0, filled: 0, scanned: 0, needed: 1, skip: 0 },
            output: Vec::with_capacity(OUTPUT),
            sent: 0,
            quit: false,
            watch: None,
            budget,
            counted: FRESH,
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
        if !self.budget.take_for_growth(missing) {
            return false;
        }
        self.counted += missing;
        // Not `resize`: fresh zeroed pages of the system are free, and only what was received is moved.
        let mut larger = vec![0; wanted];
        larger[..*filled].copy_from_slice(&bytes[..*filled]);
        *bytes = larger;
        true
    }

    /// Parses what was received, up to a limit of commands.
    pub fn parse(&mut self, limits: Limits) -> Parsed {
        if !self.has_commands() {
            self.commands.clear();
            self.starts.clear();
            self.next = 0;
        }
        let input = &mut self.input;
        while self.commands.len() < MOST_COMMANDS && input.filled - input.parsed >= input.needed {
            match memcache::parse(&input.bytes[..input.filled], input.parsed, input.scanned, limits) {
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
    pub fn current(&mut self) -> Option<Current<'_>> {
        let command = *self.commands.get(self.next)?;
        Some(Current {
            command,
            input: &self.input.bytes,
            keys_done: &mut self.keys_done,
            quit: &mut self.quit,
            watch: &mut self.watch,
            output: Output { bytes: &mut self.output, budget: &self.budget, counted: &mut self.counted },
        })
    }

    /// The commands that wait, with the bytes that their ranges are of.
    #[must_use]
    pub fn waiting(&self) -> (&[Command], &[u8]) {
        (&self.commands[self.next..], &self.input.bytes)
    }

    /// Counts the current command as done.
    pub fn finish_command(&mut self) {
        if let Some(command) = self.commands.get(self.next) {
            self.executed.add(Kind::of(command, &self.input.bytes));
        }
        self.next += 1;
        self.keys_done = 0;
    }

    /// Whether execution must pause until the socket has taken what there is.
    #[must_use]
    pub fn is_output_full(&self) -> bool {
        self.output.len() >= OUTPUT_LIMIT
    }

    /// Writes the output to `stream`, as much as it takes.
    pub fn send(&mut self, stream: &mut impl Write) -> Sent {
        while self.sent < self.output.len() {
            match stream.write(&self.output[self.sent..]) {
                Ok(0) => return Sent::Broken(ErrorKind::WriteZero.into()),
                Ok(count) => self.sent += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Sent::Blocked,
                Err(error) => return Sent::Broken(error),
            }
        }
        self.output.clear();
        self.sent = 0;
        Sent::All
    }

    /// What this batch still has to do, where that is nothing but short requests or the beginning of one.
    pub fn rest(&self) -> Option<Box<Rest>> {
        let Input { bytes, parsed, filled, skip, .. } = &self.input;
        let from = self.starts.get(self.next).map_or(*parsed, |start| *start as usize);
        let bytes = &bytes[from..*filled];
        let longest = if self.has_commands() { INPUT } else { SHORT_REST };
        if self.has_output()
            || self.quit
            || self.watch.is_some()
            || bytes.len() > longest
            || !self.budget.take(bytes.len() + REST_OVERHEAD)
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

    /// Bytes of output that the socket has not taken yet.
    #[must_use]
    pub fn unsent(&self) -> usize {
        self.output.len() - self.sent
    }

    fn clear(&mut self) {
        self.commands.clear();
        self.starts.clear();
        (self.next, self.keys_done) = (0, 0);
        self.executed = Tally::default();
        self.input.reset();
        self.output.clear();
        self.sent = 0;
        self.quit = false;
        self.watch = None;
    }

    /// Gives back what the batch has grown by.
    fn shrink(&mut self) {
        if self.counted > FRESH {
            self.input.bytes = vec![0; INPUT];
            self.output = Vec::with_capacity(OUTPUT);
            self.budget.give_back(self.counted - FRESH);
            self.counted = FRESH;
        }
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        self.budget.give_back(self.counted);
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

/// A command that is to be executed now.
pub struct Current<'a> {
    /// The command.
    pub command: Command,
    /// What its ranges are of.
    pub input: &'a [u8],
    /// How many bytes of its keys are done.
    pub keys_done: &'a mut usize,
    /// Whether the connection is to end.
    pub quit: &'a mut bool,
    /// Whether the connection is to watch.
    pub watch: &'a mut Option<Ticket>,
    /// Where its reply goes.
    pub output: Output<'a>,
}

/// Replies, within the budget.
pub struct Output<'a> {
    bytes: &'a mut Vec<u8>,
    budget: &'a Budget,
    counted: &'a mut usize,
}

impl Output<'_> {
    /// The bytes, for replies of at most `length` bytes; none where the budget is used up, and then the batch is to be
    /// sent first. A batch without output has room for short replies whatever the budget is.
    pub fn room(&mut self, length: usize) -> Option<&mut Vec<u8>> {
        let wanted = self.bytes.len() + length;
        if wanted > self.bytes.capacity() {
            // Twice as much where there is that much, so that many short replies do not move each other.
            let held = self.bytes.capacity();
            let grow = |capacity: &usize| self.budget.take_for_growth(*capacity - held);
            let capacity = [wanted.max(2 * held), wanted].into_iter().find(grow)?;
            *self.counted += capacity - held;
            self.bytes.reserve_exact(capacity - self.bytes.len());
        }
        Some(self.bytes)
    }

    /// The same output, lent to someone else.
    pub fn again(&mut self) -> Output<'_> {
        Output { bytes: self.bytes, budget: self.budget, counted: self.counted }
    }

    /// What was written behind the first `length` bytes.
    #[must_use]
    pub fn behind(&self, length: usize) -> &[u8] {
        self.bytes.get(length..).unwrap_or_default()
    }

    /// Takes back what was written behind the first `length` bytes.
    pub fn truncate(&mut self, length: usize) {
        self.bytes.truncate(length);
    }

    /// How many bytes there are.
    #[must_use]
    pub fn length(&self) -> usize {
        self.bytes.len()
    }
}
