//! Commands and the cache become replies: the only place where protocol and storage meet.

use std::io::Write;

use memcache::{Command, MAX_KEY_LENGTH, MetaFlags, MetaVerb, Reply, Span, Verb, write_number, write_value_head};
use segcache::{
    ArithmeticError, Cache, Deadline, Glance, Item, KeyHash, Mode, NewItem, Outcome, Reservation, StoreError,
};

use crate::buffers::{Batch, Current, OUTPUT_LIMIT, Output};
use crate::kind::Kind;
use crate::meta::{self, Means, Meta, NewValue};
use crate::metrics::{Counters, Metrics};
use crate::observed::{REQUESTS, perform_observed};
use crate::service::{self, Future};

/// `VALUE `, flags, length, CAS, spaces and line ends: what a value's reply has beside key and value at most.
const VALUE_FRAME: usize = 64;
/// The longest reply that holds no value.
const SHORT_REPLY: usize = 128;
/// Keys that are looked up ahead in a retrieval of many, so that their memory is on its way.
const LOOK_AHEAD: usize = 32;

/// Whether the current command is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// It is.
    Done,
    /// The output must be sent before this command can go on.
    Pause,
}

/// Who counts, and what can be told about the node.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    /// The counters of the executing thread.
    pub counters: &'a Counters,
    /// The whole node's figures.
    pub metrics: &'a Metrics,
}

/// Executes the batch's commands until they are done or there is as much output as may be; the batch then has to be
/// sent and to come again.
pub fn execute(batch: &mut Batch, cache: &mut Cache, context: Context<'_>) {
    execute_to(None, batch, cache, context);
}

/// As [`execute`]; large values go to `wire` at once.
pub fn execute_to(mut wire: Option<&mut dyn Write>, batch: &mut Batch, cache: &mut Cache, context: Context<'_>) {
    let is_observed = context.metrics.watch.wants(REQUESTS);
    while !batch.is_output_full() {
        // Who observes looks at the reply in the output.
        let wire = wire.as_mut().filter(|_| !is_observed).map(|wire| &mut **wire as &mut dyn Write);
        let Some(current) = batch.current(wire) else { return };
        let flow =
            if is_observed { perform_observed(current, cache, context) } else { perform(current, cache, context) };
        if flow == Flow::Pause {
            return;
        }
        // The value of a store that was rejected.
        batch.abandon(cache);
        batch.finish_command();
    }
}

/// The item that an announced store will store, but for its value. `room` is for a key that comes in another form.
pub fn announced_item<'a>(
    command: Command,
    input: &'a [u8],
    room: &'a mut [u8; MAX_KEY_LENGTH],
    now: u64,
) -> Option<NewItem<'a>> {
    match command {
        Command::Store { key, flags, exptime, .. } => {
            let deadline = Deadline::from_memcached(exptime, now);
            Some(NewItem { key: key.of(input), value: &[], flags, deadline, cas: None })
        }
        Command::MetaSet { key, flags, .. } => {
            let options = MetaFlags(flags.of(input)).read(key.of(input)).ok()?;
            Some(meta::new_item(&options, options.key(key.of(input), room)?, &[], now))
        }
        _ => None,
    }
}

/// Has the index entries of the batch's keys fetched: in a large cache each look-up otherwise waits for main memory
/// twice. To be called for all batches of a turn first, then [`prefetch_items`], then [`execute`].
pub fn prefetch_keys(batch: &mut Batch, cache: &Cache) {
    // What has no key gets a hash too, which nobody asks for.
    batch.note_hashes(|command, input| cache.hash_of(command.first_key(input).unwrap_or_default()));
    batch.waiting_hashes().iter().for_each(|hash| cache.prefetch(*hash));
}

/// Has the records of the batch's keys fetched.
pub fn prefetch_items(batch: &Batch, cache: &Cache) {
    batch.waiting_hashes().iter().for_each(|hash| cache.prefetch_item(*hash));
}

