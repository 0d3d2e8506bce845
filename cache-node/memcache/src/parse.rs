//! Bytes to commands.

mod service;

use crate::command::{Command, Rejection, Span, Verb};
use crate::meta::{MOST_WORDS, MetaFlags, MetaOptions, MetaVerb};
use crate::number;
use crate::plain::Announced;
use crate::{ping, plain};

/// The longest key in bytes.
pub const MAX_KEY_LENGTH: usize = 250;
/// A line that has not ended after so many bytes is not the memcached protocol: the connection ends, as in memcached.
pub const LONGEST_LINE: usize = 2048;
/// The longest `get` or `gets` line that is waited for: some hundred thousand keys. Longer ones end the connection.
pub const LONGEST_RETRIEVAL: usize = 1 << 20;

/// Spaces that may stand before a `get` for its line to be allowed to be long.
const LEADING_SPACES: usize = 100;
/// A value's line end, which is not counted in its length.
const LINE_END: &[u8] = b"\r\n";
/// The longest value that the protocol can announce.
const LONGEST_VALUE: i32 = i32::MAX - 2;
/// No classic command but a retrieval has more arguments, its name included.
const MOST_TOKENS: usize = 7;

/// What the parser has to know of its server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The largest value in bytes that may be stored.
    pub max_value: usize,
}

/// How the bytes of a connection are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// The memcached text protocol.
    Memcached(Limits),
    /// `PING` and `PONG`, and nothing else.
    Ping,
}

impl Protocol {
    /// As [`parse`], in this protocol.
    #[must_use]
    #[inline]
    pub fn parse(self, input: &[u8], start: usize, scanned: usize) -> Step {
        match self {
            Protocol::Memcached(limits) => parse(input, start, scanned, limits),
            Protocol::Ping => ping::parse(input, start, scanned),
        }
    }

    /// The store that `input` begins with, where its line is whole and of the form that clients usually send, so that
    /// its value can be received elsewhere than behind it.
    #[must_use]
    pub fn announced(self, input: &[u8]) -> Option<Announced> {
        match self {
            Protocol::Memcached(limits) => plain::announced(input, limits),
            Protocol::Ping => None,
        }
    }
}

/// What stands at the start of the unparsed bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// A whole command.
    Command {
        /// The command; its ranges are offsets into the whole input.
        command: Command,
        /// Where the next command begins. It can lie behind the end of the input: the value of a store that is refused
        /// is skipped, as it comes, without being kept.
        next: usize,
    },
    /// The beginning of a command.
    Partial {
        /// How many bytes it must have at least, counted from its start, before it is worth to look again.
        needed: usize,
        /// How many of the bytes that are there hold no line end, to be handed in at the next look; 0 where the line is
        /// whole and only its value is missing.
        scanned: usize,
    },
    /// A line without an end: the connection is to be closed without a word.
    TooLong,
}

/// Looks at the command that begins at `start` of `input`, of which the first `scanned` bytes are known to hold no line
/// end.
///
/// Total: every input gives a step, and a command or [`Step::TooLong`] is reached after a bounded number of bytes.
#[must_use]
#[inline]
pub fn parse(input: &[u8], start: usize, scanned: usize, limits: Limits) -> Step {
    plain::request(input, start, limits).unwrap_or_else(|| parse_any(input, start, scanned, limits))
}

/// As [`parse`], of requests in any form.
pub(crate) fn parse_any(input: &[u8], start: usize, scanned: usize, limits: Limits) -> Step {
    let rest = input.get(start..).unwrap_or_default();
    let known = scanned.min(rest.len());
    let Some(length) = memchr::memchr(b'\n', &rest[known..]).map(|at| at + known) else {
        return unfinished(rest);
    };
    // A line of nothing but its end keeps its carriage return in memcached; it is unknown either way.
    let line_length = if length > 0 && rest[length - 1] == b'\r' { length - 1 } else { length };
    let line = Line::new(&rest[..line_length], start);
    line.command(Body { input, start: start + length + 1, begun: length + 1 }, limits)
}

