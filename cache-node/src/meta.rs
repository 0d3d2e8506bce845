//! Meta commands and the cache become replies; the classic ones are in `execute.rs`.

use memcache::{MAX_KEY_LENGTH, MetaFlags, MetaOptions, MetaVerb, Reply, write_number};
use segcache::{ArithmeticError, Cache, Deadline, Item, KeyHash, Mode, NewItem, Outcome, Reservation, StoreError};

use crate::buffers::Output;
use crate::execute::{Flow, server_error, write};
use crate::kind::Kind;
use crate::metrics::Counters;

/// What a reply has at most beside the value and the echoed flags: code, sizes, numbers, line ends.
const FRAME: usize = 192;
/// Base64 makes three bytes into four.
const LONGEST_ECHO: usize = MAX_KEY_LENGTH * 4 / 3 + 8;
/// A 64-bit number in decimal.
const LONGEST_NUMBER: usize = 20;

/// One meta command about to be executed.
pub struct Meta<'a> {
    /// The key as it was sent.
    pub key: &'a [u8],
    /// The flags as they were sent; the parser has found that they can be read.
    pub flags: &'a [u8],
}

/// What a command is executed with.
pub struct Means<'a, 'o> {
    /// Where its reply goes.
    pub output: &'a mut Output<'o>,
    /// What it is about.
    pub cache: &'a mut Cache,
    /// Who counts.
    pub counters: &'a Counters,
}

/// The value of an `ms`.
pub struct NewValue<'a> {
    /// The value as it was received, where it is not in the cache already.
    pub bytes: &'a [u8],
    /// Where it is. What is refused is left here.
    pub reserved: &'a mut Option<Reservation>,
}

/// What the echoed flags are told about.
#[derive(Clone, Copy, Default)]
struct Facts {
    size: Option<usize>,
    cas: Option<u64>,
    flags: Option<u32>,
    hit_before: Option<bool>,
    /// Seconds since the last access.
    unused: Option<u64>,
    deadline: Option<Deadline>,
    /// The deadline from the flag `T` on.
    touched: Option<Deadline>,
    /// The deadline from the flag `N` on, where the item is new.
    vivified: Option<Deadline>,
    /// The value is out of date.
    stale: bool,
    /// Somebody was told to renew the item before.
    won_before: bool,
    /// This client is told to renew it.
    wins: bool,
}

impl Facts {
    fn of(item: &Item<'_>) -> Facts {
        Facts {
            size: Some(item.value.len()),
            cas: Some(item.cas),
            flags: Some(item.flags),
            hit_before: Some(item.hit_before),
            deadline: Some(item.deadline),
            stale: item.stale,
            won_before: item.won,
            ..Facts::default()
        }
    }
}