/// The whole of one request's meaning.
pub fn perform(current: Current<'_>, cache: &mut Cache, context: Context<'_>) -> Flow {
    let Current { command, hash, input, keys_done, reserved, quit, watch, mut output } = current;
    let counters = context.counters;
    #[cfg(feature = "misbehave")]
    if *keys_done == 0 && crate::misbehave::strike(&context.metrics.config, &command, input, cache) {
        return write(server_error(Reply::OutOfMemory, counters).text(), &mut output);
    }
    let meta = |key: Span, flags: Span| Meta { key: key.of(input), flags: flags.of(input) };
    match command {
        Command::Get { keys, with_cas } => {
            let retrieval = Retrieval { kind: Kind::Get, keys: keys.of(input), with_cas, touch: None };
            retrieval.perform(hash, keys_done, &mut output, cache, counters)
        }
        Command::GetAndTouch { keys, with_cas, exptime } => {
            let touch = Some(Deadline::from_memcached(exptime, cache.now()));
            let retrieval = Retrieval { kind: Kind::GetAndTouch, keys: keys.of(input), with_cas, touch };
            retrieval.perform(hash, keys_done, &mut output, cache, counters)
        }
        Command::Meta { verb, key, flags } => {
            let meta = meta(key, flags);
            let mut means = Means { output: &mut output, cache, counters };
            let value = if verb == MetaVerb::Get { meta.value(hash, &mut means) } else { None };
            value.unwrap_or_else(|| meta.perform(verb, means))
        }
        Command::MetaSet { key, flags, value } => {
            let value = NewValue { bytes: value.of(input), reserved };
            meta(key, flags).set(Some(value), Means { output: &mut output, cache, counters })
        }
        Command::MetaSetTooLarge { key, flags } => {
            meta(key, flags).set(None, Means { output: &mut output, cache, counters })
        }
        Command::MetaDebug { key, binary_key } => meta::debug(key.of(input), binary_key, &mut output, cache, counters),
        // Everything else answers shortly, and must not be done twice because of its answer.
        _ if output.room(SHORT_REPLY).is_none() => Flow::Pause,
        Command::Count { key, delta, up, noreply } => match count(key.of(input), delta, up, cache, counters) {
            Ok(_) if noreply => Flow::Done,
            Ok(number) => write_count(number, &mut output),
            Err(reply) => answer(reply, noreply, &mut output),
        },
        Command::Reject { rejection, noreply } => {
            counters.request(Kind::Invalid);
            if noreply { Flow::Done } else { write(rejection.text(), &mut output) }
        }
        Command::Store { .. }
        | Command::StoreTooLarge { .. }
        | Command::Delete { .. }
        | Command::Touch { .. }
        | Command::FlushAll { .. }
        | Command::MetaNoop
        | Command::Ping => {
            let (reply, noreply) = change(command, input, reserved.take(), cache, counters);
            answer(reply, noreply, &mut output)
        }
        Command::Version
        | Command::Stats { .. }
        | Command::Verbosity { .. }
        | Command::MemoryLimit { .. }
        | Command::Shutdown { .. }
        | Command::Watch { .. }
        | Command::Discover
        | Command::Dump
        | Command::Quit => {
            service::perform(command, input, keys_done, Future { quit, watch }, &mut output, cache, context)
        }
    }
}