fn unfinished(rest: &[u8]) -> Step {
    let partial = Step::Partial { needed: rest.len() + 1, scanned: rest.len() };
    if rest.len() <= LONGEST_LINE {
        return partial;
    }
    let spaces = rest.iter().take_while(|byte| **byte == b' ').take(LEADING_SPACES + 1).count();
    let verb = &rest[spaces..];
    let is_retrieval = spaces <= LEADING_SPACES && (verb.starts_with(b"get ") || verb.starts_with(b"gets "));
    if is_retrieval && rest.len() <= LONGEST_RETRIEVAL { partial } else { Step::TooLong }
}

/// What follows a command's line.
struct Body<'a> {
    input: &'a [u8],
    /// Where it begins in the input.
    start: usize,
    /// The length of the line before it.
    begun: usize,
}

impl Body<'_> {
    fn done(&self, command: Command) -> Step {
        Step::Command { command, next: self.start }
    }

    /// The command that `make` makes of the value that stands here, once all of it is there.
    fn with_value(&self, length: usize, noreply: bool, make: impl Fn(Span) -> Command) -> Step {
        let end = self.start + length;
        let next = end + LINE_END.len();
        match self.input.get(end..next) {
            None => Step::Partial { needed: self.begun + length + LINE_END.len(), scanned: 0 },
            Some(LINE_END) => Step::Command { command: make(Span::new(self.start, length)), next },
            Some(_) => Step::Command { command: Command::Reject { rejection: Rejection::BadChunk, noreply }, next },
        }
    }

    fn reject(&self, rejection: Rejection) -> Step {
        self.reject_quietly(rejection, false)
    }

    fn reject_quietly(&self, rejection: Rejection, noreply: bool) -> Step {
        self.done(Command::Reject { rejection, noreply })
    }
}

/// A command's line without its end, cut into words at spaces as memcached does: no other white space counts, and a zero
/// byte ends the line.
struct Line<'a> {
    bytes: &'a [u8],
    /// Where the line begins in the input.
    start: usize,
}

/// A line's first words, its name included.
struct Tokens<'a> {
    words: [(usize, &'a [u8]); MOST_TOKENS],
    /// How many words the line has; one more than fit stands for any number more.
    count: usize,
}

impl<'a> Tokens<'a> {
    fn word(&self, index: usize) -> &'a [u8] {
        self.words[index].1
    }

    fn span(&self, index: usize) -> Span {
        let (start, word) = self.words[index];
        Span::new(start, word.len())
    }

    /// Whether the last word asks for silence.
    fn noreply(&self) -> bool {
        self.count >= 1 && self.count <= MOST_TOKENS && self.word(self.count - 1) == b"noreply"
    }
}

