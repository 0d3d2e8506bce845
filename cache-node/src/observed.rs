//! Requests that someone watches: executed as all others are, and told of.

use memcache::{Command, MetaFlags, MetaOptions, MetaVerb, Streams, Verb};
use segcache::{Cache, Reservation};

use crate::buffers::Current;
use crate::execute::{Context, Flow, next_key, perform};
use crate::watch::Event;

/// The streams that tell of requests.
pub const REQUESTS: Streams = Streams::FETCHERS.and(Streams::MUTATIONS);

/// Executes the command, and tells what it looked up or stored.
pub fn perform_observed(current: Current<'_>, cache: &mut Cache, context: Context<'_>) -> Flow {
    let Current { command, hash, input, keys_done, reserved, quit, watch, mut output } = current;
    let fetched = fetches(&command, input, cache);
    let before = output.length();
    // What happened is read off the reply; the client that wants none gets none all the same.
    let (command, silent) = aloud(command);
    let received = reserved.as_ref().map(Reservation::length);
    let again = Current { command, hash, input, keys_done, reserved, quit, watch, output: output.again() };
    let flow = perform(again, cache, context);
    if flow == Flow::Pause {
        return flow;
    }
    fetched.into_iter().for_each(|event| context.metrics.watch.tell(event));
    if let Some((key, name, size)) = store(&command, input) {
        let status = status(output.behind(before));
        let size = received.unwrap_or(size);
        context.metrics.watch.tell(Event::Store { key: key.into(), command: name, status, size });
    }
    if silent {
        output.truncate(before);
    }
    flow
}

/// What a retrieval will find.
fn fetches(command: &Command, input: &[u8], cache: &Cache) -> Vec<Event> {
    let fetch = |key: &[u8]| Event::Fetch { key: key.into(), size: cache.peek(key).map(|item| item.value.len()) };
    match command {
        Command::Get { keys, .. } | Command::GetAndTouch { keys, .. } => {
            let (keys, mut at) = (keys.of(input), 0);
            std::iter::from_fn(|| {
                let (key, end) = next_key(keys, at)?;
                at = end;
                Some(fetch(key))
            })
            .collect()
        }
        Command::Meta { verb: MetaVerb::Get, key, flags } => {
            let binary_key = MetaFlags(flags.of(input)).tokens().any(|(letter, _)| letter == b'b');
            let mut room = [0; memcache::MAX_KEY_LENGTH];
            let options = MetaOptions { binary_key, ..MetaOptions::default() };
            options.key(key.of(input), &mut room).map(fetch).into_iter().collect()
        }
        _ => Vec::new(),
    }
}

/// The command with a reply, and whether it asked for none.
fn aloud(command: Command) -> (Command, bool) {
    match command {
        Command::Store { verb, key, value, flags, exptime, noreply } => {
            (Command::Store { verb, key, value, flags, exptime, noreply: false }, noreply)
        }
        Command::StoreTooLarge { verb, key, noreply } => {
            (Command::StoreTooLarge { verb, key, noreply: false }, noreply)
        }
        command => (command, false),
    }
}

/// Key, command and size of a store.
fn store<'a>(command: &Command, input: &'a [u8]) -> Option<(&'a [u8], &'static str, usize)> {
    match command {
        Command::Store { verb, key, value, .. } => Some((key.of(input), name(*verb), value.length())),
        Command::StoreTooLarge { verb, key, .. } => Some((key.of(input), name(*verb), 0)),
        Command::MetaSet { key, value, .. } => Some((key.of(input), "ms", value.length())),
        Command::MetaSetTooLarge { key, .. } => Some((key.of(input), "ms", 0)),
        _ => None,
    }
}

fn name(verb: Verb) -> &'static str {
    match verb {
        Verb::Set => "set",
        Verb::Add => "add",
        Verb::Replace => "replace",
        Verb::Append => "append",
        Verb::Prepend => "prepend",
        Verb::Cas(_) => "cas",
    }
}

/// How a store ended, as memcached's logger calls it; a meta set that says nothing has stored.
fn status(reply: &[u8]) -> &'static str {
    match reply.split(|byte| b" \r".contains(byte)).next().unwrap_or_default() {
        b"STORED" | b"HD" | b"" => "stored",
        b"NOT_STORED" | b"NS" => "not_stored",
        b"EXISTS" | b"EX" => "exists",
        b"NOT_FOUND" | b"NF" => "not_found",
        _ if reply.starts_with(b"SERVER_ERROR object too large") => "too_large",
        _ => "no_memory",
    }
}