/// What is answered with one line that carries nothing: the line, and whether it is not wanted.
fn change(
    command: Command,
    input: &[u8],
    reserved: Option<Reservation>,
    cache: &mut Cache,
    counters: &Counters,
) -> (Reply, bool) {
    match command {
        Command::Store { verb, key, value, flags, exptime, noreply } => {
            let deadline = Deadline::from_memcached(exptime, cache.now());
            let item = NewItem { key: key.of(input), value: value.of(input), flags, deadline, cas: None };
            (store(verb, &item, reserved, cache, counters), noreply)
        }
        Command::StoreTooLarge { verb, key, noreply } => {
            counters.request(Kind::of_store(verb));
            if verb == Verb::Set {
                cache.delete(key.of(input));
            }
            (server_error(Reply::TooLarge, counters), noreply)
        }
        Command::Delete { key, noreply } => {
            counters.request(Kind::Delete);
            let found = cache.delete(key.of(input));
            (found_or_not(found, Reply::Deleted, Kind::Delete, counters), noreply)
        }
        Command::Touch { key, exptime, noreply } => {
            counters.request(Kind::Touch);
            let deadline = Deadline::from_memcached(exptime, cache.now());
            // An item that is touched is used, as in memcached, though nobody sees its value.
            let reply = match cache.get_and_touch(key.of(input), deadline) {
                Ok(found) => found_or_not(found.is_some(), Reply::Touched, Kind::Touch, counters),
                Err(_) => server_error(Reply::OutOfMemoryTouching, counters),
            };
            (reply, noreply)
        }
        Command::FlushAll { delay, noreply } => {
            counters.request(Kind::Flush);
            cache.flush(flush_time(delay, cache.now()));
            (Reply::Ok, noreply)
        }
        Command::Ping => {
            counters.request(Kind::Service);
            (Reply::Pong, false)
        }
        // Only `mn` is left.
        _ => {
            counters.request(Kind::Service);
            (Reply::MetaNoop, false)
        }
    }
}

fn answer(reply: Reply, noreply: bool, output: &mut Output<'_>) -> Flow {
    if noreply { Flow::Done } else { write(reply.text(), output) }
}

/// A `get` or one of its relatives.
struct Retrieval<'a> {
    kind: Kind,
    keys: &'a [u8],
    with_cas: bool,
    touch: Option<Deadline>,
}

impl Retrieval<'_> {
    /// Answers the keys behind the first `keys_done` bytes, as many as the output has room for. `first` is the hash of
    /// the first key of all, where it was computed before.
    fn perform(
        &self,
        first: Option<KeyHash>,
        keys_done: &mut usize,
        output: &mut Output<'_>,
        cache: &mut Cache,
        counters: &Counters,
    ) -> Flow {
        if *keys_done == 0 {
            counters.request(self.kind);
        }
        let first = first.unwrap_or_else(|| cache.hash_of(next_key(self.keys, 0).map_or(&[], |(key, _)| key)));
        let (mut hashes, mut looked_up) = ([first; LOOK_AHEAD], 0);
        while let Some((key, end)) = next_key(self.keys, *keys_done) {
            if output.length() >= OUTPUT_LIMIT {
                return Flow::Pause;
            }
            let place = looked_up % LOOK_AHEAD;
            if place == 0 && end < self.keys.len() {
                look_ahead(self.keys, *keys_done, cache, &mut hashes);
            } else if place == 0 && *keys_done > 0 {
                hashes[0] = cache.hash_of(key);
            }
            looked_up += 1;
            let (mut has_room, frame) = (true, key.len() + VALUE_FRAME);
            let found = self.look_up(hashes[place], key, cache, |item| {
                has_room = output.room(frame + item.length).is_some();
                has_room
            });
            match found {
                Ok(None) if !has_room => return Flow::Pause,
                Ok(Some(item)) => {
                    let Some(out) = output.room(frame + item.value.len()) else { return Flow::Pause };
                    write_value_head(out, key, item.flags, item.value.len(), self.with_cas.then_some(item.cas));
                    // With the last value goes the end of all: a call of the system of its own for five bytes would cost
                    // as much as copying the value.
                    let is_last = end == self.keys.len();
                    output.put_value(item.value, if is_last { b"\r\nEND\r\n" } else { b"\r\n" });
                    counters.hit(self.kind);
                    counters.value_bytes(self.kind, item.value.len());
                    if is_last {
                        return Flow::Done;
                    }
                }
                Ok(None) => counters.miss(self.kind),
                // The item is served all the same to the next reader; this one is told why it is not touched.
                Err(_) => {
                    *keys_done = self.keys.len();
                    return write(server_error(Reply::OutOfMemoryTouching, counters).text(), output);
                }
            }
            *keys_done = end;
        }
        write(Reply::End.text(), output)
    }

    /// The item, where there is room for it. One that was touched comes again, and is touched again, when there is.
    fn look_up<'c>(
        &self,
        hash: KeyHash,
        key: &[u8],
        cache: &'c mut Cache,
        has_room: impl FnOnce(&Glance) -> bool,
    ) -> Result<Option<Item<'c>>, StoreError> {
        match self.touch {
            None => Ok(cache.get_if(hash, key, has_room)),
            Some(deadline) => cache.get_and_touch(key, deadline),
        }
    }
}