impl<'a> Line<'a> {
    fn new(bytes: &'a [u8], start: usize) -> Line<'a> {
        let end = memchr::memchr(0, bytes).unwrap_or(bytes.len());
        Line { bytes: &bytes[..end], start }
    }

    fn command(&self, body: Body<'_>, limits: Limits) -> Step {
        let begin = self.bytes.iter().position(|byte| *byte != b' ').unwrap_or(self.bytes.len());
        let after = self.bytes[begin..].iter().position(|byte| *byte == b' ').map_or(self.bytes.len(), |at| begin + at);
        match &self.bytes[begin..after] {
            b"get" | b"bget" => self.get(after, false, &body),
            b"gets" => self.get(after, true, &body),
            b"gat" => self.get_and_touch(after, false, &body),
            b"gats" => self.get_and_touch(after, true, &body),
            b"set" => self.store(Verb::Set, &body, limits),
            b"add" => self.store(Verb::Add, &body, limits),
            b"replace" => self.store(Verb::Replace, &body, limits),
            b"append" => self.store(Verb::Append, &body, limits),
            b"prepend" => self.store(Verb::Prepend, &body, limits),
            b"cas" => self.store(Verb::Cas(0), &body, limits),
            b"delete" => self.delete(&body),
            b"incr" => self.count(true, &body),
            b"decr" => self.count(false, &body),
            b"touch" => self.touch(&body),
            b"flush_all" => self.flush_all(&body),
            b"verbosity" => self.verbosity(&body),
            b"version" => body.done(Command::Version),
            b"stats" => body.done(Command::Stats { of: self.rest(after) }),
            b"mg" => self.meta(MetaVerb::Get, after, &body),
            b"md" => self.meta(MetaVerb::Delete, after, &body),
            b"ma" => self.meta(MetaVerb::Arithmetic, after, &body),
            b"ms" => self.meta_set(after, &body, limits),
            b"me" => self.meta_debug(&body),
            b"mn" => body.done(Command::MetaNoop),
            b"quit" => body.done(Command::Quit),
            b"watch" => self.watch(&body),
            b"config" => self.config(&body),
            b"lru_crawler" => self.crawler(&body),
            b"cache_memlimit" => self.memory_limit(&body),
            b"shutdown" => self.shutdown(&body),
            _ => body.reject(Rejection::Unknown),
        }
    }

    /// What follows offset `from` of the line, without the spaces around it.
    fn rest(&self, from: usize) -> Span {
        let bytes = &self.bytes[from..];
        let spaces = bytes.iter().take_while(|byte| **byte == b' ').count();
        let trailing = bytes[spaces..].iter().rev().take_while(|byte| **byte == b' ').count();
        Span::new(self.start + from + spaces, bytes.len() - spaces - trailing)
    }

    fn tokens(&self) -> Tokens<'a> {
        let mut tokens = Tokens { words: [(0, &[][..]); MOST_TOKENS], count: 0 };
        let mut at = 0;
        for word in self.bytes.split(|byte| *byte == b' ') {
            if !word.is_empty() {
                if tokens.count == MOST_TOKENS {
                    tokens.count += 1;
                    break;
                }
                tokens.words[tokens.count] = (self.start + at, word);
                tokens.count += 1;
            }
            at += word.len() + 1;
        }
        tokens
    }

    fn get(&self, after: usize, with_cas: bool, body: &Body<'_>) -> Step {
        let keys = self.rest(after);
        if keys.length() == 0 {
            return body.reject(Rejection::Unknown);
        }
        if !keys_fit(keys.of(body.input)) {
            return body.reject(Rejection::BadLine);
        }
        body.done(Command::Get { keys, with_cas })
    }

    fn get_and_touch(&self, after: usize, with_cas: bool, body: &Body<'_>) -> Step {
        let arguments = self.rest(after);
        let words = arguments.of(body.input);
        if words.is_empty() {
            return body.reject(Rejection::Unknown);
        }
        let length = words.iter().position(|byte| *byte == b' ').unwrap_or(words.len());
        let Some(exptime) = number::signed(&words[..length]) else {
            return body.reject(Rejection::BadExptime);
        };
        let keys = self.rest(arguments.start() - self.start + length);
        if !keys_fit(keys.of(body.input)) {
            return body.reject(Rejection::BadLine);
        }
        body.done(Command::GetAndTouch { keys, with_cas, exptime })
    }

    fn store(&self, verb: Verb, body: &Body<'_>, limits: Limits) -> Step {
        let tokens = self.tokens();
        let arguments = if matches!(verb, Verb::Cas(_)) { 6 } else { 5 };
        if tokens.count != arguments && tokens.count != arguments + 1 {
            return body.reject(Rejection::Unknown);
        }
        let noreply = tokens.noreply();
        let numbers = (
            number::flags(tokens.word(2)),
            number::signed(tokens.word(3)),
            number::length(tokens.word(4)).filter(|length| *length <= LONGEST_VALUE),
        );
        let (key, (Some(flags), Some(exptime), Some(length))) = (tokens.span(1), numbers) else {
            return body.reject_quietly(Rejection::BadLine, noreply);
        };
        let cas = if arguments == 6 { number::unsigned(tokens.word(5)) } else { Some(0) };
        let (Some(cas), true) = (cas, key.length() <= MAX_KEY_LENGTH) else {
            return body.reject_quietly(Rejection::BadLine, noreply);
        };
        let verb = if arguments == 6 { Verb::Cas(cas) } else { verb };
        let length = length.unsigned_abs() as usize;
        let next = body.start + length + LINE_END.len();
        if length > limits.max_value {
            return Step::Command { command: Command::StoreTooLarge { verb, key, noreply }, next };
        }
        body.with_value(length, noreply, |value| Command::Store { verb, key, value, flags, exptime, noreply })
    }