impl Meta<'_> {
    /// `mg`, `md` or `ma`.
    pub fn perform(&self, verb: MetaVerb, means: Means<'_, '_>) -> Flow {
        let mut room = [0; MAX_KEY_LENGTH];
        let Some((options, key)) = self.options(&mut room) else { return Flow::Done };
        // All but a value has room before anything is done, so that nothing is done twice.
        if means.output.room(self.echo_length()).is_none() {
            return Flow::Pause;
        }
        match verb {
            MetaVerb::Get => self.get(&options, key, means),
            MetaVerb::Delete => self.delete(&options, key, means),
            MetaVerb::Arithmetic => self.count(&options, key, means),
            // The parser gives `ms` a command of its own, with its value.
            MetaVerb::Set => Flow::Done,
        }
    }

    /// `mg` of nothing but the value, which is nearly all that is asked: one look-up, like a `get`. None where there is
    /// more to be told.
    pub fn value(&self, hash: Option<KeyHash>, means: &mut Means<'_, '_>) -> Option<Flow> {
        let Means { output, cache, counters } = means;
        if self.flags != b"v" {
            return None;
        }
        let hash = hash.unwrap_or_else(|| cache.hash_of(self.key));
        let (mut is_plain, mut has_room) = (true, output.room(FRAME).is_some());
        let found = cache.get_if(hash, self.key, |item| {
            is_plain = !item.stale && !item.won;
            has_room = is_plain && output.room(item.length + FRAME).is_some();
            has_room
        });
        if !is_plain {
            return None;
        }
        let Some(out) = output.room(FRAME).filter(|_| has_room) else { return Some(Flow::Pause) };
        counters.request(Kind::Get);
        if let Some(item) = found {
            counters.hit(Kind::Get);
            counters.value_bytes(Kind::Get, item.value.len());
            out.extend_from_slice(b"VA ");
            write_number(out, item.value.len() as u64);
            out.extend_from_slice(b"\r\n");
            output.put_value(item.value, b"\r\n");
        } else {
            counters.miss(Kind::Get);
            out.extend_from_slice(b"EN\r\n");
        }
        Some(Flow::Done)
    }

    fn options<'r>(&'r self, room: &'r mut [u8; MAX_KEY_LENGTH]) -> Option<(MetaOptions, &'r [u8])> {
        let options = MetaFlags(self.flags).read(self.key).ok()?;
        Some((options, options.key(self.key, room)?))
    }

    fn echo_length(&self) -> usize {
        self.flags.len() + LONGEST_ECHO + FRAME
    }

    fn get(&self, options: &MetaOptions, key: &[u8], means: Means<'_, '_>) -> Flow {
        let Means { output, cache, counters } = means;
        let Some((facts, length)) = cache.peek(key).map(|item| (Facts::of(&item), item.value.len())) else {
            return self.get_missing(options, key, Means { output, cache, counters });
        };
        // Before the item is touched: a pause must not change what the command finds when it comes again.
        let value_length = if options.value { length } else { 0 };
        if output.room(value_length + self.echo_length()).is_none() {
            return Flow::Pause;
        }
        counters.request(Kind::Get);
        let now = cache.now();
        let accessed = if options.last_access { cache.last_access(key) } else { None };
        let touched = options.exptime.map(|exptime| Deadline::from_memcached(exptime, now));
        let unused = accessed.map(|accessed| now.saturating_sub(accessed));
        let facts = Facts { touched, unused, ..facts };
        let facts = Facts { wins: self.wins(options, &facts, now), ..facts };
        // A mark for which there is no room is made by the next client that asks.
        let marked = if facts.wins { cache.win(key).map(drop) } else { Ok(()) };
        let kept = if options.last_access && !options.no_update { cache.keep_access(key).map(drop) } else { Ok(()) };
        let found = marked.and(kept).and_then(|()| fetch(options, key, touched, cache));
        let (Ok(Some(item)), Some(out)) = (found, output.room(value_length + self.echo_length())) else {
            return write(server_error(Reply::OutOfMemoryTouching, counters).text(), output);
        };
        counters.hit(Kind::Get);
        counters.value_bytes(Kind::Get, value_length);
        self.answer_get(item.value, options, &facts, now, out);
        Flow::Done
    }

    fn answer_get(&self, value: &[u8], options: &MetaOptions, facts: &Facts, now: u64, out: &mut Vec<u8>) {
        if options.value {
            out.extend_from_slice(b"VA ");
            write_number(out, value.len() as u64);
        } else {
            out.extend_from_slice(b"HD");
        }
        self.echo(options, facts, now, out);
        out.extend_from_slice(b"\r\n");
        if options.value {
            out.extend_from_slice(value);
            out.extend_from_slice(b"\r\n");
        }
    }

    /// A get of a key that is not there, which may make an empty item that its client is to fill.
    fn get_missing(&self, options: &MetaOptions, key: &[u8], means: Means<'_, '_>) -> Flow {
        let Means { output, cache, counters } = means;
        counters.request(Kind::Get);
        counters.miss(Kind::Get);
        let now = cache.now();
        let at = |exptime: i64| Deadline::from_memcached(exptime, now);
        let mut facts = Facts {
            size: Some(0),
            flags: Some(0),
            hit_before: Some(false),
            unused: Some(0),
            deadline: Some(Deadline::Never),
            touched: options.exptime.map(at),
            vivified: options.vivify.map(at),
            wins: true,
            ..Facts::default()
        };
        // No room for an empty item is no more than a miss, as in memcached.
        let made = options.vivify.is_some() && vivify(key, self.last_deadline(&facts), options, cache).unwrap_or(false);
        if !made {
            return if options.quiet {
                Flow::Done
            } else {
                self.answer(b"EN", options, &Facts::default(), now, output)
            };
        }
        facts.cas = cache.peek(key).map(|item| item.cas);
        if !options.no_update {
            cache.get(key);
        }
        if let Some(out) = output.room(self.echo_length()) {
            self.answer_get(b"", options, &facts, now, out);
        }
        Flow::Done
    }

    /// Whether the client is the one who is to renew an item: because it is out of date, or has less time left than the
    /// flag `R` says. Flags count in their order, so a `T` before it gives the item more time.
    fn wins(&self, options: &MetaOptions, facts: &Facts, now: u64) -> bool {
        if facts.won_before {
            return false;
        }
        let limit = options.recache.map(|exptime| Deadline::from_memcached(exptime, now));
        let (Some(Deadline::At(limit)), Some(mut deadline)) = (limit, facts.deadline) else { return facts.stale };
        let mut is_due = false;
        for (letter, _) in MetaFlags(self.flags).tokens() {
            match (letter, deadline) {
                (b'T', _) => deadline = facts.touched.unwrap_or(deadline),
                (b'R', Deadline::At(last)) => is_due |= last < limit,
                _ => {}
            }
        }
        is_due || facts.stale
    }

    /// `ms`, with its value; none where that is above the limit.
    pub fn set(&self, value: Option<NewValue<'_>>, means: Means<'_, '_>) -> Flow {
        let Means { output, cache, counters } = means;
        let mut room = [0; MAX_KEY_LENGTH];
        let Some((options, key)) = self.options(&mut room) else { return Flow::Done };
        if output.room(self.echo_length()).is_none() {
            return Flow::Pause;
        }
        let (mode, kind) = set_mode(&options);
        counters.request(kind);
        let Some(value) = value else {
            cache.delete(key);
            return write(server_error(Reply::TooLarge, counters).text(), output);
        };
        let length = value.reserved.as_ref().map_or(value.bytes.len(), Reservation::length);
        let item = new_item(&options, key, value.bytes, cache.now());
        let (code, cas) = match store_compared(cache, mode, &item, value.reserved, &options) {
            Ok(Outcome::Stored { cas }) => {
                counters.hit(kind);
                counters.value_bytes(kind, length);
                if options.quiet {
                    return Flow::Done;
                }
                (b"HD", cas)
            }
            Ok(Outcome::NotStored) => {
                counters.miss(kind);
                (b"NS", 0)
            }
            Ok(Outcome::NotFound) => {
                counters.miss(kind);
                (b"NF", 0)
            }
            Ok(Outcome::Exists) => {
                counters.conflict(kind);
                (b"EX", 0)
            }
            Err(error) => {
                cache.delete(key);
                let is_too_large = matches!(error, StoreError::TooLarge { .. });
                let reply = if is_too_large { Reply::TooLarge } else { Reply::OutOfMemory };
                return write(server_error(reply, counters).text(), output);
            }
        };
        self.answer(code, &options, &Facts { cas: Some(cas), ..Facts::default() }, cache.now(), output)
    }

    fn delete(&self, options: &MetaOptions, key: &[u8], means: Means<'_, '_>) -> Flow {
        let Means { output, cache, counters } = means;
        counters.request(Kind::Delete);
        let cas = cache.peek(key).map(|item| item.cas);
        let code = match (cas, options.compare) {
            (None, _) => {
                counters.miss(Kind::Delete);
                b"NF"
            }
            (Some(cas), Some(expected)) if cas != expected => {
                counters.conflict(Kind::Delete);
                b"EX"
            }
            (Some(_), _) => {
                let deadline = options.exptime.map(|exptime| Deadline::from_memcached(exptime, cache.now()));
                if !options.invalidate {
                    cache.delete(key);
                } else if cache.mark_stale(key, deadline, options.new_cas).is_err() {
                    return write(server_error(Reply::OutOfMemoryTouching, counters).text(), output);
                }
                counters.hit(Kind::Delete);
                if options.quiet {
                    return Flow::Done;
                }
                b"HD"
            }
        };
        self.answer(code, options, &Facts::default(), cache.now(), output)
    }

    fn count(&self, options: &MetaOptions, key: &[u8], means: Means<'_, '_>) -> Flow {
        let Means { output, cache, counters } = means;
        let is_down = matches!(options.mode, Some(b'D' | b'-'));
        let kind = if is_down { Kind::Decrement } else { Kind::Increment };
        counters.request(kind);
        let now = cache.now();
        let before = cache.peek(key).map(|item| (item.cas, item.deadline, item.value.len()));
        if let (Some((cas, _, length)), Some(expected)) = (before, options.compare)
            && ![0, cas].contains(&expected)
        {
            if length == 0 {
                return write(Reply::NotANumber.text(), output);
            }
            counters.conflict(kind);
            return self.answer(b"EX", options, &Facts::default(), now, output);
        }
        let delta = options.delta.unwrap_or(1);
        let result = if is_down { cache.decr(key, delta) } else { cache.incr(key, delta) };
        let at = |exptime: i64| Deadline::from_memcached(exptime, now);
        let touched = options.exptime.map(at);
        let mut facts = Facts { deadline: before.map(|(_, deadline, _)| deadline), touched, ..Facts::default() };
        let number = match (result, options.vivify) {
            (Ok(number), _) => {
                counters.hit(kind);
                let is_renamed = options.new_cas.is_none_or(|cas| set_cas(key, cas, cache).is_ok());
                // Before it is touched: what ends with that had a CAS all the same.
                facts.cas = cache.peek(key).map(|item| item.cas);
                if !is_renamed || touched.is_some_and(|deadline| cache.touch(key, deadline).is_err()) {
                    return write(server_error(Reply::OutOfMemoryTouching, counters).text(), output);
                }
                if options.quiet {
                    return Flow::Done;
                }
                number
            }
            (Err(ArithmeticError::NotFound), None) => {
                counters.miss(kind);
                return self.answer(b"NF", options, &Facts::default(), now, output);
            }
            (Err(ArithmeticError::NotFound), Some(exptime)) => {
                counters.miss(kind);
                facts = Facts { deadline: Some(Deadline::Never), vivified: Some(at(exptime)), ..facts };
                let mut digits = Vec::with_capacity(LONGEST_NUMBER);
                write_number(&mut digits, options.initial);
                let deadline = self.last_deadline(&facts);
                let item = NewItem { key, value: &digits, flags: 0, deadline, cas: options.new_cas };
                let Ok(Outcome::Stored { cas }) = cache.store(Mode::Add, &item) else {
                    return write(server_error(Reply::OutOfMemoryCounting, counters).text(), output);
                };
                facts.cas = Some(cas);
                options.initial
            }
            (Err(ArithmeticError::NotANumber), _) => return write(Reply::NotANumber.text(), output),
            (Err(ArithmeticError::Store(_)), _) => {
                return write(server_error(Reply::OutOfMemoryCounting, counters).text(), output);
            }
        };
        self.answer_count(number, options, &facts, now, output)
    }

    /// The deadline of a new item: the last flag that sets one counts.
    fn last_deadline(&self, facts: &Facts) -> Deadline {
        let set = MetaFlags(self.flags).tokens().filter_map(|(letter, _)| match letter {
            b'T' => facts.touched,
            b'N' => facts.vivified,
            _ => None,
        });
        set.last().unwrap_or_default()
    }

    fn answer_count(
        &self,
        number: u64,
        options: &MetaOptions,
        facts: &Facts,
        now: u64,
        output: &mut Output<'_>,
    ) -> Flow {
        if !options.value {
            return self.answer(b"HD", options, facts, now, output);
        }
        if let Some(out) = output.room(self.echo_length()) {
            let length = number.checked_ilog10().map_or(1, |log| u64::from(log) + 1);
            out.extend_from_slice(b"VA ");
            write_number(out, length);
            self.echo(options, facts, now, out);
            out.extend_from_slice(b"\r\n");
            write_number(out, number);
            out.extend_from_slice(b"\r\n");
        }
        Flow::Done
    }

    /// A code and the flags that are to be echoed; room was found before.
    fn answer(&self, code: &[u8; 2], options: &MetaOptions, facts: &Facts, now: u64, output: &mut Output<'_>) -> Flow {
        if let Some(out) = output.room(self.echo_length()) {
            out.extend_from_slice(code);
            self.echo(options, facts, now, out);
            out.extend_from_slice(b"\r\n");
        }
        Flow::Done
    }

    /// Answers the flags in the order in which they were sent, as far as there is something to answer.
    fn echo(&self, options: &MetaOptions, facts: &Facts, now: u64, out: &mut Vec<u8>) {
        let mut deadline = facts.deadline;
        for (letter, token) in MetaFlags(self.flags).tokens() {
            match letter {
                b'O' => {
                    out.extend_from_slice(b" O");
                    out.extend_from_slice(token);
                }
                b'k' if options.binary_key => {
                    out.extend_from_slice(b" k");
                    out.extend_from_slice(self.key);
                    out.extend_from_slice(b" b");
                }
                b'k' => {
                    out.extend_from_slice(b" k");
                    out.extend_from_slice(self.key);
                }
                b's' => fact(out, b's', facts.size.map(|size| size as u64)),
                b'c' => fact(out, b'c', facts.cas),
                b'f' => fact(out, b'f', facts.flags.map(u64::from)),
                b'h' => fact(out, b'h', facts.hit_before.map(u64::from)),
                b'l' => fact(out, b'l', facts.unused),
                b't' => match deadline {
                    Some(Deadline::Never) => out.extend_from_slice(b" t-1"),
                    Some(Deadline::At(last)) => fact(out, b't', Some(last.saturating_sub(now))),
                    None => {}
                },
                // Memcached changes the item when it comes to these flags: a `t` before them tells the old time.
                b'T' => deadline = facts.touched.or(deadline),
                b'N' => deadline = facts.vivified.or(deadline),
                _ => {}
            }
        }
        for (holds, flag) in [(facts.won_before, b" Z"), (facts.stale, b" X"), (facts.wins, b" W")] {
            if holds {
                out.extend_from_slice(flag);
            }
        }
    }
}