/// The key that follows offset `from`, and where it ends.
pub fn next_key(keys: &[u8], from: usize) -> Option<(&[u8], usize)> {
    let start = from + keys.get(from..)?.iter().position(|byte| *byte != b' ')?;
    let end = memchr::memchr(b' ', &keys[start..]).map_or(keys.len(), |length| start + length);
    Some((&keys[start..end], end))
}

/// Has the memory of the next keys fetched, and notes their hashes.
fn look_ahead(keys: &[u8], from: usize, cache: &Cache, hashes: &mut [KeyHash; LOOK_AHEAD]) {
    let (mut at, mut count) = (from, 0);
    while let Some((key, end)) = next_key(keys, at).filter(|_| count < LOOK_AHEAD) {
        hashes[count] = cache.hash_of(key);
        cache.prefetch(hashes[count]);
        (at, count) = (end, count + 1);
    }
    hashes[..count].iter().for_each(|hash| cache.prefetch_item(*hash));
}

/// Stores the item, with the value that is in the cache already where there is one.
fn store(
    verb: Verb,
    item: &NewItem<'_>,
    reserved: Option<Reservation>,
    cache: &mut Cache,
    counters: &Counters,
) -> Reply {
    let kind = Kind::of_store(verb);
    counters.request(kind);
    let mode = match verb {
        Verb::Set => Mode::Set,
        Verb::Add => Mode::Add,
        Verb::Replace => Mode::Replace,
        Verb::Append => Mode::Append,
        Verb::Prepend => Mode::Prepend,
        Verb::Cas(expected) => Mode::Cas(expected),
    };
    let length = reserved.as_ref().map_or(item.value.len(), Reservation::length);
    let result = match reserved {
        Some(reservation) => cache.commit(reservation, mode),
        None => cache.store(mode, item),
    };
    match result {
        Ok(Outcome::Stored { .. }) => {
            counters.hit(kind);
            counters.value_bytes(kind, length);
            Reply::Stored
        }
        Ok(Outcome::NotStored) => {
            counters.miss(kind);
            Reply::NotStored
        }
        Ok(Outcome::Exists) => {
            counters.conflict(kind);
            Reply::Exists
        }
        Ok(Outcome::NotFound) => {
            counters.miss(kind);
            Reply::NotFound
        }
        Err(error) => {
            // The client meant to replace what is there: better nothing than the old value, as in memcached.
            if verb == Verb::Set {
                cache.delete(item.key);
            }
            match error {
                StoreError::TooLarge { .. } => server_error(Reply::TooLarge, counters),
                _ => server_error(Reply::OutOfMemory, counters),
            }
        }
    }
}

fn found_or_not(found: bool, reply: Reply, kind: Kind, counters: &Counters) -> Reply {
    if found {
        counters.hit(kind);
        reply
    } else {
        counters.miss(kind);
        Reply::NotFound
    }
}

fn count(key: &[u8], delta: u64, up: bool, cache: &mut Cache, counters: &Counters) -> Result<u64, Reply> {
    let kind = if up { Kind::Increment } else { Kind::Decrement };
    counters.request(kind);
    let result = if up { cache.incr(key, delta) } else { cache.decr(key, delta) };
    match result {
        Ok(number) => {
            counters.hit(kind);
            Ok(number)
        }
        Err(ArithmeticError::NotFound) => {
            counters.miss(kind);
            Err(Reply::NotFound)
        }
        Err(ArithmeticError::NotANumber) => Err(Reply::NotANumber),
        Err(ArithmeticError::Store(_)) => Err(server_error(Reply::OutOfMemoryCounting, counters)),
    }
}