    /// The key of a meta command and how many words the line has behind its name.
    fn meta_key(&self, after: usize) -> (Span, usize) {
        let words = self.rest(after);
        let bytes = &self.bytes[words.start() - self.start..][..words.length()];
        let length = bytes.iter().position(|byte| *byte == b' ').unwrap_or(bytes.len());
        let count = bytes.split(|byte| *byte == b' ').filter(|word| !word.is_empty()).count();
        (Span::new(words.start(), length), count)
    }

    fn meta(&self, verb: MetaVerb, after: usize, body: &Body<'_>) -> Step {
        let (key, words) = self.meta_key(after);
        if words == 0 {
            return body.reject(Rejection::Unknown);
        }
        if key.length() > MAX_KEY_LENGTH {
            return body.reject(Rejection::BadLine);
        }
        if words > MOST_WORDS {
            let is_get = verb == MetaVerb::Get;
            return body.reject(if is_get { Rejection::TooManyGetFlags } else { Rejection::TooManyFlags });
        }
        let flags = self.rest(key.start() - self.start + key.length());
        match read_flags(verb, key.of(body.input), flags.of(body.input)) {
            Ok(_) => body.done(Command::Meta { verb, key, flags }),
            Err(rejection) => body.reject(rejection),
        }
    }

    fn meta_set(&self, after: usize, body: &Body<'_>, limits: Limits) -> Step {
        let (key, words) = self.meta_key(after);
        if words == 0 {
            return body.reject(Rejection::Unknown);
        }
        if key.length() > MAX_KEY_LENGTH || words == 1 {
            return body.reject(Rejection::BadLine);
        }
        if words > MOST_WORDS {
            return body.reject(Rejection::TooManyFlags);
        }
        let (length, _) = self.meta_key(key.start() - self.start + key.length());
        let flags = self.rest(length.start() - self.start + length.length());
        let announced = number::length(length.of(body.input)).filter(|length| *length <= LONGEST_VALUE);
        let Some(length) = announced.map(|length| length.unsigned_abs() as usize) else {
            return body.reject(Rejection::BadLine);
        };
        // What is refused still has its value behind it.
        let next = body.start + length + LINE_END.len();
        if let Err(rejection) = read_flags(MetaVerb::Set, key.of(body.input), flags.of(body.input)) {
            return Step::Command { command: Command::Reject { rejection, noreply: false }, next };
        }
        if length > limits.max_value {
            return Step::Command { command: Command::MetaSetTooLarge { key, flags }, next };
        }
        body.with_value(length, false, |value| Command::MetaSet { key, flags, value })
    }

    fn meta_debug(&self, body: &Body<'_>) -> Step {
        let tokens = self.tokens();
        let key = tokens.span(1);
        if tokens.count < 2 || key.length() > MAX_KEY_LENGTH {
            return body.reject(Rejection::BadLine);
        }
        let binary_key = tokens.count > 2 && tokens.word(2) == b"b";
        let options = MetaOptions { binary_key, ..MetaOptions::default() };
        match options.key(key.of(body.input), &mut [0; MAX_KEY_LENGTH]) {
            Some(_) => body.done(Command::MetaDebug { key, binary_key }),
            None => body.reject(Rejection::BadLine),
        }
    }