fn fact(out: &mut Vec<u8>, letter: u8, number: Option<u64>) {
    if let Some(number) = number {
        out.extend_from_slice(&[b' ', letter]);
        write_number(out, number);
    }
}

/// The item of a get, which counts as read unless it is asked not to.
fn fetch<'c>(
    options: &MetaOptions,
    key: &[u8],
    touched: Option<Deadline>,
    cache: &'c mut Cache,
) -> Result<Option<Item<'c>>, StoreError> {
    match touched {
        Some(deadline) if options.no_update && !deadline.is_past(cache.now()) => {
            cache.touch(key, deadline)?;
            Ok(cache.peek(key))
        }
        Some(deadline) => cache.get_and_touch(key, deadline),
        None if options.no_update => Ok(cache.peek(key)),
        None => Ok(cache.get(key)),
    }
}

/// Makes an empty item whose renewal the client has won; says whether it did.
fn vivify(key: &[u8], deadline: Deadline, options: &MetaOptions, cache: &mut Cache) -> Result<bool, StoreError> {
    if options.new_cas.is_none() {
        return cache.vivify(key, deadline);
    }
    let item = NewItem { key, value: &[], flags: 0, deadline, cas: options.new_cas };
    let made = matches!(cache.store(Mode::Add, &item)?, Outcome::Stored { .. });
    cache.win(key)?;
    Ok(made)
}