/// When a flush is due: at once for a delay that is not positive; a delay is read as an expiry time is.
fn flush_time(delay: i64, now: u64) -> Option<u64> {
    match Deadline::from_memcached(delay.max(0), now) {
        Deadline::At(at) if at > now => Some(at),
        _ => None,
    }
}

/// Counts an error of the server.
pub fn server_error(reply: Reply, counters: &Counters) -> Reply {
    counters.server_errors.add(1);
    reply
}

/// Writes a whole reply.
pub fn write(text: &[u8], output: &mut Output<'_>) -> Flow {
    match output.room(text.len()) {
        Some(out) => {
            out.extend_from_slice(text);
            Flow::Done
        }
        None => Flow::Pause,
    }
}

fn write_count(number: u64, output: &mut Output<'_>) -> Flow {
    if let Some(out) = output.room(SHORT_REPLY) {
        write_number(out, number);
        out.extend_from_slice(b"\r\n");
    }
    Flow::Done
}

#[cfg(test)]
mod tests {
    use super::{Context, execute, prefetch_items, prefetch_keys};
    use crate::buffers::{Budget, Parsed, Pool, Received, Sent};
    use crate::control::Control;
    use crate::metrics::Metrics;
    use memcache::{Limits, Protocol};
    use segcache::{Cache, Eviction, Settings};
    use std::io;

    /// Requests as they come from a client that uses every common command, alone, pipelined and in a multi-get.
    fn requests() -> Vec<Vec<u8>> {
        let value = vec![b'v'; 5000];
        let large = [b"set large 0 100 5000\r\n", &value[..], b"\r\n"].concat();
        let keys: String = (0..50).map(|key| format!(" key{key}")).collect();
        let mut requests: Vec<Vec<u8>> = vec![
            b"get key1\r\n".to_vec(),
            b"gets key1 none\r\n".to_vec(),
            b"set key1 0 0 5\r\nvalue\r\n".to_vec(),
            b"delete key2\r\nset key2 5 0 1\r\n1\r\nincr key2 1\r\ntouch key2 0\r\ngat 0 key2\r\n".to_vec(),
            b"mg key1 v t c k Oabc\r\nms key1 5 T0 c\r\nvalue\r\nmd none q\r\nmn\r\n".to_vec(),
            format!("get{keys}\r\n").into_bytes(),
            b"get large\r\n".repeat(100),
            b"nonsense\r\n".to_vec(),
            b"get key1\r\n".repeat(300),
        ];
        requests.push(large);
        requests
    }

    #[test]
    fn a_request_allocates_nothing() {
        let metrics = Metrics::new(config::Config::default(), String::new(), 1, Control::default());
        let settings = Settings { budget: 16 << 20, max_item_size: 1 << 20, eviction: Eviction::Merge, seed: 1 };
        let mut cache = Cache::new(settings, 1_800_000_000).unwrap();
        let mut pool = Pool::new(Budget::new(4 << 20));
        let context = Context { counters: &metrics.threads()[0], metrics: &metrics };
        let protocol = Protocol::Memcached(Limits { max_value: 1 << 20 });
        let mut serve = |request: &[u8]| {
            let mut batch = pool.take().unwrap();
            let mut stream = request;
            while !stream.is_empty() {
                assert!(matches!(batch.receive(&mut stream), Received::Bytes { .. }));
                while batch.parse(protocol) == Parsed::Some {
                    prefetch_keys(&mut batch, &cache);
                    prefetch_items(&batch, &cache);
                    execute(&mut batch, &mut cache, context);
                    assert!(matches!(batch.send(&mut io::sink()), Sent::All));
                }
            }
            assert!(batch.is_empty());
            pool.give_back(batch);
        };
        let requests = requests();
        let mut round = || requests.iter().for_each(|request| serve(request));
        // The first round stores what the second answers with, and that is when the buffers grow.
        (0..2).for_each(|_| round());
        let used = allocation_counter::measure(|| (0..20).for_each(|_| round()));
        assert_eq!(used.count_total, 0, "{used:?}");
    }
}