    fn delete(&self, body: &Body<'_>) -> Step {
        let tokens = self.tokens();
        if !(2..=4).contains(&tokens.count) {
            return body.reject(Rejection::Unknown);
        }
        // An ancient form names a time to hold the key, of which only zero is left.
        let hold_is_zero = tokens.count > 2 && tokens.word(2) == b"0";
        let noreply = tokens.count > 2 && tokens.noreply();
        let valid = match tokens.count {
            2 => true,
            3 => hold_is_zero || noreply,
            _ => hold_is_zero && noreply,
        };
        if !valid {
            return body.reject_quietly(Rejection::BadDelete, noreply);
        }
        let key = tokens.span(1);
        if key.length() > MAX_KEY_LENGTH {
            return body.reject_quietly(Rejection::BadLine, noreply);
        }
        body.done(Command::Delete { key, noreply })
    }

    fn count(&self, up: bool, body: &Body<'_>) -> Step {
        self.keyed(body, |tokens, key, noreply| {
            let delta = number::unsigned(tokens.word(2)).ok_or(Rejection::BadDelta)?;
            Ok(Command::Count { key, delta, up, noreply })
        })
    }

    fn touch(&self, body: &Body<'_>) -> Step {
        self.keyed(body, |tokens, key, noreply| {
            let exptime = number::signed(tokens.word(2)).ok_or(Rejection::BadExptime)?;
            Ok(Command::Touch { key, exptime, noreply })
        })
    }

    /// A command of a key, one number and perhaps `noreply`.
    fn keyed(&self, body: &Body<'_>, read: impl Fn(&Tokens<'_>, Span, bool) -> Result<Command, Rejection>) -> Step {
        let tokens = self.tokens();
        if !(3..=4).contains(&tokens.count) {
            return body.reject(Rejection::Unknown);
        }
        let (key, noreply) = (tokens.span(1), tokens.noreply());
        if key.length() > MAX_KEY_LENGTH {
            return body.reject_quietly(Rejection::BadLine, noreply);
        }
        match read(&tokens, key, noreply) {
            Ok(command) => body.done(command),
            Err(rejection) => body.reject_quietly(rejection, noreply),
        }
    }

    fn flush_all(&self, body: &Body<'_>) -> Step {
        let tokens = self.tokens();
        if !(1..=3).contains(&tokens.count) {
            return body.reject(Rejection::Unknown);
        }
        let noreply = tokens.noreply();
        if tokens.count == if noreply { 2 } else { 1 } {
            return body.done(Command::FlushAll { delay: 0, noreply });
        }
        match number::signed(tokens.word(1)) {
            Some(delay) => body.done(Command::FlushAll { delay, noreply }),
            None => body.reject_quietly(Rejection::BadExptime, noreply),
        }
    }
}

/// Reads the flags of a meta command, to know that they can be read.
pub(crate) fn read_flags(verb: MetaVerb, key: &[u8], flags: &[u8]) -> Result<MetaOptions, Rejection> {
    let short = |rejection| match (verb, rejection) {
        (MetaVerb::Delete | MetaVerb::Arithmetic, Rejection::OpaqueTooLong) => Rejection::OpaqueTooLong,
        (MetaVerb::Delete | MetaVerb::Arithmetic, _) => Rejection::BadFlags,
        (_, rejection) => rejection,
    };
    let options = MetaFlags(flags).read(key).map_err(short)?;
    match (verb, options.mode) {
        (MetaVerb::Set, Some(mode)) if !b"EAPRS".contains(&mode) => Err(Rejection::BadSetMode),
        (MetaVerb::Arithmetic, Some(mode)) if !b"I+D-".contains(&mode) => Err(Rejection::BadCountMode),
        _ => Ok(options),
    }
}

/// Whether each of the keys, which have spaces between them, is of a legal length.
fn keys_fit(keys: &[u8]) -> bool {
    keys.len() <= MAX_KEY_LENGTH || keys.split(|byte| *byte == b' ').all(|key| key.len() <= MAX_KEY_LENGTH)
}