/// Stores the number under `key` again, with a CAS that its client chose.
fn set_cas(key: &[u8], cas: u64, cache: &mut Cache) -> Result<(), StoreError> {
    let Some(Item { value, flags, deadline, .. }) = cache.peek(key) else { return Ok(()) };
    let mut digits = [b' '; LONGEST_NUMBER];
    let length = value.len().min(LONGEST_NUMBER);
    digits[..length].copy_from_slice(&value[..length]);
    cache.store(Mode::Set, &NewItem { key, value: &digits[..length], flags, deadline, cas: Some(cas) }).map(drop)
}

/// The item that an `ms` stores.
pub fn new_item<'a>(options: &MetaOptions, key: &'a [u8], value: &'a [u8], now: u64) -> NewItem<'a> {
    let deadline = Deadline::from_memcached(options.exptime.unwrap_or(0), now);
    NewItem { key, value, flags: options.flags, deadline, cas: options.new_cas }
}

/// The mode of an `ms`, and what it is counted as.
fn set_mode(options: &MetaOptions) -> (Mode, Kind) {
    match (options.mode, options.compare) {
        // Zero is no CAS of any item, so none is older either.
        (None | Some(b'S' | b'R'), Some(cas)) if options.invalidate && cas > 0 => (Mode::CasOrStale(cas), Kind::Cas),
        (None | Some(b'S' | b'R'), Some(cas)) => (Mode::Cas(cas), Kind::Cas),
        (Some(b'R'), None) => (Mode::Replace, Kind::Replace),
        (Some(b'E'), _) => (Mode::Add, Kind::Add),
        (Some(b'A'), _) => (Mode::Append, Kind::Append),
        (Some(b'P'), _) => (Mode::Prepend, Kind::Prepend),
        _ => (Mode::Set, Kind::Set),
    }
}

/// Stores; an append or prepend too is only done to the item that has the CAS, where one is given.
fn store_compared(
    cache: &mut Cache,
    mode: Mode,
    item: &NewItem<'_>,
    reserved: &mut Option<Reservation>,
    options: &MetaOptions,
) -> Result<Outcome, StoreError> {
    if let (Mode::Append | Mode::Prepend, Some(expected)) = (mode, options.compare)
        && expected != 0
        && cache.peek(item.key).is_some_and(|old| old.cas != expected)
    {
        return Ok(Outcome::Exists);
    }
    match reserved.take() {
        Some(reservation) => cache.commit(reservation, mode),
        None => cache.store(mode, item),
    }
}

/// `me`: what is known of an item.
pub fn debug(key: &[u8], binary_key: bool, output: &mut Output<'_>, cache: &Cache, counters: &Counters) -> Flow {
    let mut room = [0; MAX_KEY_LENGTH];
    let options = MetaOptions { binary_key, ..MetaOptions::default() };
    let found = options.key(key, &mut room).and_then(|key| Some((key, cache.peek(key)?)));
    let Some((decoded, item)) = found else {
        counters.request(Kind::Service);
        return write(b"EN\r\n", output);
    };
    let Some(out) = output.room(LONGEST_ECHO + FRAME) else { return Flow::Pause };
    counters.request(Kind::Service);
    out.extend_from_slice(b"ME ");
    out.extend_from_slice(key);
    out.extend_from_slice(b" exp=");
    match item.deadline {
        Deadline::Never => out.extend_from_slice(b"-1"),
        Deadline::At(last) => write_number(out, last.saturating_sub(cache.now())),
    }
    out.extend_from_slice(b" la=");
    write_number(out, cache.last_access(decoded).map_or(0, |accessed| cache.now().saturating_sub(accessed)));
    out.extend_from_slice(b" cas=");
    write_number(out, item.cas);
    out.extend_from_slice(if item.hit_before { b" fetch=yes" } else { b" fetch=no" });
    out.extend_from_slice(b" size=");
    write_number(out, (decoded.len() + item.value.len()) as u64);
    for (holds, mark) in [(item.stale, &b" stale=yes"[..]), (item.won, b" won=yes")] {
        if holds {
            out.extend_from_slice(mark);
        }
    }
    out.extend_from_slice(b"\r\n");
    Flow::Done
}
